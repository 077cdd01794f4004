"""vLLM's layers of Llama, and of families that vLLM constructs in the same way."""

from __future__ import annotations

from vllm.model_executor.models.llama import LlamaAttention, LlamaMLP


def attention(config, cache_config, quant_config, prefix, cls=LlamaAttention):
    bias = bool(getattr(config, "attention_bias", False))
    return cls(
        config=config,
        hidden_size=config.hidden_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        max_position_embeddings=config.max_position_embeddings,
        quant_config=quant_config,
        bias=bias,
        bias_o_proj=bias,
        cache_config=cache_config,
        prefix=prefix,
    )


def mlp(config, quant_config, prefix):
    return LlamaMLP(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        hidden_act=config.hidden_act,
        quant_config=quant_config,
        bias=bool(getattr(config, "mlp_bias", False)),
        prefix=prefix,
    )
