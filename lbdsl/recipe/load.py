"""A recipe from a file or from text: read, parse, resolve."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lbdsl.actions import actions
from lbdsl.core.diagnostic import Diagnosed, error
from lbdsl.core.span import Source
from lbdsl.recipe.resolve import resolve
from lbdsl.recipe.schema import Recipe
from lbdsl.syntax.names import MAX_BYTES
from lbdsl.syntax.parse import parse


def load_recipe(path: str | Path, set_params: Mapping[str, str] | None = None) -> Diagnosed[Recipe]:
    """The recipe in a file. A file that is missing, unreadable, not UTF-8 or larger than 2 MiB is a diagnostic."""
    read = _read(path)
    if read.value is None:
        return Diagnosed(None, read.diagnostics)
    return recipe_from_bytes(read.value, str(path), set_params)


def recipe_from_text(text: str, name: str = "<string>", set_params: Mapping[str, str] | None = None,
                     ) -> Diagnosed[Recipe]:
    """The recipe in a text. Errors of statements that parse are found even when others do not."""
    try:
        text.encode()
    except UnicodeEncodeError as problem:
        return Diagnosed(None, (error("LB020", f"{name} holds half a character (at {problem.start})"),))
    parsed = parse(Source(name, text), actions=actions())
    if parsed.value is None:
        return Diagnosed(None, parsed.diagnostics)
    resolved = resolve(parsed.value, set_params=set_params, path=name)
    broken = any(problem.is_error for problem in parsed.diagnostics)
    # A statement that did not parse may be the definition, rule or block that others seem to lack.
    follow_on = ("LB110", "LB111", "LB118", "LB206", "LB207", "LB208", "LB209", "LB210")
    kept = [problem for problem in resolved.diagnostics if not (broken and problem.code in follow_on)]
    found = sorted([*parsed.diagnostics, *kept], key=lambda problem: problem.span.start if problem.span else -1)
    return Diagnosed(None if broken else resolved.value, tuple(found))


def recipe_from_bytes(data: bytes, name: str, set_params: Mapping[str, str] | None = None) -> Diagnosed[Recipe]:
    """The recipe in bytes that were read somewhere."""
    decoded = _decode(data, name)
    if decoded.value is None:
        return Diagnosed(None, decoded.diagnostics)
    return recipe_from_text(decoded.value, name, set_params)


def _read(path: str | Path) -> Diagnosed[bytes]:
    try:
        with open(path, "rb") as file:
            return Diagnosed(file.read(MAX_BYTES + 1))
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        return Diagnosed(None, (error("LB020", f"cannot read {path}: {reason}"),))


def _decode(data: bytes, name: str) -> Diagnosed[str]:
    """UTF-8 text with line ends made `\\n`."""
    if len(data) > MAX_BYTES:
        return Diagnosed(None, (error("LB019", f"{name} is larger than {MAX_BYTES // 2**20} MiB"),))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        return Diagnosed(None, (error("LB020", f"{name} is not UTF-8 text (line {line})",
                                      help="save it as UTF-8"),))
    return Diagnosed(text.replace("\r\n", "\n"))
