"""An action of one's own, with a part of its own: replace attention by the causal mean of the values."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from lbdsl.plugins import Action, Attention, Diagnostic, LayerSpec, ModelFacts, ModelShape, Part, Slot, TensorShape, error


class MeanPoolMixer(Part):
    """y_t = o_proj(mean of v_0 ... v_t), with the values of `kv_heads` heads, each for `heads / kv_heads` heads of y."""

    slot: ClassVar[Slot] = Slot.MIXER
    runtime: ClassVar[Path | None] = Path(__file__).with_name("lbdsl_part_meanpool.py")
    kind: Literal["meanpool"] = "meanpool"
    heads: int
    kv_heads: int
    head_dim: int

    def tensors(self, model: ModelShape) -> tuple[TensorShape, ...]:
        return (
            TensorShape("self_attn.v_proj.weight", (self.kv_heads * self.head_dim, model.hidden)),
            TensorShape("self_attn.o_proj.weight", (model.hidden, self.heads * self.head_dim)),
        )

    def cache_bytes(self, model: ModelShape, ctx: int) -> int:
        return 4 * self.kv_heads * self.head_dim if ctx else 0  # the running sum, in fp32

    def decode_flops(self, model: ModelShape, ctx: int) -> int:
        return self.kv_heads * self.head_dim

    def prefill_flops(self, model: ModelShape, n: int) -> int:
        return n * self.kv_heads * self.head_dim


class MeanPool(Action):
    """Replace a layer's attention by the causal mean of its values.

    What: y_t = o_proj(mean of v_0 ... v_t); queries and keys are removed. The cache is one running sum.
    Why: where attention is nearly uniform, its mean is as good and costs nothing to keep.
    Example: `lowest 4 by nll(meanpool) meanpool`
    Source: average attention, Zhang et al. 2018 (arXiv 1805.00631).
    """

    kind: Literal["meanpool"] = "meanpool"
    example: ClassVar[str] = "meanpool"

    def claims(self) -> tuple[str, ...]:
        return ("mixer",)

    def change(self, layer: LayerSpec, modules: tuple[str, ...]) -> LayerSpec:
        was = layer.mixer
        if not isinstance(was, Attention):
            return layer
        return layer.replace(mixer=MeanPoolMixer(heads=was.heads, kv_heads=was.kv_heads, head_dim=was.head_dim))

    def check(self, facts: ModelFacts, layer: int) -> tuple[Diagnostic, ...]:
        has = {tensor.name for tensor in facts.layer_specs[layer].tensors(facts)}
        if {"self_attn.v_proj.weight", "self_attn.o_proj.weight"} <= has and "self_attn.v_proj.bias" not in has:
            return ()
        return (error("LB404", "`meanpool` needs attention with projections of its own and without biases"),)
