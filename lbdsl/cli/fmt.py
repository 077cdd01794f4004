"""`lbdsl fmt FILES|-`: canonical text. Never loads torch."""

from __future__ import annotations

import sys

import click

from lbdsl.cli.options import FILE
from lbdsl.cli.output import tell, write_text
from lbdsl.core.units import plural


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILES...", type=FILE)
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
        name = "<stdin>" if file == "-" else file
        found = format_bytes(sys.stdin.buffer.read(), name) if file == "-" else format_file(file)
        formatted = found.value
        if formatted is None:
            show_diagnostics(found.diagnostics)
            worst = max([worst, *(diagnostic.exit_code for diagnostic in found.diagnostics)])
            continue
        changed += formatted.changed
        same += not formatted.changed
        if diff and formatted.changed:
            click.echo(writable(difference(name, formatted.old, formatted.new)), nl=False)
        if check and formatted.changed:
            tell(f"would change {name}")
        if file == "-" and not (check or diff):
            write_text(formatted.new)
        elif formatted.changed and not (check or diff):
            write_formatted(file, formatted)
    if tuple(files) != ("-",) and worst == 0:
        verb = "would change" if check or diff else "changed"
        left = "it is" if same == 1 else "they are"
        click.echo(f"{plural(changed, 'recipe')} {verb}, {same} left as {left}", err=True)
    ctx.exit(max(worst, int(check and changed > 0)))
