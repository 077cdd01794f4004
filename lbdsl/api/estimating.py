"""`estimate_recipe`: what a recipe will take on other devices, from the headers of the model's files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from lbdsl.api.notebook import NotebookResult
from lbdsl.api.planning import read_recipe
from lbdsl.core.diagnostic import LbdslError
from lbdsl.cost.devices import Devices
from lbdsl.cost.facts import ModelFacts
from lbdsl.measure.machine import machine_for
from lbdsl.plan.estimate import HEAL_FORWARDS, REACHED, judged_tokens
from lbdsl.plan.lengths import with_lengths
from lbdsl.plan.memory import RUNTIME, Held, healing_bytes, model_bytes
from lbdsl.recipe.schema import Recipe
from lbdsl.recipe.schema_blocks import Heal, HealSettings
from lbdsl.session.model import OpenModel
from lbdsl.session.options import RunOptions
from lbdsl.session.predicting import measuring_tokens
from lbdsl.solve.case import Case


@dataclass(frozen=True)
class Way:
    """How the processes hold the models while they heal: bytes on each device, of the machine's memory where that is
    another, and on disk."""

    device_bytes: int
    machine_bytes: int
    disk_bytes: int
    fits: bool | None


@dataclass(frozen=True, repr=False)
class Estimated(NotebookResult):
    """By `whole` and `shared`, each with `cached` too; hours of each kind of work, None where the rate is not known.
    `raised`: a batch was raised to the next that so many processes can share."""

    recipe: Recipe
    facts: ModelFacts
    devices: Devices
    ways: Mapping[str, Way]
    flops: Mapping[str, float]
    hours: Mapping[str, float | None]
    raised: bool

    def in_short(self) -> str:
        return f"{self.recipe.name} on {self.devices.count} x {self.devices.kind}"

    def to_json(self) -> dict[str, Any]:
        return {
            "format_version": 1,
            "devices": asdict(self.devices),
            "ways": {name: asdict(way) for name, way in self.ways.items()},
            "flops": dict(self.flops),
            "hours": dict(self.hours),
            "batch_raised": self.raised,
        }


def estimate_recipe(
    recipe: str | Path,
    model: str | Path,
    devices: Devices,
    *,
    set_params: Mapping[str, object] | None = None,
    options: RunOptions | None = None,
) -> Estimated:
    """Nothing is measured, and no weights are read; on CPUs, this machine's rate is (once). Which layers are changed is not
    known, so all of them count. Raises LbdslError for errors of the recipe."""
    loaded = read_recipe(recipe, set_params)
    given = options or RunOptions()
    bench = OpenModel(model, replace(given, device="cpu") if devices.kind == "cpu" else given, weights=False)
    case = Case(loaded.unwrap(), bench.facts)
    needed, settled = case.measurable(), with_lengths(case)
    problems = (*needed.diagnostics, *settled.diagnostics)
    if needed.value is None or settled.value is None:
        raise LbdslError(problems)
    asked = settled.value.recipe
    heal = asked.heal and _with(asked.heal, lambda stage: {"batch": -(-stage.batch // devices.count) * devices.count})
    known, facts = replace(asked, heal=heal), bench.computed if devices.kind == "cpu" else bench.facts
    memory, rate = devices.memory, devices.flops and devices.count * devices.flops
    if devices.kind == "cpu":
        machine = machine_for("cpu", bench.computed, bench.cache_dir)
        memory, rate = machine.mem_bytes / devices.count, machine.flops
    flops = _flops(known, needed.value, facts)
    # The first process judges alone.
    alone = {"judging": devices.count if devices.flops else 1}
    hours = {name: rate and work * alone.get(name, 1) / rate / REACHED / 3600 for name, work in flops.items()}
    return Estimated(known, facts, devices, _ways(heal, facts, devices, memory), flops, hours, raised=heal != asked.heal)


def _with(heal: Heal, changed: Callable[[HealSettings], dict[str, Any]]) -> Heal:
    """With other settings of itself and of each stage."""
    stages = tuple(stage.model_copy(update=changed(stage)) for stage in heal.stages)
    return heal.model_copy(update={**changed(heal), "stages": stages})


def _taught(teacher: str, _: HealSettings) -> dict[str, Any]:
    return {"teacher": teacher}


def _ways(heal: Heal | None, facts: ModelFacts, devices: Devices, memory: float | None) -> Mapping[str, Way]:
    from lbdsl.run.healing import room_to_heal

    weights, on_cpu, found = facts.params * facts.dtype_bytes, devices.kind == "cpu", {}
    for shared in (False, True) if devices.count > 1 and heal is not None else (False,):
        for teacher in ("loaded", "cached") if heal is not None else ("loaded",):
            stages = heal and _with(heal, partial(_taught, teacher))
            if teacher == "cached" and stages is not None and any(stage.name == "match" for stage in stages.runs):
                continue
            device = healing_bytes(stages, facts, Held(devices.count, shared), "cpu" if on_cpu else "cuda")
            # Shares are taken of models that each process reads into the machine's memory.
            machine = 0 if on_cpu else devices.count * round((2 * model_bytes(facts) if shared else weights) + RUNTIME)
            disk = weights + room_to_heal(stages, facts, facts.dtype)
            name = ("shared" if shared else "whole") + (", cached" if teacher == "cached" else "")
            found[name] = Way(device, machine, disk, None if memory is None else device <= memory)
    return found


def _flops(recipe: Recipe, case: Case, facts: ModelFacts) -> Mapping[str, float]:
    """Of measuring (scores, and the whole plan or those that `choose` tries), healing and judging."""

    def forward(tokens: float, seq: int | None) -> float:
        """Of so many tokens through the whole model, and the head for each of them."""
        seq = seq or 1024
        return tokens * (facts.cost.prefill_flops(seq) / seq + 2 * facts.hidden * facts.vocab * (seq - 1) / seq)

    stages = recipe.heal.runs if recipe.heal is not None else ()
    judged = judged_tokens(recipe.eval, healed=recipe.heal is not None)
    return {
        "measuring": forward(measuring_tokens(recipe, case, facts), recipe.measure.seq),
        "healing": sum((HEAL_FORWARDS * forward(stage.tokens_seen, stage.seq) for stage in stages), 0.0),
        "judging": forward(judged, recipe.eval.seq if recipe.eval is not None else None),
    }
