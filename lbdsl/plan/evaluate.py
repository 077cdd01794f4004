"""The value of an expression, for one layer or for the whole model. Strict: every part is evaluated, so a missing score
is an error wherever it stands, whatever the other parts say."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lbdsl.core.arithmetic import combined, join_units
from lbdsl.core.diagnostic import Diagnosed, Diagnostic, error
from lbdsl.core.measurement import Measurement, Request
from lbdsl.core.units import Unit
from lbdsl.layer.cost import STATIC_VALUES
from lbdsl.layer.facts import ModelFacts
from lbdsl.metrics import metrics
from lbdsl.plan.cost import ModelCost
from lbdsl.plan.schema import Loss
from lbdsl.recipe.patterns import matcher
from lbdsl.recipe.schema import (
    FACTS,
    Arithmetic,
    Boolean,
    Compare,
    CostOf,
    Expr,
    Fact,
    Items,
    Logic,
    Minus,
    Node,
    Not,
    Number,
    Pattern,
    PostScore,
    Recipe,
    Score,
    String,
)

SHARED_UNITS = frozenset(value.unit for value in STATIC_VALUES.values())
"""Of what a percentage is a share of the base model's."""


@dataclass(frozen=True)
class Quantity:
    value: int | float
    unit: Unit = Unit.NONE


Value = Quantity | str | bool | tuple[Any, ...]


@dataclass(frozen=True)
class World:
    """All that an expression may ask about. `cost` is of the changed model, `base` of the unchanged one; `layer` is
    None for a condition on the model, `joint` None while its loss is not measured, and `post` empty before there is a
    finished model; `post_on` has such scores of each text by its name."""

    recipe: Recipe
    facts: ModelFacts
    layer: int | None = None
    measurements: Mapping[Request, Measurement] = field(default_factory=dict)
    cost: ModelCost | None = None
    base: ModelCost | None = None
    joint: Loss | None = None
    post: Mapping[str, float] = field(default_factory=dict)
    post_on: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def evaluate(expr: Expr, world: World) -> Diagnosed[Value]:
    """The value of `expr`, or None with every reason why it has none."""
    evaluator = _Evaluator(world)
    value = evaluator.of(expr)
    return Diagnosed(None if evaluator.errors else value, tuple(evaluator.errors))


def holds(expr: Expr, world: World) -> Diagnosed[bool]:
    """Whether a condition holds."""
    value, found = evaluate(expr, world)
    if value is None or isinstance(value, bool):
        return Diagnosed(value, found)
    return Diagnosed(None, (error("LB317", "the condition is neither true nor false", world.recipe.span(expr)),))


def walk(expr: Expr) -> Iterator[Expr]:
    """`expr` and everything in it, from left to right."""
    yield expr
    match expr:
        case Compare() | Logic() | Arithmetic():
            inner: tuple[Any, ...] = expr.operands
        case Items():
            inner = expr.items
        case Not() | Minus():
            inner = (expr.operand,)
        case _:
            inner = ()
    for part in inner:
        yield from walk(part)


def scores_in(expr: Expr) -> tuple[Score, ...]:
    """The scores of a layer that the expression asks for."""
    return tuple(part for part in walk(expr) if isinstance(part, Score) and not part.joint)


def score_of(score: Score, layer: int, world: World) -> Diagnosed[float]:
    """The measured value of a score at one layer; missing or not finite is an error."""
    request = Request(score.metric, score.action_text, layer)
    measurement = world.measurements.get(request)
    span = world.recipe.span(score)
    if measurement is None:
        return Diagnosed(
            None,
            (
                error(
                    "LB304",
                    f"`{score.text}` of layer {layer} is not measured",
                    span,
                    help="run `lbdsl measure` with this recipe and model",
                ),
            ),
        )
    if not math.isfinite(measurement.value):
        return Diagnosed(
            None,
            (
                error(
                    "LB306",
                    f"`{score.text}` of layer {layer} is {measurement.value}",
                    span,
                    help=(
                        "a comparison with it would be meaningless; try `--dtype float32`",
                        "or claim the layer by an earlier rule",
                    ),
                ),
            ),
        )
    return Diagnosed(measurement.value)


_ORDER: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


