"""`lbdsl fmt FILES|-`: canonical text. Never loads torch."""

from __future__ import annotations

import sys

import click

from lbdsl.cli.completions import RECIPES
from lbdsl.cli.output import write_text
from lbdsl.core.units import plural


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILES...", shell_complete=RECIPES)
@click.option("--check", is_flag=True, help="Write nothing; name the files that would change, and end with 1 if any would.")
@click.option("--diff", is_flag=True, help="Write nothing; show what would change.")
@click.pass_context
def fmt(ctx: click.Context, files: tuple[str, ...], check: bool, diff: bool) -> None:
    """Rewrite recipes in their canonical form; `-` reads standard input and writes the result to standard output.

    One statement per line, a space around operators, a block on one line when it fits in 100 columns, at most one
    consecutive blank line, LF line endings. Comments stay where they are. A recipe's meaning never changes; a recipe with
    syntax errors is not modified. The exit code is 1 when a recipe has errors, or with --check when one would change.
    """
    from lbdsl.api.formatting import format_bytes, format_file, write_formatted
    from lbdsl.cli.output import show_diagnostics, writable
    from lbdsl.report.diagnostics import difference

    worst, changed, same = 0, 0, 0
    for file in files:
        found = format_bytes(sys.stdin.buffer.read(), "<stdin>") if file == "-" else format_file(file)
        if found.value is None:
            show_diagnostics(found.diagnostics)
            worst = max([worst, *(diagnostic.exit_code for diagnostic in found.diagnostics)])
            continue
        changed += found.value.changed
        same += not found.value.changed
        if diff and found.value.changed:
            name = "<stdin>" if file == "-" else file
            click.echo(writable(difference(name, found.value.old, found.value.new)), nl=False)
        if check and found.value.changed:
            click.echo(f"would change {'<stdin>' if file == '-' else file}", err=True)
        if file == "-" and not (check or diff):
            write_text(found.value.new)
        elif found.value.changed and not (check or diff):
            write_formatted(file, found.value)
    if tuple(files) != ("-",) and worst == 0:
        verb = "would change" if check or diff else "changed"
        click.echo(f"{plural(changed, 'recipe')} {verb}, {same} left as {_they(same)}", err=True)
    if check and changed:
        worst = max(worst, 1)
    ctx.exit(worst)


def _they(number: int) -> str:
    return "it is" if number == 1 else "they are"
