"""`lbdsl.json`: the record of all decisions, changes and measurements that led to an artifact."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import hypot
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationInfo, field_validator

from lbdsl.artifact.benched import Cell
from lbdsl.artifact.contents import RECORD_FILE, shown_hashes
from lbdsl.core.diagnostic import Diagnosed, LbdslError, error, fail, first_line
from lbdsl.core.digest import digest_of
from lbdsl.core.files import replace_file
from lbdsl.core.paths import did_you_mean, inside
from lbdsl.core.units import Unit, plural
from lbdsl.cost.facts import ModelFacts
from lbdsl.model.config_file import read_json_object
from lbdsl.plan.schema import AssertResult, Plan

FORMAT_VERSION = 2
BYPASSED = 0.02
"""A state that gives less of the attention's output is hardly read (arXiv 2510.05901)."""
CAUTIONS = ("LB328", "LB329", "LB337")
"""Findings of a plan that are also shown with its result."""


Count = Annotated[int, Field(ge=0, lt=2**63)]


@dataclass(frozen=True)
class _Pair:
    base: float | None
    artifact: float | None


@dataclass(frozen=True)
class _Score:
    __pydantic_config__ = ConfigDict(extra="forbid")

    value: float | None
    stderr: float | None
    unit: Unit


@dataclass(frozen=True)
class _Errors:
    perplexity_base: float | None
    perplexity_artifact: float | None
    loss_rise: float | None


@dataclass(frozen=True)
class _Text:
    """The fields that are read of one text that judged; null means NaN or infinity."""

    data: str
    tokens: Count
    perplexity: _Pair
    loss_rise: float | None
    scores: dict[str, _Score]
    stderr: _Errors
    sequences: Count = 0
    nll: _Pair | None = None
    state_shares: dict[int, float] = field(default_factory=dict)
    seen: Annotated[float, Field(ge=0, le=1)] = 0.0
    data_digest: str = ""
    before_healing: _Text | None = None


@dataclass(frozen=True)
class _Shares:
    __pydantic_config__ = ConfigDict(extra="forbid")

    base: float | None
    artifact: float | None
    recovery: float | None


