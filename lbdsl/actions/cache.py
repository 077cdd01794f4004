"""`cache`: keys and values are kept as 8-bit floats."""

from __future__ import annotations

from typing import ClassVar, Literal

from lbdsl.actions.base import Action, unchangeable
from lbdsl.core.diagnostic import Diagnostic
from lbdsl.cost.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.parts.attention import Attention


class Cache(Action):
    """Keep a layer's keys and values as 8-bit floats.

    What: keys, after their rotary embeddings, and values are rounded to the nearest number of E4M3 (4 bits of exponent, 3
    of mantissa; what lies beyond 448 becomes 448) before any attention reads them, also those of the tokens that are being
    read, and are widened again when they are read. There are no scales. Healing rounds them, too.
    Why: half of the bytes of the cache in bfloat16 at any length, of all tokens. It composes with windows, full heads and
    fewer KV heads. It costs little perplexity, may forget what stands far back, and saves less than windows do where
    contexts are long (docs/quantize.md).
    Example: `layers all cache(fp8)`, `lowest 20 by recall(swa(window=512)) swa(window=512, sinks=learned) + cache(fp8)`
    Source: FP8 formats (arXiv 2209.05433); the fp8 cache of vLLM.
    """

    kind: Literal["cache"] = "cache"
    form: Literal["fp8"]
    example: ClassVar[str] = "cache(form=fp8)"

    def claims(self) -> tuple[str, ...]:
        return ("mixer.cache",)

    def change(self, layer: LayerSpec, modules: tuple[str, ...]) -> LayerSpec:
        if not isinstance(layer.mixer, Attention):
            return layer  # `check` says why
        return layer.replace(mixer=layer.mixer.replace(cache=self.form))

    def check(self, facts: ModelFacts, layer: int) -> tuple[Diagnostic, ...]:
        return unchangeable(self, facts, layer)
