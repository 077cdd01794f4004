"""`drop`: remove a layer's attention."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Literal

from lbdsl.actions.base import Action, Aspect, Change
from lbdsl.core.costs import NO_COST, SubBlockCost
from lbdsl.core.facts import ModelFacts


class Drop(Action):
    """Remove the attention sub-block of a layer together with its norm.

    What: no attention weights, no cache and no mask; the residual stream passes through to the MLP.
    Why: in many layers attention hardly matters; without it a token costs less and holds no memory.
    Example: `lowest 8 by sensitivity drop`
    Source: LLM-Drop (arXiv 2406.15786); LayerBoost (arXiv 2604.22050).
    """

    kind: Literal["drop"] = "drop"
    target: Literal["attention"] = "attention"
    example: ClassVar[str] = "drop"

    def aspects(self) -> frozenset[Aspect]:
        return frozenset({Aspect.MIXER})

    def cost(self, facts: ModelFacts, layer: int) -> Mapping[Aspect, SubBlockCost]:
        return {Aspect.MIXER: NO_COST}

    def changes(self, facts: ModelFacts, layer: int) -> tuple[Change, ...]:
        spec = MappingProxyType({"attn": "none"})
        return (Change(layer, Aspect.MIXER, spec, removes=("self_attn.", "input_layernorm.")),)
