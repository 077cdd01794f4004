"""Randomly chosen experts, as the baseline for `experts`."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from lbdsl.actions.experts import Experts
from lbdsl.cost.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.layer.weights import AnyExpr, Take


class RandomExperts(Experts):
    """Keep randomly chosen experts, in each layer the same.

    Example: `layers all random_experts(50%, seed=1)`
    """

    kind: Literal["random_experts"] = "random_experts"  # type: ignore[assignment]
    seed: int = 0
    example: ClassVar[str] = "random_experts(n=50%)"
    examples: ClassVar[tuple[str, ...]] = ()

    def weights(self, base: LayerSpec, layer: LayerSpec, model: ModelFacts) -> Mapping[str, AnyExpr]:
        made: dict[str, Any] = dict(super().weights(base, layer, model))
        for name, taken in made.items():
            count = taken.indices.count
            every = range(model.layer_specs[0].ffn.experts)  # type: ignore[union-attr]
            kept = tuple(sorted(random.Random(self.seed).sample(every, count)))
            made[name] = Take(x=taken.x, axis=taken.axis, indices=kept)
        return made
