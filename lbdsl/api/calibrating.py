"""`calibrate`: time variants of a model in an engine, and keep what its parts cost there."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from lbdsl.api.applying import ApplyOptions, apply_plan
from lbdsl.api.notebook import NotebookResult
from lbdsl.api.planning import plan_text
from lbdsl.bench.cells import Cell
from lbdsl.bench.contexts import Contexts
from lbdsl.bench.engine import Ready
from lbdsl.bench.engine_llamacpp import InLlamaCpp
from lbdsl.bench.engine_transformers import InTransformers
from lbdsl.bench.engine_vllm import Requests
from lbdsl.core.cache import PROFILES
from lbdsl.core.diagnostic import fail
from lbdsl.core.digest import digest_of, short
from lbdsl.core.files import read_entry, replace_entry
from lbdsl.core.progress import AnyProgress
from lbdsl.core.units import duration_text, ranges_text
from lbdsl.cost.cost import ModelCost, model_cost
from lbdsl.cost.facts import ModelFacts
from lbdsl.cost.profile import (
    Constants,
    Profile,
    memory_features,
    packed_forms,
    prefill_features,
    run_features,
    step_features,
    weighed,
)
from lbdsl.layer.spec import LayerSpec
from lbdsl.measure.machine import machine_described
from lbdsl.measure.profiles import fit, profile_path, write_profile
from lbdsl.parts.attention import Attention
from lbdsl.parts.gated_mlp import GatedMLP
from lbdsl.parts.moe import Moe
from lbdsl.session.model import OpenModel
from lbdsl.session.options import RunOptions
from lbdsl.version import VERSION

WINDOWS = "layers {attention} swa(window={window})"
VARIANTS: Mapping[str, str] = {
    "half of the attentions": "layers every 2 from 1 drop",
    "windows": WINDOWS,
    "half of the MLPs": "layers every 2 from 1 drop(mlp)",
    "smaller MLPs": "layers all width(50%, refit=false)",
}
"""Recipes that each change how much there is of one kind of part. The window is smaller than any context; it is given to
layers with attention. Engines with products of quantized matrices have one more, `QUANTIZED`; for experts see
`_of_experts`."""
TOGETHER = "together"
"""A variant that no constant is fitted to: it says what predictions of several changes are worth."""
WIDEST = 512
"""A wider window would need more calibration text than there is, and tell no more."""
BASE = "the base"
MOST_ERROR = 0.5
"""A relative error of a fitted cell above which nothing should be decided by the profile."""


@dataclass(frozen=True)
class FittedCell:
    """A measured cell and what the profile says of it, in seconds or bytes."""

    variant: str
    what: str
    measured: float
    fitted: float

    @property
    def error(self) -> float:
        return abs(self.fitted / self.measured - 1)


@dataclass(frozen=True, repr=False)
class Calibrated(NotebookResult):
    """A profile, where it is kept, and the cells that it was fitted to."""

    profile: Profile
    path: Path
    cells: tuple[FittedCell, ...]

    def in_short(self) -> str:
        return f"profile of {self.profile.engine} from {len(self.cells)} cells"

    def to_json(self) -> dict[str, Any]:
        """The JSON of `calibrate --json`."""
        return {
            "format_version": 1,
            "engine": self.profile.engine,
            "engine_version": self.profile.version,
            "machine": dict(self.profile.machine),
            "profile": str(self.path),
            "errors": dict(self.profile.errors),
            "cells": [vars(cell) for cell in self.cells],
        }


def calibrate_model(
    model: str | Path,
    asked: InTransformers | InLlamaCpp | Requests | None = None,
    *,
    options: RunOptions | None = None,
    progress: AnyProgress | None = None,
) -> Calibrated:
    """Time variants of `model` in an engine as `bench_artifact` does, and keep the profile that predicts plans for models
    of its shape on this machine. Raises LB355 if the cells do not decide it or contradict each other, and what
    `bench_artifact` raises."""
    if isinstance(asked, Requests) and asked.served:
        raise ValueError("a profile is of offline runs: served=False")
    # What a variant loses is nobody's question.
    base = OpenModel(model, replace(options or RunOptions(), recall=False), progress)
    asked, window = (asked or InTransformers()).for_profile(base)
    ready = asked.check(base)
    on_gpus = isinstance(ready, Ready) and ready.gpus is not None
    quantized = asked.ON_GPUS if isinstance(asked, Requests) and on_gpus else asked.QUANTIZED
    own = _of_experts(base.facts)
    if own and isinstance(asked, Requests):
        # The experts of an artifact are one tensor: quantized, vLLM cannot read that.
        beside = 'modules "*.self_attn.*" quantize'
        quantized = {name: rule.replace("layers all quantize", beside) for name, rule in quantized.items()}
    several = WINDOWS, *(list(quantized.values()) or [VARIANTS["half of the MLPs"]])
    variants = {**VARIANTS, **own, **quantized, TOGETHER: "\n".join(several)}
    window = min(window, WIDEST)
    attention = ranges_text(i for i, spec in enumerate(base.facts.layer_specs) if isinstance(spec.mixer, Attention))
    machine = machine_described(base.device, base.computed.dtype)
    # Each variant's cells are kept until the profile is, so that a calibration that was stopped goes on, also when the
    # engine's environment is there by now (`EnginePython` does not show `install`).
    begun = digest_of([base.digest, repr(asked), machine, variants, VERSION])
    found: list[_Timed] = []
    took: list[float] = []
    for number, (name, rule) in enumerate(variants.items(), 1):
        left = f", {duration_text(statistics.mean(took) * (len(variants) - number + 1))} left" if took else ""
        base.progress.say(f"variant {number} of {len(variants)}: {name}{left}")
        started = time.monotonic()
        kept = PROFILES.path(base.cache_dir, f"calibrating-{short(begun, 16)}-{number}.json")
        timed = _Timed.read(kept)
        if timed is not None and timed.alike(found):
            base.progress.say("  timed before it was stopped")
        else:
            timed = _timed(base, asked, name, rule.format(window=window, attention=attention), window)
            if not timed.alike(found):
                _forget(base.cache_dir, begun)
                said = "of another version, or on another device or number of threads"
                message = f"{timed.engine} is {said}, than before it was stopped"
                raise fail("LB355", message, help="calibrate again")
            timed.keep(kept)
            took.append(time.monotonic() - started)
        found.append(timed)
    _forget(base.cache_dir, begun)
    computed = {} if found[0].threads is None else {"threads": found[0].threads}
    profile = Profile(found[0].engine, found[0].version, machine | computed | dict(found[0].machine))
    profile, rows = _fitted(base.computed, found, profile, asked.written if isinstance(asked, Contexts) else 0)
    worst = max((cell for cell in rows if cell.variant != TOGETHER), key=lambda cell: cell.error)
    if worst.error > MOST_ERROR:
        message = f"{worst.what} of {worst.variant} lies {worst.error:.0%} from what the other times make of it"
        raise fail("LB355", message, help="calibrate again when nothing else runs, or with more --pairs")
    path = profile_path(profile.engine, base.computed, base.device, base.cache_dir, found[0].machine)
    write_profile(path, profile)
    return Calibrated(profile, path, tuple(rows))


def _of_experts(facts: ModelFacts) -> dict[str, str]:
    """For a model with experts, what there is in place of MLPs of half the width, and one recipe more: half of the experts
    changes nothing of what a single token reads."""
    every = {layer: spec.ffn for layer, spec in enumerate(facts.layer_specs)}
    routed = {layer: ffn for layer, ffn in every.items() if isinstance(ffn, Moe)}
    if not routed:
        return {}
    fewer = {layer: max(moe.experts // 2, moe.top_k) for layer, moe in routed.items()}
    smaller = [f"layers {layer} experts({n})" for layer, n in fewer.items() if n < routed[layer].experts]
    smaller += [f"layers {layer} width(50%, refit=false)" for layer, ffn in every.items() if isinstance(ffn, GatedMLP)]
    one = {"one KV head": "layers {attention} kv_heads(1, align=false)"} if facts.kv_heads > 1 else {}
    return {"smaller MLPs": "\n".join(smaller) or VARIANTS["half of the MLPs"], **one}


@dataclass(frozen=True)
class _Timed:
    """A variant, its layers, and what an engine of this version gave."""

    name: str
    engine: str
    version: str
    specs: tuple[LayerSpec, ...]
    cells: Sequence[Cell]
    machine: Mapping[str, Any]
    threads: int | None = None

    def alike(self, others: Sequence[_Timed]) -> bool:
        own = self.engine, self.version, self.machine, self.threads
        return all((other.engine, other.version, other.machine, other.threads) == own for other in others)

    def keep(self, path: Path) -> None:
        """Where the cache folder cannot be written nothing is kept."""
        with suppress(OSError):
            replace_entry(path, TypeAdapter(_Timed).dump_json(self))

    @classmethod
    def read(cls, path: Path) -> _Timed | None:
        """None if it is not there, or cannot be read."""
        try:
            return TypeAdapter(cls).validate_json(read_entry(path))
        except (OSError, ValueError):
            return None


def _timed(base: OpenModel, asked: InTransformers | InLlamaCpp | Requests, name: str, rule: str, window: int) -> _Timed:
    measure = f"measure {{ tokens = {8 * window}; seq = {2 * window} }}"
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lbdsl-calibrate-")))
        planned = plan_text(f"lbr 1\n{measure}\n{rule}\nelse keep\n", str(place / "variant.lbr"), base)
        chosen = ApplyOptions(output=place / "variant", no_heal=True)
        applied = apply_plan(planned, chosen=chosen, progress=base.progress)
        base.release()
        measured, cells = asked.measure(base, applied.folder, applied.record, stack)
        measured.cells.extend(cells)
    specs, machine = applied.record.plan.specs, dict(measured.machine)
    return _Timed(name, measured.engine, measured.version, specs, measured.cells, machine, measured.threads)


def _forget(cache_dir: Path, begun: str) -> None:
    for path in cache_dir.glob(f"calibrating-{short(begun, 16)}-*.json"):
        with suppress(OSError):
            path.unlink()


@dataclass(frozen=True)
class _Row:
    """A measured amount (seconds, or bytes) of a model, and its features."""

    variant: str
    group: tuple[str, int]
    what: str
    features: Constants
    amount: float


def _rows(facts: ModelFacts, found: Sequence[_Timed]) -> list[_Row]:
    """Of the base, whose figure is the median over all variants, and of each variant, by its ratio to the base beside it:
    a machine that grows slower in between does not count."""
    costs = {timed.name: model_cost(facts, timed.specs) for timed in found}
    rows = []
    for index, cell in enumerate(found[0].cells):
        same = [(timed.name, timed.cells[index]) for timed in found]
        base = statistics.median(one.base for _, one in same)
        rows.append(_row(found[0].engine, BASE, facts.cost, cell, base))
        rows += [_row(found[0].engine, name, costs[name], cell, base * one.ratio) for name, one in same]
    return [row for row in rows if row is not None]


def _row(engine: str, variant: str, cost: ModelCost, cell: Cell, value: float) -> _Row | None:
    """`value` is in the cell's own unit, bytes or tokens a second; None for cells that follow from others."""
    written = cell.output or 0
    match cell.metric:
        case "memory":
            group, amount, features = ("memory", 0), value, memory_features(cost, cell.context, cell.batch)
        case "prefill":
            group, amount, features = ("prefill", 0), cell.context / value, prefill_features(cost, cell.context, engine)
        case "decode":
            group, amount = ("steps", cell.batch), cell.batch / value
            features = step_features(cost, cell.context, cell.batch)
        case "throughput":
            group, amount = ("runs", cell.batch), cell.batch * written / value
            features = run_features(cost, cell.context, written)
        case _:
            return None
    what = f"{cell.metric} {cell.batch} x {cell.context}" + (f"/{written}" if written else "")
    return _Row(variant, group, what, features, amount)


