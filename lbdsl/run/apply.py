"""`run_plan`: the stages of `apply`, in order; each can be interrupted and resumed.

    change -> heal -> save -> pack -> judge (the saved and reloaded artifact) -> publish or set aside

Finished work is in the work folder; a resumed run skips it and ends with the same weights.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lbdsl.artifact.card import write_card
from lbdsl.artifact.record import Record, write_record
from lbdsl.artifact.restore import artifact_beside
from lbdsl.artifact.save import save_model
from lbdsl.core.progress import Progress
from lbdsl.core.units import bytes_text
from lbdsl.data.blocks import TokenBlocks
from lbdsl.evaluate.quality import Quality, evaluation_json, judge_on, post_scores
from lbdsl.layer.facts import DTYPE_BYTES, ModelFacts
from lbdsl.measure.layer_source import LayerSource, LoadedModel
from lbdsl.measure.memory import free_bytes
from lbdsl.measure.packed import RoundedModel
from lbdsl.measure.variant import StatisticsOf, no_statistics
from lbdsl.plan.estimate import training_bytes
from lbdsl.plan.schema import AssertResult, Plan
from lbdsl.recipe.schema_blocks import Stage
from lbdsl.run.changes import apply_changes, made_from
from lbdsl.run.packing import pack_model, packs
from lbdsl.run.rewrite import Rewriting, rewriting_of
from lbdsl.run.workdir import WorkFolder, check_room, writing

if TYPE_CHECKING:
    from lbdsl.heal.teacher import Teacher

Gate = Callable[[Mapping[str, Mapping[str, float]]], tuple[AssertResult, ...]]
"""Maps the post scores on each text to the results of all asserts."""


@dataclass(frozen=True)
class RunInputs:
    """The inputs of a run besides its plan.

    base:        returns the base model in the hybrid runtime
    judged_base: returns the base as the reference for evaluation, in memory or streamed from disk
    changed:     returns a separate copy of the model to change
    weights:     returns the folder of the base's safetensors
    heal_blocks:  one for each stage of healing; none without healing
    calibration:  the text that the inputs of packed weights are taken on, None if they need none
    eval_blocks:  one for each evaluation text
    validation:   the text that each stage is watched on; None to keep its last weights
    seen:         by the digest of an evaluation text, the share of it that healing or measuring has seen
    trackers:     where else the healing loss is shown
    release:      frees the base, which `base` then loads again
    statistics:   returns the statistics of a layer, used to compute its new weights
    compute:      the compute dtype, if it differs from the dtype of the stored weights
    """

    facts: ModelFacts
    tokenizer: Any
    base: Callable[[], Any]
    judged_base: Callable[[], LayerSource]
    changed: Callable[[], Any]
    weights: Callable[[], Path]
    heal_blocks: tuple[TokenBlocks, ...]
    eval_blocks: tuple[TokenBlocks, ...]
    gate: Gate
    validation: tuple[TokenBlocks | None, ...] = ()
    calibration: TokenBlocks | None = None
    device: Any = "cpu"
    seen: Mapping[str, float] = field(default_factory=dict)
    trackers: tuple[str, ...] = ()
    release: Callable[[], None] = lambda: None
    statistics: StatisticsOf = no_statistics
    batch: int = 1
    compute: str | None = None


@dataclass(frozen=True)
class RunResult:
    """The record, the artifact's folder, and where an existing output was moved to, if any."""

    record: Record
    folder: Path
    moved_aside: Path | None


