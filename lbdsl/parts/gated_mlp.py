"""A gated MLP: three matrices of hidden x width."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from lbdsl.parts.base import Count, Mark, Part, Slot


class GatedMLP(Part):
    """down(act(gate(x)) * up(x)) with `width` intermediate channels.

    Source: Shazeer, GLU variants improve transformers (arXiv 2002.05202).
    """

    slot: ClassVar[Slot] = Slot.FFN
    runtime: ClassVar[Path | None] = Path(__file__).parents[1] / "model" / "hybrid" / "lbdsl_part_gated_mlp.py"
    changeable: ClassVar[frozenset[str]] = frozenset({"width"})
    kind: Literal["gated_mlp"] = "gated_mlp"
    width: Count

    def dims(self) -> Mapping[str, int]:
        return {"intermediate": self.width, "gate_up": 2 * self.width}

    def marks(self, before: Part | None) -> tuple[Mark, ...]:
        if isinstance(before, GatedMLP) and before.width == self.width:
            return (Mark("mlp", "=", "same"),)
        if not isinstance(before, GatedMLP):
            return super().marks(before)
        words = "narrower" if self.width < before.width else "wider"
        return (Mark("mlp", "<" if words == "narrower" else ">", "change", words, words),)
