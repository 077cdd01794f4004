"""`lbdsl push ARTIFACT ORGANISATION/NAME`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from lbdsl.cli.options import artifact_argument, export_option, json_option, quiet_option, yes_option


@click.command()
@artifact_argument
@click.argument("repository", metavar="ORGANISATION/NAME")
@export_option(help="Push this export of it instead, as in `export`.")
@click.option("--private", is_flag=True, help="Make the repository a private one.")
@click.option("--dry-run", is_flag=True, help="Only list what would go up.")
@yes_option
@quiet_option
@json_option
@click.pass_context
def push(
    ctx: click.Context,
    artifact: Path,
    repository: str,
    kind: str | None,
    private: bool,
    dry_run: bool,
    yes: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Put ARTIFACT on the Hugging Face hub: the files of its record and its card, with the base's license, in a commit."""
    from lbdsl.api.pushing import sent, to_push
    from lbdsl.artifact.hub import check_token
    from lbdsl.cli.output import give, show_diagnostics
    from lbdsl.core.printed import printable
    from lbdsl.core.units import bytes_text, plural
    from lbdsl.report.progress import TerminalProgress

    if not (dry_run or yes or sys.stdin.isatty()):
        raise click.UsageError("off a terminal, `push` needs --yes, or --dry-run")
    if not dry_run:
        check_token(repository)
    if quiet or not sys.stderr.isatty():
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
    progress = TerminalProgress(quiet=quiet)
    with to_push(artifact, repository, kind, private=private, progress=progress) as planned:
        show_diagnostics(planned.diagnostics)
        if dry_run:
            return give(planned, as_json)
        what = f"{plural(len(planned.files), 'file')}, {bytes_text(planned.bytes)} to {printable(repository)}"
        if not yes and not click.confirm(f"Push {what} ({'private' if private else 'public'})?", err=True):
            ctx.exit(1)
        give(sent(planned), as_json)
