"""Test-only actions that make weights of another shape from those that there were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from lbdsl.actions import Action
from lbdsl.cost.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.layer.weights import AnyExpr, Largest, MatMul, Mean, Ref, Stat, Take
from lbdsl.statistics import Observed, Statistic

if TYPE_CHECKING:
    from torch import Tensor


class MeanHeads(Action):
    """Fewer KV heads: means of neighbours.

    Example: `layers 1 test_mean_heads(n=1)`
    """

    kind: Literal["test_mean_heads"] = "test_mean_heads"
    n: int
    example: ClassVar[str] = "test_mean_heads(n=1)"

    def claims(self) -> tuple[str, ...]:
        return ("mixer.kv_heads",)

    def change(self, layer: LayerSpec, modules: tuple[str, ...]) -> LayerSpec:
        return layer.replace(mixer=layer.mixer.replace(kv_heads=self.n))

    def weights(self, base: LayerSpec, layer: LayerSpec, model: ModelFacts) -> Mapping[str, AnyExpr]:
        names = (f"self_attn.{name}_proj.weight" for name in "kv")
        group = base.mixer.kv_heads // self.n
        return {name: Mean(x=Ref(name=name), axis=0, size=base.mixer.head_dim, group=group) for name in names}


class FirstChannels(Action):
    """A narrower MLP: its first channels.

    Example: `layers 1 test_first_channels(n=32)`
    """

    kind: Literal["test_first_channels"] = "test_first_channels"
    n: int
    example: ClassVar[str] = "test_first_channels(n=32)"

    def claims(self) -> tuple[str, ...]:
        return ("ffn.width",)

    def change(self, layer: LayerSpec, modules: tuple[str, ...]) -> LayerSpec:
        return layer.replace(ffn=layer.ffn.replace(width=self.n))

    def weights(self, base: LayerSpec, layer: LayerSpec, model: ModelFacts) -> Mapping[str, AnyExpr]:
        axes = {"mlp.gate_proj.weight": 0, "mlp.up_proj.weight": 0, "mlp.down_proj.weight": 1}
        return {name: Take(x=Ref(name=name), axis=axis, indices=tuple(range(self.n))) for name, axis in axes.items()}


class Loudness(Statistic):
    """The mean size of what goes into the MLP's last map, [width]."""

    kind: Literal["test_loudness"] = "test_loudness"

    def watched(self, layer: LayerSpec, model: ModelFacts) -> tuple[str, ...]:
        return ("mlp.down_proj",)

    def add(self, sums: dict[str, Tensor], module: str, input_BND: Tensor, output_BNE: Tensor) -> None:
        sums["size"] = sums.get("size", 0) + input_BND.double().abs().sum((0, 1))

    def value(self, seen: Observed) -> Tensor:
        return seen.sums["size"] / seen.tokens


class LoudChannels(Action):
    """A narrower MLP: its loudest channels.

    Example: `layers 1 test_loud_channels(n=32)`
    """

    kind: Literal["test_loud_channels"] = "test_loud_channels"
    n: int
    example: ClassVar[str] = "test_loud_channels(n=32)"

    def claims(self) -> tuple[str, ...]:
        return ("ffn.width",)

    def change(self, layer: LayerSpec, modules: tuple[str, ...]) -> LayerSpec:
        return layer.replace(ffn=layer.ffn.replace(width=self.n))

    def weights(self, base: LayerSpec, layer: LayerSpec, model: ModelFacts) -> Mapping[str, AnyExpr]:
        loudest = Largest(of=Stat(kind="test_loudness", dims=(base.ffn.width,)), count=self.n)
        axes = {"mlp.gate_proj.weight": 0, "mlp.up_proj.weight": 0, "mlp.down_proj.weight": 1}
        return {name: Take(x=Ref(name=name), axis=axis, indices=loudest) for name, axis in axes.items()}


class Squared(Action):
    """The output map times itself: new numbers, and nothing else.

    Example: `layers 1 test_squared`
    """

    kind: Literal["test_squared"] = "test_squared"
    example: ClassVar[str] = "test_squared"

    def claims(self) -> tuple[str, ...]:
        return ("mixer.heads",)

    def change(self, layer: LayerSpec, modules: tuple[str, ...]) -> LayerSpec:
        return layer

    def weights(self, base: LayerSpec, layer: LayerSpec, model: ModelFacts) -> Mapping[str, AnyExpr]:
        name = "self_attn.o_proj.weight"
        return {name: MatMul(a=Ref(name=name), b=Ref(name=name))}
