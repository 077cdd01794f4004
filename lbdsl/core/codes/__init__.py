"""Diagnostic codes: one Markdown page each, `LB101.md` next to this file; `explain` and docs/errors.md show them.

LB0xx is syntax, LB1xx names and types, LB2xx rules, LB3xx a plan against its model, LB4xx models, files and artifacts,
LB5xx exports. A page is read when its code is needed. A plug-in registers codes of its own with `register`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FOLDER = Path(__file__).parent

_PAGE = re.compile(
    r"""
    \#\ (?P<id>\w+):\ (?P<title>[^\n]+)\n
    \n(?P<reason>.+?)\n
    (?:\nExit\ code:\ (?P<exit_code>\d+)\n)?
    (?:\nFails:\n\n```lbr\n(?P<example>.+?)\n```\n
       \nFixed:\n\n```lbr\n(?P<fixed>.+?)\n```\n)?
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True)
class Code:
    """A kind of finding.

    `example` is a recipe that causes only this finding, and `fixed` is its corrected form; both are empty for findings that
    need a model, a file or a run. `exit_code` is that of a command that stops with an error of this kind: 1 a problem in
    the recipe or its input, 2 wrong usage, 3 a stale plan, 4 a failed quality gate, 5 unsatisfiable, 6 an unsafe or
    unsupported model or artifact, 7 a bug in lbdsl, 130 interrupted.
    """

    id: str
    title: str
    reason: str = ""
    example: str = ""
    exit_code: int = 1
    fixed: str = ""

    @classmethod
    def from_page(cls, text: str) -> Code:
        """The code that a Markdown page describes; ValueError when the page is malformed."""
        page = _PAGE.fullmatch(text)
        if page is None:
            raise ValueError(f"not the page of a code: {text[:40]!r}")
        reason, exit_code = " ".join(page["reason"].split()), int(page["exit_code"] or 1)
        return cls(page["id"], page["title"], reason, page["example"] or "", exit_code, page["fixed"] or "")


_REGISTERED: dict[str, Code] = {}


def register(codes: Iterable[Code]) -> None:
    """Add the codes of a plug-in; defining one id in two ways is a bug of the plug-in."""
    for code in codes:
        assert code.id not in code_ids() or code_for(code.id) == code, f"{code.id} is defined twice"
        _REGISTERED[code.id] = code


def code_for(id: str) -> Code:
    """The code called `id`; KeyError is a bug of the caller."""
    return _REGISTERED.get(id) or _own(id)


def code_ids() -> tuple[str, ...]:
    """Every code's id, sorted; no page is read."""
    return tuple(sorted({*_own_ids(), *_REGISTERED}))


def all_codes() -> tuple[Code, ...]:
    """Every code, from all pages."""
    return tuple(code_for(id) for id in code_ids())


@cache
def _own_ids() -> frozenset[str]:
    return frozenset(path.stem for path in _FOLDER.glob("*.md"))


@cache
def _own(id: str) -> Code:
    if id not in _own_ids():
        raise KeyError(id)
    return Code.from_page((_FOLDER / f"{id}.md").read_text(encoding="utf-8"))
