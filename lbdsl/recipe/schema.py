"""A resolved recipe, as frozen values. This is what the planner reads; text and tree are behind it.

Every `$param` is replaced by its value, every `@group` by its set, every metric and action checked. Nodes know where
they stand in the text (`at`), which is not part of their JSON.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, field_validator

from lbdsl.actions import Action, actions
from lbdsl.core.digest import digest_of, digest_text
from lbdsl.core.span import Source, Span
from lbdsl.core.units import Unit


class Phase(StrEnum):
    """When a value is known: from headers, after measuring, or after healing."""

    STATIC = "static"
    MEASURED = "measured"
    POST = "post"


class Node(BaseModel):
    """Base of all nodes; `at` is the (start, end) offset of its text in the recipe."""

    # Building all validators at import costs 30 ms; `check` needs few of them.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    at: tuple[int, int] | None = Field(default=None, exclude=True, repr=False)


# Expressions ---------------------------------------------------------------------------------------------------------


class Number(Node):
    """`8Ki`, `5%` (ratio 0.05), `0.1`, `10M tokens`."""

    node: Literal["number"] = "number"
    value: int | float
    unit: Unit = Unit.NONE


class Text(Node):
    node: Literal["text"] = "text"
    value: str


class Boolean(Node):
    node: Literal["boolean"] = "boolean"
    value: bool


class Items(Node):
    """A list, as in `model.family in ["llama", "qwen3"]`."""

    node: Literal["items"] = "items"
    items: tuple[Expr, ...]


class Score(Node):
    """A measured metric: of one layer in `where` and `by`, of the whole changed model where `joint`.

    `name` is what the recipe says (`sensitivity`), `metric` what it stands for (`nll`). `action` is None for a joint
    score and for a metric that takes none; such a one may look at a `part` of the layer, `block` (None: the attention).
    """

    node: Literal["score"] = "score"
    name: str
    metric: str
    action: SerializeAsAny[Action] | None = None
    joint: bool = False
    part: Literal["block"] | None = None

    @field_validator("action", mode="before")
    @classmethod
    def _known_action(cls, value: Any) -> Any:
        return None if value is None else action_from(value)

    @property
    def action_text(self) -> str:
        """What it is measured under: the action's text, or the part of the layer."""
        return self.action.text() if self.action is not None else self.part or ""

    @property
    def text(self) -> str:
        """What it is called in plans: `nll`, `kl(swa(window=256))`."""
        return f"{self.metric}({self.action_text})" if self.action_text else self.metric


class PostScore(Node):
    """Known only of the finished artifact: `ppl_increase` (ratio, 0.05 is 5 % more perplexity than the base),
    `agreement` (ratio of tokens with the base's top-1 choice), `kl_healed` (nats a token)."""

    node: Literal["post"] = "post"
    name: Literal["ppl_increase", "agreement", "kl_healed"]


class CostOf(Node):
    """`kv(32Ki)` (bytes a sequence), `flops(8Ki)` (a decoded token), `params` of the changed model."""

    node: Literal["cost"] = "cost"
    name: Literal["kv", "flops", "params"]
    ctx: int | None = None


class Fact(Node):
    """`model.family`, `model.layers`, `model.hidden`, ...: a field of ModelFacts by its name."""

    node: Literal["fact"] = "fact"
    name: str


class Compare(Node):
    """A chain, `0.01 <= nll < 0.1`: `operands` has one more entry than `ops`."""

    node: Literal["compare"] = "compare"
    operands: tuple[Expr, ...]
    ops: tuple[Literal["<", "<=", ">", ">=", "==", "!=", "in", "not in", "matches"], ...]


class Logic(Node):
    node: Literal["logic"] = "logic"
    op: Literal["and", "or"]
    operands: tuple[Expr, ...]


class Not(Node):
    node: Literal["not"] = "not"
    operand: Expr


class Arithmetic(Node):
    """A flat chain of one precedence: `a + b - c` has operands (a, b, c) and ops ("+", "-")."""

    node: Literal["arithmetic"] = "arithmetic"
    operands: tuple[Expr, ...]
    ops: tuple[Literal["+", "-", "*", "/"], ...]


class Negate(Node):
    node: Literal["negate"] = "negate"
    operand: Expr


Expr = Annotated[
    Number | Text | Boolean | Items | Score | PostScore | CostOf | Fact | Compare | Logic | Not | Arithmetic | Negate,
    Field(discriminator="node"),
]


# Layer sets ----------------------------------------------------------------------------------------------------------


class Amount(Node):
    """A count of layers, or a share of all the model's layers, rounded down."""

    count: int | None = None
    share: float | None = None

    def of(self, layers: int) -> int:
        """How many of `layers` layers; a share is floored."""
        if self.count is not None:
            return self.count
        assert self.share is not None
        return int(self.share * layers + 1e-9)


