"""`verify_artifact`: whether an artifact is still what its record says, and computes the same in an engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from math import hypot, sqrt
from pathlib import Path
from typing import Any

from lbdsl.api.evaluating import Judged, evaluate_artifact
from lbdsl.api.notebook import NotebookResult
from lbdsl.artifact.record import Record, read_record
from lbdsl.artifact.restore import load_artifact
from lbdsl.bench.engine import EnginePython, export_kind, exported
from lbdsl.bench.engine_vllm import log_probs_in_vllm
from lbdsl.core.diagnostic import Diagnostic, error
from lbdsl.core.extras import check_installed
from lbdsl.core.progress import AnyProgress
from lbdsl.core.units import Unit
from lbdsl.data.sources import read_documents
from lbdsl.model.load_check import loading
from lbdsl.model.quiet import quiet_transformers
from lbdsl.plan.words import cell_text
from lbdsl.recipe.schema import Evaluate, Phase
from lbdsl.session.exporting import artifact_subject
from lbdsl.session.model import OpenModel, base_of
from lbdsl.session.options import RunOptions

ENGINES = "transformers", "vllm"
SAMPLE = 8192
"""Tokens of each text."""
QUESTIONS, TEXTS = 40, 4
ERRORS = 3.0
"""Standard errors by which a sample may differ from the record."""
NEAR, NEAR_PACKED = 0.01, 0.1
"""The mean difference of log-probabilities in nats that is left to other kernels, in float32; with packed weights, whose
kernels round inputs in their own way."""
READ = 1024
"""Tokens that the engine reads."""


@dataclass(frozen=True)
class Checked:
    """One thing that was looked at: whether it holds, and the figures that say it."""

    what: str
    holds: bool
    said: str


@dataclass(frozen=True, repr=False)
class Verified(NotebookResult):
    """What `verify` looked at, in order; LB491 for each that does not hold."""

    folder: Path
    record: Record
    checks: tuple[Checked, ...]
    diagnostics: tuple[Diagnostic, ...]

    def in_short(self) -> str:
        return f"{sum(check.holds for check in self.checks)} of {len(self.checks)} hold in {self.folder}"

    def to_json(self) -> dict[str, Any]:
        """The JSON of `verify --json`."""
        return {"format_version": 1, "artifact": str(self.folder), "checks": [asdict(check) for check in self.checks]}


def verify_artifact(
    artifact: str | Path,
    *,
    against: str | Path | None = None,
    engine: str | None = None,
    python: EnginePython | None = None,
    tokens: int = SAMPLE,
    options: RunOptions | None = None,
    progress: AnyProgress | None = None,
) -> Verified:
    """Hash the files of the artifact in folder `artifact`, load it, judge it again on a sample of `tokens` of each text and
    some of its questions, and with `engine` ("transformers" or "vllm") compare what an export of it computes there.

    `against` is its base, if that moved. Raises LbdslError as `evaluate_artifact` does: LB465 for a file that is not as it
    was saved, and LB487 without the engine."""
    folder = Path(artifact)
    if engine not in (None, *ENGINES):
        raise ValueError(f"{engine} is none of {', '.join(ENGINES)}")
    record = read_record(folder).unwrap()
    judged = evaluate_artifact(folder, against=against, options=options, progress=progress, **_sample(record, tokens))
    checks = [Checked("files", True, f"{len(record.files)} as they were saved"), *_as_recorded(record, judged)]
    if engine is not None:
        base = base_of(record, against, options, progress)
        checks.append(_in_engine(engine, python or EnginePython(), base, folder, record))
    failed = (error("LB491", f"{check.what}: {check.said}") for check in checks if not check.holds)
    # That an assert fails, or cannot be decided on a sample, is no difference by itself.
    told = (found for found in judged.diagnostics if not found.is_error)
    return Verified(folder, record, tuple(checks), (*told, *failed))


def _sample(record: Record, tokens: int) -> dict[str, Any]:
    """No more than it was judged on when it was made."""
    block = record.plan.eval or Evaluate()
    limit = QUESTIONS if block.limit is None else min(QUESTIONS, block.limit)
    return {"tokens": min(tokens, block.tokens), "limit": limit, "needle_texts": min(TEXTS, block.needle_texts)}


def _as_recorded(record: Record, judged: Judged) -> Iterator[Checked]:
    """The losses on the texts that it was judged on when it was made, and the values that decided its asserts; what a
    sample cannot decide holds. Errors are the recorded ones, of as little text as the sample has, whose own may be of one
    sequence; another machine rounds differently."""
    block, smaller = record.plan.eval or Evaluate(), 1.0
    texts = {source["data"]: source for source in (record.evaluation or {}).get("sources", ())}
    for source in judged.quality["sources"]:
        then = texts.get(source["data"])
        if then is None or then["loss_rise"] is None:
            continue
        if source["loss_rise"] is None:
            yield Checked(f"loss rise on {source['data']}", False, "not a number here")
            continue
        smaller = max(smaller, then["sequences"] / source["sequences"])
        known = then["stderr"]["loss_rise"] or 0.0
        errors = [known * sqrt(then["sequences"] / source["sequences"]), known]
        said = " and ".join(
            f"{each['loss_rise']:+.4f} ±{error:.4f} {where}"
            for each, error, where in zip((source, then), errors, ("here", "in the record"), strict=True)
        )
        apart = abs(source["loss_rise"] - then["loss_rise"])
        yield Checked(f"loss rise on {source['data']}", apart <= NEAR + ERRORS * hypot(*errors), said)

    smaller = max(smaller, block.needle_texts / min(TEXTS, block.needle_texts))
    values = {(item.text, item.on): item for item in record.asserts}
    for item in judged.asserts:
        was = values.get((item.text, item.on))
        if item.phase is not Phase.POST or was is None or was.value is None or item.value is None:
            continue
        error, unit = hypot(item.error or 0.0, sqrt(smaller) * (was.error or 0.0)), item.unit or Unit.NONE
        here, there = (cell_text(each.value, each.error, unit) for each in (item, was))
        holds = abs(item.value - was.value) <= NEAR + ERRORS * error
        yield Checked(f"assert {item.text}", holds, f"{here} here and {there} in the record")


def _in_engine(engine: str, python: EnginePython, base: OpenModel, folder: Path, record: Record) -> Checked:
    """What an export computes in an engine beside what the artifact computes here, on text that both read."""
    ids = _text(base, min(READ, base.facts.positions - 1))
    packed = bool(record.packed)
    dtype = base.computed.dtype if packed else "float32"
    with ExitStack() as stack:
        if engine == "vllm":
            kind, theirs = log_probs_in_vllm(ids, dtype, python, base, folder, record, stack)
        else:
            kind, theirs = _in_transformers(ids, dtype, base, folder, record, stack)
    ours = _log_probs(load_artifact(folder, record.plan, device=base.device, compute=dtype), ids)
    apart = [abs(one - other) for one, other in zip(ours, theirs, strict=True)]
    mean, losses = sum(apart) / len(apart), [-sum(each) / len(each) for each in (ours, theirs)]
    said = (
        f"loss {losses[1]:.4f} and {losses[0]:.4f} as saved; log-probabilities differ by {mean:.2g} nats in the mean, "
        f"{max(apart):.2g} at most, over {len(apart)} tokens"
    )
    return Checked(f"{kind} in {engine}", mean <= (NEAR_PACKED if packed else NEAR), said)


def _text(base: OpenModel, tokens: int) -> list[int]:
    found: list[int] = []
    for document in read_documents("builtin:wikitext"):
        found += base.tokenizer(document)["input_ids"]
        if len(found) >= tokens:
            break
    return found[:tokens]


def _in_transformers(
    ids: Sequence[int], dtype: str, base: OpenModel, folder: Path, record: Record, stack: ExitStack
) -> tuple[str, list[float]]:
    import torch
    from transformers import AutoModelForCausalLM

    if record.packed:
        check_installed("compressed_tensors", "reading packed weights in transformers", "compressed-tensors")
    kind = export_kind(artifact_subject(folder, record), "transformers")
    place = exported(folder, record, kind, base, stack)
    with loading("LB465", f"{place} does not load"), quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(
            place, dtype=getattr(torch, dtype), local_files_only=True, trust_remote_code=False
        )
    return kind, _log_probs(model.to(base.device).eval(), ids)


def _log_probs(model: Any, ids: Sequence[int]) -> list[float]:
    """Log-probabilities of each token after those before it, in nats."""
    import torch

    read = torch.tensor([list(ids)], device=next(model.parameters()).device)
    with torch.inference_mode():
        logits = model(input_ids=read).logits[0, :-1].float().log_softmax(-1)
    return list(logits.gather(-1, read[0, 1:, None])[:, 0].tolist())