class _Evaluator:
    """One evaluation: collects its errors. A value of None means that an error is already in the list."""

    def __init__(self, world: World):
        self.world = world
        self.errors: list[Diagnostic] = []

    def of(self, expr: Expr) -> Value | None:
        match expr:
            case Number():
                return Quantity(expr.value, expr.unit)
            case String() | Pattern() | Boolean():
                return expr.value
            case Items():
                values = [self.of(item) for item in expr.items]
                return None if any(value is None for value in values) else tuple(values)
            case Score():
                return self._score(expr)
            case PostScore():
                return self._post(expr)
            case CostOf():
                return self._cost(expr, self.world.cost)
            case Fact():
                return self._fact(expr)
            case Compare():
                return self._compare(expr)
            case Logic():
                parts = [self._truth(part) for part in expr.operands]
                if any(part is None for part in parts):
                    return None
                return all(parts) if expr.op == "and" else any(parts)
            case Not():
                truth = self._truth(expr.operand)
                return None if truth is None else not truth
            case Minus():
                value = self._number(expr.operand)
                return None if value is None else Quantity(-value.value, value.unit)
            case Arithmetic():
                return self._arithmetic(expr)
            case _:
                raise AssertionError("names are replaced by what they mean")

    def _score(self, score: Score) -> Quantity | None:
        if score.joint:
            return self._joint(score)
        assert self.world.layer is not None, "a layer's score is asked for outside a layer"
        value, found = score_of(score, self.world.layer, self.world)
        self.errors += found
        return None if value is None else Quantity(value, metrics()[score.metric].unit)

    def _joint(self, score: Score) -> Quantity | None:
        joint = self.world.joint
        known = None if joint is None else joint.scores.get(score.metric)
        if known is None:
            return self._fail("LB323", f"`{score.metric}` of the whole changed model is not measured", score)
        if not math.isfinite(known.value):
            return self._fail("LB306", f"`{score.metric}` of the whole changed model is {known.value}", score)
        return Quantity(known.value, known.unit)

    def _post(self, score: PostScore) -> Quantity | None:
        scores = self.world.post if score.source is None else self.world.post_on.get(score.source, {})
        value = scores.get(score.name)
        if value is None:
            return self._wrong(score, f"`{score.name}` is known only after healing")
        if not math.isfinite(value):
            return self._fail("LB306", f"`{score.name}` of the finished model is {value}", score)
        return Quantity(value, metrics()[score.name].unit)

    def _cost(self, node: CostOf, cost: ModelCost | None) -> Quantity | None:
        if cost is None:
            return self._wrong(node, f"`{node.name}` is a cost of the changed model, unknown before selection")
        static = STATIC_VALUES[node.name]
        if static.takes_context and node.ctx is None:
            return self._wrong(node, f"`{node.name}` needs a context, as in `{node.name}(8Ki)`")
        return Quantity(cost.value(node.name, node.ctx or 0), static.unit)

    def _fact(self, node: Fact) -> Value | None:
        value = getattr(self.world.facts, node.name, None)
        if isinstance(value, str | bool):
            return value
        if isinstance(value, int) and node.name in FACTS:
            return Quantity(value, FACTS[node.name][1])
        return self._wrong(node, f"`{node.name}` is not a number, a text or a truth value of the model")

    def _arithmetic(self, expr: Arithmetic) -> Quantity | None:
        values = [self._number(part) for part in expr.operands]
        if any(value is None for value in values):
            return None
        total = values[0]
        for op, value, node in zip(expr.ops, values[1:], expr.operands[1:], strict=True):
            assert total is not None
            assert value is not None
            result = combined(op, total.value, value.value)
            if result is None:
                return self._wrong(node, "division by zero" if op == "/" and value.value == 0 else "result is too large")
            # That the units go together was seen when the recipe was resolved.
            total = Quantity(result, join_units(op, total.unit, value.unit) or total.unit)
        return total

    def _compare(self, expr: Compare) -> bool | None:
        values = [self.of(part) for part in expr.operands]
        if any(value is None for value in values):
            return None
        truths = [
            self._pair(op.text, expr.operands[i], values[i], expr.operands[i + 1], values[i + 1])
            for i, op in enumerate(expr.ops)
        ]
        return None if any(truth is None for truth in truths) else all(truths)

    def _pair(self, op: str, left: Expr, a: Any, right: Expr, b: Any) -> bool | None:
        if op in ("in", "not in"):
            if not isinstance(b, tuple):
                return self._wrong(right, f"`{op}` wants a list on its right")
            found = any(_same(a, item) for item in b)
            return found if op == "in" else not found
        if op == "matches":
            return self._matches(left, a, right, b)
        if isinstance(a, Quantity) and isinstance(b, Quantity):
            a, b = self._share(a, right, b), self._share(b, left, a)
            return None if a is None or b is None else _ORDER[op](a.value, b.value)
        if type(a) is not type(b):
            return self._wrong(right, "the two sides are of different kinds")
        return _ORDER[op](a, b)

    def _share(self, value: Quantity, other_expr: Expr, other: Quantity) -> Quantity | None:
        """A percentage against a cost is that share of what the base model costs."""
        if value.unit is not Unit.RATIO or other.unit not in SHARED_UNITS:
            return value
        whole = evaluate(other_expr, _of_base(self.world))
        self.errors += whole.diagnostics
        if not isinstance(whole.value, Quantity):
            return None
        # Costs are whole numbers: 57.5 % of 40 layers' cache is that of 23, though 0.575 * 40 is a little less.
        share = value.value * whole.value.value
        exact = math.isclose(share, round(share), rel_tol=1e-12)
        return Quantity(round(share) if exact else share, other.unit)

    def _matches(self, left: Expr, a: Any, right: Expr, b: Any) -> bool | None:
        if not isinstance(a, str) or not isinstance(b, str):
            return self._wrong(left, "`matches` compares a text with a pattern")
        try:
            return matcher(b, glob=False)(a)
        except ValueError as problem:
            return self._fail("LB318", f"the pattern is not understood: {problem}", right)

    def _truth(self, expr: Expr) -> bool | None:
        value = self.of(expr)
        return value if value is None or isinstance(value, bool) else self._wrong(expr, "a truth value is wanted here")

    def _number(self, expr: Expr) -> Quantity | None:
        value = self.of(expr)
        return value if value is None or isinstance(value, Quantity) else self._wrong(expr, "a number is wanted here")

    def _wrong(self, node: Node, message: str) -> Any:
        return self._fail("LB317", message, node)

    def _fail(self, code: str, message: str, node: Node) -> Any:
        """Record an error; the None it returns stands for the value."""
        self.errors.append(error(code, message, self.world.recipe.span(node)))
        return None


def _of_base(world: World) -> World:
    return World(world.recipe, world.facts, world.layer, world.measurements, world.base, world.base, world.joint)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Quantity) and isinstance(b, Quantity):
        return a.value == b.value
    return type(a) is type(b) and a == b