@dataclass(frozen=True)
class _Task:
    """The fields that are read of one task."""

    name: str
    metric: str
    questions: Count
    base: float | None
    artifact: float | None
    recovery: float | None
    stderr: _Shares
    parts: dict[str, _Pair]
    kinds: dict[str, _Pair] = field(default_factory=dict)
    missed: dict[str, list[Count]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Judged(_Text):
    """The fields that are read from `evaluation`: those of the first text, of each, and of each task."""

    sources: Annotated[list[_Text], Field(min_length=1)] = field(default_factory=list)
    tasks: list[_Task] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class _Stage:
    """The fields that are read of one stage of healing; a point of a curve is (tokens seen, loss)."""

    data: str
    steps: Count
    tokens: Count
    passes: float
    trained_params: Count
    curve: list[tuple[float, float]]
    seconds: float
    validation: list[tuple[float, float]] = field(default_factory=list)
    kept: Count | None = None


@dataclass(frozen=True, kw_only=True)
class _NamedStage(_Stage):
    stage: str


@dataclass(frozen=True, kw_only=True)
class _Healed(_Stage):
    """The fields that are read from `heal`."""

    stages: list[_NamedStage] = field(default_factory=list)


@dataclass(frozen=True)
class _Machine:
    name: str
    threads: Count | None
    dtype: str | None


@dataclass(frozen=True)
class _Benched:
    """The fields that are read from what an engine gave."""

    engine: str
    engine_version: str
    export: str | None
    machine: _Machine
    cells: Annotated[list[Cell], Field(min_length=1)]
    served: bool = False


class Record(BaseModel):
    """The record of one artifact.

    `files` maps weights, configuration, tokenizer and code to their sha256, `shown` the model card and its pictures (None:
    not known), `texts` what healed and judged it (None: not kept). `layer_map` gives the source model's index of
    each layer. `changes` are the records of the applied actions. `heal` is None if the model was not healed, `evaluation`
    if it was not evaluated. `status` is "accepted", or "rejected" if a gate failed. `no_heal` and the plan's `set_params`
    record what command-line flags changed. `packed` has the relative error of each module whose weights are packed; `bench`
    what `bench` measured, by engine and kind of run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    lbdsl_version: str
    status: str
    plan_digest: str
    plan: Plan
    files: dict[str, str]
    shown: dict[str, str] | None = None
    texts: dict[str, str] | None = None
    layer_map: tuple[int, ...]
    changes: tuple[dict[str, Any], ...]
    no_heal: bool
    heal: dict[str, Any] | None
    packed: dict[str, float] = {}
    bench: dict[str, Any] | None = None
    evaluation: dict[str, Any] | None
    asserts: tuple[AssertResult, ...]

    def __repr__(self) -> str:
        return f"<Record: {self.status}, {self.plan!r}>"

    @field_validator("evaluation", "heal", "bench", mode="after")
    @classmethod
    def _complete(cls, value: dict[str, Any] | None, info: ValidationInfo) -> dict[str, Any] | None:
        """Check that the fields read by cards and reports are present; other fields are kept unchanged."""
        if value is not None:
            read = {"evaluation": _Judged, "heal": _Healed, "bench": dict[str, _Benched]}[info.field_name or ""]
            TypeAdapter(read).validate_json(json.dumps(value), strict=True)
        return value


@dataclass(frozen=True)
class PackedWeights:
    """The modules that are stored in one way: bits for each weight, scales included, and the relative errors
    ||W - W'|| / ||W||: their mean, and the largest with its module."""

    storage: str
    modules: int
    bits: float
    error: float
    largest: float
    worst: str

    def __str__(self) -> str:
        return (
            f"{plural(self.modules, 'module')} {self.storage}: {self.bits:.2f} bits a weight, "
            f"error {self.error:.2%}, at most {self.largest:.2%} ({self.worst})"
        )


def packed_weights(record: Record) -> tuple[PackedWeights, ...]:
    """The packed weights of an artifact, by how they are stored."""
    facts = facts_of(record)
    found: dict[str, list[tuple[float, str, int, int]]] = {}
    for layer, spec in enumerate(record.plan.specs):
        for tensor, storage in spec.matrices(facts):
            name = facts.family_data.layer_prefix.format(layer) + tensor.module
            if name in record.packed:
                sizes = (8 * storage.stored_bytes(tensor, facts), tensor.elements)
                found.setdefault(storage.text(), []).append((record.packed[name], name, *sizes))
    return tuple(
        PackedWeights(
            text,
            len(rows),
            sum(bits for _, _, bits, _ in rows) / sum(elements for *_, elements in rows),
            sum(error for error, *_ in rows) / len(rows),
            *max(rows)[:2],
        )
        for text, rows in sorted(found.items())
    )


def healing_stages(heal: dict[str, Any]) -> list[dict[str, Any]]:
    """The notes of each stage of healing, in order."""
    return heal.get("stages") or [heal]


RISE = 1.05
"""Losses on text apart, one over an earlier one, above which the rate of learning was too high."""


def rise_of(stage: Mapping[str, Any]) -> tuple[float, float] | None:
    """Two losses of a stage on text apart, the later one much above the earlier one."""
    apart = [loss for _, loss in stage.get("validation") or ()]
    rises = [(high / low, low, high) for at, low in enumerate(apart) for high in apart[at:] if low > 0]
    ratio, low, high = max(rises, default=(1.0, 0.0, 0.0))
    return (low, high) if ratio > RISE else None


def cautions_of(record: Record) -> tuple[str, ...]:
    """What a reader of the result should be told: cautions of its plan, a rate of learning that was too high, and texts on
    which healing did harm."""
    found = [finding.message for finding in record.plan.findings if finding.code in CAUTIONS]
    for stage in healing_stages(record.heal) if record.heal else ():
        if not stage.get("validation", True):
            found.append(f"no text of {stage['data']} was left to watch healing on: the last weights are kept")
        rise = rise_of(stage)
        if rise is not None:
            found.append(
                f"while it healed, the loss on other text of its source rose from {rise[0]:.3g} to {rise[1]:.3g}: "
                "a lower `lr` is likely to heal better"
            )
    judged = record.evaluation
    for source in judged.get("sources", [judged]) if judged else ():
        shares = source.get("state_shares", {}).values()
        if shares and sum(shares) < BYPASSED * len(shares):
            found.append(
                f"on {source['data']} layers with a state take {sum(shares) / len(shares):.1%} of their attention from it: "
                "windows of as many bytes may do as well"
            )
        before = source.get("before_healing") or {"loss_rise": None}
        was, now = before["loss_rise"], source["loss_rise"]
        error = hypot(*((one.get("stderr") or {}).get("loss_rise") or 0 for one in (before, source)))
        if was is not None and now is not None and now - was > error:
            found.append(
                f"healing made the model worse on {source['data']}: its loss is {was:+.3f} nats/token beside the base's "
                f"before, {now:+.3f} after it"
            )
    return tuple(found)


def facts_of(record: Record) -> ModelFacts:
    """Facts of the base model, as recorded in the plan. The artifact's own headers describe the changed model."""
    return record.plan.model.facts


def write_record(record: Record, folder: Path) -> None:
    """Write `lbdsl.json` with its own digest, so that edits are detected, and those of card and pictures as they are."""
    content = {**record.model_dump(mode="json"), "shown": shown_hashes(folder)}
    content["digest"] = digest_of(content)
    replace_file(folder / RECORD_FILE, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def read_record(folder: Path) -> Diagnosed[Record]:
    """The record of an artifact; LB466 if there is none, LB465 if it is damaged, edited or of another format."""
    path = folder / RECORD_FILE
    try:
        if not folder.exists():
            raise fail("LB466", f"there is no folder {folder}", help=did_you_mean(folder))
        if not path.is_file():
            help = (*inside(folder, RECORD_FILE), "`lbdsl apply RECIPE MODEL`, or `lbdsl apply PLAN`, makes one")
            raise fail("LB466", f"{folder} is not an artifact of lbdsl: it has no {RECORD_FILE}", help=help)
        content = read_json_object(path, "LB465")
        claimed = content.pop("digest", None)
        version = content.get("format_version")
        if version != FORMAT_VERSION:
            raise fail("LB465", f"{path} has format version {version}; this lbdsl reads version {FORMAT_VERSION}")
        if claimed != digest_of(content):
            said = f"{path} was edited after it was written: its digest does not match"
            raise fail("LB465", said, help="apply the recipe again, or restore the file")
        return Diagnosed(Record.model_validate(content))
    except LbdslError as problem:
        return Diagnosed(None, problem.diagnostics)
    except (ValueError, LookupError, TypeError, AttributeError, OSError) as problem:
        return Diagnosed(None, (error("LB465", f"{path} cannot be read: {first_line(problem)}"),))
