"""`lbdsl report ARTIFACT`."""

from __future__ import annotations

from pathlib import Path

import click

from lbdsl.cli.options import PATH, artifact_argument


@click.command()
@artifact_argument
@click.option("-o", "--output", type=PATH, help="Where to write it. Default: ARTIFACT.html")
@click.option("--force", is_flag=True, help="Replace a file that is not such a page.")
def report(artifact: Path, output: Path | None, force: bool) -> None:
    """Write what is known of ARTIFACT as one HTML page, which needs no network: plan, scores, costs, quality, speed."""
    from lbdsl.api.writing import write_beside
    from lbdsl.cli.output import write_text
    from lbdsl.report.page import is_page, page_of
    from lbdsl.session.claims import read_artifact

    record = read_artifact(artifact)
    place = output or artifact.resolve().parent / f"{artifact.resolve().name}.html"
    write_beside(place, page_of(record), replace=force or is_page(place))
    write_text(f"{place}\n")