def _fitted(facts: ModelFacts, found: Sequence[_Timed], profile: Profile, grown: int) -> tuple[Profile, list[FittedCell]]:
    """The profile with what was `found`, and its cells; see `_ranges`."""
    rows = _rows(facts, found)
    constants: dict[str, dict[int, Constants]] = {}
    errors: dict[str, float] = {}
    cells: list[FittedCell] = []
    shares: dict[str, list[float]] = {}
    for group in dict.fromkeys(row.group for row in rows):
        own = [row for row in rows if row.group == group]
        to_fit = [row for row in own if row.variant != TOGETHER]
        fitted, worst = fit([row.features for row in to_fit], [row.amount for row in to_fit])
        constants.setdefault(group[0], {})[group[1]] = fitted
        errors[group[0]] = max(worst, errors.get(group[0], 0.0))
        here = [FittedCell(row.variant, row.what, row.amount, weighed(fitted, row.features)) for row in own]
        cells += here
        shares.setdefault(group[0], []).extend(_shares_saved(here))
    packed = packed_forms(spec for timed in found for spec in timed.specs)
    ranges = _ranges(found[0].cells, grown)
    saved = {group: (min(1.0, *of), max(1.0, *of)) for group, of in shares.items() if of}
    return replace(profile, ranges=ranges, errors=errors, constants=constants, packed=packed, saved=saved), cells


SAVING = 0.1
"""Of a smaller saving chance is too large a part."""


def _shares_saved(cells: Sequence[FittedCell]) -> Iterator[float]:
    """Which share of what each variant should save of the base's time or memory it did save."""
    base = {cell.what: cell for cell in cells if cell.variant == BASE}
    for cell in cells:
        was = base[cell.what]
        predicted = was.fitted - cell.fitted
        if predicted >= SAVING * was.fitted:
            yield (was.measured - cell.measured) / predicted


def _ranges(cells: Sequence[Cell], grown: int) -> dict[str, tuple[int, int]]:
    """See `Profile`. Steps are timed while a sequence grows by `grown` tokens; then its memory is like that of reading as
    many."""
    tokens: dict[str, list[int]] = {}
    for cell in cells:
        grows = [cell.context, cell.context + grown]
        of_cell = {
            "prefill": {"prefill": [cell.context]},
            "decode": {"steps": grows},
            "memory": {"memory": grows},
            "throughput": {"runs": [cell.context], "written": [cell.output or 0]},
        }
        for group, lengths in of_cell.get(cell.metric, {}).items():
            tokens.setdefault(group, []).extend(lengths)
    return {group: (min(of), max(of)) for group, of in tokens.items()}
