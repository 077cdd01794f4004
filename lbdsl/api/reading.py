"""Reading one text file of a user's, within the language's limit."""

from __future__ import annotations

from lbdsl.core.diagnostic import fail
from lbdsl.recipe.reading import decode
from lbdsl.syntax.names import MAX_BYTES


def read_bytes(path: str) -> bytes:
    """The bytes of a file, at most one more than the limit. Raises LbdslError with LB020."""
    try:
        with open(path, "rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as problem:
        raise fail("LB020", f"cannot read {path}: {getattr(problem, 'strerror', None) or problem}") from None


def text_from(data: bytes, name: str) -> str:
    """UTF-8 text, a byte-order mark left out and line ends made `\\n`. Raises LbdslError with LB019 or LB020."""
    if len(data) > MAX_BYTES:
        raise fail("LB019", f"{name} is larger than {MAX_BYTES // 2**20} MiB")
    try:
        return decode(data)
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        raise fail("LB020", f"{name} is not UTF-8 text (line {line})", help="save it as UTF-8") from None


def read_text(path: str) -> str:
    """The text of a file."""
    return text_from(read_bytes(path), path)
