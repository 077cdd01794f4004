"""The supported model families, as data: which tensors make which sub-block, and which settings are understood.

To support another family, add a row; nothing else here or in `inspect` knows a family by name. A row is only right
when `lbdsl.model.hybrid` has a runtime for the family.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class TensorRow:
    """One parameter. `dims` are names of sizes (see `Sizes`), outermost first, as torch stores them.

    `when` names a boolean field of the config; without it, the parameter is always there. `gguf` is the name that
    llama.cpp gives it.
    """

    name: str
    gguf: str
    dims: tuple[str, ...]
    when: str | None = None

    @property
    def module(self) -> str:
        return self.name.rpartition(".")[0]


@dataclass(frozen=True)
class Limit:
    """A field of the config that may only have one of these values; absent counts as None."""

    field: str
    allowed: tuple[Any, ...]
    reason: str


@dataclass(frozen=True)
class Family:
    """One row of the table, keyed by transformers' `model_type`.

    `attention` and `mlp` are the two sub-blocks of a layer, each with its norm, named below `layer_prefix`;
    `embedding`, `head` and `other` stand outside the layers. `sizes` maps the names of sizes to fields of the config,
    `gguf_sizes` to GGUF metadata keys below the architecture's name. `window_field` is the config's native sliding
    window, None when the family has none.
    """

    model_type: str
    architecture: str
    gguf_architecture: str
    layer_prefix: str
    gguf_layer_prefix: str
    attention: tuple[TensorRow, ...]
    mlp: tuple[TensorRow, ...]
    embedding: TensorRow
    head: TensorRow
    other: tuple[TensorRow, ...]
    sizes: Mapping[str, str]
    gguf_sizes: Mapping[str, str]
    tied_by_default: bool
    window_field: str | None = None
    ignored: tuple[str, ...] = ("rotary_emb.inv_freq",)
    """Ends of tensor names in old checkpoints that are buffers, not parameters."""
    limits: tuple[Limit, ...] = ()
    rope_types: tuple[str, ...] = ("default",)
    rope_reason: str = ""
    flags: Mapping[str, bool] = field(default_factory=lambda: MappingProxyType({}))
    """Defaults of the boolean fields that `TensorRow.when` names."""


_WINDOW_TRAP = ("Llama's attention ignores it while its cache obeys it, so prefill and decoding would differ")

LLAMA = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    gguf_architecture="llama",
    layer_prefix="model.layers.{}.",
    gguf_layer_prefix="blk.{}.",
    attention=(
        TensorRow("input_layernorm.weight", "attn_norm.weight", ("hidden",)),
        TensorRow("self_attn.q_proj.weight", "attn_q.weight", ("query", "hidden")),
        TensorRow("self_attn.k_proj.weight", "attn_k.weight", ("key_value", "hidden")),
        TensorRow("self_attn.v_proj.weight", "attn_v.weight", ("key_value", "hidden")),
        TensorRow("self_attn.o_proj.weight", "attn_output.weight", ("hidden", "query")),
        TensorRow("self_attn.q_proj.bias", "attn_q.bias", ("query",), when="attention_bias"),
        TensorRow("self_attn.k_proj.bias", "attn_k.bias", ("key_value",), when="attention_bias"),
        TensorRow("self_attn.v_proj.bias", "attn_v.bias", ("key_value",), when="attention_bias"),
        TensorRow("self_attn.o_proj.bias", "attn_output.bias", ("hidden",), when="attention_bias"),
    ),
    mlp=(
        TensorRow("post_attention_layernorm.weight", "ffn_norm.weight", ("hidden",)),
        TensorRow("mlp.gate_proj.weight", "ffn_gate.weight", ("intermediate", "hidden")),
        TensorRow("mlp.up_proj.weight", "ffn_up.weight", ("intermediate", "hidden")),
        TensorRow("mlp.down_proj.weight", "ffn_down.weight", ("hidden", "intermediate")),
        TensorRow("mlp.gate_proj.bias", "ffn_gate.bias", ("intermediate",), when="mlp_bias"),
        TensorRow("mlp.up_proj.bias", "ffn_up.bias", ("intermediate",), when="mlp_bias"),
        TensorRow("mlp.down_proj.bias", "ffn_down.bias", ("hidden",), when="mlp_bias"),
    ),
    embedding=TensorRow("model.embed_tokens.weight", "token_embd.weight", ("vocab", "hidden")),
    head=TensorRow("lm_head.weight", "output.weight", ("vocab", "hidden")),
    other=(TensorRow("model.norm.weight", "output_norm.weight", ("hidden",)),),
    sizes=MappingProxyType({
        "layers": "num_hidden_layers", "hidden": "hidden_size", "heads": "num_attention_heads",
        "kv_heads": "num_key_value_heads", "head_dim": "head_dim", "intermediate": "intermediate_size",
        "vocab": "vocab_size", "positions": "max_position_embeddings",
    }),
    gguf_sizes=MappingProxyType({
        "layers": "block_count", "hidden": "embedding_length", "heads": "attention.head_count",
        "kv_heads": "attention.head_count_kv", "head_dim": "rope.dimension_count",
        "intermediate": "feed_forward_length", "vocab": "vocab_size", "positions": "context_length",
    }),
    tied_by_default=False,
    limits=(
        Limit("sliding_window", (None,), _WINDOW_TRAP),
        Limit("layer_types", (None, "full_attention"), _WINDOW_TRAP),
        Limit("per_layer_config", (None,), "transformers saves it, but Llama's code does not follow it"),
        Limit("quantization_config", (None,), "the weights are quantized already; start from the unquantized model"),
        Limit("is_encoder_decoder", (None, False), "only decoder models can be changed"),
    ),
    rope_types=("default", "linear", "llama3", "yarn"),
    rope_reason="its frequencies change as the text grows, so cached keys of a window would not fit new queries",
    flags=MappingProxyType({"attention_bias": False, "mlp_bias": False}),
)

FAMILIES: Mapping[str, Family] = MappingProxyType({row.model_type: row for row in (LLAMA,)})

ARTIFACT_PREFIX = "lbdsl_"
"""An artifact's `model_type` is this and its base family's."""
