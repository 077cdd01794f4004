"""A resolved recipe, as frozen values. This is what the planner reads; text and tree are behind it.

Every `$param` is replaced by its value, every `@group` by its set, every metric and action checked. Nodes know where
they stand in the text (`at`), which is not part of their JSON.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cached_property
from typing import Literal

from lbdsl.core.digest import digest_of, digest_text
from lbdsl.core.span import Source, Span
from lbdsl.recipe.schema_blocks import (
    Evaluate,
    FullWeights,
    Heal,
    Lora,
    Measure,
)
from lbdsl.recipe.schema_expr import (
    Arithmetic,
    Boolean,
    Compare,
    CostOf,
    Expr,
    Fact,
    Items,
    Logic,
    Negate,
    Node,
    Not,
    Number,
    Phase,
    PostScore,
    Score,
    Text,
    action_from,
)
from lbdsl.recipe.schema_rules import (
    Assertion,
    ElseSelector,
    LayersSelector,
    ModulePattern,
    ModulesSelector,
    RankSelector,
    Rule,
    Selector,
    WhereSelector,
)
from lbdsl.recipe.schema_sets import (
    AllLayers,
    Amount,
    AnyOf,
    BothOf,
    Edge,
    Every,
    Except,
    Interval,
    LayerSet,
    RankedSet,
)

__all__ = [
    "AllLayers",
    "Amount",
    "AnyOf",
    "Arithmetic",
    "Assertion",
    "Boolean",
    "BothOf",
    "Compare",
    "CostOf",
    "Edge",
    "ElseSelector",
    "Evaluate",
    "Every",
    "Except",
    "Expr",
    "Fact",
    "FullWeights",
    "Heal",
    "IncludedText",
    "Interval",
    "Items",
    "LayerSet",
    "LayersSelector",
    "Logic",
    "Lora",
    "Measure",
    "ModulePattern",
    "ModulesSelector",
    "Negate",
    "Node",
    "Not",
    "Number",
    "Phase",
    "PostScore",
    "RankSelector",
    "RankedSet",
    "Recipe",
    "Rule",
    "Score",
    "Selector",
    "Text",
    "WhereSelector",
    "action_from",
    "recipe_digest",
]


class IncludedText(Node):
    """An included file: its path from the recipe's folder, its text, and the sha256 of its bytes."""

    path: str
    text: str
    sha256: str


class Recipe(Node):
    """A whole recipe. `params` are the values in force (defaults and `--set`); `set_params` names those set outside.

    `sha256` is of the recipe's text and, where there are any, of all that it includes.
    """

    version: Literal[1] = 1
    name: str | None = None
    params: dict[str, int | float | str | bool] = {}
    set_params: tuple[str, ...] = ()
    requires: tuple[Assertion, ...] = ()
    measure: Measure = Measure()
    rules: tuple[Rule, ...] = ()
    heal: Heal | None = None
    eval: Evaluate | None = None
    asserts: tuple[Assertion, ...] = ()
    path: str
    text: str
    sha256: str
    included: tuple[IncludedText, ...] = ()

    def span(self, node: Node) -> Span | None:
        """Where a node of this recipe stands, in its text or in that of an included file."""
        return None if node.at is None else self.span_at(node.at)

    def span_at(self, at: tuple[int, int]) -> Span:
        """The same of a pair of offsets."""
        source = next(source for source in reversed(self.sources) if source.base <= at[0])
        return Span(source, at[0] - source.base, at[1] - source.base)

    @property
    def source(self) -> Source:
        """The recipe's own text with its name."""
        return self.sources[0]

    @cached_property
    def sources(self) -> tuple[Source, ...]:
        """The recipe's text and those of its included files, in the order in which they are read."""
        found = [Source(self.path, self.text)]
        for item in self.included:
            name = os.path.join(os.path.dirname(self.path), item.path)
            found.append(Source(name, item.text, found[-1].base + len(found[-1].text) + 1))
        return tuple(found)


def recipe_digest(text: str, included: Iterable[tuple[str, str]]) -> str:
    """The sha256 that a recipe is known by; `included` are (path, sha256) of the files it includes."""
    files = [list(item) for item in included]
    return digest_of({"text": digest_text(text), "included": files}) if files else digest_text(text)
