"""A mixture of experts: gated MLPs, of which a router gives each token a few."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import model_validator

from lbdsl.parts.base import Count, Mark, Part, Slot, TensorShape


class Moe(Part):
    """`experts` gated MLPs with `width` intermediate channels each, of which a router gives every token `top_k`; how it
    weighs them is the family's.

    Source: Shazeer et al., sparsely-gated mixture of experts (arXiv 1701.06538).
    """

    slot: ClassVar[Slot] = Slot.FFN
    runtime: ClassVar[Path | None] = Path(__file__).parents[1] / "model" / "hybrid" / "lbdsl_part_moe.py"
    changeable: ClassVar[frozenset[str]] = frozenset({"experts"})
    healed: ClassVar[tuple[str, ...]] = ("gate.weight", "router.weight")
    kind: Literal["moe"] = "moe"
    experts: Count
    top_k: Count
    width: Count

    @model_validator(mode="after")
    def _enough(self) -> Moe:
        if self.top_k > self.experts:
            raise ValueError(f"a token cannot get {self.top_k} of {self.experts} experts")
        return self

    def dims(self) -> Mapping[str, int]:
        return {"experts": self.experts, "top_k": self.top_k, "intermediate": self.width, "gate_up": 2 * self.width}

    def active(self, tensor: TensorShape) -> int:
        if len(tensor.shape) == 3:
            return tensor.elements * self.top_k // self.experts
        return tensor.elements if tensor.routes else super().active(tensor)

    def marks(self, before: Part | None) -> tuple[Mark, ...]:
        if not isinstance(before, Moe):
            return super().marks(before)
        if before == self:
            return (Mark("mlp", "=", "same"),)
        return (Mark("mlp", "<", "change", "fewer experts", "with fewer experts"),)
