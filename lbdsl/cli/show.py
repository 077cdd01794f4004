"""`lbdsl show PLAN|ARTIFACT`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lbdsl.cli.options import PATH, all_option, json_option


@click.command()
@click.argument("what", type=PATH)
@all_option
@json_option
def show(what: Path, all_layers: bool, as_json: bool) -> None:
    """Show a saved plan (.lbplan) or an artifact's plan and report again."""
    from lbdsl.cli.output import print_json
    from lbdsl.report.console import stdout_console
    from lbdsl.report.plan import render_plan
    from lbdsl.report.report import render_report
    from lbdsl.session.claims import read_artifact, read_plan

    record = None
    if what.is_dir():
        record = read_artifact(what)
        # The plan's asserts with their results, not "after healing"; nothing is left to do.
        done: dict[str, Any] = {"asserts": record.asserts, "estimate": None, **({"heal": None} if record.no_heal else {})}
        plan = record.plan.model_copy(update=done)
    else:
        plan = read_plan(what)
    if as_json:
        print_json(plan.to_json() if record is None else record.model_dump(mode="json"))
        return
    render_plan(plan, stdout_console(), all_layers=all_layers)
    if record is not None:
        render_report(record, what, stdout_console())
