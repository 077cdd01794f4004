"""What is known of an expression while a recipe is resolved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lbdsl.core.units import Unit
from lbdsl.recipe.schema import Expr, Phase

Place = Literal["where", "requires", "until", "assert", "minimize", "maximize", "subject to"]
"""Where an expression stands; all but `where` ask about the whole model."""

_ORDER = (Phase.STATIC, Phase.MEASURED, Phase.POST)


@dataclass(frozen=True)
class Typed:
    """An expression with what is known of it. `kind` is number, text, boolean, list or pattern."""

    expr: Expr
    kind: str
    unit: Unit = Unit.NONE
    phase: Phase = Phase.STATIC
    cost: bool = False
    """Contains a cost of the changed model, which a share can be compared with."""

    value: int | float | None = None
    """Of a number that is known from the text alone."""

    items: tuple[Typed, ...] = ()
    """Of a list."""


def latest(parts: Sequence[Typed]) -> Phase:
    """When a value made of these is known."""
    return max((part.phase for part in parts), key=_ORDER.index, default=Phase.STATIC)


def kind_name(kind: str) -> str:
    """`a number`, `text`."""
    return kind if kind == "text" else f"a {kind}"
