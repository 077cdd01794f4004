"""`drop`: remove a layer's attention, its MLP, or both."""

from __future__ import annotations

from typing import ClassVar, Literal

from lbdsl.actions.base import Action
from lbdsl.layer.spec import LayerSpec
from lbdsl.parts import Slot

_CLAIMS = {
    "attention": (Slot.MIXER.value,),
    "mlp": (Slot.FFN.value,),
    "block": (Slot.MIXER.value, Slot.FFN.value),
}


class Drop(Action):
    """Remove a sub-block of a layer together with its norms: the attention, or with `drop(mlp)` the MLP, or with
    `drop(block)` both.

    What: no weights, no cache and no mask; the residual stream skips the sub-block.
    Why: in many layers attention hardly matters; without it a token costs less and needs no KV cache. An MLP holds most of
    a layer's weights; every engine can serve a model without whole layers.
    Example: `lowest 8 by sensitivity drop`, `lowest 2 by nll(drop(mlp)) drop(mlp)`
    Source: LLM-Drop (arXiv 2406.15786); ShortGPT (arXiv 2403.03853) for blocks; LayerBoost (arXiv 2604.22050).
    """

    kind: Literal["drop"] = "drop"
    target: Literal["attention", "mlp", "block"] = "attention"
    example: ClassVar[str] = "drop"
    examples: ClassVar[tuple[str, ...]] = ("drop(mlp)", "drop(block)")

    def text(self) -> str:
        return self.kind if self.target == "attention" else f"{self.kind}({self.target})"

    def claims(self) -> tuple[str, ...]:
        return _CLAIMS[self.target]

    def change(self, layer: LayerSpec, modules: tuple[str, ...]) -> LayerSpec:
        return layer.replace(**dict.fromkeys(self.claims()))
