"""vLLM's layers of Ministral 3: Mistral's, which read how queries are scaled by their position from another field."""

from __future__ import annotations

import copy

from lbdsl.vllm import mistral


def attention(config, cache_config, quant_config, prefix):
    own, rope = copy.copy(config), config.rope_parameters
    original = "original_max_position_embeddings"
    own.llama_4_scaling = {original: rope[original], "beta": rope["llama_4_scaling_beta"]}
    return mistral.attention(own, cache_config, quant_config, prefix)


mlp = mistral.mlp
