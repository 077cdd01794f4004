"""`lbdsl diff PLAN PLAN`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lbdsl.cli.options import PATH, json_option
from lbdsl.cli.plan import CHANGES_PRESENT

if TYPE_CHECKING:
    from lbdsl.plan.schema import Plan


@click.command()
@click.argument("first", type=PATH)
@click.argument("second", type=PATH)
@click.option("--detailed-exitcode", is_flag=True, help="Exit 10 when the plans differ.")
@json_option
@click.pass_context
def diff(ctx: click.Context, first: Path, second: Path, detailed_exitcode: bool, as_json: bool) -> None:
    """Two saved plans (.lbplan), or the plans of two artifacts, side by side, and where they differ."""
    from lbdsl.cli.output import print_json
    from lbdsl.core.diagnostic import fail
    from lbdsl.report.compared import differences, render_diff

    (one, was_judged), (other, is_judged) = (_plan(path) for path in (first, second))
    if len(one.layers) != len(other.layers):
        counts = f"{len(one.layers)} and {len(other.layers)} layers"
        raise fail("LB466", f"the plans are for models of {counts}", help="compare plans for one model")
    if as_json:
        found: dict[str, Any] = {"plans": [str(first), str(second)], "differences": [*differences(one, other, "->")]}
        for part in ("after", "loss", "recall"):
            values = (getattr(plan, part) for plan in (one, other))
            found[part] = [value and value.model_dump(mode="json") for value in values]
        print_json({**found, "evaluation": [was_judged, is_judged]})
    else:
        from lbdsl.report.console import stdout_console

        label, beside = (str(first), str(second)) if first != second else ("first", "second")
        judged = {name: found for name, found in ((label, was_judged), (beside, is_judged)) if found is not None}
        render_diff({label: one, beside: other}, stdout_console(), judged)
    if detailed_exitcode and one.digest != other.digest:
        ctx.exit(CHANGES_PRESENT)


def _plan(path: Path) -> tuple[Plan, dict[str, Any] | None]:
    """The plan in a file; or that of an artifact, and its evaluation if it was judged."""
    from lbdsl.session.claims import read_artifact, read_plan

    if not path.is_dir():
        return read_plan(path), None
    record = read_artifact(path)
    return record.plan, record.evaluation
