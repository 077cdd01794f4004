"""Patterns of module names and of text: RE2 regular expressions and globs. Linear time, whatever the pattern."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

from lbdsl.language import tree
from lbdsl.recipe.scope import Scope

P = TypeVar("P", tree.Pattern, tree.String)


def resolve_pattern(scope: Scope, node: P) -> P:
    """A regular expression, or a glob of module names, checked by the engine that will run it."""
    if isinstance(node, tree.Pattern):
        reason, help = bad_regex(node.value), "patterns are RE2 regular expressions (linear time)"
    else:
        reason = bad_glob(node.value)
        help = 'in a glob `*` stands for any text, `?` for one character; a regular expression is `~"..."`'
    if reason is not None:
        scope.fail("LB122", f"bad pattern: {reason}", node.span, help=help)
    return node


def bad_regex(pattern: str) -> str | None:
    """Why a regular expression is refused; None when it is fine."""
    try:
        _compiled(pattern)
    except ValueError as problem:
        return str(problem)
    return None


def bad_glob(pattern: str) -> str | None:
    """Why a glob is refused; None when it is fine."""
    if not pattern:
        return "it is empty"
    sign = re.search(r"[][{}]", pattern)
    return f"`{sign[0]}` has no meaning in it" if sign else None


def matcher(pattern: str, *, glob: bool) -> Callable[[str], bool]:
    """Whether a full name matches; the pattern is one that the functions above accept."""
    if glob:
        pieces = [{"*": ".*", "?": "."}.get(char, re.escape(char)) for char in pattern]
        pattern = "".join(pieces)
    found = _compiled(pattern)
    return lambda name: found.fullmatch(name) is not None


def _compiled(pattern: str) -> Any:
    """The RE2 object; ValueError with the reason in words."""
    import re2  # imported on use: few recipes need it, and it takes 20 ms

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as problem:
        reason = problem.args[0] if problem.args else problem
        said = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        if "invalid escape sequence: \\" in said and said[-1:].isdigit():
            said = "back-references are not supported"
        elif "(?" in said:
            said += "; look-around is not supported"
        raise ValueError(said) from None
