"""`keep`: leave a layer, its attention or its MLP as it is."""

from __future__ import annotations

from typing import ClassVar, Literal

from lbdsl.actions.base import Action
from lbdsl.layer.spec import LayerSpec
from lbdsl.parts import Slot

_CLAIMS = {
    "layer": (Slot.MIXER.value, Slot.FFN.value, Slot.WEIGHTS.value),
    "attention": (Slot.MIXER.value,),
    "mlp": (Slot.FFN.value,),
}


class Keep(Action):
    """Leave the layer as it is in the base model, or with `keep(attention)` or `keep(mlp)` that part of it.

    What: nothing is removed or replaced; the layer stays bit-identical unless healing trains it. Changes by earlier rules
    remain. With `keep(attention)` and `keep(mlp)`, later rules can still change how weights are stored.
    Why: some layers carry the model (often the first and the last); claim them before other rules can.
    Example: `layers first 2, last 1 keep`, `layers 0 keep(attention)`
    Source: LayerBoost (arXiv 2604.22050) keeps softmax attention where sensitivity is high.
    """

    kind: Literal["keep"] = "keep"
    target: Literal["layer", "attention", "mlp"] = "layer"
    example: ClassVar[str] = "keep"
    examples: ClassVar[tuple[str, ...]] = ("keep(attention)", "keep(mlp)")
    divisible: ClassVar[bool] = True
    keeps: ClassVar[bool] = True

    def text(self) -> str:
        return self.kind if self.target == "layer" else f"{self.kind}({self.target})"

    def claims(self) -> tuple[str, ...]:
        return _CLAIMS[self.target]

    def change(self, layer: LayerSpec, modules: tuple[str, ...]) -> LayerSpec:
        return layer
