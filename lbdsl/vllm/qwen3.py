"""vLLM's layers of Qwen 3; its MLP is Qwen 2's."""

from __future__ import annotations

from vllm.model_executor.models.qwen3 import Qwen3Attention

from lbdsl.vllm.qwen2 import mlp

__all__ = ["attention", "mlp"]


def attention(config, cache_config, quant_config, prefix):
    return Qwen3Attention(
        hidden_size=config.hidden_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        max_position=config.max_position_embeddings,
        rope_parameters=config.rope_parameters,
        head_dim=config.head_dim,
        rms_norm_eps=config.rms_norm_eps,
        qkv_bias=bool(getattr(config, "attention_bias", False)),
        cache_config=cache_config,
        quant_config=quant_config,
        prefix=prefix,
    )
