"""`verify_artifact`: whether an artifact is still what its record says, and computes the same in an engine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from math import isclose, isfinite, log, nan, sqrt
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeGuard

from lbdsl.api.evaluating import Judged, evaluate_artifact
from lbdsl.api.notebook import NotebookResult
from lbdsl.artifact.record import Record, facts_of, read_record
from lbdsl.artifact.restore import load_artifact
from lbdsl.bench.engine import EnginePython, export_kind, exported
from lbdsl.bench.engine_vllm import log_probs_in_vllm
from lbdsl.core.diagnostic import Diagnostic, error, first_line, warning
from lbdsl.core.digest import digest_file
from lbdsl.core.extras import check_installed
from lbdsl.core.measurement import Measurement
from lbdsl.core.progress import AnyProgress
from lbdsl.core.units import Unit
from lbdsl.data.chat import tokenized
from lbdsl.data.sources import read_documents
from lbdsl.model.config_file import read_json_object
from lbdsl.model.load_check import loading
from lbdsl.model.quiet import quiet_transformers
from lbdsl.plan.gates import gate_of
from lbdsl.plan.words import cell_text
from lbdsl.recipe.schema import Evaluate, Phase
from lbdsl.session.exporting import artifact_subject
from lbdsl.session.model import OpenModel, base_of
from lbdsl.session.options import RunOptions
from lbdsl.session.saved_recipe import planned_recipe
from lbdsl.version import VERSION

SHOWN = (
    "data",
    "tokens",
    "sequences",
    "perplexity",
    "nll",
    "loss_rise",
    "ppl_increase",
    "kl",
    "agreement",
    "scores",
    "stderr",
)
"""Fields of the first text that a record has twice."""
CONFIG, RISE, CODE = "config.json", "loss_rise", "code"
ENGINES = "transformers", "vllm"
SAMPLE = 8192
"""Tokens of each text."""
SEQUENCES = 4
"""Fewer say too little of their own error, and are taken only where the text has no more."""
QUESTIONS, TEXTS = 40, 4
ERRORS = 3.0
"""Standard errors of a sample by which it may differ from the record."""
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
    base = base_of(record, against, options, progress)
    checks += _own_files(folder, record, base)
    if engine is not None:
        checks.append(_in_engine(engine, python or EnginePython(), base, folder, record))
    failed = [_finding(check, record) for check in checks if not check.holds]
    # That an assert fails, or cannot be decided on a sample, is no difference by itself.
    told = (found for found in judged.diagnostics if not found.is_error)
    return Verified(folder, record, tuple(checks), (*told, *failed))


def _finding(check: Checked, record: Record) -> Diagnostic:
    message = f"{check.what}: {check.said}"
    if check.what != CODE or record.lbdsl_version == VERSION:
        return error("LB491", message)
    help = (
        f"verify it with lbdsl {record.lbdsl_version}, which the record says has made it; anybody may write so",
        "until then load it with lbdsl installed, which never runs the folder's code, and not with trust_remote_code",
    )
    return warning("LB491", f"{message}; it was made by another version, {record.lbdsl_version}", help=help)


def _sample(record: Record, tokens: int) -> dict[str, Any]:
    """No more than it was judged on when it was made."""
    block = record.plan.eval or Evaluate()
    limit = QUESTIONS if block.limit is None else min(QUESTIONS, block.limit)
    tokens = max(tokens, SEQUENCES * (block.seq or 0))
    return {"tokens": min(tokens, block.tokens), "limit": limit, "needle_texts": min(TEXTS, block.needle_texts)}


def _as_recorded(record: Record, judged: Judged) -> Iterator[Checked]:
    """The figures of each text and task that it was judged on when it was made, and the asserts that follow from them.

    They may differ by the errors of this sample: whoever writes a record writes its errors, too. A figure that is measured
    here, and that the record lacks, does not hold."""
    if record.evaluation is None:
        if record.plan.eval is not None:
            yield Checked("figures", False, "the record has none")
        return
    kept = record.evaluation.get("sources") or [record.evaluation]
    if any(record.evaluation.get(name) != kept[0].get(name) for name in SHOWN):
        yield Checked("figures", False, "those of the first text are in the record twice, and differ")
    texts = {source.get("data"): source for source in kept}
    for source in judged.quality["sources"]:
        here, there = _figures(source), _figures(texts.get(source["data"], {}))
        few = 1 + 2 / max(1, source["sequences"] - 1)
        name = f"loss rise on {source['data']}"
        yield _compared(name, {RISE: here.pop(RISE)}, {RISE: there.pop(RISE)}, few)
        yield _compared(f"figures on {source['data']}", here, there, few)
    tasks = {task.get("name"): task for task in record.evaluation.get("tasks", ())}
    for task in judged.quality.get("tasks", ()):
        there = tasks.get(task["name"], {})
        yield _compared(f"answers to {task['name']}", _shares(task), _shares(there), 1.0)
    yield from _asserts(record, judged, kept, tasks)


Figures = dict[str, tuple[Any, Any]]
"""Values and their standard errors, by name."""


def _figures(source: Mapping[str, Any]) -> Figures:
    """What is measured of one text. That of a record may be anything."""
    errors, found = source.get("stderr") or {}, {}
    found[RISE] = source.get(RISE), errors.get(RISE)
    for name in ("ppl_increase", "kl", "agreement"):
        found[f"field {name}"] = source.get(name), errors.get(name)
    for model in ("base", "artifact"):
        # In nats, which the rounding of another machine moves by as much whatever the perplexity is.
        perplexity = (source.get("perplexity") or {}).get(model)
        known, loss, share = errors.get(f"perplexity_{model}"), None, None
        if _is_number(perplexity) and perplexity > 0:
            loss, share = log(perplexity), known / perplexity if _is_number(known) else None
        found[f"log perplexity of the {model}"] = loss, share
        found[f"loss of the {model}"] = (source.get("nll") or {}).get(model), share
    return {**found, **{name: (score["value"], score["stderr"]) for name, score in (source.get("scores") or {}).items()}}


def _shares(task: Mapping[str, Any]) -> Figures:
    """What is measured of one task: shares. Where nearly all answers are right, or wrong, the error of few is too small."""
    found: Figures = {}
    for name in ("base", "artifact", "recovery"):
        value, known, asked = task.get(name), (task.get("stderr") or {}).get(name), task.get("questions") or 1
        if _is_number(value):
            near = (min(max(value, 0.0), 1.0) * asked + 1) / (asked + 2)
            known = max(known if _is_number(known) else 0.0, sqrt(near * (1 - near) / asked))
        found[name] = value, known
    return found


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _compared(what: str, here: Figures, there: Figures, few: float) -> Checked:
    """Figures of a sample beside those of the record; the errors of `few` sequences are themselves not well known."""
    said, holds, apart = [], True, 0
    for name, (value, known) in here.items():
        was, claimed = there.get(name, (None, None))
        if not _is_number(value):
            # What was no number when it was made, either, is as it was.
            same = not _is_number(was)
        else:
            # Without an error the sample is one sequence, and that is all of the text.
            within = NEAR + ERRORS * few * (known if _is_number(known) else 0.0)
            same = _is_number(was) and abs(value - was) <= within
        if not same or len(here) == 1:
            label = "" if len(here) == 1 else f"{name} "
            said.append(f"{label}{_figure(value, known)} here and {_figure(was, claimed)} in the record")
        holds, apart = holds and same, apart + same
    return Checked(what, holds, "; ".join(said) or f"{apart} as in the record, by the errors of this sample")


def _figure(value: Any, error: Any) -> str:
    if not _is_number(value):
        return "not a number"
    return f"{value:+.4f}" + (f" ±{error:.4f}" if _is_number(error) else "")


def _asserts(
    record: Record, judged: Judged, kept: Sequence[Mapping[str, Any]], tasks: Mapping[Any, Mapping[str, Any]]
) -> Iterator[Checked]:
    """Each assert on the finished model, from the figures in the record."""
    from lbdsl.evaluate.quality import scores_in

    plan = record.plan
    gate = gate_of(plan, planned_recipe(plan), facts_of(record), no_heal=record.no_heal)
    try:
        answers = {name: _recorded_answers(task) for name, task in tasks.items()}
        follow = gate({source["data"]: scores_in(source) for source in kept}, answers)
    except (ArithmeticError, LookupError, TypeError, ValueError) as problem:
        yield Checked("asserts", False, f"they do not follow from the figures in the record: {first_line(problem)}")
        return
    here = {item.text: item for item in judged.asserts}
    for was, item in zip(record.asserts, follow, strict=True):
        if was.phase is not Phase.POST:
            continue
        unit, shown = item.unit or Unit.NONE, (here.get(was.text, item), was)
        first, second = ("no value" if each.value is None else cell_text(each.value, each.error, unit) for each in shown)
        # A failure may have a reason that no figure shows.
        same = (was.failed and was.value is None) or (was.status == item.status and _near(was.value, item.value))
        follows = "" if same else f"; from its figures {item.status} follows"
        yield Checked(f"assert {was.text}", same, f"{first} here and {second} in the record{follows}")


def _near(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)


def _recorded_answers(task: Mapping[str, Any]) -> dict[str, Measurement]:
    def share(name: str) -> Measurement:
        value, known = (nan if each is None else each for each in (task[name], task["stderr"][name]))
        return Measurement(value, known, Unit.RATIO, 0, task["questions"])

    return {task["name"].partition("(")[0]: share("artifact"), "recovery": share("recovery")}


def _own_files(folder: Path, record: Record, base: OpenModel) -> Iterator[Checked]:
    """The tokenizer, as the base's, and the code that loads the weights, as this version writes it."""
    from transformers import AutoConfig

    import lbdsl.hf  # noqa: F401  (registers the model types)
    from lbdsl.artifact.runtime_files import write_runtime

    with TemporaryDirectory() as place, quiet_transformers():
        fresh = Path(place)
        if base.digest == record.plan.model.digest:
            with loading("LB465", f"the tokenizer of {folder} does not load"):
                base.tokenizer.save_pretrained(fresh)
                # Both are read by the same transformers, which may have written them in another way before.
                ours, theirs = (_tokenizer(each) for each in (fresh, folder))
            differing = [name for name in ours if ours[name] != theirs[name]]
            said = f"not the base's: {', '.join(differing)}" if differing else "as the base's, with its chat template"
            yield Checked("tokenizer", not differing, said)
        with loading("LB465", f"{folder / CONFIG} does not load"):
            (fresh / CONFIG).write_bytes((folder / CONFIG).read_bytes())
            write_runtime(fresh, AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False))
        code = {path.name: digest_file(path) for path in fresh.glob("*.py")}
        saved = {name: digest for name, digest in record.files.items() if name.endswith(".py")}
        differing = sorted(name for name in {*code, *saved} if code.get(name) != saved.get(name))
        if read_json_object(fresh / CONFIG, "LB465") != read_json_object(folder / CONFIG, "LB465"):
            differing.append(f"what {CONFIG} loads")
        said = f"not what lbdsl {VERSION} writes: {', '.join(differing)}" if differing else f"as lbdsl {VERSION} writes it"
        yield Checked(CODE, not differing, said)


def _tokenizer(folder: Path) -> dict[str, Any]:
    """What decides which tokens a text has, as this transformers reads the files in a folder."""
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    backend = getattr(found, "backend_tokenizer", None)
    return {
        "its words": found.get_vocab(),
        "its rules": json.loads(backend.to_str()) if backend is not None else type(found).__name__,
        "its special tokens": {**found.special_tokens_map, "ids": found.all_special_ids},
        "its chat template": found.chat_template,
    }


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
        found += tokenized(base.tokenizer, [document], special=True)[0]
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
