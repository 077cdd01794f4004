"""A resolved recipe: the syntax tree with names replaced by what they stand for, and the values of blocks.

This is the input of the planner. Each `$name` is replaced by its value, each `@group` by its set, and each metric, cost
and fact by a node of its own kind. Every node has its place in the text (`span`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

from lbdsl.actions import Action, actions
from lbdsl.core.digest import digest_of, digest_text
from lbdsl.core.span import Source
from lbdsl.core.units import Unit
from lbdsl.cost.cost import STATIC_VALUES
from lbdsl.cost.profile import PREDICTED_VALUES, Profile
from lbdsl.language.lexer import one_line
from lbdsl.language.tree import Arithmetic, Every, Expr, Items, LayerSet, Meaning, Node, Number, Range, Selector, walk
from lbdsl.recipe.schema_blocks import Asked, Evaluate, FullWeights, Heal, Lora, Measure, Values  # noqa: F401


class Phase(StrEnum):
    """When a value is known: from headers, after measuring, or after healing."""

    STATIC = "static"
    MEASURED = "measured"
    POST = "post"


# Nodes that only resolving creates -----------------------------------------------------------------------------------


class Boolean(Meaning):
    """`true` or `false`."""

    value: bool


class Score(Meaning):
    """A measured metric: of one layer in `where` and `by`, of the whole changed model if `joint`.

    `name` is the name in the recipe (`sensitivity`), `metric` what it stands for (`nll`, `task("own.yaml")`). `action` is
    None for a joint score and for a metric without an action; that may measure a `part` of the layer, `block` (None: the
    attention).
    """

    name: str
    metric: str
    action: Action | None
    joint: bool
    part: str | None

    @property
    def action_text(self) -> str:
        """The text of the measured action, or the part of the layer."""
        return self.action.text() if self.action is not None else self.part or ""

    @property
    def text(self) -> str:
        """Its name in plans: `nll`, `kl(swa(window=256))`, `task("own.yaml", drop)`."""
        if self.metric.endswith(")") and self.action_text:
            return f"{self.metric[:-1]}, {self.action_text})"
        return f"{self.metric}({self.action_text})" if self.action_text else self.metric


class PostScore(Meaning):
    """A metric of the finished model: `ppl_increase`. `source` names one of the texts of the `eval` block;
    None means every one of them. For right answers it is the name of `task`: a needle or a benchmark."""

    metric: str
    source: str | None
    task: Asked | None


class CostOf(Meaning):
    """`kv(32Ki)` (bytes per sequence), `flops(8Ki)` (per decoded token), `params`, `weights` (bytes) of the changed model:
    one of `lbdsl.cost.cost.STATIC_VALUES`."""

    name: str
    ctx: int | None

    @property
    def unit(self) -> Unit:
        return (STATIC_VALUES.get(self.name) or PREDICTED_VALUES[self.name]).unit


class PredictedOf(CostOf):
    """`latency(8Ki, 8)`, `throughput(1Ki, 256, 50)`, ... of the changed model in an engine: one of
    `lbdsl.cost.profile.PREDICTED_VALUES`. `ctx` is the length of a sequence at its end: 1280 tokens in the second one."""

    arguments: tuple[int, ...]
    engine: str


class Serves(Meaning):
    """`serves("vllm")`: unmodified vLLM serves the changed model through some export; `serves("vllm+lbdsl")`, vLLM with
    lbdsl's plug-in."""

    engine: str


class Fact(Meaning):
    """`model.family`, `model.layers`, `model.hidden`, ...: a field of ModelFacts by its name."""

    name: str


ENGINES = ("vllm", "vllm+lbdsl", "llamacpp", "transformers")
"""What `serves` can ask of."""

FACTS: Mapping[str, tuple[str, Unit]] = {
    **dict.fromkeys(("family", "architecture", "dtype"), ("text", Unit.NONE)),
    "tied": ("boolean", Unit.NONE),
    **dict.fromkeys(("layers", "hidden", "heads", "kv_heads", "head_dim", "intermediate", "vocab"), ("number", Unit.NONE)),
    "positions": ("number", Unit.TOKENS),
    "params": ("number", Unit.PARAMS),
    "kv_bytes_per_token": ("number", Unit.BYTES),
}
"""The facts that a recipe may use: the kind of each value, and the unit of a number."""


class Amount(Number):
    """A count of layers, or a share of all the model's layers, rounded down."""

    def of(self, layers: int) -> int:
        """The number of layers, out of `layers`; a share is rounded down."""
        return int(self.value * layers + 1e-9) if self.unit is Unit.RATIO else int(self.value)


def ends(layers: Range) -> tuple[int, int]:
    """The first and last layer of a resolved range. It is never expanded before the model is known."""
    assert isinstance(layers.first, Number), "variables are replaced"
    assert isinstance(layers.last, Number), "variables are replaced"
    return int(layers.first.value), int(layers.last.value)


