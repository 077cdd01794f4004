"""vLLM's layers of Qwen 2."""

from __future__ import annotations

from vllm.model_executor.models.qwen2 import Qwen2Attention, Qwen2MLP


def attention(config, cache_config, quant_config, prefix):
    return Qwen2Attention(
        hidden_size=config.hidden_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        max_position=config.max_position_embeddings,
        rope_parameters=config.rope_parameters,
        cache_config=cache_config,
        quant_config=quant_config,
        prefix=prefix,
    )


def mlp(config, quant_config, prefix):
    return Qwen2MLP(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        hidden_act=config.hidden_act,
        quant_config=quant_config,
        prefix=prefix,
    )
