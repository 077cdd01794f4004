"""Defaults of options from config files: the project's `lbdsl.toml`, then the user's."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import click

from lbdsl.cli import VERBS

PROJECT_FILE = "lbdsl.toml"
MAX_BYTES = 2**14
"""Of a file of settings: the time that TOML takes grows with the square of a name's parts."""

COMMON = ("device", "dtype", "batch", "cache-dir", "offline", "quiet", "allow-path")
"""Options of all commands that run a model; allowed at the top level of a file and as LBDSL_<OPTION>."""

FLAG_ONLY = ("trust-remote-code", "engine-python", "engine-args", "install", "task", "allow-task-code")
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


class Setting(NamedTuple):
    """A default of an option, and the file that sets it; `common`: at its top level, for every command that has the
    option."""

    value: Any
    file: str
    common: bool


def user_file() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "lbdsl" / "lbdsl.toml"


def settings() -> dict[str, dict[str, Setting]]:
    """Defaults by command and option (see `key_of`); the project's file takes precedence over the user's.

    A file has common options at its top level, for every command that has them, and others in a table named after the
    command: `device = "cpu"`, `[plan]` `ctx = [4096]`. Raises LB480 for an unknown name.
    """
    found: dict[str, dict[str, Setting]] = {verb: {} for verb in VERBS}
    for path in filter(Path.is_file, (user_file(), Path(PROJECT_FILE))):
        # In TOML, tables come after the top level, and take precedence over it.
        for name, value in _read(path).items():
            if isinstance(value, dict):
                _known(name, VERBS, f"{path} has a table for a verb", "verb")
                for key, setting in value.items():
                    _not_flag_only(key, f"{path} sets `{key}`")
                    found[name][key_of(key)] = Setting(setting, str(path), common=False)
            else:
                _not_flag_only(name, f"{path} sets `{name}`")
                _known(name.replace("_", "-"), COMMON, f"{path} sets an option", "common option")
                for of_verb in found.values():
                    of_verb[key_of(name)] = Setting(value, str(path), common=True)
    return found


def long_name(param: click.Parameter) -> str:
    """The name of an option without its leading dashes; empty for an argument."""
    return next((opt.removeprefix("--") for opt in param.opts if opt.startswith("--")), "")


def key_of(name: str) -> str:
    return name.replace("-", "_")


def use_written_names(command: click.Command, verb: str) -> dict[str, Any]:
    """Let config files and environment variables use the command line's names: `ctx`, LBDSL_PLAN_CTX, LBDSL_DEVICE.

    Gives the defaults of the config files by click's parameter names. Raises LB480 as `settings`, and for what a file or
    the environment may not set.
    """
    names = {}
    for param in command.params:
        if word := long_name(param):
            names[key_of(word)] = str(param.name)
            upper = key_of(word).upper()
            variables = [f"LBDSL_{verb.upper()}_{upper}", *([f"LBDSL_{upper}"] if word in (*COMMON, *FLAG_ONLY) else [])]
            for variable in filter(os.environ.get, variables):
                _not_flag_only(word, f"the environment sets {variable}")
            if word not in FLAG_ONLY:
                param.envvar = variables
    defaults = {}
    for key, setting in settings()[verb].items():
        if not setting.common:
            _known(key, names, f"[{verb}] in {setting.file} sets an option", f"option of `{verb}`")
        if key in names:
            if setting.file == PROJECT_FILE:
                _check_project(verb, key.replace("_", "-"), setting.value)
            defaults[names[key]] = setting.value
    return defaults


def _check_project(verb: str, name: str, value: Any) -> None:
    """Raise LB480 for an option that the file of the working directory sets and may not."""
    from lbdsl.core.place import lies_in

    needles = value if isinstance(value, list) else [value]
    if name in OF_PROJECTS and not (name == "needle" and any(map(is_questions_file, needles))):
        return
    if (verb, name) == ("lsp", "model") and lies_in(Path(str(value)), Path()):
        return
    raise _refused(
        f"{PROJECT_FILE} sets `{name}`, which the file of a folder cannot: the folder may be somebody else's",
        help=f"remove it, and write --{name} in the command, or set it in your own file, {user_file()}",
    )


def is_questions_file(needle: object) -> bool:
    """Whether a value of `--needle` is a file of questions, and no number of tokens."""
    from lbdsl.recipe.schema_blocks import QUESTIONS_FILE

    return str(needle).lower().endswith(QUESTIONS_FILE)


def _not_flag_only(name: str, said: str) -> None:
    word = name.replace("_", "-")
    if word in FLAG_ONLY:
        raise _refused(
            f"{said}, which only the command line can",
            help=f"remove it, and write --{word} in each command that should have it",
        )


def _known(name: str, choices: Collection[str], where: str, what: str) -> None:
    from lbdsl.core.nearest import known_hints

    if name not in choices:
        help = known_hints(name, sorted(choices), "there are")
        if choices is COMMON:
            help = (*help, "an option of one command stands in its table, such as [plan]")
        raise _refused(f"{where} that does not exist: `{name}` is no {what}", help=help)


def _refused(message: str, help: str | tuple[str, ...] = ()) -> Exception:
    # Only now: `lbdsl --help` has no errors.
    from lbdsl.core.diagnostic import fail

    return fail("LB480", message, help=help)


def _read(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES // 2**10} KiB")
        return tomllib.loads(data.decode())
    except RecursionError:
        raise _refused(f"{path} cannot be read: it is nested too deep") from None
    except (ValueError, OSError) as problem:
        raise _refused(f"{path} cannot be read: {problem}") from None
