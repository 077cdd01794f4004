"""Options of commands that time models in an engine."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from lbdsl.cli.options import Tokens


class Several(click.ParamType):
    """Values of one kind, separated by commas."""

    def __init__(self, kind: click.ParamType) -> None:
        self.kind, self.name = kind, f"{kind.name},..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        parts = value if isinstance(value, list | tuple) else str(value).split(",")
        return tuple(dict.fromkeys(self.kind.convert(part, param, ctx) for part in parts))


class Lengths(click.ParamType):
    """`1024/256`: tokens of a prompt, and tokens that are written."""

    name = "IN/OUT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        parts = str(value).split("/")
        if len(parts) != 2:
            self.fail(f"{value!r} is not IN/OUT, as in 1024/256", param, ctx)
        read, written = (Tokens().convert(part, param, ctx) for part in parts)
        return read, written


OF_ENGINE = {
    "transformers": ("contexts", "batches"),
    "llamacpp": ("contexts", "batches", "engine_python", "install"),
    "vllm": ("concurrency", "lengths", "served", "engine_python", "install"),
}
"""The options of each engine that another one does not have."""

_OPTIONS = (
    click.option("--engine", type=click.Choice(list(OF_ENGINE)), default="transformers", show_default=True),
    click.option("--pairs", type=click.IntRange(2), default=5, show_default=True, help="Runs of both models, by turns."),
    click.option(
        "--contexts",
        type=Several(Tokens()),
        help="transformers, llama.cpp: tokens of a prompt. Default: 1Ki,4Ki, as far as the model has positions.",
    ),
    click.option(
        "--batches",
        type=Several(click.IntRange(1)),
        default="1,8",
        show_default=True,
        help="transformers, llama.cpp: sequences decoded at once.",
    ),
    click.option(
        "--concurrency",
        type=Several(click.IntRange(1)),
        default="50",
        show_default=True,
        help="vLLM: requests at once.",
    ),
    click.option(
        "--lengths",
        type=Several(Lengths()),
        default="1024/256",
        show_default=True,
        help="vLLM: tokens read and written.",
    ),
    click.option(
        "--served",
        is_flag=True,
        help="vLLM: to a server, timed by vLLM's own client: to the first token, and between tokens.",
    ),
    click.option(
        "--engine-python",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="A Python that has the engine.",
    ),
    click.option(
        "--install", is_flag=True, help="Make an environment with the engine if there is none (minutes, gigabytes)."
    ),
)


def engine_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options, of which the command gets `asked`: what is to be timed in which engine."""

    @wraps(verb)
    @click.pass_context
    def wrapper(ctx: click.Context, **given: Any) -> Any:
        from lbdsl.bench.engine import EnginePython
        from lbdsl.bench.engine_llamacpp import InLlamaCpp
        from lbdsl.bench.engine_transformers import InTransformers
        from lbdsl.bench.engine_vllm import Requests

        names = [param for group in OF_ENGINE.values() for param in group]
        one = {name: given.pop(name) for name in dict.fromkeys(names)}
        engine, pairs = given.pop("engine"), given.pop("pairs")
        _refuse_others(ctx, engine)
        python = EnginePython(one["engine_python"], one["install"])
        asked: dict[str, Callable[[], Any]] = {
            "transformers": lambda: InTransformers(one["contexts"], one["batches"], pairs),
            "llamacpp": lambda: InLlamaCpp(one["contexts"], one["batches"], pairs, python),
            "vllm": lambda: Requests(one["concurrency"], one["lengths"], pairs, python, one["served"]),
        }
        return verb(asked=asked[engine](), **given)

    for option in reversed(_OPTIONS):
        wrapper = option(wrapper)
    return wrapper


def _refuse_others(ctx: click.Context, engine: str) -> None:
    """A usage error for an option of another engine."""
    for name in dict.fromkeys(name for names in OF_ENGINE.values() for name in names):
        source = ctx.get_parameter_source(name)
        if name not in OF_ENGINE[engine] and source is not None and source.name == "COMMANDLINE":
            having = " or ".join(other for other, names in OF_ENGINE.items() if name in names)
            raise click.UsageError(f"--{name.replace('_', '-')} is of --engine {having}", ctx)
