"""`builtin:docs`: documentation that every installation has, of lbdsl's dependencies and of Python's standard library."""

from __future__ import annotations

import inspect
import re
import sysconfig
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lbdsl.core.digest import digest_text

MOST = 400_000
"""Characters of docstrings of one package: no package is most of the text."""

SHORTEST = 200
"""Characters of a docstring: shorter ones are mostly signatures."""

LARGEST = 2**20
"""Bytes of a source file; larger ones are mostly generated."""

_DOCSTRING = re.compile(r'^[ \t]*[rR]?"""(.+?)"""', re.DOTALL | re.MULTILINE)


@cache
def installed_documents() -> tuple[str, ...]:
    """The description (README) of each distribution that lbdsl depends on, and the docstrings of each of its modules, one
    document a module, up to `MOST` characters; and the docstrings of the standard library. In a fixed order; the text
    depends on the installed versions, and not on which extras are installed."""
    found: list[str] = []
    for distribution in _dependencies("lbdsl"):
        found.append(str(distribution.metadata.json.get("description", "")))
        found += _docstrings({str(file): Path(str(distribution.locate_file(file))) for file in distribution.files or []})
    found += _docstrings({file.name: file for file in Path(sysconfig.get_path("stdlib")).glob("*.py")})
    return tuple(text for text in found if len(text) >= SHORTEST)


def _dependencies(name: str) -> list[metadata.Distribution]:
    """The distributions that one depends on on this system, without extras (which may be installed), sorted by name; itself
    is left out."""
    seen: dict[str, metadata.Distribution] = {}
    todo = [name]
    while todo:
        wanted = todo.pop()
        try:
            found = metadata.distribution(wanted)
        except metadata.PackageNotFoundError:  # installed without its dependencies
            continue
        seen[wanted] = found
        for needed in map(Requirement, found.requires or []):
            other = canonicalize_name(needed.name)
            if other not in seen and (needed.marker is None or needed.marker.evaluate({"extra": ""})):
                todo.append(other)
    return [found for other, found in sorted(seen.items()) if other != name]


def _docstrings(files: Mapping[str, Path]) -> Iterator[str]:
    """The docstrings of each Python file but tests, in an order by the hash of its name, up to `MOST` characters."""
    left = MOST
    for name in sorted(files, key=digest_text):
        file = files[name]
        if left <= 0:
            return
        if file.suffix != ".py" or "test" in name or not file.is_file() or file.stat().st_size > LARGEST:
            continue
        parts = map(inspect.cleandoc, _DOCSTRING.findall(file.read_text("utf-8", errors="replace")))
        text = "\n\n".join(part for part in parts if len(part) >= SHORTEST)
        if text:
            left -= len(text)
            yield text
