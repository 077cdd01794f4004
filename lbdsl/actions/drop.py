"""`drop`: remove a layer's attention, its MLP, or both."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Literal

from lbdsl.actions.base import Action, Aspect, Change
from lbdsl.core.costs import NO_COST, SubBlockCost
from lbdsl.core.facts import ModelFacts

_SUB_BLOCKS = {"attention": (Aspect.MIXER,), "mlp": (Aspect.FFN,), "block": (Aspect.MIXER, Aspect.FFN)}
_SPEC_KEY = {Aspect.MIXER: "attn", Aspect.FFN: "mlp"}


class Drop(Action):
    """Remove a sub-block of a layer together with its norms: the attention, or with `drop(mlp)` the MLP, or with
    `drop(block)` both.

    What: no weights, no cache and no mask; the residual stream passes by.
    Why: in many layers attention hardly matters; without it a token costs less and holds no memory. An MLP holds most of
    a layer's weights; a whole layer is what every engine can leave out.
    Example: `lowest 8 by sensitivity drop`, `lowest 2 by nll(drop(mlp)) drop(mlp)`
    Source: LLM-Drop (arXiv 2406.15786); ShortGPT (arXiv 2403.03853) for blocks; LayerBoost (arXiv 2604.22050).
    """

    kind: Literal["drop"] = "drop"
    target: Literal["attention", "mlp", "block"] = "attention"
    example: ClassVar[str] = "drop"
    examples: ClassVar[tuple[str, ...]] = ("drop(mlp)", "drop(block)")

    def text(self) -> str:
        return self.kind if self.target == "attention" else f"{self.kind}({self.target})"

    def aspects(self) -> frozenset[Aspect]:
        if self.target == "block":
            return frozenset({Aspect.BLOCK})
        return frozenset(_SUB_BLOCKS[self.target])

    def cost(self, facts: ModelFacts, layer: int) -> Mapping[Aspect, SubBlockCost]:
        return dict.fromkeys(_SUB_BLOCKS[self.target], NO_COST)

    def changes(self, facts: ModelFacts, layer: int) -> tuple[Change, ...]:
        parts = {Aspect.MIXER: facts.attention_parts, Aspect.FFN: facts.mlp_parts}
        return tuple(
            Change(layer, aspect, MappingProxyType({_SPEC_KEY[aspect]: "none"}), removes=parts[aspect])
            for aspect in _SUB_BLOCKS[self.target]
        )
