"""Syntax that the grammar accepts but this version does not support: reported as LB054."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lbdsl.core.diagnostic import Diagnostic, error
from lbdsl.core.span import Span
from lbdsl.language import tree


def not_in_this_version(statements: Iterable[tree.Statement]) -> tuple[Diagnostic, ...]:
    return tuple(
        error("LB054", f"{what} not in this version", span, help=help)
        for statement in statements
        for what, span, help in _planned(statement)
    )


def _planned(node: tree.Statement) -> Iterator[tuple[str, Span, str]]:
    """Each unsupported part of a statement: its name, its span, and what to write instead."""
    match node:
        case tree.RuleStatement(selector=tree.RankSelector(until=tree.While(span=span))):
            yield (
                "`while` is",
                span,
                "leave it out: give a number, as in `lowest 8 by nll drop`, and check the result with an `assert`",
            )
        case _:
            pass