class AllLayers(Node):
    node: Literal["all"] = "all"


class Interval(Node):
    """Layers `first` to `last`, both included. Never expanded before the model is known."""

    node: Literal["interval"] = "interval"
    first: int
    last: int


class Edge(Node):
    """`first 4`, `last 10%`, `middle 6`."""

    node: Literal["edge"] = "edge"
    which: Literal["first", "last", "middle"]
    amount: Amount


class Every(Node):
    """`every 4 from 1`: 1, 5, 9, ..."""

    node: Literal["every"] = "every"
    step: int
    start: int = 0


class RankedSet(Node):
    """`lowest 4 by nll` as a set: over all layers, claimed or not."""

    node: Literal["ranked"] = "ranked"
    direction: Literal["lowest", "highest"]
    amount: Amount
    by: Score


class AnyOf(Node):
    node: Literal["union"] = "union"
    sets: tuple[LayerSet, ...]


class BothOf(Node):
    node: Literal["intersection"] = "intersection"
    sets: tuple[LayerSet, ...]


class Except(Node):
    """`base except removed`; `not removed` is `all except removed`."""

    node: Literal["except"] = "except"
    base: LayerSet
    removed: LayerSet


LayerSet = Annotated[
    AllLayers | Interval | Edge | Every | RankedSet | AnyOf | BothOf | Except, Field(discriminator="node")
]


# Rules and blocks ----------------------------------------------------------------------------------------------------


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


class Measure(Node):
    """`measure { ... }`: on which text scores are taken. `tokens` and `seq` in tokens."""

    metric: str = "nll"
    data: str = "builtin:pydoc"
    tokens: int = Field(default=8192, ge=1)
    seq: int = Field(default=1024, ge=2)
    seed: int = Field(default=0, ge=0)


class Lora(Node):
    """Low-rank adapters on all linear maps of the layers, merged at the end (arXiv 2106.09685)."""

    node: Literal["lora"] = "lora"
    rank: int = Field(default=16, ge=1, le=4096)
    alpha: float = Field(default=32, gt=0)


class FullWeights(Node):
    node: Literal["full"] = "full"


class Heal(Node):
    """`heal { ... }`: distillation from the base model. `tokens` counts tokens seen, passes included; the loss is
    `kl_weight * KL(base || healed) + hidden_weight * hidden`."""

    data: str = "builtin:pydoc"
    tokens: int = Field(default=200_000, ge=1)
    method: Annotated[Lora | FullWeights, Field(discriminator="node")] = Lora()
    kl_weight: float = Field(default=1.0, ge=0)
    hidden_weight: float = Field(default=0.0, ge=0)
    lr: float = Field(default=1e-3, gt=0)
    seq: int = Field(default=1024, ge=2)
    batch: int = Field(default=2, ge=1)
    seed: int = Field(default=0, ge=0)


class Evaluate(Node):
    """`eval { ... }`: on which text the artifact is judged."""

    data: str = "builtin:pydoc"
    tokens: int = Field(default=16_384, ge=1)
    seq: int = Field(default=2048, ge=2)
    metrics: tuple[str, ...] = ("perplexity", "kl", "agreement")


class Vary(Node):
    """`vary $window in 64..1Ki`: both ends belong to it; or `in {64, 256}`. Values are in the parameter's unit."""

    name: str
    low: int | float | None = None
    high: int | float | None = None
    options: tuple[int | float | str | bool, ...] = ()


class Objective(Node):
    """`minimize EXPR` or `maximize EXPR`, a value of the whole model; `phase` says when it is known."""

    direction: Literal["minimize", "maximize"]
    expr: Expr
    phase: Phase
    text: str


class Search(Node):
    """`search { ... }`: which parameters to vary, and what makes their values good."""

    vary: tuple[Vary, ...]
    objectives: tuple[Objective, ...]
    subject_to: tuple[Assertion, ...] = ()
    trials: int = Field(default=20, ge=1, le=10_000)
    seed: int = Field(default=0, ge=0)


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
    search: Search | None = None
    path: str
    text: str
    sha256: str
    included: tuple[IncludedText, ...] = ()

    def span(self, node: Node) -> Span | None:
        """Where a node of this recipe stands, in its text or in that of an included file."""
        if node.at is None:
            return None
        source = next(source for source in reversed(self.sources) if source.base <= node.at[0])
        return Span(source, node.at[0] - source.base, node.at[1] - source.base)

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


def action_from(value: Any) -> Action:
    """An action from itself or from its JSON; ValueError for an unknown kind or bad parameters."""
    if isinstance(value, Action):
        return value
    kind = value.get("kind") if isinstance(value, dict) else None
    cls = actions().get(str(kind))
    if cls is None:
        raise ValueError(f"no action is called {kind!r}")
    return cls.model_validate(value)
