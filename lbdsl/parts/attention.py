"""Grouped-query softmax attention, over all previous tokens or over a sliding window."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import model_validator

from lbdsl.parts.base import Count, Mark, ModelShape, Part, Slot, TensorRow, Window

SINK_LOGITS = TensorRow("self_attn.sinks", "attn_sinks.weight", ("heads",))
"""The learned sink of each query head, where a window has them; no family has them by itself."""
NO_SINK = -3e4
"""A learned sink without effect: exp of it is 0, and it is finite in float16 and bfloat16."""


class Attention(Part):
    """Causal softmax attention: `heads` query heads of size `head_dim`, which share `kv_heads` KV heads.

    A query at position q attends to keys k <= q; with a window only to q - size < k <= q and the sink tokens.
    """

    slot: ClassVar[Slot] = Slot.MIXER
    runtime: ClassVar[Path | None] = Path(__file__).parents[1] / "model" / "hybrid" / "lbdsl_part_attention.py"
    changeable: ClassVar[frozenset[str]] = frozenset({"kv_heads", "window"})
    trained: ClassVar[Mapping[str, float]] = {SINK_LOGITS.name: 300.0}  # logits have to move by whole numbers
    kind: Literal["attention"] = "attention"
    heads: Count
    kv_heads: Count
    head_dim: Count
    window: Window | None = None

    @model_validator(mode="after")
    def _grouped(self) -> Attention:
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} query heads cannot share {self.kv_heads} KV heads alike")
        return self

    def field_text(self, name: str) -> str:
        return "full" if getattr(self, name) is None else super().field_text(name)

    def dims(self) -> Mapping[str, int]:
        query, key_value = self.heads * self.head_dim, self.kv_heads * self.head_dim
        fused = {"query": query, "key_value": key_value, "qkv": query + 2 * key_value}
        return {"heads": self.heads, "kv_heads": self.kv_heads, "head_dim": self.head_dim, **fused}

    @property
    def own_rows(self) -> tuple[TensorRow, ...]:
        return (SINK_LOGITS,) if self.window is not None and self.window.sink_logits else ()

    @property
    def sees(self) -> Window | None:
        return self.window

    def seen(self, ctx: int) -> int:
        return ctx if self.window is None else min(ctx, self.window.held)

    @property
    def pair_flops(self) -> int:
        return 4 * self.heads * self.head_dim

    def token_bytes(self, model: ModelShape) -> int:
        """Bytes of one token's keys and values."""
        return 2 * self.kv_heads * self.head_dim * model.dtype_bytes

    def cache_bytes(self, model: ModelShape, ctx: int) -> int:
        return self.token_bytes(model) * self.seen(ctx)

    def marks(self, before: Part | None) -> tuple[Mark, ...]:
        if not isinstance(before, Attention):
            return super().marks(before)
        if self.window != before.window:
            attn = Mark("attn", "~", "change", "window", "windowed")
        elif self.replace(kv_heads=1) != before.replace(kv_heads=1):
            return super().marks(before)
        else:
            attn = Mark("attn", "=", "same")
        other = "" if self.kv_heads == before.kv_heads else "fewer" if self.kv_heads < before.kv_heads else "more"
        sign = str(self.kv_heads) if self.kv_heads < 10 else "+"
        return (
            attn,
            Mark("kv", sign, "change" if other else "same", "digits: KV heads", f"with {other} KV heads" if other else ""),
        )
