"""Where the grammar and the shipped recipes are: next to the package in a source tree, inside it in a wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def resource_folder(name: str) -> Path:
    """The folder `grammars` or `recipes`. In a wheel it is `lbdsl/_grammars` or `lbdsl/_recipes`."""
    packed = _PACKAGE / f"_{name}"
    return packed if packed.is_dir() else _PACKAGE.parent / name
