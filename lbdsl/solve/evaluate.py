"""The value of an expression, for one layer or for the whole model. Strict: every part is evaluated, so a missing score
is an error wherever it stands, whatever the other parts say."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, TypeVar

from lbdsl.core.arithmetic import combined, join_units
from lbdsl.core.diagnostic import Diagnosed, Diagnostic, error
from lbdsl.core.measurement import Measurement, Request
from lbdsl.core.units import Unit, amount_text
from lbdsl.layer.cost import STATIC_VALUES, ModelCost
from lbdsl.layer.facts import ModelFacts
from lbdsl.metrics import metrics
from lbdsl.recipe import schema as nodes
from lbdsl.recipe.patterns import matcher
from lbdsl.recipe.schema import FACTS, Expr, Node, Recipe
from lbdsl.recipe.types import walk
from lbdsl.syntax.lexer import one_line

SHARED_UNITS = frozenset(value.unit for value in STATIC_VALUES.values())
"""Of what a percentage is a share of the base model's."""


@dataclass(frozen=True)
class Quantity:
    value: int | float
    unit: Unit = Unit.NONE


Value = Quantity | str | bool | tuple[Any, ...]


@dataclass(frozen=True)
class World:
    """All that an expression may ask about. `cost` is of the changed model; `layer` is None for a condition on the model;
    `joint` has the scores of the whole changed model by name, none while they are not measured, and `post` those of the
    finished model; `post_on` has such scores of each text by its name."""

    recipe: Recipe
    facts: ModelFacts
    layer: int | None = None
    measurements: Mapping[Request, Measurement] = field(default_factory=dict)
    cost: ModelCost | None = None
    joint: Mapping[str, float] = field(default_factory=dict)
    post: Mapping[str, float] = field(default_factory=dict)
    post_on: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Shown:
    """A cost, score or fact of a condition, as its text says it: "`kv(8Ki)` is 80.0 % of the base's". `share` is the part
    of the base's cost, where the bound is a percentage."""

    name: str
    value: Quantity
    share: float | None = None

    def __str__(self) -> str:
        if self.share is not None:
            return f"`{self.name}` is {amount_text(self.share, Unit.RATIO)} of the base's"
        return f"`{self.name}` is {amount_text(self.value.value, self.value.unit)}"


def evaluate(expr: Expr, world: World) -> Diagnosed[Value]:
    """The value of `expr`, or None with every reason why it has none."""
    return _value(expr, world, _Evaluation.of)


def holds(expr: Expr, world: World) -> Diagnosed[bool]:
    """Whether a condition holds."""
    value, found = evaluate(expr, world)
    if value is None or isinstance(value, bool):
        return Diagnosed(value, found)
    return Diagnosed(None, (error("LB317", "the condition is neither true nor false", world.recipe.span(expr)),))


def deciding(expr: Expr, world: World) -> Shown | None:
    """The value in the comparison that makes a condition true or false, costs and scores before facts.

    Of `a and b` that fails it is the one that fails, of `a or b` that holds the one that holds. None where nothing has
    a value, or it is a text.
    """
    return _value(expr, world, _Evaluation.deciding).value


def scores_in(expr: Expr | None) -> tuple[nodes.Score, ...]:
    """The scores of a layer that the expression asks for."""
    return () if expr is None else tuple(part for part in walk(expr) if isinstance(part, nodes.Score) and not part.joint)


def facts_only(expr: Expr) -> bool:
    """True when a condition asks only for facts of the base model."""
    return not any(isinstance(part, nodes.Score | nodes.PostScore | nodes.CostOf) for part in walk(expr))


def text_of(recipe: Recipe, node: Node, otherwise: str) -> str:
    """The node's own text, on one line."""
    span = recipe.span(node)
    return one_line(span.text) if span is not None else otherwise


_ORDER: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}

Help = tuple[str, ...]

_MEASURE: Help = ("run `lbdsl measure` with this recipe and model",)
_MEND: Help = ("a comparison with it would be meaningless; try `--dtype float32`", "or claim the layer by an earlier rule")

A = TypeVar("A")
T = TypeVar("T")


class _NoValue(Exception):
    """An expression has no value; why, is in the list of errors already."""


def _value(expr: Expr, world: World, of: Callable[[_Evaluation, Expr], T]) -> Diagnosed[T]:
    evaluation = _Evaluation(world)
    try:
        return Diagnosed(of(evaluation, expr))
    except _NoValue:
        return Diagnosed(None, tuple(evaluation.errors))


