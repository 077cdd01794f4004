"""Softmax attention over the last tokens, and linear attention with a state of constant size over all before them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import model_validator

from lbdsl.parts.attention import Attention
from lbdsl.parts.base import Count, Mark, ModelShape, Part, Slot, TensorRow, TensorShape, Window

GAIN = TensorRow("self_attn.window_gain", "attn_window_gain.weight", ("heads",))
"""a_h of each query head: the window's part of the sum is multiplied with exp(a_h)."""
QUERY_FEATURES = TensorRow("self_attn.query_features", "attn_q_features.weight", ("query_maps",))
KEY_FEATURES = TensorRow("self_attn.key_features", "attn_k_features.weight", ("key_maps",))
"""A matrix [head_dim, head_dim] for each query head, and for each KV head, all in one row, for they are no linear modules;
zeros are the identity."""


class LinearAttention(Part):
    """Causal attention of `heads` query heads of size `head_dim`, which share `kv_heads` KV heads: by softmax over the last
    `window` tokens, the token itself included, by feature maps over all tokens before, under one normalization. With
    `sink_logits` the softmax has a learned sink for each query head.

    With `features` "hedgehog" a feature map is [softmax(x + xA), softmax(-x - xA)], of 2 head_dim numbers; with "elu"
    1 + elu(x), of head_dim. The state of a sequence, features x (head_dim + 1) for each KV head, is in float32.

    Source: LoLCATs (arXiv 2410.10254); Hedgehog (arXiv 2402.04347); linear attention (arXiv 2006.16236).
    """

    slot: ClassVar[Slot] = Slot.MIXER
    runtime: ClassVar[Path | None] = Path(__file__).parents[1] / "model" / "hybrid" / "lbdsl_part_linear.py"
    trained: ClassVar[Mapping[str, float]] = {GAIN.name: 100.0, QUERY_FEATURES.name: 10.0, KEY_FEATURES.name: 10.0}
    kind: Literal["linear"] = "linear"
    heads: Count
    kv_heads: Count
    head_dim: Count
    window: Count
    features: Literal["hedgehog", "elu"] = "hedgehog"
    sink_logits: bool = False

    @model_validator(mode="after")
    def _grouped(self) -> LinearAttention:
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} query heads cannot share {self.kv_heads} KV heads alike")
        return self

    @property
    def _softmax(self) -> Attention:
        """What it is but for the tokens before the window."""
        sizes = {"heads": self.heads, "kv_heads": self.kv_heads, "head_dim": self.head_dim}
        return Attention.model_validate({**sizes, "window": Window(size=self.window, sink_logits=self.sink_logits)})

    def dims(self) -> Mapping[str, int]:
        square = self.head_dim * self.head_dim
        return {**self._softmax.dims(), "query_maps": self.heads * square, "key_maps": self.kv_heads * square}

    @property
    def own_rows(self) -> tuple[TensorRow, ...]:
        return (*self._softmax.own_rows, *self.new_rows)

    @property
    def new_rows(self) -> tuple[TensorRow, ...]:
        """Those that begin as zeros."""
        return (GAIN, *((QUERY_FEATURES, KEY_FEATURES) if self.features == "hedgehog" else ()))

    def tensors(self, model: ModelShape) -> tuple[TensorShape, ...]:
        return self._tensors(model, self._softmax.kind)

    def output_module(self, model: ModelShape) -> str | None:
        return self._softmax.output_module(model)

    @property
    def _features(self) -> int:
        """The length of a feature map."""
        return (2 if self.features == "hedgehog" else 1) * self.head_dim

    @property
    def sees(self) -> Window | None:
        """What it sees as it is: all before is in the state."""
        return self._softmax.window

    def seen(self, ctx: int) -> Mapping[int, int]:
        return self._softmax.seen(ctx)

    def cache_bytes(self, model: ModelShape, ctx: int) -> int:
        """A state is there as soon as a token has left the window."""
        state = 4 * self.kv_heads * self._features * (self.head_dim + 1) if ctx > self.window else 0
        return self._softmax.cache_bytes(model, ctx) + state

    def _state_flops(self) -> int:
        """Of one token: its features, what it adds to the state of each KV head, and what each query head reads of it."""
        maps = self.heads + self.kv_heads
        learned = 2 * maps * self.head_dim * self.head_dim if self.features == "hedgehog" else 0
        return learned + 2 * maps * self._features * (self.head_dim + 1)

    def decode_flops(self, model: ModelShape, ctx: int) -> int:
        return super().decode_flops(model, ctx) + (self._state_flops() if ctx > self.window else 0)

    def prefill_flops(self, model: ModelShape, n: int) -> int:
        return super().prefill_flops(model, n) + max(0, n - self.window) * self._state_flops()

    def text(self) -> str:
        features = "" if self.features == "hedgehog" else f", features={self.features}"
        return f"linear(window={self.window}{features}{', sinks=learned' if self.sink_logits else ''})"

    def marks(self, before: Part | None) -> tuple[Mark, ...]:
        if self == before:
            return super().marks(before)
        return (Mark("attn", "/", "change", "linear before a window", "with linear attention"),)
