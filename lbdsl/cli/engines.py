"""Options of commands that time models in an engine."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click
from click.core import ParameterSource

from lbdsl.cli.options import TOKENS, Parsed, arguments_option, python_option, with_options
from lbdsl.core.units import tokens_of


def _several(kind: click.ParamType) -> Parsed:
    """Values of one kind, separated by commas."""

    def parse(value: Any) -> tuple[Any, ...]:
        parts = value if isinstance(value, list | tuple) else str(value).split(",")
        return tuple(dict.fromkeys(kind.convert(part, None, None) for part in parts))

    return Parsed(f"{kind.name},...", parse)


def _lengths(value: Any) -> tuple[int, int]:
    """`1024/256`: tokens of a prompt, and tokens that are written."""
    if isinstance(value, tuple):
        return value
    parts = str(value).split("/")
    if len(parts) != 2:
        raise ValueError(f"{value!r} is not IN/OUT, as in 1024/256")
    read, written = map(tokens_of, parts)
    return read, written


OF_ENGINE = {
    "transformers": ("contexts", "batches"),
    "llamacpp": ("contexts", "batches", "engine_python", "install"),
    "vllm": ("concurrency", "lengths", "served", "engine_python", "install", "url", "engine_args"),
}
"""The options of each engine that another one does not have."""

_COUNTS = _several(click.IntRange(1))

_OPTIONS = (
    click.option("--engine", type=click.Choice(list(OF_ENGINE)), default="transformers", show_default=True),
    click.option("--pairs", type=click.IntRange(2), default=5, show_default=True, help="Runs of both models, by turns."),
    click.option(
        "--contexts",
        type=_several(TOKENS),
        help="transformers, llama.cpp: tokens of a prompt. Default: 1Ki,4Ki, as far as the model has positions.",
    ),
    click.option(
        "--batches",
        type=_COUNTS,
        default="1,8",
        show_default=True,
        help="transformers, llama.cpp: sequences decoded at once.",
    ),
    click.option("--concurrency", type=_COUNTS, default="50", show_default=True, help="vLLM: requests at once."),
    click.option(
        "--lengths",
        type=_several(Parsed("IN/OUT", _lengths)),
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
        "--url",
        nargs=2,
        metavar="BASE ARTIFACT",
        help="vLLM: servers that run already, such as http://localhost:8000, of the base and of the artifact.",
    ),
    python_option(
        help="A Python that has the engine; a vLLM for GPUs runs on those that it sees, unless --device cpu is given."
    ),
    arguments_option(help='vLLM: more words for its command line, as in "--tensor-parallel-size 2".'),
    click.option(
        "--install", is_flag=True, help="Make an environment with the engine if there is none (minutes, gigabytes)."
    ),
)


def engine_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options, of which the command gets `asked`: what is to be timed in which engine."""

    @wraps(verb)
    @click.pass_context
    def wrapper(ctx: click.Context, engine: str, pairs: int, **given: Any) -> Any:
        from lbdsl.bench.engine import EnginePython
        from lbdsl.bench.engine_llamacpp import InLlamaCpp
        from lbdsl.bench.engine_transformers import InTransformers
        from lbdsl.bench.engine_url import AtUrls
        from lbdsl.bench.engine_vllm import Requests

        own = {name: given.pop(name) for names in OF_ENGINE.values() for name in names if name in given}
        for name in own:
            if name not in OF_ENGINE[engine] and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                having = " or ".join(other for other, names in OF_ENGINE.items() if name in names)
                raise click.UsageError(f"--{name.replace('_', '-')} is of --engine {having}", ctx)
        chosen = {"pairs": pairs, **{name: own[name] for name in OF_ENGINE[engine]}}
        if urls := chosen.pop("url", None):
            if any(chosen[name] for name in ("served", "engine_python", "install", "engine_args")):
                said = "--url is without --served, --engine-python, --engine-args and --install: it starts no engine"
                raise click.UsageError(said, ctx)
            sizes = {name: chosen[name] for name in ("concurrency", "lengths", "pairs")}
            return verb(asked=AtUrls(urls, **sizes), **given)
        if "install" in chosen:
            words = tuple(chosen.pop("engine_args", ()))
            chosen["engine"] = EnginePython(chosen.pop("engine_python"), chosen.pop("install"), words)
        kinds: dict[str, Callable[..., Any]] = {"transformers": InTransformers, "llamacpp": InLlamaCpp, "vllm": Requests}
        return verb(asked=kinds[engine](**chosen), **given)

    return with_options(_OPTIONS, wrapper)
