"""vLLM's layers of OLMoE."""

from __future__ import annotations

from types import SimpleNamespace

from vllm.model_executor.models.olmoe import OlmoeAttention

from lbdsl.vllm.experts import Experts


def attention(config, cache_config, quant_config, prefix):
    own = {"model_config": SimpleNamespace(hf_config=config), "cache_config": cache_config, "quant_config": quant_config}
    made = OlmoeAttention(vllm_config=SimpleNamespace(**own), prefix=prefix)
    made.q_norm.variance_epsilon = made.k_norm.variance_epsilon = config.rms_norm_eps
    return made


def moe(config, quant_config, prefix):
    return Experts(config, quant_config, prefix, renormalize=config.norm_topk_prob)
