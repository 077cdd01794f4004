"""The loop that heals: one step after the other, with a look at other text, checkpoints, and an end when it is asked for.

AdamW without weight decay (arXiv 1711.05101), gradients clipped at a norm of 1, the rate by transformers' schedules. Each
process has its sequences of a step, and the whole of the model (DDP) or a share (`lbdsl.heal.sharding`).
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from lbdsl.core.files import sync_files
from lbdsl.core.processes import process_count, process_number
from lbdsl.heal.objectives import Objective
from lbdsl.heal.processes import any_of, average, shared
from lbdsl.heal.sharding import whole
from lbdsl.heal.text import HealingText
from lbdsl.heal.validation import Validation
from lbdsl.parts import parts
from lbdsl.recipe.schema_blocks import HealSettings, Stage

COMPLETE, LEARNED_FILE, STATE_FILE = "lbdsl-complete", "learned.safetensors", "state.pt"
KEPT = 2
"""Checkpoints that are kept."""

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True, strict=False)
"""Not strict: a stage `match` has no gradient, and so no state, for the final norm."""

SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
"""Transformers' names of the schedules of a recipe."""

POINTS = 40
"""Approximate number of points of the training curve."""

CLIPPED = 1.0
"""The largest norm of a step's gradients."""


def always_trained(model: nn.Module) -> dict[str, float]:
    """The parameters that parts train in any healing, such as learned sinks: the factor of their rate, by name. Sinks that
    the base has are as good as its other weights, and move as these do."""
    factors = {f".{name}": factor for part in parts().values() for name, factor in part.trained.items()}
    names = (name for name, _ in model.named_parameters())
    found = {name: factor for name in names for end, factor in factors.items() if name.endswith(end)}
    of = {name: model.get_submodule(name.rpartition(".")[0]) for name in found}
    return {name: 1.0 if getattr(of[name], "own_sinks", False) else factor for name, factor in found.items()}


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that are trained, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@dataclass(frozen=True)
class Watch:
    """What is done beside the steps. `on_point(step, mean loss since the last point, tokens a second)`; `on_look(step, loss
    on other text)`; `should_stop` is asked after each step; a checkpoint is written every `save_seconds`, when it stops
    and at the end. `validation` notes the loss on the text `apart`, and ends training when that no longer falls."""

    on_point: Callable[[int, float, float], None]
    on_look: Callable[[int, float], None]
    should_stop: Callable[[], bool]
    save_seconds: float
    validation: Validation | None = None
    apart: HealingText | None = None


