"""Gated delta nets: linear attention whose state forgets, and corrects what it has stored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import model_validator

from lbdsl.parts.base import Count, ModelShape, Part, Slot


class GatedDeltaNet(Part):
    """A causal convolution over the last `kernel` tokens, and the gated delta rule: `value_heads` states of key_dim x
    value_dim, of which several share the queries and keys of one of `key_heads` heads. Sizes are those of a head.

    The state of a sequence is in float32, its last `kernel` inputs of the convolution in the model's dtype.
    Source: Yang and others, Gated Delta Networks (arXiv 2412.06464); transformers, models/qwen3_5.
    """

    slot: ClassVar[Slot] = Slot.MIXER
    runtime: ClassVar[Path | None] = Path(__file__).parents[1] / "model" / "hybrid" / "lbdsl_part_gated_delta_net.py"
    kind: Literal["gated_delta_net"] = "gated_delta_net"
    key_heads: Count
    value_heads: Count
    key_dim: Count
    value_dim: Count
    kernel: Count

    @model_validator(mode="after")
    def _grouped(self) -> GatedDeltaNet:
        if self.value_heads % self.key_heads:
            raise ValueError(f"{self.value_heads} heads of values cannot share {self.key_heads} heads of keys alike")
        return self

    def dims(self) -> Mapping[str, int]:
        values = self.value_heads * self.value_dim
        sizes = {"values": values, "mixed": 2 * self.key_heads * self.key_dim + values}
        return {**sizes, "value_heads": self.value_heads, "value_dim": self.value_dim, "kernel": self.kernel, "one": 1}

    def text(self) -> str:
        return f"gated delta net ({self.value_heads} states of {self.key_dim} x {self.value_dim})"

    def cache_bytes(self, model: ModelShape, ctx: int) -> int:
        """As large after one token as after many."""
        states = 4 * self.value_heads * self.key_dim * self.value_dim
        return states + self.dims()["mixed"] * self.kernel * model.dtype_bytes if ctx else 0

    def decode_flops(self, model: ModelShape, ctx: int) -> int:
        """Of the convolution, and for each element of the states: one to forget, two each to compare, to correct and to
        read."""
        return 2 * self.dims()["mixed"] * self.kernel + 7 * self.value_heads * self.key_dim * self.value_dim

    def prefill_flops(self, model: ModelShape, n: int) -> int:
        return n * self.decode_flops(model, n)
