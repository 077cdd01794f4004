"""vLLM's layers of SmolLM3: Llama's, some without rotary embeddings."""

from __future__ import annotations

from torch import nn
from vllm.model_executor.models.utils import extract_layer_index

from lbdsl.vllm import llama


class NoRotary(nn.Module):
    """Replacement for rotary embeddings that returns queries and keys unchanged."""

    def forward(self, positions, query, key):
        return query, key


def attention(config, cache_config, quant_config, prefix):
    made = llama.attention(config, cache_config, quant_config, prefix)
    if not config.no_rope_layers[extract_layer_index(prefix)]:
        made.rotary_emb = NoRotary()
    return made


mlp = llama.mlp
