"""`heal_model`: run a stage of healing on a changed model."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lbdsl.core.diagnostic import fail
from lbdsl.core.processes import process_number
from lbdsl.heal import processes
from lbdsl.heal.loop import Loop, Watch, is_whole, last_whole_checkpoint, load_learned, step_of, trained
from lbdsl.heal.noise import noise_of, set_noise
from lbdsl.heal.objectives import Distill, Match, Objective
from lbdsl.heal.sharding import Shared
from lbdsl.heal.teacher import Teacher
from lbdsl.heal.text import HealingText
from lbdsl.heal.trackers import Trackers
from lbdsl.heal.validation import Validation, every
from lbdsl.heal.weights import merged, with_trainable_weights
from lbdsl.model.quiet import quiet_transformers
from lbdsl.recipe.schema_blocks import Stage

CURVE_FILE = "curve.json"


@dataclass(frozen=True)
class HealReport:
    """The result of healing. `tokens` are tokens seen; `curve` has (tokens seen, mean loss since the previous point), and
    `validation` (tokens seen, loss on other text of its source). The weights are those after `kept` tokens, where that
    loss was least.
    `seconds` include those of earlier, interrupted processes."""

    stage: str
    steps: int
    tokens: int
    passes: float
    trained_params: int
    curve: tuple[tuple[int, float], ...]
    seconds: float
    validation: tuple[tuple[int, float], ...] = ()
    kept: int | None = None


class HealInterrupted(Exception):
    """Healing stopped on request, after saving a checkpoint."""


@dataclass(frozen=True)
class HealRun:
    """One stage of healing: what it learns from, which layers learn, and where its files are.

    `text` has stage.steps * stage.batch sequences in training order, `passes` over its source. `parts` are the layers to
    train: see `segments`. `apart` is other text: the weights that are best on it are taken, which may be those before
    healing, and training ends early when it no longer helps. Checkpoints are saved in `folder`; with `resume` training
    continues from the newest complete one. `recompute` saves memory: layers are computed again in the backward pass
    (gradient checkpointing). With `share_on` each process holds a share of the student on that device, and the healed
    model is in the machine's memory. `trackers` show the losses elsewhere, under `name`; TensorBoard's files are in `logs`.
    """

    stage: Stage
    teacher: Teacher
    text: HealingText
    parts: tuple[range, ...]
    folder: Path
    passes: float = 1.0
    apart: HealingText | None = None
    resume: bool = False
    recompute: bool = False
    share_on: torch.device | None = None
    save_seconds: float = 60.0
    trackers: tuple[str, ...] = ()
    name: str = "healing"
    logs: Path | None = None

    @property
    def tokens_per_step(self) -> int:
        return self.stage.batch * self.text.ids_SN.shape[1]


def heal_model(
    student: nn.Module,
    run: HealRun,
    progress: Callable[[int, int, str], None],
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[nn.Module, HealReport]:
    """Run one stage of healing on `student` and return the healed model, adapters merged, in the student's dtype. While it
    learns, dropout and the noise of routers are 0.

    `progress(done_tokens, total_tokens, note)`. Raises HealInterrupted, after saving a checkpoint, if `should_stop`
    returns true; LbdslError (LB464) if the loss is NaN or infinite.
    """
    from transformers import set_seed

    stage, steps, apart, share_on = run.stage, run.stage.steps, run.apart, run.share_on
    tokens_per_step = run.tokens_per_step
    checkpoint = _checkpoint(run)
    dtype = next(student.parameters()).dtype
    device = share_on or next(student.parameters()).device
    set_seed(stage.seed)
    noise = noise_of(student)
    set_noise(student, dict.fromkeys(noise, 0.0))
    with quiet_transformers():
        if run.recompute:
            student.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
        objective = _objective(student, run)
    if checkpoint is not None:
        load_learned(objective, checkpoint)
    shared = Shared(objective, share_on) if share_on is not None else None
    start = step_of(checkpoint) if checkpoint else 0
    if start:
        progress(start * tokens_per_step, steps * tokens_per_step, f"resumed after step {start}")
    curve = _Curve(run.folder / CURVE_FILE, start)
    validation = None
    if apart is not None:
        validation = Validation(run.folder, every(steps, tokens_per_step, apart.ids_SN), start)

    earlier, started = curve.seconds, time.monotonic()

    def on_point(step: int, loss: float, rate: float) -> None:
        """The mean loss since the last point, and this process's tokens a second."""
        if not math.isfinite(loss):
            raise _diverged(f"the healing loss is {loss} at step {step}")
        curve.add(step, step * tokens_per_step, loss, earlier + time.monotonic() - started)
        other = f", {validation.points[-1][2]:.3f} on other text" if validation is not None and validation.points else ""
        progress(step * tokens_per_step, steps * tokens_per_step, f"loss {loss:.3f}{other}, {rate:.0f} tok/s")
        shown.show("train/loss", step, loss)

    loop = Loop(objective, stage, run.text, run.folder, device, dtype, sharded=shared is not None)
    if checkpoint is not None:
        loop.resume(checkpoint)
    with Trackers(run.trackers, run.name, run.logs or run.folder, stage) as shown:
        # A run that is resumed at its early end has nothing to train.
        if validation is None or validation.patient:
            on_look = partial(shown.show, "eval/loss")
            loop.train(Watch(on_point, on_look, should_stop, run.save_seconds, validation, apart))
    start, stopped = loop.step, loop.stopped
    del loop  # with the optimizer's state
    if stopped and start < steps:
        raise HealInterrupted
    if validation is not None and not all(math.isfinite(loss) for _, _, loss in validation.points):
        raise _diverged("the healing loss on text that does not heal is NaN or infinite")
    if shared is not None:
        objective = shared.whole()
    weights = trained(objective)
    if not all(bool(weight.isfinite().all()) for weight in weights.values()):
        raise _diverged("healing ended with weights that are NaN or infinite")
    # The others read what the first has written.
    processes.shared(None)
    if validation is not None:
        validation.restore(objective)
    report = HealReport(
        stage=stage.name,
        steps=start,
        tokens=start * tokens_per_step,
        passes=run.passes,
        trained_params=sum(weight.numel() for weight in weights.values()),
        curve=curve.points,
        seconds=round(earlier + time.monotonic() - started, 1),
        validation=() if validation is None else tuple((tokens, loss) for _, tokens, loss in validation.points),
        kept=None if validation is None else validation.best[1],
    )
    healed = merged(objective.student, dtype)
    set_noise(healed, noise)
    for module in healed.modules() if run.recompute else ():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = False  # type: ignore[assignment]
    return healed, report


