"""`plan --confirm`: measure the throughput of the best plans in vLLM, before anything is healed."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from lbdsl.api.applying import ApplyOptions, apply_plan
from lbdsl.api.planning import Planned, planned_on, read_recipe
from lbdsl.bench.engine import EnginePython
from lbdsl.bench.engine_vllm import Requests
from lbdsl.core.diagnostic import fail, warning
from lbdsl.core.units import plural
from lbdsl.cost.profile import confirmed_key
from lbdsl.session.targets import VLLM

MOST_PLANS = 2
"""Plans that are measured."""
Ends = tuple[float, float, float]
"""A ratio to the base, and its interval."""


def confirm_plan(
    planned: Planned,
    recipe: str | Path,
    engine: EnginePython | None = None,
    *,
    pairs: int = 5,
    set_params: Mapping[str, object] | None = None,
    again: bool = False,
) -> Planned:
    """`planned`, made of the file `recipe`, with its throughput measured where asserts and budgets ask for it; if it does
    not keep them, what is planned then, once. What was measured is in the plan and its digest. The model is not healed for
    it, and no copy of it is left.

    Raises LbdslError LB364 where nothing is asked of vLLM, and what `bench_artifact` raises. A KeyboardInterrupt says what
    was measured.
    """
    bench = planned.bench
    asked = planned.recipe.predictions_asked.get(VLLM, [])
    if not asked:
        help = "write a budget as in `throughput(1Ki, 256, 50) >= 130%`, or an assert"
        raise fail("LB364", "there is nothing to confirm: no budget and no assert is about `throughput(...)`", help=help)
    cells = dict.fromkeys(value.arguments for value in asked)
    said: list[str] = []
    for number in range(1, MOST_PLANS + 1):
        specs = planned.plan.specs
        bench.progress.say(f"confirming plan {number} of at most {MOST_PLANS} in vLLM")
        try:
            found = {arguments: _measured(planned, engine or EnginePython(), arguments, pairs) for arguments in cells}
        except KeyboardInterrupt:
            bench.progress.say(f"stopped; measured were: {'; '.join(said) or 'none'}")
            raise
        for (read, written, requests), (ratio, low, high) in found.items():
            bench.confirmed[confirmed_key("throughput", specs, (read, written, requests))] = (ratio, low, high)
            said.append(f"x{ratio:.2f} ({low:.2f} to {high:.2f}) for {plural(requests, 'request')} of {read}/{written}")
            bench.progress.say(f"  {said[-1]}")
        planned = planned_on(read_recipe(recipe, set_params), bench, planned.plan.contexts, again)
        if planned.plan.specs == specs:
            return planned
    message = f"no plan of the {MOST_PLANS} that were measured in vLLM keeps the budgets: {'; '.join(said)}"
    missed = warning("LB364", message, help="this plan is predicted to, and was not measured; ask for less, or allow more")
    return replace(planned, diagnostics=(*planned.diagnostics, missed))


def _measured(planned: Planned, engine: EnginePython, arguments: tuple[int, ...], pairs: int) -> Ends:
    read, written, requests = arguments
    bare = {"asserts": (), "eval": None, "heal": None}
    recipe, plan = replace(planned.recipe, **bare), planned.plan.model_copy(update=bare)
    asked = Requests(concurrency=(requests,), lengths=((read, written),), pairs=pairs, engine=engine)
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lbdsl-confirm-")))
        chosen = ApplyOptions(output=place / "unhealed", no_heal=True)
        applied = apply_plan(replace(planned, plan=plan, recipe=recipe), chosen=chosen, progress=planned.bench.progress)
        planned.bench.release()
        _, cells = asked.measure(planned.bench, applied.folder, applied.record, stack)
        (cell,) = cells
    return cell.ratio, cell.low, cell.high
