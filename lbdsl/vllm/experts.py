"""A router and its experts, from vLLM's layers; of all families."""

from __future__ import annotations

from torch import nn
from vllm.model_executor.layers.fused_moe import FusedMoEFactory, GateLinear

from lbdsl.vllm.layers import experts_of


class Experts(nn.Module):
    """With `renormalize` the gates of a token's experts are scaled to a sum of 1."""

    def __init__(self, config, quant_config, prefix, renormalize):
        super().__init__()
        sizes = experts_of(config)
        self.gate = GateLinear(config.hidden_size, sizes["num_experts"], prefix=f"{prefix}.gate")
        self.experts = FusedMoEFactory(
            **sizes,
            top_k=config.num_experts_per_tok,
            hidden_size=config.hidden_size,
            renormalize=renormalize,
            quant_config=quant_config,
            prefix=f"{prefix}.experts",
        )

    def forward(self, hidden_states):
        scores, _ = self.gate(hidden_states)
        return self.experts(hidden_states=hidden_states, router_logits=scores)
