"""The loss on text apart while a model is healed, and the weights that had the least of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lbdsl.core.processes import process_number
from lbdsl.heal.sharding import whole
from lbdsl.recipe.schema_blocks import HealSettings

FILE = "validation.json"

TOKENS = 4096
"""Tokens that healing is watched on, or two sequences where they are longer."""

TIMES, SHARE = 10, 0.1
"""How often it is measured at most while a model is healed, besides once before; and the share of healing's time that it
may take: two forwards of the text, where healing takes as much as four for its own."""

PATIENCE = 4
"""Healing ends when as many measurements in a row were not better than the best before them."""


@dataclass
class Validation:
    """Losses on text that is not healed on, every `steps` steps. `folder` has what a resumed run needs: the points up to
    step `start`, and the trained weights at the best point so far."""

    folder: Path
    steps: int
    start: int = 0
    points: list[tuple[int, int, float]] = field(default_factory=list)
    """(step, tokens seen, loss)."""

    def __post_init__(self) -> None:
        path = self.folder / FILE
        if self.start and path.is_file():
            self.points = [(int(s), int(t), float(v)) for s, t, v in json.loads(path.read_text()) if s <= self.start]
        elif not self.start and process_number() == 0:
            for stale in self.folder.glob("best-*.safetensors"):
                stale.unlink()

    def due(self, step: int, last: int) -> bool:
        return (step % self.steps == 0 or step == last) and all(step != point[0] for point in self.points)

    def add(self, step: int, tokens: int, loss: float, model: nn.Module) -> None:
        """Note the loss at a step, and keep the weights that are trained if it is the least so far."""
        best = min((point[2] for point in self.points), default=math.inf)
        better = loss < best
        # Every process has its part in it.
        weights = {name: whole(p).contiguous() for name, p in model.named_parameters() if p.requires_grad and better}
        if process_number():
            self.points.append((step, tokens, loss))
            return
        if better:
            beside = self.folder / "best.tmp"
            save_file(weights, beside)
            beside.replace(self._kept(step))
            for path in self.folder.glob("best-*.safetensors"):
                if path != self._kept(step):
                    path.unlink()
        self.points.append((step, tokens, loss))
        beside = self.folder / f"{FILE}.tmp"
        beside.write_text(json.dumps(self.points))
        beside.replace(self.folder / FILE)

    @property
    def best(self) -> tuple[int, int, float]:
        """The point with the least loss whose weights are kept. After a kill, those of an earlier one may be gone; a
        resumed run comes past the later one again."""
        return min((point for point in self.points if self._kept(point[0]).is_file()), key=lambda point: point[2])

    @property
    def patient(self) -> bool:
        """False when the last points were all no better than one before."""
        losses = [loss for _, _, loss in self.points]
        return len(losses) <= PATIENCE or min(losses[-PATIENCE:]) < min(losses[:-PATIENCE])

    @torch.no_grad()
    def restore(self, model: nn.Module) -> None:
        """Set the trained weights to those of the best point."""
        kept = load_file(self._kept(self.best[0]))
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(kept[name])

    def _kept(self, step: int) -> Path:
        return self.folder / f"best-{step}.safetensors"


def every(steps: int, tokens_per_step: int, ids_SN: Tensor) -> int:
    """The number of steps between two measurements."""
    return max(1, math.ceil(steps / TIMES), math.ceil(2 * ids_SN.numel() / (4 * SHARE * tokens_per_step)))


def validation_sequences(run: HealSettings) -> int:
    """The number of sequences that a stage is watched on: an eighth of the tokens that heal, at most TOKENS and at least
    two sequences."""
    return max(2, min(TOKENS, run.tokens_seen // 8) // run.seq)


Measure = Callable[[], float]
"""Returns the loss of the model that is healed on the text apart."""
