"""`keep`: leave a layer as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from lbdsl.actions.base import Action, Aspect, Change
from lbdsl.core.costs import SubBlockCost
from lbdsl.core.facts import ModelFacts


class Keep(Action):
    """Leave the layer as it is in the base model.

    What: nothing is removed or replaced; the layer stays bit-identical unless healing trains it.
    Why: some layers carry the model (often the first and the last); claim them before other rules can.
    Example: `layers first 2, last 1 keep`
    Source: LayerBoost (arXiv 2604.22050) keeps softmax attention where sensitivity is high.
    """

    kind: Literal["keep"] = "keep"
    example: ClassVar[str] = "keep"

    @property
    def keeps(self) -> bool:
        return True

    def aspects(self) -> frozenset[Aspect]:
        return frozenset({Aspect.MIXER, Aspect.FFN})

    def cost(self, facts: ModelFacts, layer: int) -> Mapping[Aspect, SubBlockCost]:
        return {}

    def changes(self, facts: ModelFacts, layer: int) -> tuple[Change, ...]:
        return ()
