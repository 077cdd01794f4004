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
from lbdsl.measure.layer_source import LayerSource, LoadedModel
from lbdsl.measure.packed import RoundedModel
from lbdsl.plan.schema import Plan
from lbdsl.run.changes import apply_changes, made_from
from lbdsl.run.healing import healed_model, room_to_heal
from lbdsl.run.inputs import Gate, Run, RunInputs
from lbdsl.run.output import rejected_of
from lbdsl.run.packing import pack_model, packs
from lbdsl.run.rewrite import Rewriting, rewriting_of
from lbdsl.run.workdir import WorkFolder, check_room, writing


@dataclass(frozen=True)
class RunResult:
    """The record, the artifact's folder, and where what was in the way was moved to: what, and its new place."""

    record: Record
    folder: Path
    moved_aside: tuple[tuple[Path, Path], ...]


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
    run = Run(plan, inputs, work, progress, resume, should_stop)
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
            whole = _saved(run, rewriting, work.unpacked)
            run.stop_if_asked()
            saved = _pack(run, whole)
        else:
            saved = _saved(run, rewriting, work.artifact)
        run.stop_if_asked()
        # The healed model and its optimizer refer to themselves in circles, and judging needs their memory.
        gc.collect()
        judged, tasks = _judge(run)
        run.stop_if_asked()
        record = _record(run, saved, judged, tasks, lbdsl_version, no_heal)
        with writing(work.artifact):
            write_card(record, work.artifact)
            write_record(record, work.artifact)
        accepted = record.status == "accepted"
        target = output if accepted else rejected_of(output)
        aside = work.publish(target, replace=force or not accepted)
    moved = (target, aside), (work.path, work.moved_aside)
    return RunResult(record, target, tuple((was, now) for was, now in moved if now is not None))


def _saved(run: Run, rewriting: Rewriting | None, stage: Path) -> dict[str, Any]:
    """The notes on the changed and healed model, which is in the folder `stage` now, or was before."""
    saved = run.work.saved(stage)
    if saved is not None:
        run.progress.say("weights were saved before; going on from there")
        return saved
    return _make(run, stage) if rewriting is None else _rewrite(run, rewriting, stage)


def _make(run: Run, stage: Path) -> dict[str, Any]:
    """Change, heal and save; the model is freed when this returns."""
    inputs, progress = run.inputs, run.progress
    with progress.stage("changing the model"):
        model = inputs.changed()
        records = apply_changes(model, run.plan, made_from(inputs.statistics))
    healed, before = None, []
    if inputs.heal_blocks:
        before = _judge_unhealed(run, model)
        needless = _held(before, inputs.gate)
        if needless:
            progress.say("every assert holds before healing already; --no-heal would skip it")
        run.stop_if_asked()
        with processes.together():
            model, healed = healed_model(run, model)
        healed["needless"] = needless
    run.stop_if_asked()
    notes = {"changes": list(records), "heal": healed, "before_healing": before}
    with run.work.saving(stage, notes) as folder, progress.stage("saving"):
        notes["files"] = dict(save_model(model, inputs.tokenizer, folder, inputs.facts.dtype))
    # A JSON round trip, so that the values are the same as in a resumed run.
    return json.loads(json.dumps(notes))


def _rewrite(run: Run, rewriting: Rewriting, stage: Path) -> dict[str, Any]:
    """Write the changed checkpoint without loading the model; only possible without healing."""
    notes: dict[str, Any] = {"changes": list(rewriting.records), "heal": None, "before_healing": []}
    with run.work.saving(stage, notes) as folder, run.progress.stage("rewriting the checkpoint") as report:
        notes["files"] = dict(rewriting.save(run.inputs.tokenizer, folder, report))
    return json.loads(json.dumps(notes))


def _pack(run: Run, notes: dict[str, Any]) -> dict[str, Any]:
    """Pack the model in `work.unpacked`, which `notes` are on, into the artifact. It begins again when resumed."""
    work, inputs = run.work, run.inputs
    with work.saving(work.artifact, notes) as folder, run.progress.stage("quantizing") as report:
        notes["files"], notes["packed"] = pack_model(
            work.unpacked,
            folder,
            run.plan,
            inputs.facts,
            inputs.calibration,
            device=inputs.device,
            compute=inputs.compute,
            batch=inputs.batch,
            progress=run.stopping(report),
        )
    shutil.rmtree(work.unpacked)
    return json.loads(json.dumps(notes))


def _judge(run: Run) -> tuple[tuple[Quality, ...], tuple[TaskResult, ...]]:
    inputs = run.inputs
    if not inputs.eval_blocks:
        return (), ()
    base = inputs.judged_base()
    artifact = artifact_beside(base, run.work.artifact, run.plan, compute=inputs.compute)
    judged = _judged_on(run, base, artifact, "judging the saved model")
    return judged, ask(base, artifact, inputs.tasks, run.progress)


def _judged_on(run: Run, base: LayerSource, changed: LayerSource, title: str) -> tuple[Quality, ...]:
    inputs = run.inputs
    return judge_on(base, changed, inputs.eval_blocks, title, run.progress, inputs.batch, run.base_states)


def _judge_unhealed(run: Run, model: Any) -> list[dict[str, Any]]:
    """The quality of the changed model before healing, on the same texts, to show the gain from healing."""
    inputs = run.inputs
    if not inputs.eval_blocks:
        return []
    if shares_model() and torch.device(inputs.device).type != "cpu":
        run.progress.say("not judged before healing: the whole model is in the machine's memory, and not on a device")
        return []
    texts = [blocks.digest for blocks in inputs.eval_blocks]
    known = run.work.unhealed()
    if [source.get("data_digest") for source in known] == texts:
        return known
    base, changed = LoadedModel(inputs.base()), RoundedModel(model)
    found = [quality.to_json() for quality in _judged_on(run, base, changed, "judging before healing")]
    run.work.keep_unhealed(found)
    return found


def _held(before: list[dict[str, Any]], gate: Gate) -> bool:
    """Whether the asserts on the finished model already hold before healing."""
    asserts = gate({source["data"]: scores_in(source) for source in before}, {}) if before else ()
    post = [item for item in asserts if item.phase == "post"]
    return bool(post) and not any(item.failed for item in post)


def _record(
    run: Run,
    saved: dict[str, Any],
    judged: tuple[Quality, ...],
    tasks: tuple[TaskResult, ...],
    lbdsl_version: str,
    no_heal: bool,
) -> Record:
    plan, inputs = run.plan, run.inputs
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
