"""`lbdsl convert FILE`: convert between `.lbr`, JSON and YAML. Never loads torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lbdsl.cli.options import FILE, NEW_FILE
from lbdsl.cli.output import write_text

if TYPE_CHECKING:
    from lbdsl.api.converting import Form

_FORMS = ["lbr", "json", "yaml"]


@click.command()
@click.argument("file", required=False, metavar="FILE", type=FILE)
@click.option(
    "--to", type=click.Choice(_FORMS), help="Default: by the name of OUT; else json for a recipe, and lbr for the others."
)
@click.option("--from", "source", type=click.Choice(_FORMS), help="Default: by the name of FILE, lbr for standard input.")
@click.option("-o", "--output", "out", type=NEW_FILE, metavar="OUT", help="Write there instead of to standard output.")
@click.option("--force", is_flag=True, help="Overwrite OUT.")
@click.option("--schema", is_flag=True, help="Print the JSON schema of recipes as JSON, and nothing else.")
@click.pass_context
def convert(
    ctx: click.Context, file: str | None, to: Form | None, source: Form | None, out: Path | None, force: bool, schema: bool
) -> None:
    """Convert a recipe between .lbr, JSON and YAML; `-` reads standard input.

    The recipe stays the same, including its parameters and includes. Comments and spacing are lost: JSON has none, and
    YAML's are not kept. Only the syntax is checked; use `lbdsl check` to check the recipe.
    """
    from lbdsl.cli.output import show_diagnostics

    if schema:
        if file is not None:
            raise click.UsageError("--schema is the same for every recipe and takes no FILE")
        from lbdsl.recipe.exchange import recipe_schema
        from lbdsl.recipe.exchange_text import json_text

        _give(json_text(recipe_schema()) + "\n", out, force)
        return
    if file is None:
        raise click.UsageError("Missing argument 'FILE'.")
    from lbdsl.api.converting import convert_recipe, form_of
    from lbdsl.recipe.reading import read_bytes, text_of

    source = source or (form_of(file) if file != "-" else "lbr")
    if source is None:
        raise click.UsageError(f"{file!r} ends in none of .lbr, .json, .yaml, .yml; say what it is with --from")
    to = to or (form_of(out) if out is not None else None) or ("json" if source == "lbr" else "lbr")
    name = "<stdin>" if file == "-" else file
    data = sys.stdin.buffer.read() if file == "-" else read_bytes(file).unwrap()
    found = convert_recipe(text_of(data, name).unwrap(), source, to, name)
    show_diagnostics(found.diagnostics)
    if found.value is None:
        ctx.exit(max(diagnostic.exit_code for diagnostic in found.diagnostics))
    _give(found.value, out, force)


def _give(text: str, out: Path | None, force: bool) -> None:
    """Write to a file, or to standard output as UTF-8, which is probably redirected to a file."""
    from lbdsl.api.writing import write_beside

    if out is None:
        write_text(text)
    else:
        write_beside(out, text, replace=force)
