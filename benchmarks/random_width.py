"""A narrower MLP with randomly chosen channels, as the baseline for `width`."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import ClassVar, Literal

from lbdsl.actions import Action
from lbdsl.cost.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.layer.weights import AnyExpr, Ref, Take
from lbdsl.parts.gated_mlp import GatedMLP


class RandomWidth(Action):
    """Keep randomly chosen channels of an MLP.

    Example: `layers 1 random_width(channels=1152)`
    """

    kind: Literal["random_width"] = "random_width"
    channels: int
    seed: int = 0
    example: ClassVar[str] = "random_width(channels=1152)"

    def claims(self) -> tuple[str, ...]:
        return ("ffn.width",)

    def change(self, layer: LayerSpec, modules: tuple[str, ...]) -> LayerSpec:
        assert isinstance(layer.ffn, GatedMLP)
        return layer.replace(ffn=layer.ffn.replace(width=self.channels))

    def weights(self, base: LayerSpec, layer: LayerSpec, model: ModelFacts) -> Mapping[str, AnyExpr]:
        assert isinstance(base.ffn, GatedMLP)
        kept = tuple(sorted(random.Random(self.seed).sample(range(base.ffn.width), self.channels)))
        axes = {"mlp.gate_proj.weight": 0, "mlp.up_proj.weight": 0, "mlp.down_proj.weight": 1}
        return {name: Take(x=Ref(name=name), axis=axis, indices=kept) for name, axis in axes.items()}
