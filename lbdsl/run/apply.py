"""`run_plan`: the stages of `apply`, in order; each can be interrupted and resumed.

    change -> heal -> save -> pack -> judge (the saved and reloaded artifact) -> publish or set aside

Finished work is in the work folder; a resumed run skips it and ends with the same weights.
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lbdsl.artifact.card import write_card
from lbdsl.artifact.record import Record, write_record
from lbdsl.artifact.restore import artifact_beside
from lbdsl.artifact.save import save_model
from lbdsl.core.processes import shares_model
from lbdsl.core.progress import Progress
from lbdsl.cost.facts import ModelFacts
from lbdsl.evaluate.quality import Quality, evaluation_json, judge_on, scores_in
from lbdsl.evaluate.tasks import TaskResult, ask
from lbdsl.heal import processes
from lbdsl.measure.layer_source import LoadedModel
from lbdsl.measure.packed import RoundedModel
from lbdsl.plan.schema import Plan
from lbdsl.run.changes import apply_changes, made_from
from lbdsl.run.healing import healed_model, room_to_heal, stop_if
from lbdsl.run.inputs import Gate, RunInputs
from lbdsl.run.output import rejected_of
from lbdsl.run.packing import pack_model, packs
from lbdsl.run.rewrite import Rewriting, rewriting_of
from lbdsl.run.workdir import WorkFolder, check_room, writing


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
        if rewriting:
            needed = rewriting.bytes_to_write(output.parent) + packed
        else:
            needed = room_needed(plan, inputs.facts, inputs.compute)
        # What a run that was stopped has written is used again, or discarded first.
        check_room(output, needed - (work.bytes if resume or force else 0))
    with work.opened(identity, resume=resume, force=force):
        saved = work.saved(work.artifact)
        if saved is None and packs(plan):
            # The model that is packed is read from disk: what made it is freed before.
            whole = _saved(plan, rewriting, inputs, work, work.unpacked, resume, progress, should_stop)
            stop_if(should_stop)
            saved = _pack(plan, inputs, whole, work, progress, should_stop)
        else:
            saved = _saved(plan, rewriting, inputs, work, work.artifact, resume, progress, should_stop)
        stop_if(should_stop)
        # The healed model and its optimizer refer to themselves in circles, and judging needs their memory.
        gc.collect()
        judged, tasks = _judge(plan, inputs, work, progress)
        stop_if(should_stop)
        record = _record(plan, saved, judged, tasks, inputs, lbdsl_version, no_heal)
        with writing(work.artifact):
            write_record(record, work.artifact)
            write_card(record, work.artifact)
        accepted = record.status == "accepted"
        target = output if accepted else rejected_of(output)
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
        stop_if(should_stop)
        with processes.together():
            model, healed = healed_model(plan, inputs, model, work, resume, progress, should_stop)
        healed["needless"] = needless
    stop_if(should_stop)
    notes = {"changes": list(records), "heal": healed, "before_healing": before}
    with work.saving(stage, notes) as folder, progress.stage("saving"):
        notes["files"] = dict(save_model(model, inputs.tokenizer, folder, inputs.facts.dtype))
    # A JSON round trip, so that the values are the same as in a resumed run.
    return json.loads(json.dumps(notes))


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
            stop_if(should_stop)
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


def _judge(
    plan: Plan, inputs: RunInputs, work: WorkFolder, progress: Progress
) -> tuple[tuple[Quality, ...], tuple[TaskResult, ...]]:
    if not inputs.eval_blocks:
        return (), ()
    base = inputs.judged_base()
    artifact = artifact_beside(base, work.artifact, plan, compute=inputs.compute)
    judged = judge_on(base, artifact, inputs.eval_blocks, "judging the saved model", progress, inputs.batch)
    return judged, ask(base, artifact, inputs.tasks, progress)


def _judge_unhealed(inputs: RunInputs, model: Any, work: WorkFolder, progress: Progress) -> list[dict[str, Any]]:
    """The quality of the changed model before healing, on the same texts, to show the gain from healing."""
    if not inputs.eval_blocks:
        return []
    if shares_model() and torch.device(inputs.device).type != "cpu":
        progress.say("not judged before healing: the whole model is in the machine's memory, and not on a device")
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
    asserts = gate({source["data"]: scores_in(source) for source in before}, {}) if before else ()
    post = [item for item in asserts if item.phase == "post"]
    return bool(post) and all(item.status == "pass" for item in post)


def _record(
    plan: Plan,
    saved: dict[str, Any],
    judged: tuple[Quality, ...],
    tasks: tuple[TaskResult, ...],
    inputs: RunInputs,
    lbdsl_version: str,
    no_heal: bool,
) -> Record:
    asserts = inputs.gate(
        {quality.data: quality.scores for quality in judged}, {task.name: task.post_scores() for task in tasks}
    )
    evaluation = evaluation_json(judged, saved["before_healing"], tasks) if judged else None
    for source in evaluation["sources"] if evaluation else ():
        source["seen"] = inputs.seen.get(source["data_digest"], 0.0)
    failed = any(result.failed for result in asserts)
    return Record(
        lbdsl_version=lbdsl_version,
        status="rejected" if failed else "accepted",
        plan_digest=plan.digest,
        plan=plan,
        files=saved["files"],
        texts=dict(inputs.texts),
        layer_map=tuple(layer.index for layer in plan.layers),
        changes=tuple(saved["changes"]),
        no_heal=no_heal,
        heal=saved["heal"],
        packed=saved.get("packed", {}),
        evaluation=evaluation,
        asserts=asserts,
    )


def room_needed(plan: Plan, facts: ModelFacts, compute: str | None) -> int:
    """Bytes needed for the saved model and its healing."""
    weights = plan.after.params * facts.dtype_bytes + (2 * plan.after.weights if packs(plan) else 0) + 2**20
    return weights + room_to_heal(plan.heal, facts, compute)
