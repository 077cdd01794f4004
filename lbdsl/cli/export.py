"""`lbdsl export ARTIFACT --to KIND`."""

from __future__ import annotations

from pathlib import Path

import click

from lbdsl.cli.options import PATH, artifact_argument, export_option, json_option, quiet_option


@click.command()
@artifact_argument
@export_option(default="", help="The format: decilm, gguf, granite, native, vllm.")
@click.option("-o", "--output", type=PATH, help="Where to write it. Default: ARTIFACT-KIND")
@click.option("--force", is_flag=True, help="Move an existing output aside.")
@quiet_option
@json_option
def export(artifact: Path, kind: str, output: Path | None, force: bool, quiet: bool, as_json: bool) -> None:
    """Write ARTIFACT in a format that an inference engine reads; fails with a reason if the format cannot express it."""
    from lbdsl.cli.output import give, show_diagnostics
    from lbdsl.report.progress import TerminalProgress
    from lbdsl.session.exporting import export_artifact

    done = export_artifact(artifact, kind, output=output, force=force, progress=TerminalProgress(quiet=quiet))
    show_diagnostics(done.diagnostics)
    give(done, as_json)
