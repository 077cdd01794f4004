"""Run the `heal` block of a plan: its stages, one after the other."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lbdsl.core.processes import process_count, process_number, shares_model
from lbdsl.core.units import bytes_text
from lbdsl.cost.facts import DTYPE_BYTES, ModelFacts
from lbdsl.data.blocks import TokenBlocks
from lbdsl.measure.memory import free_bytes
from lbdsl.plan.memory import Held, model_bytes, student_bytes, trained_params, training_bytes
from lbdsl.recipe.schema_blocks import Heal, Stage
from lbdsl.run.inputs import Run
from lbdsl.run.workdir import writing

if TYPE_CHECKING:
    from lbdsl.heal.teacher import Teacher


def healed_model(run: Run, model: Any) -> tuple[Any, dict[str, Any]]:
    """The healed model, and the notes on it: those of the last stage, with the steps, tokens and seconds of all."""
    from lbdsl.heal import processes
    from lbdsl.heal.changed import segments
    from lbdsl.heal.heal import HealRun, heal_model
    from lbdsl.heal.noise import noise_of
    from lbdsl.heal.text import HealingText

    inputs, work, progress = run.inputs, run.work, run.progress
    assert run.plan.heal is not None
    if process_number() == 0:
        processes.call((run.plan.model_dump_json(), str(work.output), run.resume))
    if process_count() > 1:
        held = "a share of the model (FSDP2)" if shares_model() else "the whole model (DDP)"
        progress.say(f"healing by {process_count()} processes, each with {held} and its part of every step's sequences")
    if noise := sorted({name for _, name in noise_of(model)}):
        progress.say(
            f"healing sets {', '.join(noise)} of the model's configuration to 0: a resumed run could not repeat it"
        )
    wanted = run.plan.heal.runs
    parts = segments(model, inputs.base())
    stages: list[dict[str, Any]] = []
    for number, (stage, blocks, apart) in enumerate(zip(wanted, inputs.heal_blocks, inputs.validation, strict=True)):
        passes = blocks.tokens / blocks.available if blocks.available else 1.0
        if passes > 1:
            progress.say(f"healing passes {passes:.1f} times over the text of {stage.data}")
        folder = work.heal / f"{number + 1}-{stage.name}"
        with writing(work.heal):
            folder.mkdir(parents=True, exist_ok=True)
            teacher = _teacher(run, stage, blocks, apart, folder)
        logs = work.output.with_name(f"{work.output.name}.tensorboard") / f"{number + 1}-{stage.name}"
        if "tensorboard" in inputs.trackers and not run.resume and process_number() == 0:
            # The curve of another run.
            shutil.rmtree(logs, ignore_errors=True)
        title = "healing" if len(wanted) == 1 else f"healing, {number + 1} of {len(wanted)}: {stage.name}"
        with progress.stage(title) as report, writing(work.heal):
            healing = HealRun(
                stage=stage,
                teacher=teacher,
                text=HealingText.of(blocks, stage),
                parts=parts,
                folder=folder,
                passes=passes,
                apart=HealingText.of(apart, stage) if apart else None,
                resume=run.resume,
                recompute=_needs_recomputing(run, stage),
                share_on=torch.device(inputs.device) if shares_model() else None,
                trackers=inputs.trackers,
                name=f"{work.output.name}-{number + 1}-{stage.name}",
                logs=logs,
            )
            model, summary = heal_model(model, healing, report, run.should_stop)
        if summary.kept is not None and summary.kept < summary.tokens:
            kept = f"those after {summary.kept} tokens" if summary.kept else "those before"
            progress.say(f"kept are the weights that are best on other text: {kept}, not the last after {summary.tokens}")
        stages.append({**asdict(summary), "data": str(stage.data), "data_digest": blocks.digest})
        if shares_model():
            inputs.release()
        run.stop_if_asked()
    total = {name: sum(stage[name] for stage in stages) for name in ("steps", "tokens", "seconds")}
    return model, {**stages[-1], **total, **({"stages": stages} if len(stages) > 1 else {})}


def _teacher(run: Run, stage: Stage, blocks: TokenBlocks, apart: TokenBlocks | None, folder: Path) -> Teacher:
    """The base as a teacher; if it is cached, it is freed when its hidden states are on disk."""
    from lbdsl.heal import processes
    from lbdsl.heal.sharding import share_teacher
    from lbdsl.heal.teacher import LoadedTeacher, cached_teacher
    from lbdsl.heal.text import HealingText

    inputs = run.inputs
    if stage.teacher == "loaded":
        base = inputs.base()
        if shares_model():
            share_teacher(base, torch.device(inputs.device))
        return LoadedTeacher(base)
    # The first process writes the states, the others read them then.
    if process_number():
        processes.shared(None)
    with run.progress.stage("writing the base's hidden states") as report:
        texts = [HealingText.of(text, stage) for text in (blocks, apart) if text is not None]
        places = [text.positions_SN for text in texts if text.positions_SN is not None]
        positions_SN = torch.cat(places) if places else None
        ids_SN = torch.cat([text.ids_SN for text in texts])
        base, told = inputs.base().to(inputs.device), run.stopping(report)
        found = cached_teacher(base, ids_SN, folder, stage.batch, told, positions_SN)
        if process_number() == 0:
            processes.shared(None)
    inputs.release()
    return found


def _needs_recomputing(run: Run, stage: Stage) -> bool:
    """Whether what the backward pass needs does not fit in memory, and layers are computed twice instead."""
    inputs = run.inputs
    held, device = Held(process_count(), shares_model()), torch.device(inputs.device)
    facts = replace(inputs.facts, dtype=inputs.compute or inputs.facts.dtype)
    # Of the student, what is not on the device yet, or grows when all of it is trained.
    there = 0 if held.shared and device.type != "cpu" else model_bytes(facts, held)
    needed = training_bytes(stage, facts, held=held, device=device.type) + student_bytes(stage, facts, held) - there
    free = free_bytes(device)
    if needed <= free:
        return False
    run.progress.say(
        f"training takes about {bytes_text(needed)}, and {bytes_text(free)} are free: each layer is computed twice instead "
        "(gradient checkpointing), which takes about a third longer"
    )
    return True


def room_to_heal(heal: Heal | None, facts: ModelFacts, compute: str | None) -> int:
    """Bytes that healing needs on disk: for each stage three checkpoints (two are kept while a third is written), the best
    weights, and the hidden states of a cached teacher."""
    stages = heal.runs if heal is not None else ()
    # A checkpoint has the trained weights and Adam's two moments of them, in fp32.
    return sum(4 * 3 * 4 * trained_params(stage, facts) + _cache(stage, facts, compute) for stage in stages)


def _cache(stage: Stage, facts: ModelFacts, compute: str | None) -> int:
    """Bytes of a cached teacher: the hidden states on the text that heals and on that which healing is watched on."""
    from lbdsl.heal.validation import validation_sequences

    if stage.teacher == "loaded":
        return 0
    sequences = stage.steps * stage.batch + validation_sequences(stage)
    return sequences * stage.seq * facts.hidden * DTYPE_BYTES[compute or facts.dtype]
