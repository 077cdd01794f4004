"""Predictions for a plan: the decode speedup, and the cost of measuring and applying it (time, memory, disk). Formulas
only; throughputs and the machine's constants are measured elsewhere.

Work is counted in units of one layer for one token; the head counts as the layers that take as long (see `head_layers`).
"""

from __future__ import annotations

from collections.abc import Iterable

from lbdsl.cost.cost import LayerCost, Machine, ModelCost
from lbdsl.cost.facts import ModelFacts
from lbdsl.plan.schema import Estimate, Plan, Speed
from lbdsl.recipe.schema import Evaluate

SOFTMAX_COST = 512
"""A log-softmax and a comparison of one logit take about as long as this many multiply-adds of a matrix product."""

HEAL_FORWARDS = 4.0
"""Forward passes that take as long as one healing step: the base's, the changed model's, and its backward pass (2)."""

REACHED = 0.4
"""The share of a device's rate that is taken as reached. On a CPU healing reaches 0.43 to 0.48 of that of large products
(SmolLM2 in bfloat16, docs/performance.md)."""

MANY = 4
"""Passes over one text that are worth almost as much as new text (Muennighoff et al., arXiv 2305.16264)."""


OF_REQUESTS = 8192
"""Tokens of the requests that are counted on a device."""


def head_layers(facts: ModelFacts) -> float:
    """The number of layers that take as long as the head with its softmax."""
    layer = LayerCost.of(facts.layer_specs[-1], facts).params
    return facts.vocab * (facts.hidden + SOFTMAX_COST) / max(layer, facts.hidden)


def units(facts: ModelFacts, tokens: int, first: int = 0) -> float:
    """The work of `tokens` tokens through the layers from `first` on, and the head."""
    return tokens * (facts.layers - first + head_layers(facts))


def measuring_units(facts: ModelFacts, runs: Iterable[int], tokens: int) -> float:
    """The work of the base and of one run from each layer of `runs` to the end."""
    return units(facts, tokens) + sum(units(facts, tokens, layer) for layer in runs)


def estimate(
    plan: Plan,
    *,
    forward: float | None,
    healing: float | None,
    passes: float | None,
    room: int,
    memory: int,
    machine: int,
    asked: float = 0.0,
) -> Estimate:
    """The predicted cost of `apply`. `forward` is in tokens per second through the whole model, `healing` in training
    tokens per second, None if unknown; `passes` is over the healing text; `room` on disk, `memory` and that
    of the `machine` are in bytes; `asked` as in `judged_tokens`."""
    judged = judged_tokens(plan.eval, healed=plan.heal is not None, asked=asked)
    healing = healing or (forward / HEAL_FORWARDS if forward else None)
    return Estimate(
        heal_seconds=_seconds(plan.heal.tokens_seen if plan.heal is not None else 0, healing),
        judge_seconds=_seconds(judged, forward),
        memory_bytes=memory,
        machine_bytes=machine if plan.heal is not None else None,
        disk_bytes=room,
        passes=None if passes is None else round(passes, 2),
    )


def judged_tokens(wanted: Evaluate | None, *, healed: bool, asked: float = 0.0) -> float:
    """Tokens that judging reads: each text by both models, before healing, too; needles and tasks after it. `asked` are
    those that one model reads for all tasks and for a user's own questions."""
    if wanted is None:
        return 0
    texts = len(wanted.data) * wanted.tokens * (2 if healed else 1)
    return 2 * (texts + sum(wanted.contexts) * wanted.needle_texts + asked)


def _seconds(tokens: float, pace: float | None) -> float | None:
    return 0.0 if not tokens else None if pace is None else round(tokens / pace, 1)


def on_device(cost: ModelCost, machine: Machine, ctx: int, requests: int) -> dict[str, float | None]:
    """Upper bounds of tokens a second on a device whose time goes into bytes and products alone: written by one request of
    `ctx` tokens and by as many as fit, and read of a prompt; None where not one fits. Products with quantized weights are
    bounded by their bytes alone, for devices multiply them in several ways."""

    def written(batch: int) -> float:
        return batch / cost.step_seconds(machine, ctx, batch)

    fits = requests > 0
    return {
        "written_by_one": written(1) if fits else None,
        "written": written(requests) if fits else None,
        "read": ctx / cost.prefill_seconds(machine, ctx) if fits else None,
    }


def decode_bounds(
    before: ModelCost, after: ModelCost, machine: Machine, cells: Iterable[tuple[int, int]]
) -> tuple[Speed, ...]:
    """Upper bounds on the decode gain at each (context, batch); cells in which the base does not fit are left out."""
    speeds = []
    for ctx, batch in cells:
        was, becomes = (cost.tokens_per_second(machine, ctx, batch) for cost in (before, after))
        if was > 0:
            speeds.append(Speed(context=ctx, batch=batch, bound=becomes / was))
    return tuple(speeds)
