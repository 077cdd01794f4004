"""`drop`: remove a layer's attention, its MLP, or both; what is left can be patched."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

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

    What: no weights, no cache and no mask; the residual stream skips the sub-block. With `patch=linear`, the output of the
    sub-block before it (the MLP of the layer before, or for `drop(mlp)` the layer's own attention) is mapped by the matrix
    that best makes up for it on the calibration text, merged into that sub-block's last weights. Sub-blocks dropped one
    after the other get one matrix together. It is checked on text of another source: where it does not help there, or where
    an earlier rule keeps the sub-block before, or a norm follows it, the drop is not patched, and the plan says so.
    Why: in many layers attention hardly matters; without it a token costs less and needs no KV cache. An MLP holds most of
    a layer's weights; every engine can serve a model without whole layers.
    Example: `lowest 8 by sensitivity drop(patch=linear)`, `lowest 2 by nll(drop(mlp)) drop(mlp)`
    Source: LLM-Drop (arXiv 2406.15786); ShortGPT (arXiv 2403.03853) for blocks; LayerBoost (arXiv 2604.22050); ReplaceMe
    (arXiv 2505.02819) for patches.
    """

    kind: Literal["drop"] = "drop"
    target: Literal["attention", "mlp", "block"] = "attention"
    patch: Literal["none", "linear"] = "none"
    example: ClassVar[str] = "drop"
    examples: ClassVar[tuple[str, ...]] = ("drop(mlp)", "drop(block)", "drop(patch=linear)", "drop(block, patch=linear)")

    @model_serializer(mode="wrap")
    def _without_default(self, as_usual: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Plans that know nothing of patches stay as they are.
        fields: dict[str, Any] = as_usual(self)
        if self.patch == "none":
            fields.pop("patch", None)
        return fields

    def text(self) -> str:
        said = [*([] if self.target == "attention" else [self.target]), *([] if self.patch == "none" else ["patch=linear"])]
        return f"{self.kind}({', '.join(said)})" if said else self.kind

    def claims(self) -> tuple[str, ...]:
        return _CLAIMS[self.target]

    def change(self, layer: LayerSpec, modules: tuple[str, ...]) -> LayerSpec:
        return layer.replace(**dict.fromkeys(self.claims()))

    @property
    def patched(self) -> bool:
        return self.patch == "linear"
