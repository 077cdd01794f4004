"""Options that several commands share."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import partial, wraps
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from lbdsl.api.interrupt import ended_by_kill
from lbdsl.cli.completions import export_kinds
from lbdsl.cli.config import is_questions_file, key_of, long_name, settings
from lbdsl.core.paths import is_model
from lbdsl.core.processes import process_number
from lbdsl.core.units import tokens_of
from lbdsl.session.options import RunOptions


class NumberFormat(click.Choice):
    """torch's name of a dtype, or a short one, such as bf16."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        short = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
        return super().convert(short.get(str(value).lower(), value), param, ctx)


DTYPE = NumberFormat(["bfloat16", "float16", "float32"])

FILE = click.Path(readable=False)
"""A file, or the name of something that is none: what cannot be read is said by what reads it."""

PATH = click.Path(path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
NEW_FILE = click.Path(dir_okay=False, path_type=Path)

artifact_argument = click.argument("artifact", type=PATH)
model_argument = click.argument("model", type=FILE)
again_option = click.option("--again", is_flag=True, help="Allow MODEL to be an artifact of lbdsl.")
all_option = click.option("--all", "all_layers", is_flag=True, help="List every changed layer.")
json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable output on stdout.")
offline_option = click.option("--offline", is_flag=True, help="Never ask a hub.")
quiet_option = click.option("--quiet", "-q", is_flag=True, help="No progress; only data and diagnostics.")
yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask.")
cache_dir_option = click.option(
    "--cache-dir", type=FOLDER, help="Where measurements are kept. Default: the user's cache folder."
)

# Each command says what these are for there, by `help`.
against_option = partial(click.option, "--against", metavar="MODEL", type=FILE)
python_option = partial(click.option, "--engine-python", type=click.Path(exists=True, dir_okay=False, path_type=Path))
export_option = partial(click.option, "--to", "kind", metavar="KIND", shell_complete=export_kinds)
model_option = partial(click.option, "--model", metavar="MODEL", type=FILE)

_MEASURING = (
    click.option(
        "--batch",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="Sequences at a time while measuring and evaluating.",
    ),
    click.option(
        "--low-memory",
        is_flag=True,
        help="Leave weights on disk while measuring and judging, one layer in memory at a time. "
        "Default: only when the model does not fit.",
    ),
    click.option(
        "--no-recall",
        "recall",
        is_flag=True,
        flag_value=False,
        default=True,
        help="Do not ask what a plan that changes attention forgets.",
    ),
    click.option(
        "--allow-path",
        "allow_paths",
        type=FOLDER,
        multiple=True,
        help="A folder whose files a recipe, plan or artifact may name, besides its own; may be repeated.",
    ),
    click.option(
        "--allow-task-code",
        is_flag=True,
        help="Let the YAML files of tasks that a recipe, plan or artifact names run code.",
    ),
)
_RUN = (
    click.option("--device", help="cpu, cuda, cuda:1. Default: a GPU where there is one."),
    click.option("--dtype", type=DTYPE, help="Default: the checkpoint's; bfloat16 for GGUF."),
    cache_dir_option,
    offline_option,
    click.option("--trust-remote-code", is_flag=True, help="Run the code that comes with a local model's tokenizer."),
    quiet_option,
)


def run_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags of commands that run a model, which get them as `options: RunOptions` and `progress`."""

    @wraps(verb)
    def wrapper(quiet: bool, **rest: Any) -> Any:
        from lbdsl.report.progress import TerminalProgress

        names = {field.name for field in fields(RunOptions)} & set(rest)
        options = RunOptions(**{name: rest.pop(name) for name in names})
        progress = TerminalProgress(quiet=quiet or process_number() > 0)
        with ended_by_kill():
            return verb(options=options, progress=progress, **rest)

    return with_options(_RUN, wrapper)


def measuring_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """`run_options`, and those of commands that measure or evaluate."""
    return with_options(_MEASURING, run_options(verb))


def with_options(options: Sequence[Callable[..., Any]], verb: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(options):
        verb = option(verb)
    return verb


class RecipeFirst(click.Command):
    """A command whose first argument is a recipe, or several, and that takes a `model`. For a model in the recipe's place,
    and for one of the two that is missing, its usage error has the right command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        written, first = list(args), str(self.params[0].name)
        try:
            left = super().parse_args(ctx, args)
        except click.MissingParameter as problem:
            given = ctx.params.get(first)
            if given is None:
                raise
            missing, words = ("RECIPE", ["RECIPE", f"{given}"]) if is_model(given) else ("MODEL", [f"{given}", "MODEL"])
            raise click.UsageError(f"{missing} is missing: {_command(ctx, words)}", ctx) from problem
        several = isinstance(ctx.params[first], tuple)
        for given in ctx.params[first] if several else (ctx.params[first],):
            self._refuse_model(ctx, written, str(given), several)
        return left

    def _refuse_model(self, ctx: click.Context, written: list[str], given: str, several: bool) -> None:
        model: Any = ctx.params.get("model")
        plan = ctx.info_name == "apply" and str(model).endswith(".lbplan")
        swapped = model is not None and (plan or model.endswith(".lbr")) and os.path.isfile(model)
        if not is_model(given) and not (swapped and not os.path.isfile(given)):
            if os.path.isdir(given) and not several:
                raise click.UsageError(f"{given} is a folder; a recipe is a .lbr file", ctx)
            return
        others = [word for word in written if Path(word) != Path(given)]
        if plan:
            raise click.UsageError(f"a saved plan knows its model: {_command(ctx, others)}", ctx)
        if swapped:
            other = {given: model, model: given, f"--model={model}": f"--model={given}"}
            words = [other.get(word) or other.get(str(Path(word)), word) for word in written]
            raise click.UsageError(f"the recipe and the model are swapped: {_command(ctx, words)}", ctx)
        words = [*(others or ["RECIPE"]), "--model", given] if several else ["RECIPE", given]
        raise click.UsageError(f"{given} is a model, not a recipe: {_command(ctx, words)}", ctx)


def _command(ctx: click.Context, words: Sequence[str]) -> str:
    return shlex.join(["lbdsl", str(ctx.info_name), *words])


class Parsed(click.ParamType):
    """What `parse` makes of what is written, and leaves of what was parsed before; its ValueError is the usage error."""

    def __init__(self, name: str, parse: Callable[[Any], Any]) -> None:
        self.name, self._parse = name, parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self._parse(value)
        except ValueError as problem:
            self.fail(str(problem), param, ctx)


arguments_option = partial(click.option, "--engine-args", type=Parsed("WORDS", shlex.split), default="")


def _assignment(value: Any) -> tuple[str, str]:
    if isinstance(value, tuple):
        return value
    name, equals, setting = str(value).partition("=")
    if not equals or not name.strip():
        raise ValueError(f"{value!r} is not NAME=VALUE")
    return name.strip().lstrip("$"), setting.strip()


ASSIGNMENT = Parsed("NAME=VALUE", _assignment)
"""The value is parsed by the type that the recipe declares."""

TOKENS = Parsed("TOKENS", tokens_of)
"""A number of tokens in recipe syntax: 512, 8Ki, 10k."""


def _needle(value: Any) -> Any:
    if is_questions_file(value):
        return value
    if Path(str(value)).suffix[1:].isalpha():
        raise ValueError(f"questions are lines of a .jsonl file, and {str(value)!r} is none")
    return tokens_of(value)


NEEDLE = Parsed("TOKENS|FILE", _needle)
"""A number of tokens, or a file of questions."""


class Picture(click.Path):
    """A file to draw, in a folder that is there: what it shows may take hours."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = Path(str(super().convert(value, param, ctx)))
        if path.suffix not in PICTURES:
            self.fail(f"{str(path)!r} does not end in {' or '.join(PICTURES)}", param, ctx)
        if not path.absolute().parent.is_dir():
            self.fail(f"{str(path.parent)!r} is not a folder", param, ctx)
        if path.exists():
            with path.open("rb") as file:
                start = file.read(1000)
            if not (start.startswith(b"\x89PNG") or b"<svg" in start):
                self.fail(f"{str(path)!r} already exists, and it is not a picture", param, ctx)
        return path


PICTURES = (".png", ".svg")
PICTURE = Picture(dir_okay=False)

set_option = click.option(
    "--set",
    "assignments",
    type=ASSIGNMENT,
    multiple=True,
    help="Give a `param` of the recipe another value; may be repeated.",
)


def origins(ctx: click.Context) -> Iterator[str]:
    """`ctx = (77,) (from lbdsl.toml)` for each option that the environment or a file sets."""
    for param in ctx.command.params:
        name, long = str(param.name), long_name(param)
        source = ctx.get_parameter_source(name)
        if long and source in (ParameterSource.ENVIRONMENT, ParameterSource.DEFAULT_MAP):
            found = settings()[str(ctx.info_name)] if source is ParameterSource.DEFAULT_MAP else {}
            yield f"{long} = {ctx.params[name]} (from {found[key_of(long)].file if found else 'environment'})"
