"""`lbdsl bench ARTIFACT`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lbdsl.cli.engines import engine_options
from lbdsl.cli.options import PICTURE, against_option, artifact_argument, json_option, run_options


@click.command()
@artifact_argument
@against_option(help="The base, or another model; default: the one in the artifact's record.")
@engine_options
@click.option("--output", "-o", type=PICTURE, help="Draw the ratios: a .png or .svg file.")
@json_option
@run_options
def bench(artifact: Path, against: str | None, asked: Any, output: Path | None, as_json: bool, **running: Any) -> None:
    """Time ARTIFACT against its base, in paired runs: prefill, decode and latency in transformers (with cache and
    memory) or llama.cpp, or the throughput of many requests at once in vLLM.

    The result is kept in the artifact's record and its model card, unless --against names another base.
    """
    from lbdsl.api.benching import bench_artifact
    from lbdsl.cli.output import give, show_diagnostics

    found = bench_artifact(artifact, asked, against=against, **running)
    give(found, as_json)
    show_diagnostics(found.diagnostics)
    if output is not None:
        from lbdsl.report.bench import draw_bench

        draw_bench(found.to_json(), output)
