"""Grouped-query softmax attention, over all previous tokens or over a sliding window."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from lbdsl.families.rows import SINK_LOGITS
from lbdsl.parts.base import Mark, Part, Slot, TensorShape, Value

if TYPE_CHECKING:
    from lbdsl.layer.facts import ModelFacts

Count = Annotated[int, Field(ge=1, le=2**31 - 1)]


class Window(Value):
    """The last `size` tokens, including the current one, and the first `sink_tokens` of the row that are not padding.

    With `sink_logits` the softmax's denominator has one more term, exp(s), with a learned s for each query head. It is left
    out of the JSON when it is false: artifacts that know nothing of it stay as they are.
    """

    size: Count
    sink_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    sink_logits: bool = False

    @model_validator(mode="after")
    def _one_kind(self) -> Window:
        if self.sink_logits and self.sink_tokens:
            raise ValueError("a window has sink tokens or sink logits, not both")
        return self

    @model_serializer(mode="wrap")
    def _without_default(self, as_usual: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = as_usual(self)
        if not self.sink_logits:
            fields.pop("sink_logits", None)
        return fields

    @property
    def held(self) -> int:
        """The maximum number of tokens that are attended to and cached."""
        return self.size + self.sink_tokens

    @property
    def sinks(self) -> str:
        """As text: `4 sinks`, `learned sinks`, or nothing."""
        return "learned sinks" if self.sink_logits else f"{self.sink_tokens} sinks" if self.sink_tokens else ""

    def __str__(self) -> str:
        return f"{self.size} + {self.sinks}" if self.sinks else str(self.size)


class Attention(Part):
    """Causal softmax attention: `heads` query heads of size `head_dim`, which share `kv_heads` KV heads.

    A query at position q attends to keys k <= q; with a window only to q - size < k <= q and the sink tokens.
    """

    slot: ClassVar[Slot] = Slot.MIXER
    runtime: ClassVar[Path | None] = Path(__file__).parents[1] / "model" / "hybrid" / "lbdsl_part_attention.py"
    changeable: ClassVar[frozenset[str]] = frozenset({"kv_heads", "window"})
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

    def seen(self, ctx: int) -> int:
        """The number of tokens that a query attends to, and that the cache holds, after `ctx` tokens."""
        return ctx if self.window is None else min(ctx, self.window.held)

    def token_bytes(self, model: ModelFacts) -> int:
        """Bytes of one token's keys and values."""
        return 2 * self.kv_heads * self.head_dim * model.dtype_bytes

    def tensors(self, model: ModelFacts) -> tuple[TensorShape, ...]:
        query, key_value = self.heads * self.head_dim, self.kv_heads * self.head_dim
        sizes = {"query": query, "key_value": key_value, "qkv": query + 2 * key_value, "head_dim": self.head_dim}
        rows = model.family_data.attention
        if self.window is not None and self.window.sink_logits:
            rows, sizes = (*rows, SINK_LOGITS), {**sizes, "heads": self.heads}
        return model.shaped(rows, sizes)

    def cache_bytes(self, model: ModelFacts, ctx: int) -> int:
        return self.token_bytes(model) * self.seen(ctx)

    def decode_flops(self, model: ModelFacts, ctx: int) -> int:
        return 4 * self.heads * self.head_dim * self.seen(ctx)

    def prefill_flops(self, model: ModelFacts, n: int) -> int:
        v = self.seen(n)
        return 4 * self.heads * self.head_dim * (2 * n * v - v * v) // 2

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