def run_plan(
    plan: Plan,
    inputs: RunInputs,
    output: Path,
    *,
    lbdsl_version: str,
    no_heal: bool,
    resume: bool,
    force: bool,
    progress: Progress,
    should_stop: Callable[[], bool] = lambda: False,
) -> RunResult:
    """Run `plan`, on disk if possible (see `rewriting_of`), else with the model loaded, and write the artifact to
    `output`, or to `output`.rejected if a gate failed.

    Raises HealInterrupted if stopped on request, LbdslError for errors that the user can fix.
    """
    work = WorkFolder(output)
    identity = {
        "plan": plan.digest,
        "no_heal": no_heal,
        "lbdsl": lbdsl_version,
        "healing text": [text.digest for text in inputs.heal_blocks],
        "text to watch healing": [text.digest if text else None for text in inputs.validation],
    }
    rewriting = None
    if not (resume and work.has_saved(identity)):
        if not inputs.heal_blocks:
            with progress.stage("reading the checkpoint"):
                rewriting = rewriting_of(plan, inputs.facts, inputs.weights(), inputs.statistics)
        # Packed matrices are written twice: layer by layer, then in order.
        packed = 2 * plan.after.weights if packs(plan) else 0
        check_room(
            output,
            rewriting.bytes_to_write(output.parent) + packed
            if rewriting
            else room_needed(plan, inputs.facts, inputs.compute),
        )
    with work.opened(identity, resume=resume, force=force):
        saved = work.saved(work.artifact)
        if saved is None and packs(plan):
            # The model that is packed is read from disk: what made it is freed before.
            whole = _saved(plan, rewriting, inputs, work, work.unpacked, resume, progress, should_stop)
            _stop_if(should_stop)
            saved = _pack(plan, inputs, whole, work, progress, should_stop)
        else:
            saved = _saved(plan, rewriting, inputs, work, work.artifact, resume, progress, should_stop)
        _stop_if(should_stop)
        judged = _judge(plan, inputs, work, progress)
        _stop_if(should_stop)
        record = _record(plan, saved, judged, inputs, lbdsl_version, no_heal)
        with writing(work.artifact):
            write_record(record, work.artifact)
            write_card(record, work.artifact)
        accepted = record.status == "accepted"
        target = output if accepted else output.with_name(output.name + ".rejected")
        aside = work.publish(target, replace=force or not accepted)
    return RunResult(record, target, aside)


def _saved(
    plan: Plan,
    rewriting: Rewriting | None,
    inputs: RunInputs,
    work: WorkFolder,
    stage: Path,
    resume: bool,
    progress: Progress,
    should_stop: Callable[[], bool],
) -> dict[str, Any]:
    """The notes on the changed and healed model, which is in the folder `stage` now, or was before."""
    saved = work.saved(stage)
    if saved is not None:
        progress.say("weights were saved before; going on from there")
        return saved
    if rewriting is not None:
        return _rewrite(rewriting, inputs, work, stage, progress)
    return _make(plan, inputs, work, stage, resume, progress, should_stop)


def _make(
    plan: Plan,
    inputs: RunInputs,
    work: WorkFolder,
    stage: Path,
    resume: bool,
    progress: Progress,
    should_stop: Callable[[], bool],
) -> dict[str, Any]:
    """Change, heal and save; the model is freed when this returns."""
    with progress.stage("changing the model"):
        model = inputs.changed()
        records = apply_changes(model, plan, made_from(inputs.statistics))
    healed, before = None, []
    if inputs.heal_blocks:
        before = _judge_unhealed(inputs, model, work, progress)
        needless = _held(before, inputs.gate)
        if needless:
            progress.say("every assert holds before healing already; --no-heal would skip it")
        _stop_if(should_stop)
        model, healed = _heal(plan, inputs, model, work, resume, progress, should_stop)
        healed["needless"] = needless
    _stop_if(should_stop)
    notes = {"changes": list(records), "heal": healed, "before_healing": before}
    with work.saving(stage, notes) as folder, progress.stage("saving"):
        notes["files"] = dict(save_model(model, inputs.tokenizer, folder, inputs.facts.dtype))
    # A JSON round trip, so that the values are the same as in a resumed run.
    return json.loads(json.dumps(notes))


def _stop_if(should_stop: Callable[[], bool]) -> None:
    """Stop between stages, where all finished work is on disk."""
    from lbdsl.heal.heal import HealInterrupted

    if should_stop():
        raise HealInterrupted


