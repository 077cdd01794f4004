"""The recipe that a saved plan was made from, and whether its files are still the same."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from lbdsl.core.diagnostic import Diagnostic, note
from lbdsl.core.digest import digest_text
from lbdsl.language.lexer import string_text
from lbdsl.plan.schema import Plan
from lbdsl.recipe.exchange import to_exchange
from lbdsl.recipe.load import recipe_from_text
from lbdsl.recipe.reading import TextsReader, decode, joined, read_bytes
from lbdsl.recipe.schema import Recipe


def set_values(plan: Plan) -> dict[str, object]:
    """The `--set` values that the plan was made with: texts as in the recipe language."""
    values = {name: plan.recipe.params[name] for name in plan.recipe.set_params}
    return {name: string_text(value) if isinstance(value, str) else value for name, value in values.items()}


def recipe_in(plan: Plan, set_params: Mapping[str, object] | None = None) -> Recipe:
    """The recipe that a plan was made from, parsed from the text saved in the plan. `set_params` are parameter values in
    addition to those of the plan."""
    texts = [(item.path, item.text, item.sha256) for item in plan.recipe.included]
    return recipe_from_text(
        plan.recipe.text, plan.recipe.path, {**set_values(plan), **(set_params or {})}, reader=TextsReader(texts)
    ).unwrap()


def planned_recipe(plan: Plan, set_params: Mapping[str, object] | None = None) -> Recipe:
    """As `recipe_in`, with the plan's token counts and lengths."""
    return replace(recipe_in(plan, set_params), measure=plan.measure, eval=plan.eval, profiles=plan.profiles)


def files_of(plan: Plan) -> tuple[dict[str, str], tuple[Diagnostic, ...]]:
    """The current sha256, by path, of the recipe and its included files, with a note for those that no longer exist.

    A text that differs only in comments and spacing gets the planned text's sha256, unless the recipe pins its sha256."""
    now: dict[str, str] = {}
    gone: list[str] = []
    pinned = _pinned(plan)
    for file in plan.recipe.files:
        path, was = file.path, file.sha256
        readable = os.path.isfile(path) and os.access(path, os.R_OK)
        # A plan may name any file, and those of the system, which may block, have no size.
        data = read_bytes(path).value if readable and os.path.getsize(path) else b"" if readable else None
        if data is None:
            gone.append(path)
            continue
        now[path] = sha256(data).hexdigest()
        # A file that is not valid text has changed, whatever its hash.
        with suppress(UnicodeDecodeError):
            text = decode(data)
            if path == plan.recipe.path:
                now[path] = digest_text(text)  # The plan holds the recipe's text.
            said = None if now[path] == was or path in pinned else _statements(text)
            if said is not None and said == _statements(file.text):
                now[path] = was
    if not gone:
        return now, ()
    verb, text = ("is", "text") if len(gone) == 1 else ("are", "texts")
    message = f"{', '.join(gone)} {verb} not here, or may not be read; the {text} in the plan {verb} used"
    return now, (note("LB472", message),)


def came_from(plan: Plan, path: Path) -> Path | None:
    """Which folder's files the recipe of a saved plan or an artifact at `path` may name: None for the recipe's own, if it
    lies there with all that it includes; else the folder at `path`, for others may have written it."""
    now, _ = files_of(plan)
    # Any file may be there whose content others know, such as an empty one.
    is_recipe = plan.recipe.path.endswith(".lbr") and bool(plan.recipe.text.strip())
    there = is_recipe and all(now.get(file.path) == file.sha256 for file in plan.recipe.files)
    return None if there else (path if path.is_dir() else path.parent).absolute()


def _statements(text: str) -> list[dict[str, Any]] | None:
    """The statements of a recipe's text, without comments and spacing; None when it does not parse."""
    said = to_exchange(text, "", "json").value
    return None if said is None else json.loads(said)["statements"]


def _pinned(plan: Plan) -> frozenset[str]:
    """Included files whose sha256 is pinned by the recipe or by another included file."""
    folder = os.path.dirname(plan.recipe.path)
    including = ["", *(item.path for item in plan.recipe.included)]
    return frozenset(
        os.path.join(folder, joined(path, statement["include"]) or "")
        for path, file in zip(including, plan.recipe.files, strict=True)
        for statement in _statements(file.text) or ()
        if statement.get("sha256")
    )
