"""Changes of a layer, whatever base model it is of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tests.specs import layer_of


@dataclass(frozen=True)
class Layer:
    """`window` is in tokens, None for full attention, "own" for what the base's layer has."""

    window: int | Literal["own"] | None = "own"
    sinks: int = 0
    attention: bool = True
    mlp: bool = True

    def of(self, base: dict) -> dict:
        """The specification of the changed layer, as in config.json."""
        if self.window is None and base["mixer"] is not None:
            base = {**base, "mixer": {**base["mixer"], "window": None}}
        window = self.window if isinstance(self.window, int) else None
        return layer_of(base, window, self.sinks, self.attention, self.mlp)


OWN, FULL = Layer(), Layer(window=None)
NONE, NO_MLP, GONE = Layer(attention=False), Layer(mlp=False), Layer(attention=False, mlp=False)


def swa(window: int, sinks: int = 0) -> Layer:
    return Layer(window, sinks)
