"""`lbdsl cache`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import click

from lbdsl.cli.options import Parsed, cache_dir_option, json_option, yes_option
from lbdsl.core.cache import KINDS
from lbdsl.core.diagnostic import Diagnostic

HOURS = {"h": 1, "d": 24, "w": 168}


def _age(value: Any) -> float:
    """A time such as 12h, 30d or 8w, in seconds."""
    match = re.fullmatch(r"(\d{1,6})([hdw])", str(value))
    if match is None:
        raise ValueError(f"{value!r} is not a time such as 12h, 30d or 8w (hours, days, weeks)")
    return 3600.0 * int(match[1]) * HOURS[match[2]]


@click.command()
@click.option(
    "--prune",
    "kinds",
    multiple=True,
    type=click.Choice([kind.name for kind in KINDS] + ["all"]),
    help="Delete what there is of a kind, after asking; may be repeated.",
)
@click.option("--older-than", type=Parsed("AGE", _age), help="Only what was not used for so long: 12h, 30d, 8w.")
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, and delete nothing.")
@yes_option
@cache_dir_option
@json_option
@click.pass_context
def cache(
    ctx: click.Context,
    kinds: tuple[str, ...],
    older_than: float | None,
    dry_run: bool,
    yes: bool,
    cache_dir: Path | None,
    as_json: bool,
) -> None:
    """List what lbdsl keeps between runs, by kind, with its size and age: in the cache folder, and the environments of
    engines. --prune deletes some of it; it is measured, copied or installed again when it is needed.

    What another lbdsl uses, and files that lbdsl did not write, are left.
    """
    from lbdsl.api.caching import cached, prune
    from lbdsl.cli.output import give, print_json, show_diagnostics
    from lbdsl.core.units import bytes_text, plural

    if not kinds and (older_than is not None or dry_run or yes):
        raise click.UsageError("--older-than, --dry-run and --yes go with --prune")
    if kinds and not dry_run and not yes and not sys.stdin.isatty():
        raise click.UsageError("off a terminal, `cache --prune` needs --yes or --dry-run")
    problems: tuple[Diagnostic, ...] = ()
    found = cached(cache_dir)
    if kinds:
        found = found.of([kind.name for kind in KINDS] if "all" in kinds else kinds, older_than or 0.0)
    if not as_json:
        give(found, as_json=False)
    if kinds and not dry_run and found.entries:
        if not yes and not click.confirm("Delete these?", err=True):
            click.echo("Nothing is deleted.", err=True)
            ctx.exit(1)
        found, problems = prune(found)
        show_diagnostics(problems)
        click.echo(f"Deleted {plural(len(found.entries), 'item')}, {bytes_text(found.bytes)}.", err=True)
    elif kinds:
        click.echo("Nothing is deleted.", err=True)
    if as_json:
        print_json(found.to_json())
    ctx.exit(1 if problems else 0)
