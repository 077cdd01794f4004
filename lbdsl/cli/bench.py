"""`lbdsl bench ARTIFACT`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from lbdsl.cli.completions import FOLDERS
from lbdsl.cli.options import Tokens, json_option, run_options


class _Several(click.ParamType):
    """Values of one kind, separated by commas."""

    def __init__(self, kind: click.ParamType) -> None:
        self.kind, self.name = kind, f"{kind.name},..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        parts = value if isinstance(value, list | tuple) else str(value).split(",")
        return tuple(dict.fromkeys(self.kind.convert(part, param, ctx) for part in parts))


class _Lengths(click.ParamType):
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
    "vllm": ("concurrency", "lengths", "engine_python", "install"),
}
"""The options of each engine that another one does not have."""


class _Picture(click.Path):
    """A file to draw, in a folder that is there."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = Path(str(super().convert(value, param, ctx)))
        if path.suffix not in PICTURES:
            self.fail(f"{str(path)!r} does not end in {' or '.join(PICTURES)}", param, ctx)
        if not path.absolute().parent.is_dir():
            self.fail(f"{str(path.parent)!r} is not a folder", param, ctx)
        return path


PICTURES = (".png", ".svg")


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path), shell_complete=FOLDERS)
@click.option("--against", metavar="MODEL", help="The base model; default: the one in the artifact's record.")
@click.option("--engine", type=click.Choice(list(OF_ENGINE)), default="transformers", show_default=True)
@click.option(
    "--pairs", type=click.IntRange(2), default=5, show_default=True, help="How many times both models run, by turns."
)
@click.option(
    "--contexts",
    type=_Several(Tokens()),
    help="transformers, llama.cpp: tokens of a prompt. Default: 1Ki,4Ki, as far as the model has positions.",
)
@click.option(
    "--batches",
    type=_Several(click.IntRange(1)),
    default="1,8",
    show_default=True,
    help="transformers, llama.cpp: sequences decoded at once.",
)
@click.option(
    "--concurrency",
    type=_Several(click.IntRange(1)),
    default="50",
    show_default=True,
    help="vLLM: requests at once.",
)
@click.option(
    "--lengths", type=_Several(_Lengths()), default="1024/256", show_default=True, help="vLLM: tokens read and written."
)
@click.option(
    "--engine-python", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A Python that has the engine."
)
@click.option("--install", is_flag=True, help="Make an environment with the engine if there is none (minutes, gigabytes).")
@click.option("--output", "-o", type=_Picture(path_type=Path, dir_okay=False), help="Draw the ratios: a .png or .svg file.")
@json_option
@run_options
@click.pass_context
def bench(
    ctx: click.Context,
    artifact: Path,
    against: str | None,
    engine: str,
    pairs: int,
    contexts: tuple[int, ...] | None,
    batches: tuple[int, ...],
    concurrency: tuple[int, ...],
    lengths: tuple[tuple[int, int], ...],
    engine_python: Path | None,
    install: bool,
    output: Path | None,
    as_json: bool,
    options: Any,
    progress: Any,
) -> None:
    """Time ARTIFACT beside its base, in paired runs: prefill, decode and latency in transformers (with cache and
    memory) or llama.cpp, or the throughput of many requests at once in vLLM.

    The result is kept in the artifact's record and its model card.
    """
    from lbdsl.cli.output import print_json
    from lbdsl.verbs.bench_engine import EnginePython
    from lbdsl.verbs.benching import InLlamaCpp, InTransformers, Requests, bench_artifact

    _refuse_others(ctx, engine)
    python = EnginePython(engine_python, install)
    asked: Callable[[], Any] = {
        "transformers": lambda: InTransformers(contexts, batches, pairs),
        "llamacpp": lambda: InLlamaCpp(contexts, batches, pairs, python),
        "vllm": lambda: Requests(concurrency, lengths, pairs, python),
    }[engine]
    found = bench_artifact(artifact, asked(), against=against, options=options, progress=progress)
    if as_json:
        print_json(found.to_json())
    else:
        from lbdsl.report.bench import render_bench
        from lbdsl.report.console import stdout_console

        render_bench(found.to_json(), stdout_console())
    if output is not None:
        from lbdsl.report.bench import draw_bench

        draw_bench(found.measured.cells, output)


def _refuse_others(ctx: click.Context, engine: str) -> None:
    """A usage error for an option of another engine."""
    others = {name: other for other, names in OF_ENGINE.items() for name in names if name not in OF_ENGINE[engine]}
    for name, other in others.items():
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise click.UsageError(f"--{name.replace('_', '-')} is of --engine {other}", ctx)
