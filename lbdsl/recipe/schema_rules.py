"""Rules of a resolved recipe: selectors, actions and conditions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, field_validator

from lbdsl.actions import Action
from lbdsl.recipe.schema_expr import Expr, Node, Phase, Score, action_from
from lbdsl.recipe.schema_sets import Amount, LayerSet


class ElseSelector(Node):
    node: Literal["else"] = "else"


class WhereSelector(Node):
    node: Literal["where"] = "where"
    where: Expr


class LayersSelector(Node):
    node: Literal["layers"] = "layers"
    layers: LayerSet
    where: Expr | None = None


class ModulePattern(Node):
    """A pattern of full module names: a glob, or a regular expression (RE2)."""

    text: str
    glob: bool


class ModulesSelector(Node):
    """`modules "*.k_proj", ~".*mlp.*" in layers 4-7 where nll < 0.1`: modules by name, within `layers` (None: all)."""

    node: Literal["modules"] = "modules"
    patterns: tuple[ModulePattern, ...]
    layers: LayerSet | None = None
    where: Expr | None = None


class RankSelector(Node):
    """`lowest 8 [of rest] by nll`, or without an amount `lowest of rest by nll until kv(32Ki) <= 50%`."""

    node: Literal["rank"] = "rank"
    direction: Literal["lowest", "highest"]
    amount: Amount | None = None
    of_rest: bool = False
    by: Score
    until: Expr | None = None


Selector = Annotated[
    ElseSelector | WhereSelector | LayersSelector | ModulesSelector | RankSelector, Field(discriminator="node")
]


class Rule(Node):
    """One line of the table. `number` counts rules from 1; `text` is its source, for plans and reports."""

    number: int
    selector: Selector
    actions: tuple[SerializeAsAny[Action], ...]
    because: str | None = None
    text: str

    @field_validator("actions", mode="before")
    @classmethod
    def _known_actions(cls, value: Any) -> Any:
        return tuple(action_from(item) for item in value)


class Assertion(Node):
    expr: Expr
    phase: Phase
    text: str
