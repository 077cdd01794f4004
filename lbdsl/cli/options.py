"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Any

import click

from lbdsl.cli.config import file_of
from lbdsl.core.pictures import check_drawing
from lbdsl.core.processes import process_number
from lbdsl.verbs.interrupt import ended_by_kill
from lbdsl.workbench.options import RunOptions

cache_dir_option = click.option(
    "--cache-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where measurements are kept. Default: the user's cache folder.",
)
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
)
_RUN = (
    click.option("--device", help="cpu, cuda, cuda:1. Default: a GPU where there is one."),
    click.option(
        "--dtype",
        type=click.Choice(["bfloat16", "float16", "float32"]),
        help="Default: the checkpoint's; bfloat16 for GGUF.",
    ),
    cache_dir_option,
    click.option("--offline", is_flag=True, help="Never ask a hub."),
    click.option("--trust-remote-code", is_flag=True, help="Run code that a local source model brings for its tokenizer."),
    click.option("--quiet", "-q", is_flag=True, help="No progress; only data and diagnostics."),
)


def run_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags of commands that run a model, which get them as `options: RunOptions` and `progress`."""

    @wraps(verb)
    def wrapper(quiet: bool, **rest: Any) -> Any:
        from lbdsl.report.console import stderr_console
        from lbdsl.report.progress import TerminalProgress

        names = {field.name for field in fields(RunOptions)} & set(rest)
        options = RunOptions(**{name: rest.pop(name) for name in names})
        progress = TerminalProgress(stderr_console(), quiet or process_number() > 0)
        with ended_by_kill():
            return verb(options=options, progress=progress, **rest)

    return _with(_RUN, wrapper)


def measuring_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """`run_options`, and those of commands that measure or evaluate."""
    return _with(_MEASURING, run_options(verb))


def _with(options: Sequence[Callable[..., Any]], verb: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(options):
        verb = option(verb)
    return verb


class Assignment(click.ParamType):
    """`NAME=VALUE`; the value is parsed by the type that the recipe declares."""

    name = "NAME=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, equals, setting = str(value).partition("=")
        if not equals or not name.strip():
            self.fail(f"{value!r} is not NAME=VALUE", param, ctx)
        return name.strip().lstrip("$"), setting.strip()


class Picture(click.Path):
    """A file to draw, in a folder that is there. Raises LB485 without matplotlib: what it shows may take hours."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = Path(str(super().convert(value, param, ctx)))
        if path.suffix not in PICTURES:
            self.fail(f"{str(path)!r} does not end in {' or '.join(PICTURES)}", param, ctx)
        if not path.absolute().parent.is_dir():
            self.fail(f"{str(path.parent)!r} is not a folder", param, ctx)
        if path.exists() and not _is_picture(path):
            self.fail(f"{str(path)!r} already exists, and it is not a picture", param, ctx)
        check_drawing(path)
        return path


def _is_picture(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(1000)
    return start.startswith(b"\x89PNG") or b"<svg" in start


PICTURES = (".png", ".svg")


set_option = click.option(
    "--set",
    "assignments",
    type=Assignment(),
    multiple=True,
    help="Give a `param` of the recipe another value; may be repeated.",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable output on stdout.")


class Tokens(click.ParamType):
    """A number of tokens in recipe syntax: 512, 8Ki, 10k."""

    name = "TOKENS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from lbdsl.core.units import tokens_of

        try:
            return tokens_of(value)
        except ValueError as problem:
            self.fail(str(problem), param, ctx)


class DevicesType(click.ParamType):
    """Devices such as 8xH100, 1x24GB or 2xcpu."""

    name = "COUNTxKIND"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from lbdsl.plan.devices import devices_of

        try:
            return devices_of(str(value))
        except ValueError as problem:
            self.fail(str(problem), param, ctx)


def origins(ctx: click.Context) -> Iterator[str]:
    """`ctx = (77,) (from lbdsl.toml)` for each option that the environment or a file sets."""
    for param in ctx.command.params:
        source, long = ctx.get_parameter_source(param.name or ""), next((o for o in param.opts if o.startswith("--")), "")
        if long and source is not None and source.name in ("ENVIRONMENT", "DEFAULT_MAP"):
            place = "environment" if source.name == "ENVIRONMENT" else file_of(ctx.info_name or "", long[2:])
            yield f"{long[2:]} = {ctx.params[param.name or '']} (from {place})"
