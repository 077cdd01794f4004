"""Defaults of options from files: the project's `lbdsl.toml`, then the user's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

PROJECT_FILE = "lbdsl.toml"


def user_file() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "lbdsl" / "lbdsl.toml"


def default_map() -> dict[str, dict[str, Any]]:
    """click's map of defaults, `{verb: {option: value}}`.

    A file holds options at its top level for every verb that has them, and in a table named after a verb for that
    verb alone: `device = "cpu"`, `[plan]` `ctx = [4096]`. The project's file goes before the user's.
    """
    from lbdsl.cli.app import VERBS

    merged: dict[str, dict[str, Any]] = {verb: {} for verb in VERBS}
    for path in (user_file(), Path(PROJECT_FILE)):
        if path.is_file():
            content = _read(path)
            common = {key: value for key, value in content.items() if not isinstance(value, dict)}
            for verb in VERBS:
                values = {**common, **content.get(verb, {})}
                merged[verb].update({key.replace("-", "_"): value for key, value in values.items()})
    return merged


def _read(path: Path) -> dict[str, Any]:
    import tomllib

    from lbdsl.core.diagnostic import fail

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as problem:
        raise fail("LB480", f"{path} cannot be read: {problem}") from None
