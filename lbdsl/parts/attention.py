"""Grouped-query softmax attention, over all previous tokens or over a sliding window."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer, model_validator

from lbdsl.parts.base import Count, Mark, ModelShape, Part, Slot, TensorRow, Window

SINK_LOGITS = TensorRow("self_attn.sinks", "attn_sinks.weight", ("windowed_heads",))
"""The learned sink of each windowed query head, where a window has them; no family has them by itself."""
NO_SINK = -3e4
"""A learned sink without effect: exp of it is 0, and it is finite in float16 and bfloat16."""


class Attention(Part):
    """Causal softmax attention: `heads` query heads of size `head_dim`, which share `kv_heads` KV heads.

    A query at position q attends to keys k <= q; with a window only to q - size < k <= q and the sink tokens, but for those
    of the window's full heads. With `cache` keys and values are numbers of 8 bits, else of the model's dtype; it is left
    out of the JSON where there is none: artifacts that know nothing of it stay as they are.
    """

    slot: ClassVar[Slot] = Slot.MIXER
    runtime: ClassVar[Path | None] = Path(__file__).parents[1] / "model" / "hybrid" / "lbdsl_part_attention.py"
    changeable: ClassVar[frozenset[str]] = frozenset({"kv_heads", "window", "cache"})
    trained: ClassVar[Mapping[str, float]] = {SINK_LOGITS.name: 300.0}  # logits have to move by whole numbers
    kind: Literal["attention"] = "attention"
    heads: Count
    kv_heads: Count
    head_dim: Count
    window: Window | None = None
    cache: Literal["fp8"] | None = None

    @model_serializer(mode="wrap")
    def _without_default(self, as_usual: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = as_usual(self)
        return {name: value for name, value in fields.items() if value is not None or name != "cache"}

    @model_validator(mode="after")
    def _grouped(self) -> Attention:
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} query heads cannot share {self.kv_heads} KV heads alike")
        if self.full_heads >= self.kv_heads and self.window is not None:
            raise ValueError(f"{self.full_heads} of {self.kv_heads} KV heads are full: none has the window")
        return self

    @property
    def full_heads(self) -> int:
        """KV heads that see all tokens."""
        return self.kv_heads if self.window is None else self.window.full_heads

    def field_text(self, name: str) -> str:
        open = {"window": "full", "cache": "as the model"}.get(name, "")
        return open if getattr(self, name) is None else super().field_text(name)

    def dims(self) -> Mapping[str, int]:
        query, key_value = self.heads * self.head_dim, self.kv_heads * self.head_dim
        fused = {"query": query, "query_gate": 2 * query, "key_value": key_value, "qkv": query + 2 * key_value}
        heads = {"heads": self.heads, "windowed_heads": self.heads - self.full_heads * self.heads // self.kv_heads}
        return {**heads, "kv_heads": self.kv_heads, "head_dim": self.head_dim, **fused}

    @property
    def own_rows(self) -> tuple[TensorRow, ...]:
        return (SINK_LOGITS,) if self.window is not None and self.window.sink_logits else ()

    @property
    def in_few_bits(self) -> str:
        return f"an {self.cache} cache" if self.cache else ""

    @property
    def sees(self) -> Window | None:
        return self.window

    def _held(self, ctx: int) -> dict[int, int]:
        """KV heads by the number of tokens that they hold of `ctx`."""
        held = {ctx: self.full_heads} if self.full_heads else {}
        if self.window is not None:
            tokens = min(ctx, self.window.held)
            held[tokens] = held.get(tokens, 0) + self.kv_heads - self.full_heads
        return held

    def seen(self, ctx: int) -> Mapping[int, int]:
        flops = 4 * self.head_dim * self.heads // self.kv_heads
        return {tokens: flops * heads for tokens, heads in self._held(ctx).items()}

    def token_bytes(self, model: ModelShape) -> int:
        """Bytes of one token's keys and values in all of its heads."""
        return 2 * self.kv_heads * self.head_dim * (model.dtype_bytes if self.cache is None else 1)

    def cache_bytes(self, model: ModelShape, ctx: int) -> int:
        return sum(tokens * heads for tokens, heads in self._held(ctx).items()) * self.token_bytes(model) // self.kv_heads

    def marks(self, before: Part | None) -> tuple[Mark, ...]:
        if not isinstance(before, Attention):
            return super().marks(before)
        if self.window is not None and self.window.full_heads and self.window != before.window:
            sign = str(self.full_heads) if self.full_heads < 10 else "+"
            attn = Mark(
                "attn", sign, "change", "digits: full KV heads, the others windowed", "windowed but for full KV heads"
            )
        elif self.window != before.window:
            attn = Mark("attn", "~", "change", "window", "windowed")
        elif any(getattr(self, name) != getattr(before, name) for name in ("heads", "head_dim")):
            return super().marks(before)
        else:
            attn = Mark("attn", "=", "same")
        other = "" if self.kv_heads == before.kv_heads else "fewer" if self.kv_heads < before.kv_heads else "more"
        sign = str(self.kv_heads) if self.kv_heads < 10 else "+"
        cache = Mark("cache", "f", "change", "cache of 8-bit floats", "with an fp8 cache")
        return (
            attn,
            Mark("kv", sign, "change" if other else "same", "digits: KV heads", f"with {other} KV heads" if other else ""),
            Mark("cache", ".", "same") if self.cache == before.cache else cache,
        )
