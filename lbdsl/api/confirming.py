"""`plan --confirm`: measure the throughput of the best plans in vLLM, before anything is healed."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

from lbdsl.api.applying import ApplyOptions, apply_plan
from lbdsl.api.planning import Planned, planned_on, read_recipe
from lbdsl.bench.cells import Measured
from lbdsl.bench.engine import EnginePython
from lbdsl.bench.engine_vllm import Requests
from lbdsl.core.diagnostic import error, fail
from lbdsl.core.units import plural
from lbdsl.cost.profile import Profile, confirmed_key
from lbdsl.plan.schema import Finding
from lbdsl.recipe.schema import Recipe
from lbdsl.session.model import OpenModel
from lbdsl.session.targets import VLLM

MOST_PLANS = 2
"""Plans that are measured."""
Lengths = tuple[int, ...]
"""Tokens read, tokens written, requests."""


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
    it, and no copy of it is left. Where neither keeps them, the plan has the error LB364.

    Raises LbdslError LB364 where nothing is asked of vLLM, or vLLM is not the one that predicted, and what
    `bench_artifact` raises. A KeyboardInterrupt says what was measured.
    """
    bench, asked, said = planned.bench, _asked(planned.recipe), list[str]()
    for number in range(1, MOST_PLANS + 1):
        specs = planned.plan.specs
        if not planned.plan.applyable or not any(layer.changed for layer in planned.plan.layers):
            return planned
        bench.progress.say(f"confirming plan {number} of at most {MOST_PLANS} in vLLM")
        try:
            with closing(_measured(planned, engine or EnginePython(), asked, pairs)) as found:
                for lengths, measured in found:
                    _check_same(measured, planned.plan.profiles[VLLM])
                    (cell,), (read, written, requests) = measured.cells, lengths
                    bench.confirmed[confirmed_key("throughput", specs, lengths)] = (cell.ratio, cell.low, cell.high)
                    what = f"{plural(requests, 'request')} of {read}/{written}"
                    said.append(f"x{cell.ratio:.2f} ({cell.low:.2f} to {cell.high:.2f}) for {what}")
                    bench.progress.say(f"  {said[-1]}")
        except KeyboardInterrupt:
            bench.progress.say(f"stopped; measured were: {'; '.join(said) or 'none'}")
            raise
        planned = planned_on(read_recipe(recipe, set_params), bench, planned.plan.contexts, again)
        if planned.plan.specs == specs:
            return planned
    message = f"no plan of the {MOST_PLANS} that were measured in vLLM keeps the budgets: {'; '.join(said)}"
    missed = error("LB364", message, help="this plan is predicted to, and was not measured; ask for less, or allow more")
    finding = Finding(code=missed.code, severity=missed.severity, message=message, help=missed.help)
    told = {"findings": (*planned.plan.findings, finding), "applyable": False}
    return replace(planned, plan=planned.plan.model_copy(update=told), diagnostics=(*planned.diagnostics, missed))


def check_confirmable(recipe: Recipe, bench: OpenModel, engine: EnginePython) -> None:
    """Raise, before anything is measured, the LB364 of a recipe that asks nothing of vLLM, and LB487."""
    _asked(recipe)
    engine.found(VLLM, bench)


def _asked(recipe: Recipe) -> tuple[Lengths, ...]:
    asked = tuple(dict.fromkeys(value.arguments for value in recipe.predictions_asked.get(VLLM, [])))
    if not asked:
        help = "write a budget as in `throughput(1Ki, 256, 50) >= 130%`, or an assert"
        raise fail("LB364", "there is nothing to confirm: no budget and no assert is about `throughput(...)`", help=help)
    return asked


def _measured(
    planned: Planned, engine: EnginePython, asked: Sequence[Lengths], pairs: int
) -> Generator[tuple[Lengths, Measured], None, None]:
    """What vLLM gives of the plan, which is made in a folder that is removed at the end."""
    recipe = replace(planned.recipe, asserts=(), eval=None, heal=None)
    plan = planned.plan.model_copy(update={"asserts": (), "eval": None, "heal": None})
    with tempfile.TemporaryDirectory(prefix="lbdsl-confirm-") as place:
        chosen = ApplyOptions(output=Path(place) / "unhealed", no_heal=True)
        applied = apply_plan(replace(planned, plan=plan, recipe=recipe), chosen=chosen, progress=planned.bench.progress)
        planned.bench.release()
        for lengths in asked:
            read, written, requests = lengths
            cell = Requests(concurrency=(requests,), lengths=((read, written),), pairs=pairs, engine=engine)
            with ExitStack() as stack:
                measured, cells = cell.measure(planned.bench, applied.folder, applied.record, stack)
                measured.cells.extend(cells)
            yield lengths, measured


def _check_same(measured: Measured, profile: Profile) -> None:
    """Raise LB364 where another vLLM, another device or other arguments measured than predicted."""
    ways = []
    for done in (measured, profile):
        place = done.machine.get("name") if done.machine.get("gpus") else "a CPU"
        words = shlex.join(done.machine.get("arguments", ()))
        ways.append(f"vLLM {done.version} on {place}" + (f" with {words}" if words else ""))
    if ways[0] != ways[1]:
        help = "name the one of the profile by --engine-python and --engine-args, or calibrate this one"
        raise fail("LB364", f"the plan is predicted for {ways[1]}, and this is {ways[0]}", help=help)
