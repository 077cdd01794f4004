"""The model that editor hints are computed for."""

from __future__ import annotations

import tomllib
from contextlib import suppress
from pathlib import Path

from lbdsl.core.place import lies_in
from lbdsl.cost.facts import ModelFacts

PROJECT_FILE = "lbdsl.toml"


def configured_model(flag: str | None, asked: object, default: str | None, root: Path | None) -> str | None:
    """The model, from the first source that names one: the command line, the editor (`initializationOptions.model`), the
    command's default (environment, `lbdsl.toml` in the working directory), `[lsp] model` in the workspace's `lbdsl.toml`,
    which names a model in the workspace. A relative path is relative to the workspace."""
    named = flag or (asked if isinstance(asked, str) and asked.strip() else None) or default
    if named is None and root is not None:
        named = _from_file(root / PROJECT_FILE)
        if named is not None and not lies_in(root / Path(named).expanduser(), root):
            return None
    if named is not None and root is not None:
        with suppress(OSError, ValueError):
            if (root / named).exists():
                return str(root / named)
    return named


def _from_file(path: Path) -> str | None:
    """The `[lsp] model` entry of a file; an invalid file is ignored here, the command line reports it."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return None
    table = data.get("lsp")
    named = table.get("model") if isinstance(table, dict) else None
    return named if isinstance(named, str) and named.strip() else None


def facts_of(model: str) -> ModelFacts:
    """The facts of a model from its headers, without network access. Raises LbdslError."""
    from lbdsl.api.inspecting import inspect_model

    return inspect_model(model, offline=True).facts
