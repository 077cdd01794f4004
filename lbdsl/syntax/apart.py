"""A rule whose action stands on the next line: one mistake, although each of the two lines is wrong by itself."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from lbdsl.core.diagnostic import Diagnostic, Edit, Fix, error
from lbdsl.core.span import Source, Span
from lbdsl.syntax.lexer import Token


def action_apart(
    source: Source,
    rule: Sequence[Token],
    following: Sequence[Token],
    actions: Collection[str],
) -> Diagnostic | None:
    """The diagnostic when `following` begins with an action that `rule`, which has none, was meant to have."""
    first = following[0]
    if first.type != "NAME" or first.text not in actions:
        return None
    gap = Span(source, rule[-1].end, first.start)
    if "#" in gap.text or ";" in gap.text:
        fix = None
    else:
        fix = Fix("join the lines", (Edit(gap, " "),))
    return error(
        "LB016",
        "selector has no action on its line",
        Span(source, rule[0].start, rule[-1].end),
        help=(f"a new line ends a statement; write `{first.text}` behind the selector",),
        fix=fix,
    )
