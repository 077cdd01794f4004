"""The fields of a GGUF file that describe the model, without its tokenizer."""

from __future__ import annotations

from typing import Any

from lbdsl.export.gguf_architectures import GRANITE_SWA
from lbdsl.export.gguf_rope import scaling_fields
from lbdsl.export.gguf_target import ZERO_WIDTH, Target

_EPSILON = {
    "mistral": 1e-6,
    "qwen2": 1e-6,
    "qwen3": 1e-6,
    "gemma2": 1e-6,
    "gemma3_text": 1e-6,
    "llama": 1e-6,
    "smollm3": 1e-6,
    "phi3": 1e-5,
    "olmo3": 1e-5,
}
"""transformers' rms_norm_eps where a configuration names none."""


def model_fields(target: Target) -> dict[str, Any]:
    """Keys and values; lists of int, float or bool are arrays with one entry a layer."""
    sizes, config, architecture = target.layout.sizes, target.config, target.architecture
    heads = [sizes.heads if attends or first else 0 for first, attends in _first(target)]
    fields: dict[str, Any] = {
        "block_count": len(target.layers),
        "context_length": sizes.positions,
        "embedding_length": sizes.hidden,
        "vocab_size": sizes.vocab,
        "attention.head_count": sizes.heads,
        "attention.head_count_kv": sizes.kv_heads,
        "attention.key_length": sizes.head_dim,
        "attention.value_length": sizes.head_dim,
        "rope.dimension_count": sizes.head_dim,
        "rope.freq_base": target.rope.theta,
        "feed_forward_length": sizes.intermediate,
        "attention.layer_norm_rms_epsilon": float(config.get("rms_norm_eps", _EPSILON[target.layout.family.model_type])),
        **scaling_fields(target.rope),
    }
    if architecture.drops:
        fields["attention.head_count"] = heads
        fields["attention.head_count_kv"] = [sizes.kv_heads if attends else 0 for attends in target.attends]
        fields["feed_forward_length"] = [sizes.intermediate if feeds else ZERO_WIDTH for feeds in target.feeds]
    if architecture.windows and (target.window is not None or architecture.name in ("granite_swa", "gemma2")):
        # These architectures want a windowed layer; a window of all positions has no effect.
        fields["attention.sliding_window"] = target.window or sizes.positions
        fields["attention.sliding_window_pattern"] = [target.window is None or target.windowed[0], *target.windowed[1:]]
        if target.local_rope is not None:
            fields["rope.freq_base_swa"] = target.local_rope.theta
    if architecture is GRANITE_SWA:
        fields["logit_scale"] = 1.0
        fields["attention.rope_pattern"] = [int(turn) for turn in target.turns]
    if target.layout.family.model_type == "gemma2":
        fields["attn_logit_softcapping"] = float(config.get("attn_logit_softcapping", 50.0))
    if target.layout.family.model_type.startswith("gemma"):
        usual = 30.0 if target.layout.family.model_type == "gemma2" else None
        cap = config.get("final_logit_softcapping", usual)
        fields["final_logit_softcapping"] = float(cap) if cap else 0.0
    return {
        "general.architecture": architecture.name,
        **{f"{architecture.name}.{key}": value for key, value in fields.items()},
    }


def _first(target: Target) -> list[tuple[bool, bool]]:
    """(is the first layer, has attention) by layer."""
    return [(place == 0, attends) for place, attends in enumerate(target.attends)]
