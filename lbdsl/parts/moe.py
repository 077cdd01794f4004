"""A mixture of experts: gated MLPs, of which a router gives each token a few."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from lbdsl.parts.base import Count, Mark, ModelShape, Part, Slot, TensorShape


class Moe(Part):
    """`experts` gated MLPs with `width` intermediate channels each, of which a router gives every token `top_k`; how it
    weighs them is the family's. Beside them may stand one for all tokens, with `shared` channels and a gate.

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
    shared: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0

    @model_serializer(mode="wrap")
    def _without_default(self, as_usual: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = as_usual(self)
        return {name: value for name, value in fields.items() if value or name != "shared"}

    @model_validator(mode="after")
    def _enough(self) -> Moe:
        if self.top_k > self.experts:
            raise ValueError(f"a token cannot get {self.top_k} of {self.experts} experts")
        return self

    def dims(self) -> Mapping[str, int]:
        sizes = {"experts": self.experts, "top_k": self.top_k, "intermediate": self.width, "gate_up": 2 * self.width}
        return {**sizes, "shared": self.shared, "one": 1} if self.shared else sizes

    def output_module(self, model: ModelShape) -> str | None:
        """The output is a sum over experts, which no module alone gives."""
        return None

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
