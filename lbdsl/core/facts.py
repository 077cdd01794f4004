"""What is known of a model from its configuration and its weights' headers, without its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DTYPE_BYTES: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class ModelFacts:
    """Shapes and counts of one decoder language model. Lengths are in elements, `positions` in tokens.

    `dtype` is the one the model runs, is measured and is saved in (`--dtype`, else the checkpoint's, else bfloat16).
    Per-layer tuples have `layers` entries. `attention_params` counts the attention sub-block with its norms,
    `mlp_params` the MLP with its norms; what is in neither (embeddings, head, final norm) is in `other_params`;
    a tied head counts once. `native_window` is how many tokens a layer's attention sees and holds at most: None for all, 0
    for a layer without attention. `layer_specs` says of each layer what it is, as in `config.json`'s `lbdsl.layers`, as
    sorted pairs; see `spec`. `attention_parts` and `mlp_parts` are the names below a layer that make each sub-block.
    """

    family: str
    architecture: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    positions: int
    tied: bool
    dtype: str
    attention_params: tuple[int, ...]
    mlp_params: tuple[int, ...]
    other_params: int
    native_window: tuple[int | None, ...]
    modules: tuple[str, ...]
    layer_specs: tuple[tuple[tuple[str, Any], ...], ...] = ()
    attention_parts: tuple[str, ...] = ("input_layernorm.", "self_attn.")
    mlp_parts: tuple[str, ...] = ("post_attention_layernorm.", "mlp.")

    def spec(self, layer: int) -> dict[str, Any]:
        """What the layer is before any change: {"attn": "full"}, or a family's own window as {"attn": "swa", ...}."""
        if self.layer_specs:
            return dict(self.layer_specs[layer])
        window = self.native_window[layer]
        return {"attn": "full"} if window is None else {"attn": "swa", "window": window, "sinks": 0}

    @property
    def dtype_bytes(self) -> int:
        return DTYPE_BYTES[self.dtype]

    @property
    def params(self) -> int:
        """All parameters, each shared one once."""
        return sum(self.attention_params) + sum(self.mlp_params) + self.other_params

    def kv_bytes(self, ctx: int) -> int:
        """Bytes of keys and values that one sequence of `ctx` tokens holds, with the layers' own windows."""
        seen = sum(ctx if window is None else min(ctx, window) for window in self.native_window)
        return self.layer_kv_bytes_per_token * seen

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes that the first token adds to the keys and values of all layers; `inspect` and recipes call it so."""
        return self.kv_bytes(1)

    @property
    def layer_kv_bytes_per_token(self) -> int:
        """Bytes that one token adds to one layer's keys and values."""
        return 2 * self.kv_heads * self.head_dim * self.dtype_bytes
