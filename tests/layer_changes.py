"""Changes of a layer, whatever base model it is of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tests.specs import layer_of


@dataclass(frozen=True)
class Layer:
    """As the base's, but with `window` in tokens, `kv_heads`, MLP `width` and `experts` where they are given, and without
    what is said not to be there."""

    window: int | None = None
    sinks: int = 0
    attention: bool = True
    mlp: bool = True
    full_heads: int = 0
    kv_heads: int | None = None
    width: int | None = None
    experts: int | None = None

    def of(self, base: dict) -> dict:
        """The specification of the changed layer, as in config.json."""
        mixer = base["mixer"] if self.kv_heads is None else {**base["mixer"], "kv_heads": self.kv_heads}
        ffn = base["ffn"] if self.width is None else {**base["ffn"], "width": self.width}
        ffn = ffn if self.experts is None else {**ffn, "experts": self.experts}
        own = {**base, "mixer": mixer, "ffn": ffn}
        return layer_of(own, self.window, self.sinks, self.attention, self.mlp, self.full_heads)


OWN, NONE, NO_MLP, GONE = Layer(), Layer(attention=False), Layer(mlp=False), Layer(attention=False, mlp=False)


def swa(window: int, sinks: int = 0) -> Layer:
    return Layer(window, sinks)


def sized(kv_heads: int | None = None, width: int | None = None, of: Layer = OWN) -> Layer:
    """A layer with other sizes."""
    return replace(of, kv_heads=kv_heads, width=width)


def fewer(experts: int, of: Layer = OWN) -> Layer:
    return replace(of, experts=experts)


def changed_specs(facts: Any, layers: Sequence[Layer]) -> list[dict]:
    """The specifications of a base model's layers, changed."""
    return [layer.of(own.to_json()) for layer, own in zip(layers, facts.layer_specs, strict=True)]
