"""How text of others is shown: names, paths, recipes and records are anybody's, and only text wherever they are printed.

Each place has its form: `visible` is for terminals, the others for Markdown, YAML and Python."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_RUN = re.compile("`+")
_SPAN = re.compile("`([^`]+)`")
_LINK = re.compile(r"://|www\.|(?:mailto|xmpp):|@[^@\s]*\.", re.IGNORECASE)
"""What readers of Markdown make a link of by themselves."""
_SIGN = re.compile(r"[\\`*\[\]<>|&~#$]|(?<![^\W_])_|_(?![^\W_])")
_WORD = re.compile(r"[a-z][\w.-]*(/[\w.-]+)?", re.ASCII | re.IGNORECASE)
_OTHER_YAML = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}


def visible(text: str, keep: str = "\n\t") -> str:
    r"""The text with what would move a cursor, change colours or the direction of writing, or not be seen as `\x1b` or
    `\u202e`, but for the characters to `keep`."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else ascii(char)[1:-1] for char in text)


def printable(text: str) -> str:
    """The text as one visible line."""
    return visible(" ".join(text.split()) if "\n" in text or "\t" in text else text)


def as_string(text: str | Path) -> str:
    """A literal of Python, and of YAML: `"out"`."""
    return '"' + visible(str(text).replace("\\", "\\\\").replace('"', '\\"'), keep="") + '"'


def as_yaml(text: str) -> str:
    """A value of YAML that is this text, and no other kind of value."""
    return text if _WORD.fullmatch(text) and text.lower() not in _OTHER_YAML else as_string(text)


def as_code(text: str) -> str:
    """Code in a line of Markdown; no backtick in the text ends it."""
    text = printable(text) or " "
    fence = "`" * _longer_than(text)
    room = " " if "`" in (text[0], text[-1]) else ""
    return f"{fence}{room}{text}{room}{fence}"


def as_code_block(text: str, language: str = "") -> str:
    """Lines of code in Markdown; no line of the text ends them."""
    text = visible(text.replace("\r\n", "\n")).rstrip("\n")
    fence = "`" * max(3, _longer_than(text))
    return f"{fence}{language}\n{text}\n{fence}"


def as_markdown(text: str) -> str:
    """Text in a line or in a cell of a table of Markdown: no HTML, link, heading or other cell. Backticks around
    code stay, and what looks like an address is code."""
    written = ""
    for number, part in enumerate(_SPAN.split(printable(text))):
        shown = _coded(part) if number % 2 else _escaped(part)
        # Side by side the ends of two pieces of code would be one longer run of backticks.
        written += " " + shown if written.endswith("`") and shown.startswith("`") else shown
    return written


def as_row(cells: Iterable[str]) -> str:
    """A row of a table of Markdown."""
    return f"| {' | '.join(map(as_markdown, cells))} |"


def _longer_than(text: str) -> int:
    """One more than the backticks of the text's longest run of them."""
    return 1 + max(map(len, _RUN.findall(text)), default=0)


def _escaped(text: str) -> str:
    def word(found: re.Match[str]) -> str:
        return _coded(found[0]) if _LINK.search(found[0]) else _SIGN.sub(r"\\\g<0>", found[0])

    return re.sub(r"\S+", word, text)


def _coded(text: str) -> str:
    """Code whose pipes are outside of it: in a table they would end the cell."""
    return r"\|".join(as_code(part) if part else "" for part in text.split("|"))
