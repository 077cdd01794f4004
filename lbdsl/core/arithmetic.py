"""Arithmetic of the language, shared by constants, by expressions, and by their evaluation on a model."""

from __future__ import annotations

import math
import operator
from typing import Any

from lbdsl.core.units import Unit

_LIMIT = 10**18 * 2**31


def _divided(left: Any, right: Any) -> Any:
    exact = isinstance(left, int) and isinstance(right, int) and left % right == 0
    return left // right if exact else left / right


_OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": _divided}


def combined(op: str, left: Any, right: Any) -> Any:
    """`left op right`; None for a division by zero, and for a result that is not a finite number."""
    try:
        value = _OPERATIONS[op](left, right)
    except (OverflowError, ZeroDivisionError):
        return None
    return value if isinstance(value, int) or math.isfinite(value) else None


def exponential(value: float) -> float:
    """exp(value), infinite on overflow, which a broken model can cause."""
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def finite(value: float) -> bool:
    """Whether a number is finite and within the range that the language supports."""
    return (isinstance(value, int) or math.isfinite(value)) and abs(value) < _LIMIT


def join_units(op: str, left: Unit, right: Unit) -> Unit | None:
    """The unit of `left op right`; None when they are incompatible."""
    plain = (Unit.NONE, Unit.RATIO)
    if op in "+-":
        return left if right in (left, Unit.NONE) else right if left is Unit.NONE else None
    if op == "/" and left is right:
        return Unit.NONE
    if op == "*" and left in plain and right is not Unit.NONE:
        return right
    return left if right in plain else None