class _Evaluation:
    """One evaluation: collects its errors. Every method raises `_NoValue` once it has recorded one."""

    def __init__(self, world: World):
        self.world = world
        self.errors: list[Diagnostic] = []

    def of(self, expr: Expr) -> Value:
        match expr:
            case nodes.Number():
                return Quantity(expr.value, expr.unit)
            case nodes.String() | nodes.Pattern() | nodes.Boolean():
                return expr.value
            case nodes.Items():
                return tuple(self._each(expr.items, self.of))
            case nodes.Score():
                return self._score(expr)
            case nodes.PostScore():
                return self._post(expr)
            case nodes.CostOf():
                return self._cost(expr)
            case nodes.Fact():
                return self._fact(expr)
            case nodes.Compare():
                values = self._each(expr.operands, self.of)
                return all(self._each(range(len(expr.ops)), lambda i: self._pair(expr, i, values)))
            case nodes.Logic():
                truths = self._each(expr.operands, self.truth)
                return all(truths) if expr.op == "and" else any(truths)
            case nodes.Not():
                return not self.truth(expr.operand)
            case nodes.Minus():
                value = self._number(expr.operand)
                return Quantity(-value.value, value.unit)
            case nodes.Arithmetic():
                return self._arithmetic(expr)
            case _:
                raise AssertionError("names are replaced by what they mean")

    def truth(self, expr: Expr) -> bool:
        value = self.of(expr)
        return value if isinstance(value, bool) else self._wrong(expr, "a truth value is wanted here")

    def deciding(self, expr: Expr) -> Shown | None:
        found = [shown for pair in self._comparisons(expr, self.truth(expr)) if (shown := self._shown(*pair)) is not None]
        return min(found, key=lambda item: item[0])[1] if found else None

    def _score(self, score: nodes.Score) -> Quantity:
        """Of a layer, or of the whole changed model."""
        if score.joint:
            of, code = f"`{score.metric}` of the whole changed model", "LB323"
            value = self.world.joint.get(score.metric)
        else:
            assert self.world.layer is not None, "a layer's score is asked for outside a layer"
            of, code = f"`{score.text}` of layer {self.world.layer}", "LB304"
            found = self.world.measurements.get(Request(score.metric, score.action_text, self.world.layer))
            value = None if found is None else found.value
        if value is None:
            self._fail(code, f"{of} is not measured", score, () if score.joint else _MEASURE)
        return self._finite(value, score, score.metric, of, () if score.joint else _MEND)

    def _post(self, score: nodes.PostScore) -> Quantity:
        scores = self.world.post if score.source is None else self.world.post_on.get(score.source, {})
        value = scores.get(score.name)
        if value is None:
            self._wrong(score, f"`{score.name}` is known only after healing")
        return self._finite(value, score, score.name, f"`{score.name}` of the finished model")

    def _finite(self, value: float, node: Node, metric: str, of: str, mend: Help = ()) -> Quantity:
        if not math.isfinite(value):
            self._fail("LB306", f"{of} is {value}", node, mend)
        return Quantity(value, metrics()[metric].unit)

    def _cost(self, node: nodes.CostOf) -> Quantity:
        if self.world.cost is None:
            self._wrong(node, f"`{node.name}` is a cost of the changed model, unknown before selection")
        static = STATIC_VALUES[node.name]
        if static.takes_context and node.ctx is None:
            self._wrong(node, f"`{node.name}` needs a context, as in `{node.name}(8Ki)`")
        return Quantity(self.world.cost.value(node.name, node.ctx or 0), static.unit)

    def _fact(self, node: nodes.Fact) -> Value:
        value = getattr(self.world.facts, node.name, None)
        if isinstance(value, str | bool):
            return value
        if isinstance(value, int) and node.name in FACTS:
            return Quantity(value, FACTS[node.name][1])
        self._wrong(node, f"`{node.name}` is not a number, a text or a truth value of the model")

    def _arithmetic(self, expr: nodes.Arithmetic) -> Quantity:
        total, *others = self._each(expr.operands, self._number)
        for op, value, node in zip(expr.ops, others, expr.operands[1:], strict=True):
            result = combined(op, total.value, value.value)
            if result is None:
                self._wrong(node, "division by zero" if op == "/" and value.value == 0 else "result is too large")
            # That the units go together was seen when the recipe was resolved.
            total = Quantity(result, join_units(op, total.unit, value.unit) or total.unit)
        return total

    def _pair(self, expr: nodes.Compare, i: int, values: list[Any]) -> bool:
        """The comparison at place `i` of a chain whose operands have these values."""
        op, (left, right), (a, b) = expr.ops[i].text, expr.operands[i : i + 2], values[i : i + 2]
        if op in ("in", "not in"):
            if not isinstance(b, tuple):
                self._wrong(right, f"`{op}` wants a list on its right")
            return any(_same(a, item) for item in b) is (op == "in")
        if op == "matches":
            return self._matches(left, a, right, b)
        if isinstance(a, Quantity) and isinstance(b, Quantity):
            a, b = self._share(a, right, b), self._share(b, left, a)
            return _ORDER[op](a.value, b.value)
        if type(a) is not type(b):
            self._wrong(right, "the two sides are of different kinds")
        return _ORDER[op](a, b)

    def _share(self, value: Quantity, other_expr: Expr, other: Quantity) -> Quantity:
        """A percentage against a cost is that share of what the base model costs."""
        if value.unit is not Unit.RATIO or other.unit not in SHARED_UNITS:
            return value
        # Costs are whole numbers: 57.5 % of 40 layers' cache is that of 23, though 0.575 * 40 is a little less.
        share = value.value * self._of_base(other_expr).value
        exact = math.isclose(share, round(share), rel_tol=1e-12)
        return Quantity(round(share) if exact else share, other.unit)

    def _of_base(self, expr: Expr) -> Quantity:
        whole, found = evaluate(expr, replace(self.world, cost=self.world.facts.cost))
        self.errors += found
        if not isinstance(whole, Quantity):
            raise _NoValue
        return whole

    def _matches(self, left: Expr, a: Any, right: Expr, b: Any) -> bool:
        if not isinstance(a, str) or not isinstance(b, str):
            self._wrong(left, "`matches` compares a text with a pattern")
        try:
            return matcher(b, glob=False)(a)
        except ValueError as problem:
            self._fail("LB318", f"the pattern is not understood: {problem}", right)

    def _number(self, expr: Expr) -> Quantity:
        value = self.of(expr)
        return value if isinstance(value, Quantity) else self._wrong(expr, "a number is wanted here")

    def _comparisons(self, expr: Expr, truth: bool) -> Iterator[tuple[Expr, Expr]]:
        """The two sides of each comparison that gives the condition its truth, from left to right."""
        match expr:
            case nodes.Compare():
                values = self._each(expr.operands, self.of)
                pairs = zip(expr.operands, expr.operands[1:], strict=False)
                yield from (pair for i, pair in enumerate(pairs) if self._pair(expr, i, values) is truth)
            case nodes.Logic():
                for part in expr.operands:
                    if self.truth(part) is truth:
                        yield from self._comparisons(part, truth)
            case nodes.Not():
                yield from self._comparisons(expr.operand, not truth)

    def _shown(self, left: Expr, right: Expr) -> tuple[int, Shown] | None:
        """The side of one comparison that is measured or counted, else the side with a fact; its rank says which."""
        for rank, kinds in enumerate(((nodes.Score, nodes.PostScore, nodes.CostOf), (nodes.Fact,))):
            for here, there in ((left, right), (right, left)):
                value = self.of(here) if any(isinstance(part, kinds) for part in walk(here)) else None
                if isinstance(value, Quantity):
                    name = text_of(self.world.recipe, here, getattr(here, "name", "it"))
                    return rank, Shown(name, value, self._share_of_base(here, value, self.of(there)))
        return None

    def _share_of_base(self, expr: Expr, value: Quantity, bound: Value) -> float | None:
        if value.unit not in SHARED_UNITS or not isinstance(bound, Quantity) or bound.unit is not Unit.RATIO:
            return None
        base = self._of_base(expr).value
        return value.value / base if base else None

    def _each(self, parts: Iterable[A], of: Callable[[A], T]) -> list[T]:
        """The values of all parts; every one is tried before `_NoValue` is raised."""
        values, failed = [], False
        for part in parts:
            try:
                values.append(of(part))
            except _NoValue:
                failed = True
        if failed:
            raise _NoValue
        return values

    def _wrong(self, node: Node, message: str) -> NoReturn:
        self._fail("LB317", message, node)

    def _fail(self, code: str, message: str, node: Node, help: Help = ()) -> NoReturn:
        self.errors.append(error(code, message, self.world.recipe.span(node), help=help))
        raise _NoValue


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Quantity) and isinstance(b, Quantity):
        return a.value == b.value
    return type(a) is type(b) and a == b
