"""Progress of a measurement in units that make an honest ETA."""

from __future__ import annotations

from typing import Any

from lbdsl.core.progress import Report
from lbdsl.plan.estimate import SOFTMAX_COST


class Meter:
    """Counts layer-forwards of one sequence; the head counts as the layers that take as long.

    `model` is a hybrid model: only the shapes of its last layer and of its head are looked at.
    """

    def __init__(self, progress: Report | None, model: Any):
        head = model.lm_head.weight
        layer = sum(p.numel() for p in model.model.layers[-1].parameters())
        self._head = head.shape[0] * (head.shape[1] + SOFTMAX_COST) / max(layer, head.shape[1])
        self._layers = len(model.model.layers)
        self._progress = progress
        self._done = 0.0
        self._total = 0.0

    def run(self, sequences: int, start: int = 0) -> float:
        """Units of `sequences` sequences through the layers from `start` on, and the head."""
        return sequences * (self._layers - start + self._head)

    def expect(self, units: float) -> None:
        """Units that will be added; call it for all of the work before the first `add`."""
        self._total += units

    def add(self, units: float, note: str) -> None:
        self._done += units
        if self._progress is not None:
            self._progress(self._done, self._total, note)