def terms_of(by: Expr) -> tuple[tuple[float, Score], ...]:
    """The scores that `by` adds up, each with its weight."""
    if isinstance(by, Score):
        return ((1.0, by),)
    assert isinstance(by, Arithmetic)
    if "*" in by.ops:
        weight, score = by.operands
        assert isinstance(weight, Number)
        assert isinstance(score, Score)
        return ((float(weight.value), score),)
    return tuple(term for part in by.operands for term in terms_of(part))


def sum_text(by: Expr) -> str:
    """`kl(drop) + 0.2 * recall(drop)`, as plans show it."""
    return weighted_text((weight, score.text) for weight, score in terms_of(by))


def weighted_text(terms: Iterable[tuple[float, str]]) -> str:
    return " + ".join(name if weight == 1 else f"{weight:.12g} * {name}" for weight, name in terms)


def steps(layers: Every) -> tuple[int, int]:
    """The first layer and the step of `every 4 from 1`."""
    return int(layers.start.value) if layers.start is not None else 0, int(layers.step.value)


def action_from(value: Any) -> Action:
    """An action from an `Action` or from its JSON; ValueError for an unknown kind or bad parameters."""
    if isinstance(value, Action):
        return value
    kind = value.get("kind") if isinstance(value, dict) else None
    cls = actions().get(str(kind))
    if cls is None:
        raise ValueError(f"no action is called {kind!r}")
    return cls.model_validate(value)


class ResolvedAssertion(Node):
    expr: Expr
    phase: Phase
    text: str


Terms = tuple[tuple[float, str], ...]
"""Metrics that are added up, each with its weight."""


class Bound(Meaning):
    """`kl + 0.2 * recall <= 0.1` after `subject to`: what is measured of the whole changed model is at most that."""

    text: str
    terms: Terms
    most: float
    unit: Unit


class Choosing(Meaning):
    """The selector of `choose for layers SET among ACTION, ... minimizing METRIC subject to CONDITION, ...`. What is
    minimized is a `cost`, or the sum of metrics `minimized`. `budgets` are of costs and engines, `bounds` of measured
    values. `scores` has those of each alternative in all these metrics, None for one that changes nothing."""

    layers: LayerSet
    alternatives: tuple[tuple[Action, ...], ...]
    scores: tuple[Items | None, ...]
    minimized: Terms
    cost: Expr | None
    budgets: tuple[ResolvedAssertion, ...]
    bounds: tuple[Bound, ...]

    @property
    def objective(self) -> str:
        """`kl`, `kl + 0.2 * recall`, or `kv(8Ki)`."""
        return weighted_text(self.minimized) if self.cost is None else one_line(self.cost.span.text)

    @property
    def metrics(self) -> tuple[str, ...]:
        """All that is measured of its plans."""
        terms = (*self.minimized, *(term for bound in self.bounds for term in bound.terms))
        return tuple(dict.fromkeys(metric for _, metric in terms))


# Recipes -------------------------------------------------------------------------------------------------------------


class Rule(Node):
    """One rule. `number` counts rules from 1; `text` is its source text, for plans and reports."""

    number: int
    selector: Selector | Choosing
    actions: tuple[Action, ...]
    because: str | None
    text: str


class IncludedText(Values):
    """An included file: its path relative to the recipe's folder, its text, and the sha256 of its bytes."""

    path: str
    text: str
    sha256: str


@dataclass(frozen=True)
class Recipe:
    """A whole recipe. `params` are the effective values (defaults and `--set`); `set_params` names those set by `--set`.

    `sources` are its text and those of its included files; `profiles` are those of the engines that its predicted values
    are asked of, where there are any.
    """

    path: str
    text: str
    name: str | None = None
    params: Mapping[str, int | float | str | bool] = field(default_factory=dict)
    set_params: tuple[str, ...] = ()
    requires: tuple[ResolvedAssertion, ...] = ()
    measure: Measure = field(default_factory=Measure)
    rules: tuple[Rule, ...] = ()
    heal: Heal | None = None
    eval: Evaluate | None = None
    asserts: tuple[ResolvedAssertion, ...] = ()
    included: tuple[IncludedText, ...] = ()
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    sources: tuple[Source, ...] = field(default=(), compare=False, repr=False)

    @cached_property
    def sha256(self) -> str:
        """Of its text and its included files, if any."""
        files = [[file.path, file.sha256] for file in self.included]
        return digest_of({"text": digest_text(self.text), "included": files}) if files else digest_text(self.text)

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """Every node of its rules and conditions."""
        return tuple(part for node in (*self.asserts, *self.requires, *self.rules) for part in walk(node))

    @property
    def costs_asked(self) -> tuple[CostOf, ...]:
        """The costs in its asserts and budgets."""
        return tuple(part for part in self.nodes if isinstance(part, CostOf))

    @property
    def metrics_asked(self) -> frozenset[str]:
        """The metrics of layers and of the whole changed model that it needs."""
        return frozenset(part.metric for part in self.nodes if isinstance(part, Score))

    @property
    def predictions_asked(self) -> dict[str, list[PredictedOf]]:
        """The predicted values among the costs, by engine."""
        asked: dict[str, list[PredictedOf]] = {}
        for value in self.costs_asked:
            if isinstance(value, PredictedOf):
                asked.setdefault(value.engine, []).append(value)
        return asked
