"""The fields of a GGUF file that describe the model, without its tokenizer."""

from __future__ import annotations

from typing import Any

from lbdsl.export.gguf_rope import scaling_fields
from lbdsl.export.gguf_target import ZERO_WIDTH, GgufModel


def model_fields(target: GgufModel) -> dict[str, Any]:
    """Metadata keys and values; lists of int, float or bool are arrays with one entry per layer."""
    sizes, config, graph, family = target.layout.sizes, target.config, target.graph, target.layout.family
    fields: dict[str, Any] = {
        "block_count": len(target.layers),
        "context_length": sizes.positions,
        "embedding_length": sizes.hidden,
        "vocab_size": sizes.vocab,
        "attention.head_count": sizes.heads,
        "attention.head_count_kv": target.kv_heads[0],
        "attention.key_length": sizes.head_dim,
        "attention.value_length": sizes.head_dim,
        "rope.dimension_count": sizes.head_dim,
        "rope.freq_base": target.rope.theta,
        "feed_forward_length": target.widths[0],
        "attention.layer_norm_rms_epsilon": float(config.get("rms_norm_eps", family.epsilon)),
        **scaling_fields(target.rope),
    }
    if graph.by_layer:
        # llama.cpp reads the number of heads from the first layer.
        fields["attention.head_count"] = [
            sizes.heads if kv_heads or place == 0 else 0 for place, kv_heads in enumerate(target.kv_heads)
        ]
        fields["attention.head_count_kv"] = list(target.kv_heads)
        fields["feed_forward_length"] = [width or ZERO_WIDTH for width in target.widths]
    if graph.windows and (target.window is not None or graph.always_windowed):
        fields["attention.sliding_window"] = target.window or sizes.positions
        fields["attention.sliding_window_pattern"] = [target.window is None or target.windowed[0], *target.windowed[1:]]
        if target.local_rope is not None:
            fields["rope.freq_base_swa"] = target.local_rope.theta
    if graph.rope_pattern:
        fields["attention.rope_pattern"] = [int(has) for has in target.has_rope]
    if graph.multipliers:
        fields["logit_scale"] = 1.0
    for key, (name, usual) in family.gguf.numbers.items():
        fields[key] = float(config.get(name, usual) or 0.0)
    return {
        "general.architecture": graph.name,
        **{f"{graph.name}.{key}": value for key, value in fields.items()},
    }