def _checkpoint(run: HealRun) -> Path | None:
    """The newest complete checkpoint, if the run continues from one; others and the curve of another run are removed."""
    sequences, needed = len(run.text.ids_SN), run.stage.steps * run.stage.batch
    if sequences < needed:
        raise ValueError(f"{run.stage.steps} steps of {run.stage.batch} sequences need more than {sequences} sequences")
    run.folder.mkdir(parents=True, exist_ok=True)
    found = processes.shared(last_whole_checkpoint(run.folder) if run.resume else None)
    for stale in run.folder.glob("checkpoint-*") if process_number() == 0 else ():
        # An incomplete checkpoint, left by a kill, would count among those that are kept.
        if found is None or not is_whole(stale):
            shutil.rmtree(stale)
    if found is None:
        (run.folder / CURVE_FILE).unlink(missing_ok=True)
    elif not found.is_dir():
        message = f"process {process_number()} does not see {found}"
        raise fail("LB458", message, help="put the output, with -o, on a file system that all processes share")
    return found


def _objective(student: Any, run: HealRun) -> Objective:
    """The module that this stage trains. Raises LB484 if it has nothing to train."""
    stage, parts = run.stage, run.parts
    first = parts[0].start if parts else 0
    matching = stage.name == "match"
    layers = sorted({layer for part in parts for layer in part}) if matching else range(first, len(student.model.layers))
    if matching and not any(True for layer in layers for _ in student.model.layers[layer].parameters()):
        raise _nothing_to_train(stage)
    prepared = with_trainable_weights(student, stage, layers)
    if matching:
        found: Objective = Match(prepared, run.teacher, parts)
    else:
        found = Distill(prepared, run.teacher, first, stage.kl_weight, stage.hidden_weight)
    if not any(weight.requires_grad for weight in found.parameters()):
        raise _nothing_to_train(stage)
    return found


def _nothing_to_train(stage: Stage) -> Exception:
    return fail("LB484", f"the stage `{stage.name}` has nothing to train", help="leave it out, or use another `method`")


def _diverged(message: str) -> Exception:
    return fail("LB464", message, help="lower `lr` in the heal block, or use `method = lora(...)`")


class _Curve:
    """Points of the training curve, saved beside the checkpoints so that a resumed run has the complete curve."""

    def __init__(self, path: Path, from_step: int):
        self._path = path
        self._rows: list[list[float]] = []
        if path.is_file():
            self._rows = [row for row in json.loads(path.read_text()) if row[0] <= from_step]

    @property
    def seconds(self) -> float:
        """Seconds that earlier processes spent on these points."""
        return self._rows[-1][3] if self._rows else 0.0

    def add(self, step: int, tokens: int, loss: float, seconds: float) -> None:
        self._rows.append([step, tokens, loss, round(seconds, 1)])
        if process_number():
            return
        beside = self._path.with_suffix(".tmp")
        beside.write_text(json.dumps(self._rows))
        beside.replace(self._path)

    @property
    def points(self) -> tuple[tuple[int, float], ...]:
        return tuple((int(tokens), float(loss)) for _step, tokens, loss, _seconds in self._rows)
