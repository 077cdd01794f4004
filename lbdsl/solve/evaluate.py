"""Evaluate an expression, for one layer or for the whole model. There is no short-circuit: every part is evaluated, so a
missing score is always an error."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, TypeVar

from lbdsl.core.arithmetic import combined
from lbdsl.core.diagnostic import Diagnosed, Diagnostic, error
from lbdsl.core.measurement import Measurement, Request, no_value
from lbdsl.core.units import Unit, amount_text
from lbdsl.cost.cost import STATIC_VALUES, ModelCost
from lbdsl.cost.facts import ModelFacts
from lbdsl.cost.profile import PREDICTED_VALUES, Profile, calibrate_line
from lbdsl.language import tree as nodes
from lbdsl.language.lexer import one_line
from lbdsl.language.tree import Expr, Node, walk
from lbdsl.recipe.patterns import matcher
from lbdsl.recipe.schema import Boolean, CostOf, Fact, PostScore, PredictedOf, Score, Serves
from lbdsl.recipe.types import kind_of, unit_of

SHARED_UNITS = frozenset(v.unit for v in STATIC_VALUES.values()) | {v.unit for v in PREDICTED_VALUES.values()}
"""The units for which a percentage means a share of the base model's value."""


@dataclass(frozen=True)
class World:
    """All inputs of an expression. `cost` is of the changed model, `profiles` are by engine; `layer` is None for a
    condition on the model; `joint` has the scores of the whole changed model by name (empty until they are measured), and
    `post` those of the finished model, by evaluation text; "" is the text being judged. `serves` says whether an engine
    serves the changed model."""

    facts: ModelFacts
    layer: int | None = None
    measurements: Mapping[Request, Measurement] = field(default_factory=dict)
    cost: ModelCost | None = None
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    joint: Mapping[str, float] = field(default_factory=dict)
    post: Mapping[str, Mapping[str, Measurement]] = field(default_factory=dict)
    serves: Callable[[str, ModelCost], bool] = lambda engine, cost: False
    lean: int = 0
    spread_base: bool = False
    """Predicted values are taken for what they may be at least (-1) or at most (1)."""
    negated: bool = False
    """Whether what is evaluated stands under a `not`."""


@dataclass(frozen=True)
class DecidingValue:
    """The cost, score or fact that decides a condition; as text: "`kv(8Ki)` is 80.0 % of the base's". `share` is the ratio
    to the base's cost, if the bound is a percentage. `between`: of a predicted value, what it, or its share, may be."""

    name: str
    value: float
    unit: Unit
    share: float | None = None
    between: tuple[float, float] | None = None

    def __str__(self) -> str:
        unit = self.unit if self.share is None else Unit.RATIO
        ends = " to ".join(amount_text(end, unit) for end in self.between or ())
        said = amount_text(self.value if self.share is None else self.share, unit) + (f" ({ends})" if ends else "")
        return f"`{self.name}` is {said}" + (" of the base model's" if self.share is not None else "")


def evaluate(expr: Expr, world: World) -> Diagnosed[Any]:
    """The value of a resolved expression with compatible kinds and units, or None with all errors. It is a bool for a
    condition, and a plain number for a numeric expression, in the unit that `unit_of` returns."""
    return _result(expr, world, _Evaluation.of)


def deciding(expr: Expr, world: World) -> DecidingValue | None:
    """The value in the comparison that makes a condition true or false, costs and scores before facts.

    For `a and b` that fails, it is in the operand that fails; for `a or b` that holds, in the one that holds. None when
    nothing has a value, or the value is text.
    """
    return _result(expr, world, _Evaluation.deciding).value


def decisive(expr: Expr, world: World) -> tuple[Expr, ...]:
    """Both sides of every comparison that makes a condition true or false; nothing where it has no value."""
    found = _result(expr, world, lambda evaluation, it: [*evaluation.comparisons(it, evaluation.of(it))]).value
    return tuple(side for pair in found or () for side in pair)


def rooms(expr: Expr, world: World) -> tuple[float, ...]:
    """How far each comparison of `a and b and ...` is from not holding, below 0 if it does not. The difference of a rate to
    its bound is that of their inverses, which are times. Conditions of another kind are left out; so are those without a
    value."""
    return _result(expr, world, _Evaluation.rooms).value or ()


def scores_in(node: Node) -> tuple[Score, ...]:
    """The layer scores in a condition or a rule; those of its ranked sets come first."""
    return tuple(part for part in walk(node) if isinstance(part, Score) and not part.joint)


def facts_only(expr: Expr) -> bool:
    """True when a condition uses only facts of the base model."""
    return not any(isinstance(part, Score | PostScore | CostOf) for part in walk(expr))


