"""vLLM's layers of Mistral."""

from __future__ import annotations

from functools import partial

from vllm.model_executor.models.mistral import MistralAttention

from lbdsl.vllm import llama

attention = partial(llama.attention, cls=MistralAttention)
mlp = llama.mlp
