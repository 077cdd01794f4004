"""An action of one's own: replace attention by the causal mean of the values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Literal

from lbdsl.core.costs import SubBlockCost

from lbdsl.actions import Action, Aspect, Change
from lbdsl.layer.facts import ModelFacts


class MeanPool(Action):
    """Replace a layer's attention by the causal mean of its values.

    What: y_t = o_proj(mean of v_0 ... v_t); queries and keys are removed. The cache is one running sum.
    Why: where attention is nearly uniform, its mean is as good and costs nothing to keep.
    Example: `lowest 4 by nll(meanpool) meanpool`
    Source: average attention, Zhang et al. 2018 (arXiv 1805.00631).
    """

    kind: Literal["meanpool"] = "meanpool"
    example: ClassVar[str] = "meanpool"
    runtime: ClassVar[Path | None] = Path(__file__).with_name("lbdsl_mixer_meanpool.py")

    def aspects(self) -> frozenset[Aspect]:
        return frozenset({Aspect.MIXER})

    def cost(self, facts: ModelFacts, layer: int) -> Mapping[Aspect, SubBlockCost]:
        value = facts.hidden * facts.kv_heads * facts.head_dim
        output = facts.hidden * facts.heads * facts.head_dim
        state = 4 * facts.kv_heads * facts.head_dim  # the running sum, in fp32
        return {
            Aspect.MIXER: SubBlockCost(
                params=value + output + facts.hidden,  # and the norm
                matmul_params=value + output,
                kv_bytes=lambda ctx: state if ctx else 0,
                decode_flops=lambda ctx: facts.kv_heads * facts.head_dim,
                prefill_flops=lambda n: n * facts.kv_heads * facts.head_dim,
            )
        }

    def changes(self, facts: ModelFacts, layer: int) -> tuple[Change, ...]:
        spec = MappingProxyType({"attn": "meanpool"})
        return (Change(layer, Aspect.MIXER, spec, removes=("self_attn.q_proj.", "self_attn.k_proj.")),)