def _heal(
    plan: Plan,
    inputs: RunInputs,
    model: Any,
    work: WorkFolder,
    resume: bool,
    progress: Progress,
    should_stop: Callable[[], bool],
) -> tuple[Any, dict[str, Any]]:
    """The healed model, and the notes on it: those of the last stage, with the steps, tokens and seconds of all."""
    from lbdsl.heal.changed import segments
    from lbdsl.heal.heal import heal_model
    from lbdsl.heal.text import HealingText

    assert plan.heal is not None
    runs = plan.heal.runs
    parts = segments(model, inputs.base())
    stages: list[dict[str, Any]] = []
    for number, (stage, blocks, apart) in enumerate(zip(runs, inputs.heal_blocks, inputs.validation, strict=True)):
        passes = blocks.tokens / blocks.available if blocks.available else 1.0
        if passes > 1:
            progress.say(f"healing passes {passes:.1f} times over the text of {stage.data}")
        folder = work.heal / f"{number + 1}-{stage.name}"
        with writing(work.heal):
            folder.mkdir(parents=True, exist_ok=True)
            teacher = _teacher(stage, inputs, blocks, apart, folder, progress, should_stop)
        title = "healing" if len(runs) == 1 else f"healing, {number + 1} of {len(runs)}: {stage.name}"
        with progress.stage(title) as report, writing(work.heal):
            model, summary = heal_model(
                model,
                teacher,
                stage,
                HealingText.of(blocks, stage),
                parts=parts,
                passes=passes,
                folder=folder,
                progress=report,
                should_stop=should_stop,
                resume=resume,
                apart=HealingText.of(apart, stage) if apart else None,
                trackers=inputs.trackers,
                name=f"{work.output.name}-{number + 1}-{stage.name}",
                logs=work.output.with_name(f"{work.output.name}.tensorboard") / f"{number + 1}-{stage.name}",
                recompute=_needs_recomputing(stage, inputs, progress),
            )
        if summary.kept is not None and summary.kept < summary.tokens:
            kept = f"those after {summary.kept} tokens" if summary.kept else "those before"
            progress.say(f"kept are the weights that are best on other text: {kept}, not the last after {summary.tokens}")
        stages.append({**summary.to_json(), "data": str(stage.data), "data_digest": blocks.digest})
        _stop_if(should_stop)
    total = {name: sum(stage[name] for stage in stages) for name in ("steps", "tokens", "seconds")}
    return model, {**stages[-1], **total, **({"stages": stages} if len(stages) > 1 else {})}


def _teacher(
    stage: Stage,
    inputs: RunInputs,
    blocks: TokenBlocks,
    apart: TokenBlocks | None,
    folder: Path,
    progress: Progress,
    should_stop: Callable[[], bool],
) -> Teacher:
    """The base as a teacher; if it is cached, it is freed when its hidden states are on disk."""
    from lbdsl.heal.teacher import LoadedTeacher, cached_teacher
    from lbdsl.heal.text import HealingText

    if stage.teacher == "loaded":
        return LoadedTeacher(inputs.base())
    with progress.stage("writing the base's hidden states") as report:

        def told(done: float, total: float, note: str) -> None:
            _stop_if(should_stop)
            report(done, total, note)

        texts = [HealingText.of(text, stage) for text in (blocks, apart) if text is not None]
        places = [text.positions_SN for text in texts if text.positions_SN is not None]
        positions_SN = torch.cat(places) if places else None
        ids_SN = torch.cat([text.ids_SN for text in texts])
        found = cached_teacher(inputs.base(), ids_SN, folder, stage.batch, told, positions_SN)
    inputs.release()
    return found


def _needs_recomputing(stage: Stage, inputs: RunInputs, progress: Progress) -> bool:
    """Whether what the backward pass needs does not fit in memory, and layers are computed twice instead."""
    needed, free = training_bytes(stage, inputs.facts, inputs.compute), free_bytes(inputs.device)
    if needed <= free:
        return False
    progress.say(
        f"training takes about {bytes_text(needed)}, and {bytes_text(free)} are free: each layer is computed twice instead "
        "(gradient checkpointing), which takes about a third longer"
    )
    return True


def _rewrite(rewriting: Rewriting, inputs: RunInputs, work: WorkFolder, stage: Path, progress: Progress) -> dict[str, Any]:
    """Write the changed checkpoint without loading the model; only possible without healing."""
    notes: dict[str, Any] = {"changes": list(rewriting.records), "heal": None, "before_healing": []}
    with work.saving(stage, notes) as folder, progress.stage("rewriting the checkpoint") as report:
        notes["files"] = dict(rewriting.save(inputs.tokenizer, folder, report))
    return json.loads(json.dumps(notes))


def _pack(
    plan: Plan,
    inputs: RunInputs,
    notes: dict[str, Any],
    work: WorkFolder,
    progress: Progress,
    should_stop: Callable[[], bool],
) -> dict[str, Any]:
    """Pack the model in `work.unpacked`, which `notes` are on, into the artifact. It begins again when resumed."""
    with work.saving(work.artifact, notes) as folder, progress.stage("quantizing") as report:

        def told(done: float, total: float, note: str = "") -> None:
            _stop_if(should_stop)
            report(done, total, note)

        notes["files"], notes["packed"] = pack_model(
            work.unpacked,
            folder,
            plan,
            inputs.facts,
            inputs.calibration,
            device=inputs.device,
            compute=inputs.compute,
            batch=inputs.batch,
            progress=told,
        )
    shutil.rmtree(work.unpacked)
    return json.loads(json.dumps(notes))


