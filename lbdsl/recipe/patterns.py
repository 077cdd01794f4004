"""Patterns of module names and of text: RE2 regular expressions and globs. Matching takes linear time for every pattern."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from lbdsl.language import tree
from lbdsl.recipe.scope import Scope

P = TypeVar("P", tree.Pattern, tree.String)


def resolve_pattern(scope: Scope, node: P) -> P:
    """A regular expression, or a glob of module names, checked by compiling it."""
    glob = isinstance(node, tree.String)
    try:
        matcher(node.value, glob=glob)
    except ValueError as problem:
        help = "patterns are RE2 regular expressions (linear time)"
        if glob:
            help = 'in a glob `*` stands for any text, `?` for one character; a regular expression is `~"..."`'
        scope.fail("LB122", f"bad pattern: {problem}", node.span, help=help)
    return node


def matcher(pattern: str, *, glob: bool) -> Callable[[str], bool]:
    """A function that tests whether a full name matches; ValueError with the reason when the pattern is invalid."""
    import re2  # imported on use: few recipes need it, and it takes 20 ms

    if glob:
        sign = re.search(r"[][{}]", pattern)
        if sign or not pattern:
            raise ValueError(f"`{sign[0]}` has no meaning in it" if sign else "it is empty")
        pattern = "".join([{"*": ".*", "?": "."}.get(char, re.escape(char)) for char in pattern])
    options = re2.Options()
    options.log_errors = False
    try:
        found = re2.compile(pattern, options)
    except re2.error as problem:
        reason = problem.args[0] if problem.args else problem
        said = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        if "invalid escape sequence: \\" in said and said[-1:].isdigit():
            said = "back-references are not supported"
        elif "(?" in said:
            said += "; look-around is not supported"
        raise ValueError(said) from None
    return lambda name: found.fullmatch(name) is not None
