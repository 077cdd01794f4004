"""The architectures of llama.cpp that the GGUF export uses, as data read from llama.cpp's source (src/models/*.cpp)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

PRE_NORMS: Mapping[str, str] = MappingProxyType({"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"})
SANDWICH_NORMS: Mapping[str, str] = MappingProxyType(
    {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    }
)
MODULES: Mapping[str, str] = MappingProxyType(
    {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "self_attn.qkv_proj": "attn_qkv",
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "mlp.gate_up_proj": "ffn_up",
    }
)
"""Names of a layer's modules, from transformers' to llama.cpp's."""

ALL_BIASES = frozenset({"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"})


@dataclass(frozen=True)
class Architecture:
    """One of llama.cpp's graphs. `name` is `general.architecture`.

    pairs:           True when it turns neighbouring elements (2i, 2i + 1) of a head; transformers turns (i, i + d/2), so
                     rows of queries and keys are put in another order
    windows:         True when it reads which layers are windowed, one flag a layer, and one window
    drops:           True when a layer may have no attention
    rope_pattern:    True when it reads which layers have rotary embeddings
    frequency_table: True when it reads rope_freqs (llama3 scaling)
    biases:          modules whose biases it reads
    square:          True when it wants heads x head_dim = hidden
    fused:           True when it reads queries, keys and values, and gate and up, as one matrix each
    head_always:     True when it wants the head written even if it is tied
    norm_offset:     added to every norm weight, 1 for Gemma, whose norms multiply by 1 + weight
    activation:      of the MLP, by transformers' name
    """

    name: str
    norms: Mapping[str, str] = field(default_factory=lambda: PRE_NORMS)
    pairs: bool = False
    windows: bool = False
    drops: bool = False
    rope_pattern: bool = False
    frequency_table: bool = False
    biases: frozenset[str] = frozenset()
    square: bool = False
    fused: bool = False
    head_always: bool = False
    norm_offset: float = 0.0
    activation: str = "silu"


LLAMA = Architecture("llama", pairs=True, frequency_table=True, biases=ALL_BIASES)
DECI = Architecture("deci", pairs=True, drops=True, frequency_table=True, biases=ALL_BIASES)
GRANITE_SWA = Architecture(
    "granite_swa", pairs=True, windows=True, rope_pattern=True, frequency_table=True, biases=ALL_BIASES
)
"""Llama's layers with windows: Granite's scales are 1, and its sink logits, which are no tokens, -1e30: of no weight."""

NATIVE: Mapping[str, Architecture] = MappingProxyType(
    {
        "llama": LLAMA,
        "mistral": LLAMA,
        "qwen2": Architecture("qwen2", biases=frozenset({"attn_q", "attn_k", "attn_v"}), square=True),
        "qwen3": Architecture("qwen3"),
        "smollm3": Architecture("smollm3", pairs=True),
        "phi3": Architecture("phi3", square=True, fused=True),
        "gemma2": Architecture(
            "gemma2", norms=SANDWICH_NORMS, windows=True, norm_offset=1.0, activation="gelu_pytorch_tanh"
        ),
        "gemma3_text": Architecture(
            "gemma3", norms=SANDWICH_NORMS, windows=True, norm_offset=1.0, activation="gelu_pytorch_tanh"
        ),
        "olmo3": Architecture("olmo2", norms=SANDWICH_NORMS, windows=True, square=True, head_always=True),
    }
)
"""By family, the architecture of the family itself."""

LLAMA_LIKE = frozenset({"llama", "mistral", "qwen2", "phi3"})
"""Families whose layers are Llama's, biases and fused matrices aside: `deci` and `granite_swa` compute them."""

NOT_LLAMA_LIKE: Mapping[str, str] = MappingProxyType(
    {
        "qwen3": "its norms of queries and keys",
        "smollm3": "its layers without rotary embeddings",
        "gemma2": "its norms after each sub-block",
        "gemma3_text": "its norms after each sub-block",
        "olmo3": "its norms after each sub-block",
    }
)
"""What `deci` lacks, by family."""
