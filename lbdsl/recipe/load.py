"""A recipe from a file or from text: read, parse, resolve."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from lbdsl.actions import actions
from lbdsl.core.diagnostic import Diagnosed, Diagnostic, error
from lbdsl.core.span import Source
from lbdsl.recipe.includes import with_includes
from lbdsl.recipe.reading import FolderReader, Reader, read_bytes, text_of
from lbdsl.recipe.resolve import resolve
from lbdsl.recipe.schema import Recipe
from lbdsl.syntax import tree
from lbdsl.syntax.limits import MAX_BYTES
from lbdsl.syntax.parse import parse
from lbdsl.syntax.words import RULES

_FOLLOWING = ("LB206", "LB207", "LB208", "LB209", "LB210")
"""What a recipe may seem to lack only because a part of it is wrong; said when there are no errors."""

_DEFINITION = re.compile(r"(?:^|;)[ \t]*(\w+)[ \t]+([$@]\w+)", re.MULTILINE)


def load_recipe(path: str | Path, set_params: Mapping[str, object] | None = None) -> Diagnosed[Recipe]:
    """The recipe in a file, with what it includes. A file that is missing, unreadable, not UTF-8, larger than 2 MiB or
    a saved plan is a diagnostic."""
    read = read_bytes(path)
    if read.value is None:
        return Diagnosed(None, read.diagnostics)
    return recipe_from_bytes(read.value, str(path), set_params, reader=FolderReader(Path(path)))


def recipe_from_text(
    text: str, name: str = "<string>", set_params: Mapping[str, object] | None = None, *, reader: Reader | None = None
) -> Diagnosed[Recipe]:
    """The recipe in a text. Errors of statements that parse are found even when others do not.

    `reader` gives the files that it includes: `FolderReader(path)` for a text that stands, or will stand, at `path`;
    without one an `include` is an error.
    """
    try:
        text.encode()
    except UnicodeEncodeError as problem:
        return Diagnosed(None, (error("LB020", f"{name} holds half a character (at {problem.start})"),))
    if text.startswith('{"') and '"lbdsl_version"' in text:
        return Diagnosed(None, (_is_a_plan(name),))
    parsed = parse(Source(name, text), actions=actions())
    if parsed.value is None:
        return Diagnosed(None, parsed.diagnostics)
    whole = with_includes(parsed.value, reader, actions())
    resolved = resolve(whole, set_params or {})
    syntax = (*parsed.diagnostics, *whole.diagnostics)
    problems = (*syntax, *resolved.diagnostics)
    failed = any(problem.is_error for problem in problems)
    if failed:
        problems = tuple(problem for problem in problems if problem.code not in _FOLLOWING)
    if any(problem.is_error for problem in syntax):
        lost = _lost_names(text, parsed.value)
        problems = tuple(problem for problem in problems if not _is_lost(problem, lost, bool(whole.diagnostics)))
    return Diagnosed(None if failed else resolved.value, tuple(sorted(problems, key=place_of)))


def recipe_from_bytes(
    data: bytes, name: str, set_params: Mapping[str, object] | None = None, *, reader: Reader | None = None
) -> Diagnosed[Recipe]:
    """The recipe in bytes that were read somewhere; see `recipe_from_text`."""
    if len(data) > MAX_BYTES and name.endswith(".lbplan"):
        return Diagnosed(None, (_is_a_plan(name),))
    if name.endswith((".yaml", ".yml")):
        message = f"{name} is a recipe in YAML, not in lbdsl's language"
        return Diagnosed(None, (error("LB138", message, help=f"`lbdsl convert {name}` turns it into one"),))
    text = text_of(data, name)
    if text.value is None:
        return Diagnosed(None, text.diagnostics)
    return recipe_from_text(text.value, name, set_params, reader=reader)


def _lost_names(text: str, file: tree.File) -> frozenset[str]:
    """Names that a statement which did not parse may define: they follow its first word."""
    defined = {
        ("@" if isinstance(node, tree.Group) else "$") + node.name.name
        for node in file.statements
        if isinstance(node, tree.Param | tree.Let | tree.Group)
    }
    return frozenset(match[2] for match in _DEFINITION.finditer(text) if match[1] not in RULES) - defined


def _is_lost(problem: Diagnostic, lost: frozenset[str], includes: bool) -> bool:
    """An unknown name that follows from another mistake. `includes`: a file that may define it was not read."""
    if problem.code not in ("LB110", "LB111") or problem.span is None:
        return problem.code == "LB118"
    return includes or problem.span.text in lost or problem.span.source.base > 0


def place_of(problem: Diagnostic) -> int:
    """Where a finding stands in the texts of a recipe laid end to end; those without a place come first."""
    return problem.span.source.base + problem.span.start if problem.span else -1


def _is_a_plan(name: str) -> Diagnostic:
    hints = (f"`lbdsl show {name}` shows it", f"`lbdsl apply {name}` carries it out")
    return error("LB138", f"{name} is a saved plan, not a recipe", help=hints)
