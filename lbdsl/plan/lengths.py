"""How long the sequences are that a plan is measured and judged on. Pure.

A window that is not smaller than the sequence changes nothing there, and damage shows only where tokens lie beyond it: so
scores, the joint loss and the gates need sequences of at least twice the widest window, and several of them. A gate is
about the context that the recipe's asserts and budgets name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from lbdsl.actions import Action
from lbdsl.core.diagnostic import Diagnosed, Diagnostic, Edit, Fix, error, note, warning
from lbdsl.core.span import Span
from lbdsl.core.units import tokens_text
from lbdsl.layer.difference import given_windows
from lbdsl.layer.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.plan.check import costs_asked
from lbdsl.plan.claims import scores_of
from lbdsl.plan.gate import judges
from lbdsl.plan.schema import Plan
from lbdsl.recipe.schema import Evaluate, Measure, Recipe
from lbdsl.recipe.schema_blocks import SEQUENCES

MEASURED, JUDGED = 1024, 2048
"""Tokens of a sequence that the recipe leaves open, where no window and no context asks for more."""


def with_lengths(recipe: Recipe, facts: ModelFacts) -> Diagnosed[Recipe]:
    """The recipe with `seq` and `tokens` of its `measure` and `eval` blocks settled for this model; where the finished
    model is judged, it has an `eval` block.

    Errors: LB328 for sequences too short for a window, LB336 for sequences beyond the model's positions.
    """
    window = widest_window((action for rule in recipe.rules for action in rule.actions), facts)
    window = max(window, widest_window((s.action for r in recipe.rules for s in scores_of(r) if s.action), facts))
    context = max((node.ctx for node in costs_asked(recipe) if node.ctx is not None), default=0)
    found: list[Diagnostic] = []
    measure = recipe.measure
    measure = _settled(recipe, "measure", measure, MEASURED, window, facts, found)
    judged = recipe.eval or (Evaluate() if judges(recipe) else None)
    if judged is not None:
        wanted = min(context, facts.positions) or JUDGED
        judged = _settled(recipe, "eval", judged, wanted, window, facts, found)
        found += judging_findings(recipe, judged, facts)
    found += _heal_findings(recipe, window)
    value = replace(recipe, measure=measure, eval=judged)
    return Diagnosed(None if any(d.is_error for d in found) else value, tuple(found))


def widest_window(actions: Iterable[Action], facts: ModelFacts) -> int:
    """Tokens of the widest window that an action gives a layer which does not have it by itself; 0 for none."""
    found = 0
    alike = {spec: layer for layer, spec in enumerate(facts.layer_specs)}
    for action in dict.fromkeys(actions):
        for spec, layer in alike.items():
            changed = action.under(facts, layer)
            found = max([found, *(given_windows((spec,), (changed.spec,)) if changed is not None else ())])
    return found


def judged_lengths(wanted: Evaluate, specs: Sequence[LayerSpec], facts: ModelFacts) -> Diagnosed[Evaluate]:
    """The same for what a finished model is judged on; `specs` is what its layers are."""
    window = max(given_windows(facts.layer_specs, specs), default=0)
    found: list[Diagnostic] = []
    value = _settled(None, "eval", wanted, JUDGED, window, facts, found)
    return Diagnosed(None if any(d.is_error for d in found) else value, tuple(found))


def too_short(seq: int, window: int) -> bool:
    """Whether sequences of `seq` tokens hide what a window of `window` tokens does."""
    return window > 0 and seq < 2 * window


def _settled(
    recipe: Recipe | None, name: str, block: Any, wanted: int, window: int, facts: ModelFacts, found: list[Diagnostic]
) -> Any:
    """The block with its lengths; what is wrong with those that the recipe sets is added to `found`."""
    seq = block.seq
    if seq is None:
        seq = min(max(wanted, 2 * window), facts.positions)
    elif too_short(seq, window):
        needed = tokens_text(2 * window)
        found.append(
            error(
                "LB328",
                f"`{name}` takes sequences of {tokens_text(seq)} tokens, and a rule sets a window of {tokens_text(window)}",
                _setting(recipe, block, "seq"),
                help="a window that covers the sequence changes nothing there; give at least twice the window, or no `seq`",
                fix=_fix(recipe, block, "seq", needed),
            )
        )
    elif seq > facts.positions:
        found.append(
            error(
                "LB336",
                f"`{name}` takes sequences of {tokens_text(seq)} tokens, and the model has "
                f"{tokens_text(facts.positions)} positions",
                _setting(recipe, block, "seq"),
                help=f"give at most `seq = {tokens_text(facts.positions)}`, or leave `seq` out",
                fix=_fix(recipe, block, "seq", tokens_text(facts.positions)),
            )
        )
    least = SEQUENCES * seq
    if block.tokens < least and "tokens" in block.set_at:
        found.append(
            note(
                "LB338",
                f"`{name}` takes {tokens_text(least)} tokens, not {tokens_text(block.tokens)}: {SEQUENCES} sequences of "
                f"{tokens_text(seq)} are the fewest",
                _setting(recipe, block, "tokens"),
            )
        )
    return block.model_copy(update={"seq": seq, "tokens": max(block.tokens, least)})


def joint_tokens(measure: Measure) -> int:
    """Tokens of the joint loss: half of the scores', and never fewer than `SEQUENCES` sequences."""
    assert measure.seq is not None, "lengths are settled before anything is measured"
    return max(measure.tokens // 2, SEQUENCES * measure.seq)


def judging_findings(recipe: Recipe, judged: Evaluate, facts: ModelFacts) -> list[Diagnostic]:
    """What flatters in how a result is judged: LB329 on shorter sequences than the recipe is about, LB337 on the text that
    healed it."""
    context = max((node.ctx for node in costs_asked(recipe) if node.ctx is not None), default=0)
    return [*_shorter_than_named(recipe, judged, min(context, facts.positions)), *_same_source(recipe, judged)]


def _shorter_than_named(recipe: Recipe, judged: Evaluate, context: int) -> list[Diagnostic]:
    seq = judged.seq
    if seq is None or seq >= context:
        return []
    return [
        warning(
            "LB329",
            f"judged on sequences of {tokens_text(seq)} tokens; asserts and budgets are about {tokens_text(context)}",
            _setting(recipe, judged, "seq"),
            help="leave `seq` out of `eval`: then it is judged at that context",
        )
    ]


CAUTIONS = ("LB328", "LB329", "LB337")
"""Findings of a plan that a reader of its result should know, too."""


def cautions(plan: Plan) -> tuple[str, ...]:
    """What to keep in mind when reading the quality of a plan's result."""
    return tuple(finding.message for finding in plan.findings if finding.code in CAUTIONS)


def _same_source(recipe: Recipe, judged: Evaluate) -> list[Diagnostic]:
    if recipe.heal is None or set(judged.data) != {recipe.heal.data}:
        return []
    return [
        warning(
            "LB337",
            f"judged on the healing source, {recipe.heal.data}: other text is likely to lose more",
            _setting(recipe, judged, "data"),
            help='judge on another text as well: `eval { data = ["builtin:wikitext", ...] }`',
        )
    ]


def _heal_findings(recipe: Recipe, window: int) -> list[Diagnostic]:
    heal = recipe.heal
    if heal is None or not too_short(heal.seq, window):
        return []
    return [
        warning(
            "LB328",
            f"`heal` takes sequences of {tokens_text(heal.seq)} tokens, and a rule sets a window of {tokens_text(window)}",
            _setting(recipe, heal, "seq"),
            help="tokens that lie within the window heal nothing that it took away; give at least twice the window",
        )
    ]


def _setting(recipe: Recipe | None, block: Any, name: str) -> Span | None:
    """Where a setting's value stands, else its block, where the recipe has one."""
    return None if recipe is None else block.set_at.get(name, block.span)


def _fix(recipe: Recipe | None, block: Any, name: str, text: str) -> Fix | None:
    """The fix that writes another value; a variable may stand in other places, too, and is left alone."""
    if name not in block.set_at or recipe is None:
        return None
    span = block.set_at[name]
    return Fix(f"write `{text}`", (Edit(span, text),)) if not span.text.startswith("$") else None
