"""Definitions, uses and renaming of `$names` and `@names`, and formatting as one edit.

A name is a token, so all of this but formatting works in a recipe that does not parse.
"""

from __future__ import annotations

import re

from rapidfuzz.distance import Postfix, Prefix

from lbdsl.core.diagnostic import Diagnosed, Edit, refused
from lbdsl.core.span import Source, Span
from lbdsl.editor.analysis import Analysis
from lbdsl.language.format import format_text
from lbdsl.language.lexer import Token, lex

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def name_at(analysis: Analysis, offset: int) -> Token | None:
    """The `$name` or `@name` at an offset."""
    token = analysis.token_at(offset)
    return token if token is not None and token.type in ("VAR", "REF") else None


def definition_of(analysis: Analysis, offset: int) -> Span | None:
    """The definition of the name at an offset, which may be in an included file."""
    name = name_at(analysis, offset)
    found = analysis.definitions.get(name.text) if name is not None else None
    return None if found is None else found.span


def uses_of(analysis: Analysis, offset: int) -> tuple[Token, ...]:
    """Every token of the name at an offset, including its definition."""
    name = name_at(analysis, offset)
    if name is None:
        return ()
    return tuple(token for token in analysis.lexed.tokens if token.type == name.type and token.text == name.text)


def rename(analysis: Analysis, offset: int, new: str) -> Diagnosed[tuple[tuple[Token, str], ...]]:
    """The new text of each token of the name at an offset. `new` may come with the sigil or without.

    LB060: there is no name there, or it is defined in another file. LB061: the new name is invalid or taken.
    """
    name = name_at(analysis, offset)
    if name is None:
        return refused("LB060", "only `$names` and `@names` can be renamed")
    definition = analysis.definitions.get(name.text)
    if definition is None or definition.is_included:
        return refused("LB060", f"`{name.text}` is not defined in this file", help="rename it where it is defined")
    others = [file.name for file in analysis.included if any(t.text == name.text for t in lex(file.text).tokens)]
    if others:
        message = f"`{name.text}` is used in {', '.join(others)}, too"
        return refused("LB060", message, help="rename it by hand in each file")
    sigil = name.text[0]
    wanted = sigil + new.strip().removeprefix(sigil)
    if _NAME.fullmatch(wanted[1:]) is None:
        help = "a name is made of letters, digits and `_`, and begins with no digit"
        return refused("LB061", f"`{wanted}` is not a valid name", help=help)
    if wanted != name.text and wanted in analysis.definitions:
        return refused("LB061", f"`{wanted}` is defined already", help="choose another name")
    return Diagnosed(tuple((token, wanted) for token in uses_of(analysis, offset)))


def formatting(text: str, name: str) -> Diagnosed[Edit]:
    """The edit that makes a text canonical: from the first changed line to the last, with the text's own line endings.
    The value is None, with the errors, for a text that does not parse; an empty edit when nothing changes."""
    formatted = format_text(text, name)
    if formatted.value is None:
        return Diagnosed(None, formatted.diagnostics)
    new = formatted.value.replace("\n", "\r\n") if "\r\n" in text else formatted.value
    old_lines, new_lines = text.splitlines(keepends=True), new.splitlines(keepends=True)
    head = Prefix.similarity(old_lines, new_lines)
    tail = Postfix.similarity(old_lines[head:], new_lines[head:])
    start = sum(map(len, old_lines[:head]))
    end = len(text) - sum(map(len, old_lines[len(old_lines) - tail :]))
    edit = Edit(Span(Source(name, text), start, end), "".join(new_lines[head : len(new_lines) - tail]))
    return Diagnosed(edit, formatted.diagnostics)
