"""`lbdsl verify ARTIFACT`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lbdsl.cli.options import TOKENS, against_option, artifact_argument, json_option, measuring_options, python_option


@click.command()
@artifact_argument
@against_option(help="Its base; default: the one in its record.")
@click.option("--engine", type=click.Choice(["transformers", "vllm"]), help="Compare what an export computes there, too.")
@python_option(help="A Python that has vLLM; default: lbdsl's own environment of it.")
@click.option("--install", is_flag=True, help="Make an environment with vLLM if there is none (minutes, gigabytes).")
@click.option("--tokens", type=TOKENS, default="8Ki", show_default=True, help="Tokens of each text to judge on.")
@json_option
@measuring_options
@click.pass_context
def verify(
    ctx: click.Context, artifact: Path, engine_python: Path | None, install: bool, as_json: bool, **asked: Any
) -> None:
    """Whether ARTIFACT is as it was saved, and as good on a sample as its record says.

    With --engine, also whether an export of it computes the same there."""
    from lbdsl.api.verifying import verify_artifact
    from lbdsl.bench.engine import EnginePython
    from lbdsl.cli.output import give, show_diagnostics

    found = verify_artifact(artifact, python=EnginePython(engine_python, install), **asked)
    give(found, as_json)
    show_diagnostics(found.diagnostics)
    ctx.exit(found.exit_code)