class Loop:
    """One stage of healing. `objective` is what is trained, `step` how many steps are done. With `sharded` it is shared
    already, on `device`; `dtype` is what the student computes in."""

    def __init__(
        self, objective: Objective, stage: Stage, text: HealingText, folder: Path, device: torch.device, dtype: torch.dtype,
        *, sharded: bool = False, scaler: torch.amp.GradScaler | None = None,
    ):  # fmt: skip
        self.objective, self.stage, self.folder, self.device = objective, stage, folder, device
        self.step, self.stopped = 0, False
        self._text, self._size = text, stage.batch // process_count()
        self._model: nn.Module = objective
        if process_count() > 1 and not sharded:
            # A stage `match` does not use the final norm.
            places = [device.index or 0] if device.type == "cuda" else None
            self._model = nn.parallel.DistributedDataParallel(
                objective, device_ids=places, find_unused_parameters=stage.name == "match"
            )
        self._half = dtype if dtype in (torch.bfloat16, torch.float16) else None
        if device.type == "cuda" and dtype is torch.bfloat16 and not torch.cuda.is_bf16_supported():
            self._half = None
        scaled = dtype is torch.float16 and device.type == "cuda"
        self._scaler = scaler or torch.amp.GradScaler(device.type, enabled=scaled)
        self._optimizer = torch.optim.AdamW(_groups(objective, stage), lr=stage.lr, weight_decay=0.0)
        self._schedule = _scheduled(self._optimizer, stage)

    def train(self, watch: Watch) -> None:
        """The steps that are left; `stopped` says whether it ended because it was asked to."""
        start, began, saved = self.step, time.monotonic(), time.monotonic()
        every = max(1, self.stage.steps // POINTS)
        losses: list[Tensor] = []
        self._look(watch)
        while self.step < self.stage.steps:
            losses.append(self._step())
            self.step += 1
            self._look(watch)
            patient = watch.validation is None or watch.validation.patient
            # A clock and a signal are each process's own.
            stop, save = any_of([watch.should_stop(), time.monotonic() - saved >= watch.save_seconds])
            self.stopped |= stop
            if self.step % every == 0:
                loss = float(average(torch.stack(losses).mean()))
                rate = (self.step - start) * self.stage.batch * self.stage.seq / max(time.monotonic() - began, 1e-9)
                watch.on_point(self.step, loss, rate)
                losses = []
            if stop or save or self.step == self.stage.steps or not patient:
                self.save()
                saved = time.monotonic()
            if stop or not patient:
                return

    def _step(self) -> Tensor:
        """One step on this process's sequences; their mean loss."""
        self._model.train()
        first = self.step * self.stage.batch + process_number() * self._size
        with self._computing():
            loss = self._model(**self._inputs(self._text, first, first + self._size))
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self._optimizer)
        nn.utils.clip_grad_norm_(self._model.parameters(), CLIPPED)
        self._scaler.step(self._optimizer)
        scale = self._scaler.get_scale()
        self._scaler.update()
        # The scale falls where gradients overflowed, and then the optimizer took no step.
        if self._scaler.get_scale() >= scale:
            self._schedule.step()
        self._optimizer.zero_grad()
        return loss.detach()

    @contextmanager
    def _computing(self) -> Iterator[None]:
        with torch.autocast(self.device.type, dtype=self._half, enabled=self._half is not None):
            yield

    def _inputs(self, text: HealingText, start: int, stop: int, number: int = 0) -> dict[str, Tensor]:
        """Sequences [B, N], and their numbers [B] from `number` on, which a cached teacher knows them by."""
        named = {"input_ids": text.ids_SN, "positions": text.positions_SN, "counts": text.counts_SN}
        found = {name: values[start:stop] for name, values in named.items() if values is not None}
        rows = torch.arange(number + start, number + start + len(found["input_ids"]))
        return {name: values.to(self.device) for name, values in (found | {"rows": rows}).items()}

    def _look(self, watch: Watch) -> None:
        validation = watch.validation
        if validation is not None and watch.apart is not None and validation.due(self.step, self.stage.steps):
            loss = self._loss_on(watch.apart)
            validation.add(self.step, self.step * self.stage.batch * self.stage.seq, loss, self.objective)
            watch.on_look(self.step, loss)

    @torch.no_grad()
    def _loss_on(self, text: HealingText) -> float:
        """The mean loss over the batches of a text that does not heal, as in training."""
        self._model.eval()
        total, count = 0.0, len(text.ids_SN)
        for start in range(0, count, self._size):
            with self._computing():
                inputs = self._inputs(text, start, min(start + self._size, count), len(self._text.ids_SN))
                total += float(self._model(**inputs)) * len(inputs["rows"])
        return float(average(torch.tensor(total, device=self.device))) / count

    def save(self) -> None:
        """A checkpoint: what is trained, and the optimizer's state by the names of weights, whole: another number of
        processes may read it."""
        place = self.folder / f"checkpoint-{self.step}"
        save_state(self, place)
        weights = {name: whole(weight) for name, weight in trained(self.objective).items()}
        if process_number():
            return
        save_file(weights, place / LEARNED_FILE)
        # The weights that were best so far are beside it.
        sync_files(self.folder)
        (place / COMPLETE).touch()
        for old in sorted(self.folder.glob("checkpoint-*"), key=step_of)[:-KEPT]:
            shutil.rmtree(old)

    def resume(self, checkpoint: Path) -> None:
        """Go on after a checkpoint, whose weights the objective has."""
        state = torch.load(checkpoint / STATE_FILE, map_location="cpu", weights_only=True)
        set_optimizer_state_dict(self.objective, self._optimizer, state["optimizer"], options=WHOLE)
        self._schedule.load_state_dict(state["schedule"])
        # A checkpoint of an earlier version has none, nor has one without a scaler.
        if state.get("scaler"):
            self._scaler.load_state_dict(state["scaler"])
        self.step = step_of(checkpoint)

    def state(self) -> dict[str, Any]:
        """Of the optimizer, the schedule and the loss scaler, which is empty but in float16."""
        optimizer = get_optimizer_state_dict(self.objective, self._optimizer, options=WHOLE)
        return {"optimizer": optimizer, "schedule": self._schedule.state_dict(), "scaler": self._scaler.state_dict()}


def save_state(loop: Loop, place: Path) -> None:
    """Every process has its part of the state; the first writes it."""
    state = loop.state()
    if process_number() == 0:
        place.mkdir(parents=True, exist_ok=True)
        torch.save(state, place / STATE_FILE)
    shared(None)


def _scheduled(optimizer: torch.optim.Optimizer, stage: HealSettings) -> torch.optim.lr_scheduler.LambdaLR:
    """Transformers' schedule after the warm-up, whose rates are (step + 1) / (warm-up steps + 1): transformers' own begins
    at 0, with which the first step does nothing."""
    from transformers import get_scheduler

    warm = math.ceil(stage.steps * stage.warmup)
    after = get_scheduler(
        SCHEDULES[stage.schedule], optimizer, num_warmup_steps=warm, num_training_steps=stage.steps
    ).lr_lambdas[0]
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (step + 1) / (warm + 1) if step < warm else after(step)
    )


def _groups(objective: nn.Module, stage: HealSettings) -> list[dict[str, Any]]:
    """The weights that are trained; what parts always train has a rate of its own."""
    factors = always_trained(objective)
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in trained(objective).items():
        groups.setdefault(factors.get(name, 1.0), []).append(parameter)
    return [{"params": group, "lr": factor * stage.lr} for factor, group in sorted(groups.items())]


def load_learned(objective: nn.Module, checkpoint: Path) -> None:
    """Set the weights that are trained to those of a checkpoint."""
    weights = trained(objective)
    for name, value in load_file(checkpoint / LEARNED_FILE).items():
        weights[name].data.copy_(value)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written completely, and not cut off by a kill."""
    return (checkpoint / COMPLETE).is_file() and (checkpoint / LEARNED_FILE).is_file()


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint, if any."""
    return max(filter(is_whole, folder.glob("checkpoint-*")), key=step_of, default=None)
