"""The value that a condition turns on, to print beside an assert that holds or fails, and how measured values are said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from lbdsl.core.units import Unit, bytes_text, count_text
from lbdsl.metrics import title_of
from lbdsl.plan.evaluate import SHARED_UNITS, Quantity, World, evaluate, holds, walk
from lbdsl.plan.schema import AssertResult, ScoreValue
from lbdsl.plan.words import amount_text
from lbdsl.recipe.schema import Compare, CostOf, Expr, Fact, Logic, Not, PostScore, Recipe, Score
from lbdsl.syntax.lexer import one_line


@dataclass(frozen=True)
class Shown:
    """A cost, score or fact of a condition. `share` is the part of the base's cost, where the bound is a percentage."""

    name: str
    value: Quantity
    share: float | None = None

    @property
    def text(self) -> str:
        """`80.0 % of the base's`, `6.6 MiB`."""
        if self.share is not None:
            return f"{amount_text(self.share, Unit.RATIO)} of the base's"
        return amount_text(self.value.value, self.value.unit)


def deciding(expr: Expr, world: World) -> Shown | None:
    """The value in the comparison that makes a condition true or false, costs and scores before facts.

    Of `a and b` that fails it is the one that fails, of `a or b` that holds the one that holds. None where nothing has
    a value, or it is a text.
    """
    truth = holds(expr, world).value
    if truth is None:
        return None
    found = [shown for pair in _comparisons(expr, truth, world) for shown in [_of_pair(pair, world)] if shown is not None]
    return next((shown for rank, shown in found if rank == 0), found[0][1] if found else None)


def _comparisons(expr: Expr, truth: bool, world: World) -> Iterator[Compare]:
    """The comparisons that give the condition its truth, from left to right; a chain is taken apart."""
    match expr:
        case Compare():
            for index in range(len(expr.ops)):
                pair = Compare(expr.span, expr.operands[index : index + 2], (expr.ops[index],))
                if holds(pair, world).value is truth:
                    yield pair
        case Logic():
            for part in expr.operands:
                if holds(part, world).value is truth:
                    yield from _comparisons(part, truth, world)
        case Not():
            yield from _comparisons(expr.operand, not truth, world)
        case _:
            return


def _of_pair(pair: Compare, world: World) -> tuple[int, Shown] | None:
    """The side of one comparison that is measured or counted, else the side with a fact; its rank says which."""
    for rank, kinds in enumerate(((Score, PostScore, CostOf), (Fact,))):
        for here, there in (pair.operands, pair.operands[::-1]):
            if any(isinstance(part, kinds) for part in walk(here)):
                value = evaluate(here, world).value
                if isinstance(value, Quantity):
                    return rank, Shown(_name(here, world.recipe), value, _share(here, there, value, world))
    return None


def _share(expr: Expr, bound: Expr, value: Quantity, world: World) -> float | None:
    limit = evaluate(bound, world).value
    if value.unit not in SHARED_UNITS or not isinstance(limit, Quantity) or limit.unit is not Unit.RATIO:
        return None
    base = evaluate(expr, replace(world, cost=world.base)).value
    return value.value / base.value if isinstance(base, Quantity) and base.value else None


def _name(expr: Expr, recipe: Recipe) -> str:
    """The expression's own text on one line."""
    span = recipe.span(expr)
    return one_line(span.text) if span is not None else getattr(expr, "name", "it")


def value_text(item: AssertResult) -> str:
    """The deciding value in words of its unit."""
    if item.value is None:
        return ""
    match item.unit:
        case Unit.RATIO:
            return f"{100 * item.value:.4g} %"
        case Unit.BYTES:
            return bytes_text(item.value)
        case Unit.PARAMS | Unit.FLOPS:
            return count_text(item.value)
        case _:
            return f"{item.value:.4g}"


def joint_text(name: str, score: ScoreValue) -> str:
    """A value of the whole changed model, named: `KL 0.53 nats/token`, `flips 3.2 %`."""
    factor, unit = _words_of(score.unit)
    return f"{title_of(name)} {factor * score.value:.3g}{unit}"


def row_title(name: str, unit: str) -> str:
    """The head of a metric's row in a table: `KL to the base, nats/token`. A share has its sign in the cells."""
    return title_of(name) + (f", {unit}" if unit == Unit.NATS else "")


def cell_text(value: float | None, stderr: float | None, unit: str) -> str:
    """A metric's cell in a table: `0.1234 ±0.0021`, `3.21 ±0.40 %`; None stands for what is no number."""
    if value is None:
        return "not a number"
    factor, sign = _words_of(unit)
    digits = 4 if factor == 1 else 2
    error = "" if stderr is None else f" ±{factor * stderr:.{digits}f}"
    return f"{factor * value:.{digits}f}{error}{sign if factor != 1 else ''}"


def _words_of(unit: str) -> tuple[int, str]:
    """What a value is multiplied by to be said, and the words after it."""
    return (100, " %") if unit == Unit.RATIO else (1, " nats/token" if unit == Unit.NATS else "")
