"""vLLM's layers of Mixtral."""

from __future__ import annotations

from vllm.model_executor.models.mixtral import MixtralAttention

from lbdsl.vllm.experts import Experts


def attention(config, cache_config, quant_config, prefix):
    return MixtralAttention(
        config=config,
        hidden_size=config.hidden_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        max_position=config.max_position_embeddings,
        cache_config=cache_config,
        quant_config=quant_config,
        prefix=prefix,
    )


def moe(config, quant_config, prefix):
    return Experts(config, quant_config, prefix, renormalize=True)
