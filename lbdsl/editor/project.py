"""The model that an editor's hints are about."""

from __future__ import annotations

import tomllib
from pathlib import Path

from lbdsl.layer.facts import ModelFacts

PROJECT_FILE = "lbdsl.toml"


def configured_model(flag: str | None, asked: object, default: str | None, root: Path | None) -> str | None:
    """The model by the first that names one: the command line, the editor (`initializationOptions.model`), the command's
    default (environment, `lbdsl.toml` where it was started), `[lsp] model` in the workspace's `lbdsl.toml`. A relative path
    starts at the workspace."""
    named = flag or (asked if isinstance(asked, str) and asked.strip() else None) or default
    if named is None and root is not None:
        named = _from_file(root / PROJECT_FILE)
    if named is None:
        return None
    if root is not None:
        try:
            if (root / named).exists():
                return str(root / named)
        except (OSError, ValueError):
            return named
    return named


def _from_file(path: Path) -> str | None:
    """The file's entry; a file that is wrong is `lbdsl`'s to complain about, not the editor's."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return None
    table = data.get("lsp")
    named = table.get("model") if isinstance(table, dict) else None
    return named if isinstance(named, str) and named.strip() else None


def facts_of(model: str) -> ModelFacts:
    """The facts of a model from its headers; the network is never asked. Raises LbdslError."""
    from lbdsl.verbs.inspecting import inspect_model

    return inspect_model(model, offline=True).facts