_COMPARED: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "in": lambda value, items: value in items,
    "not in": lambda value, items: value not in items,
    "matches": lambda text, pattern: matcher(pattern, glob=False)(text),
}

Help = tuple[str, ...]

_MEASURE: Help = ("run `lbdsl measure` with this recipe and model",)
_MEND: Help = ("a comparison with it would be meaningless; try `--dtype float32`", "or claim the layer by an earlier rule")

A = TypeVar("A")
T = TypeVar("T")


class _NoValue(Exception):
    """An expression has no value; the reason is already in the list of errors."""


def _result(expr: Expr, world: World, of: Callable[[_Evaluation, Expr], T]) -> Diagnosed[T]:
    evaluation = _Evaluation(world)
    try:
        return Diagnosed(of(evaluation, expr))
    except _NoValue:
        return Diagnosed(None, tuple(evaluation.errors))


@dataclass
class _Evaluation:
    """One evaluation: collects its errors. Every method raises `_NoValue` once it has recorded one."""

    world: World
    errors: list[Diagnostic] = field(default_factory=list)

    def of(self, expr: Expr) -> Any:
        match expr:
            case nodes.Number() | nodes.String() | nodes.Pattern() | Boolean():
                return expr.value
            case nodes.Items():
                return tuple(self._each(expr.items, self.of))
            case Score():
                return self._score(expr)
            case PostScore():
                return self._post(expr)
            case PredictedOf():
                return self._predicted(expr)
            case CostOf():
                assert self.world.cost is not None, "a cost is asked for before selection"
                return self.world.cost.value(expr.name, expr.ctx or 0)
            case Serves():
                assert self.world.cost is not None, "an engine is asked for before selection"
                return self.world.serves(expr.engine, self.world.cost)
            case Fact():
                return getattr(self.world.facts, expr.name)
            case nodes.Compare():
                values = self._each(expr.operands, self.of)
                return all(self._each(range(len(expr.ops)), lambda i: self._pair(expr, i, values)))
            case nodes.Logic():
                truths = self._each(expr.operands, self.of)
                return all(truths) if expr.op == "and" else any(truths)
            case nodes.Not():
                return not self._under_not.of(expr.operand)
            case nodes.Minus():
                return -self.of(expr.operand)
            case nodes.Arithmetic():
                return self._arithmetic(expr)
            case _:
                raise AssertionError("names are replaced by what they mean")

    def deciding(self, expr: Expr) -> DecidingValue | None:
        found = [shown for pair in self.comparisons(expr, self.of(expr)) if (shown := self._shown(*pair)) is not None]
        return min(found, key=lambda item: item[0])[1] if found else None

    def rooms(self, expr: Expr) -> tuple[float, ...]:
        match expr:
            case nodes.Logic(op="and"):
                return tuple(room for part in expr.operands for room in self.rooms(part))
            case nodes.Compare():
                values, found = self._each(expr.operands, self.of), []
                for i, op in enumerate(expr.ops):
                    if op.text[0] in "<>":
                        (left, right), (a, b) = expr.operands[i : i + 2], self._sides(expr, i, values)
                        if Unit.RATE in (unit_of(left), unit_of(right)) and min(a, b) > 0:
                            a, b = -1 / a, -1 / b
                        found.append(float(b - a if op.text[0] == "<" else a - b))
                return tuple(found)
            case _:
                return ()

    def _score(self, score: Score) -> float:
        """The score of a layer, or of the whole changed model."""
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
        if not math.isfinite(value):
            self._fail("LB306", f"{of} is {value}", score, () if score.joint else _MEND)
        return value

    def _post(self, score: PostScore) -> float:
        found = self.world.post.get(score.source or "", {}).get(score.metric)
        missing = no_value(found)
        if missing is not None:
            self._fail("LB306", f"`{one_line(score.span.text)}` {missing.reason}", score, (missing.help,))
        assert found is not None, "it has a value"
        return found.value

    def _predicted(self, value: PredictedOf) -> float:
        assert self.world.cost is not None, "a prediction is asked for before selection"
        name = one_line(value.span.text)
        help = (f"measure it: {calibrate_line(value.engine, [(value.name, value.arguments)])}",)
        profile = self.world.profiles.get(value.engine)
        if profile is None:
            message = f"`{name}` is predicted from a profile of {value.engine}, and there is none for this model and device"
            self._fail("LB353", message, value, help)
        found = profile.value(value.name, self.world.cost, value.arguments)
        forms = profile.untimed(self.world.cost)
        if found is None and forms:
            message = f"`{name}` is not predicted for {', '.join(forms)}: the profile of {value.engine} has none"
            self._fail("LB353", message, value)
        if found is None:
            self._fail("LB353", f"`{name}` is beyond what the profile of {value.engine} measured", value, help)
        if not self.world.lean or profile.measured(value.name, self.world.cost, value.arguments):
            return found  # Of what was measured the median decides.
        costs = self.world.cost, self.world.facts.cost
        between = profile.between(value.name, *costs, value.arguments, spread_base=self.world.spread_base)
        return found if between is None else between[self.world.lean > 0]

    def _arithmetic(self, expr: nodes.Arithmetic) -> int | float:
        total, *others = self._each(expr.operands, self.of)
        for op, value, node in zip(expr.ops, others, expr.operands[1:], strict=True):
            result = combined(op, total, value)
            if result is None:
                self._fail("LB317", "division by zero" if op == "/" and value == 0 else "result is too large", node)
            total = result
        return total

    def _pair(self, expr: nodes.Compare, i: int, values: list[Any]) -> bool:
        """Whether comparison `i` of a chain holds, for these values of its operands."""
        return _COMPARED[expr.ops[i].text](*self._sides(expr, i, values))

    def _sides(self, expr: nodes.Compare, i: int, values: list[Any]) -> tuple[Any, Any]:
        """Both sides of comparison `i` of a chain; predicted values are taken for what makes it fail."""
        op, (left, right), (a, b) = expr.ops[i].text, expr.operands[i : i + 2], values[i : i + 2]
        lean = {"<": 1, ">": -1}.get(op[0], 0) * (-1 if self.world.negated else 1)
        a, b = self._leaning(left, a, lean), self._leaning(right, b, -lean)
        return self._as_cost(left, a, right), self._as_cost(right, b, left)

    def _leaning(self, expr: Expr, value: Any, lean: int) -> Any:
        """The value, or with predicted ones in it the least or the most of what both of their ends make of it."""
        if not lean or not any(isinstance(part, PredictedOf) for part in walk(expr)):
            return value
        ends = [_Evaluation(replace(self.world, lean=end), self.errors).of(expr) for end in (-1, 1)]
        return max(ends) if lean > 0 else min(ends)

    @property
    def _under_not(self) -> _Evaluation:
        return _Evaluation(replace(self.world, negated=not self.world.negated), self.errors)

    def _as_cost(self, expr: Expr, value: Any, other: Expr) -> Any:
        """A percentage compared with a cost becomes that share of the base model's cost; other values are unchanged."""
        if unit_of(expr) is not Unit.RATIO or unit_of(other) not in SHARED_UNITS:
            return value
        # Costs are integers: 57.5 % of 40 layers is 23, although 0.575 * 40 is slightly less in floating point.
        share = value * self._of_base(other)
        return round(share) if math.isclose(share, round(share), rel_tol=1e-12) else share

    def _of_base(self, expr: Expr) -> Any:
        return _Evaluation(replace(self.world, cost=self.world.facts.cost, lean=0), self.errors).of(expr)

    def comparisons(self, expr: Expr, truth: bool) -> Iterator[tuple[Expr, Expr]]:
        """The two sides of each comparison that makes the condition true or false, from left to right."""
        match expr:
            case nodes.Compare():
                values = self._each(expr.operands, self.of)
                pairs = zip(expr.operands, expr.operands[1:], strict=False)
                yield from (pair for i, pair in enumerate(pairs) if self._pair(expr, i, values) is truth)
            case nodes.Logic():
                for part in expr.operands:
                    if self.of(part) is truth:
                        yield from self.comparisons(part, truth)
            case nodes.Not():
                yield from self._under_not.comparisons(expr.operand, not truth)

    def _shown(self, left: Expr, right: Expr) -> tuple[int, DecidingValue] | None:
        """The side of one comparison with a score or cost (rank 0), else the side with a fact (rank 1)."""
        for rank, kinds in enumerate(((Score, PostScore, CostOf), (Fact,))):
            for here, there in ((left, right), (right, left)):
                if kind_of(here) == "number" and any(isinstance(part, kinds) for part in walk(here)):
                    value, share = self.of(here), None
                    ends = [self._leaning(here, value, lean) for lean in (-1, 1)]
                    if unit_of(here) in SHARED_UNITS and unit_of(there) is Unit.RATIO and (base := self._of_base(here)):
                        share, ends = value / base, [end / base for end in ends]
                    between = (ends[0], ends[1]) if ends[0] != ends[1] else None
                    return rank, DecidingValue(one_line(here.span.text), value, unit_of(here), share, between)
        return None

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

    def _fail(self, code: str, message: str, node: Node, help: Help = ()) -> NoReturn:
        self.errors.append(error(code, message, node.span, help=help))
        raise _NoValue
