"""Defaults of options from config files: the project's `lbdsl.toml`, then the user's."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from lbdsl.cli import VERBS

PROJECT_FILE = "lbdsl.toml"

COMMON = ("device", "dtype", "batch", "cache-dir", "offline", "quiet", "allow-path")
"""Options of all commands that run a model; allowed at the top level of a file and as LBDSL_<OPTION>."""

FLAG_ONLY = ("trust-remote-code", "engine-python", "install", "task", "allow-task-code")
"""What lets code of others run: no file and no variable says it."""

# fmt: off
OF_PROJECTS = frozenset((
    "all", "batch", "batches", "concurrency", "contexts", "ctx", "detailed-exitcode", "device", "dtype", "engine",
    "estimate", "format", "json", "lengths", "limit", "low-memory", "needle", "no-recall", "offline", "pairs", "quiet",
    "seq", "served", "set", "strict", "target", "tokens",
))
# fmt: on
"""What the file of a working directory may set, whoever wrote it: how to measure, time and show, and a recipe's parameters.
Where files are read and written, and what is replaced without a question, is the user's to say."""

COMMON_KEY = " common"
"""The map's key for common options until a command is chosen; an option cannot have this name (with a space)."""


def user_file() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "lbdsl" / "lbdsl.toml"


def default_map() -> dict[str, dict[str, Any]]:
    """click's map of defaults, `{command: {option: value}}`; the project's file takes precedence over the user's.

    A file has common options at its top level, for every command that has them, and others in a table named after the
    command: `device = "cpu"`, `[plan]` `ctx = [4096]`. Raises LB480 for an unknown name.
    """
    return _merged()[0]


def file_of(verb: str, option: str) -> str:
    """The file that sets the default of a command's option; `option` is its name without the leading dashes."""
    return _merged()[1][verb][option.replace("-", "_")]


def _merged() -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, str]]]:
    """The map of `default_map`, and the file that each of its values comes from."""
    merged: dict[str, dict[str, Any]] = {verb: {} for verb in VERBS}
    files: dict[str, dict[str, str]] = {verb: {} for verb in VERBS}
    for path in (user_file(), Path(PROJECT_FILE)):
        if path.is_file():
            for name, value in _read(path).items():
                if isinstance(value, dict):
                    _known(name, VERBS, f"{path} has a table for a verb", "verb")
                    for key, setting in value.items():
                        _not_flag_only(key.replace("_", "-"), f"{path} sets `{key}`")
                        merged[name][key.replace("-", "_")] = setting
                        files[name][key.replace("-", "_")] = str(path)
                else:
                    word = name.replace("-", "_")
                    _not_flag_only(name.replace("_", "-"), f"{path} sets `{name}`")
                    _known(name.replace("_", "-"), COMMON, f"{path} sets an option", "common option")
                    for verb, values in merged.items():
                        # In TOML, tables come after the top level: a value already here is from the previous file.
                        values.pop(word, None)
                        values.setdefault(COMMON_KEY, {})[word] = value
                        files[verb][word] = str(path)
    return merged, files


def use_written_names(command: click.Command, verb: str, defaults: dict[str, Any]) -> None:
    """Let config files and environment variables use the command line's names: `ctx`, LBDSL_PLAN_CTX, LBDSL_DEVICE.

    `defaults` is the command's part of `default_map`; its keys are replaced in place by click's parameter names.
    """
    common = defaults.pop(COMMON_KEY, {})
    names = {}
    for param in command.params:
        long = next((opt for opt in param.opts if opt.startswith("--")), None)
        if long is not None:
            word = long.removeprefix("--")
            names[word.replace("-", "_")] = param.name
            upper = word.replace("-", "_").upper()
            variables = [f"LBDSL_{verb.upper()}_{upper}", *([f"LBDSL_{upper}"] if word in (*COMMON, *FLAG_ONLY) else [])]
            if word in FLAG_ONLY:
                for variable in variables:
                    if os.environ.get(variable):
                        _not_flag_only(word, f"the environment sets {variable}")
                continue
            param.envvar = variables
    for word in defaults:
        if word not in names:
            _known(word, names, f"[{verb}] in {file_of(verb, word)} sets an option", f"option of `{verb}`")
        _check_project(verb, word, defaults[word])
    for word, value in common.items():
        if word in names:
            _check_project(verb, word, value)
    chosen = {**{word: value for word, value in common.items() if word in names}, **defaults}
    defaults.clear()
    defaults.update({str(names[word]): value for word, value in chosen.items()})


def _check_project(verb: str, word: str, value: Any) -> None:
    """Raise LB480 for an option that the file of the working directory sets and may not."""
    from lbdsl.core.diagnostic import fail
    from lbdsl.core.place import lies_in

    name = word.replace("_", "-")
    if file_of(verb, word) != PROJECT_FILE or (name in OF_PROJECTS and not (name == "needle" and _names_file(value))):
        return
    if (verb, name) == ("lsp", "model") and lies_in(Path(str(value)), Path()):
        return
    raise fail(
        "LB480",
        f"{PROJECT_FILE} sets `{name}`, which the file of a folder cannot: the folder may be somebody else's",
        help=f"remove it, and write --{name} in the command, or set it in your own file, {user_file()}",
    )


def _names_file(needles: Any) -> bool:
    """Whether one of the values of `--needle` is a file of questions, and no number of tokens."""
    from lbdsl.recipe.schema_blocks import QUESTIONS_FILE

    each = needles if isinstance(needles, list) else [needles]
    return any(str(needle).lower().endswith(QUESTIONS_FILE) for needle in each)


def _not_flag_only(word: str, said: str) -> None:
    from lbdsl.core.diagnostic import fail

    if word in FLAG_ONLY:
        raise fail(
            "LB480",
            f"{said}, which only the command line can",
            help=f"remove it, and write --{word} in each command that should have it",
        )


def _known(name: str, choices: Iterable[str], where: str, what: str) -> None:
    from lbdsl.core.diagnostic import fail
    from lbdsl.core.nearest import nearest

    if name not in choices:
        near = nearest(name, choices)
        known = f"there are: {', '.join(sorted(choices))}"
        if choices is COMMON:
            known += "; an option of one command stands in its table, such as [plan]"
        raise fail(
            "LB480",
            f"{where} that does not exist: `{name}` is no {what}",
            help=(f"did you mean `{near}`?", known) if near else known,
        )


def _read(path: Path) -> dict[str, Any]:
    import tomllib

    from lbdsl.core.diagnostic import fail

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as problem:
        raise fail("LB480", f"{path} cannot be read: {problem}") from None