def _judge(plan: Plan, inputs: RunInputs, work: WorkFolder, progress: Progress) -> tuple[Quality, ...]:
    if not inputs.eval_blocks:
        return ()
    base = inputs.judged_base()
    artifact = artifact_beside(base, work.artifact, plan, compute=inputs.compute)
    return judge_on(base, artifact, inputs.eval_blocks, "judging the saved model", progress, inputs.batch)


def _judge_unhealed(inputs: RunInputs, model: Any, work: WorkFolder, progress: Progress) -> list[dict[str, Any]]:
    """The quality of the changed model before healing, on the same texts, to show the gain from healing."""
    if not inputs.eval_blocks:
        return []
    texts = [blocks.digest for blocks in inputs.eval_blocks]
    known = work.unhealed()
    if [source.get("data_digest") for source in known] == texts:
        return known
    base, changed = LoadedModel(inputs.base()), RoundedModel(model)
    judged = judge_on(base, changed, inputs.eval_blocks, "judging before healing", progress, inputs.batch)
    found = [quality.to_json() for quality in judged]
    work.keep_unhealed(found)
    return found


def _held(before: list[dict[str, Any]], gate: Gate) -> bool:
    """Whether the asserts on the finished model already hold before healing."""
    asserts = gate({source["data"]: post_scores(source) for source in before}) if before else ()
    post = [item for item in asserts if item.phase == "post"]
    return bool(post) and all(item.status == "pass" for item in post)


def _record(
    plan: Plan, saved: dict[str, Any], judged: tuple[Quality, ...], inputs: RunInputs, lbdsl_version: str, no_heal: bool
) -> Record:
    results = inputs.gate({quality.data: quality.post_scores() for quality in judged})
    # A broken model's scores may be NaN or infinite, which JSON does not have.
    asserts = tuple(
        item.model_copy(update={"value": None}) if item.value is not None and not math.isfinite(item.value) else item
        for item in results
    )
    evaluation = evaluation_json(judged, saved["before_healing"]) if judged else None
    for source in evaluation["sources"] if evaluation else ():
        source["seen"] = inputs.seen.get(source["data_digest"], 0.0)
    failed = any(result.status == "fail" for result in asserts)
    return Record(
        lbdsl_version=lbdsl_version,
        status="rejected" if failed else "accepted",
        plan_digest=plan.digest,
        plan=plan,
        files=saved["files"],
        layer_map=tuple(layer.index for layer in plan.layers),
        changes=tuple(saved["changes"]),
        no_heal=no_heal,
        heal=saved["heal"],
        packed=saved.get("packed", {}),
        evaluation=evaluation,
        asserts=asserts,
    )


def room_needed(plan: Plan, facts: ModelFacts, compute: str | None) -> int:
    """Bytes needed for the saved model, and for each stage of healing three checkpoints (two are kept while a third is
    written), the best weights, and the hidden states of a cached teacher."""
    weights = plan.after.params * facts.dtype_bytes + (2 * plan.after.weights if packs(plan) else 0) + 2**20
    if plan.heal is None:
        return weights
    return weights + sum(4 * _checkpoint(stage, plan, facts) + _cache(stage, facts, compute) for stage in plan.heal.runs)


def _cache(stage: Stage, facts: ModelFacts, compute: str | None) -> int:
    """Bytes of a cached teacher: the hidden states on the text that heals and on that which healing is watched on."""
    from lbdsl.heal.heal import steps_of
    from lbdsl.heal.validation import validation_sequences

    if stage.teacher == "loaded":
        return 0
    sequences = steps_of(stage) * stage.batch + validation_sequences(stage.seq)
    return sequences * stage.seq * facts.hidden * DTYPE_BYTES[compute or facts.dtype]


def _checkpoint(stage: Stage, plan: Plan, facts: ModelFacts) -> int:
    """Bytes of the trained weights and Adam's two moments of them, in fp32."""
    if stage.method.node == "full":
        return 3 * 4 * plan.after.params
    if stage.method.node == "sinks":
        return 3 * 4 * facts.layers * facts.heads
    # Adapters on seven linear maps per layer.
    return 3 * 4 * facts.layers * stage.method.rank * 7 * (facts.hidden + facts.intermediate)
