"""`lbdsl check`: parse, type-check and lint recipes. Never loads torch; everything else is imported on use."""

from __future__ import annotations

import gc
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from lbdsl.core.diagnostic import Diagnostic
    from lbdsl.view.diagnostics import Style


class _Assignment(click.ParamType):
    """`NAME=VALUE`; the value is read by the type that the recipe declares."""

    name = "NAME=VALUE"

    def convert(self, value: str | tuple[str, str], param: click.Parameter | None,
                ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, equals, setting = value.partition("=")
        if not equals or not name.strip():
            self.fail(f"{value!r} is not NAME=VALUE", param, ctx)
        return name.strip().lstrip("$"), setting.strip()


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILES...")
@click.option("--format", "form", type=click.Choice(["rich", "concise", "json"]), default="rich", show_default=True,
              help="How findings are written.")
@click.option("--strict", is_flag=True, help="End with 1 for warnings and notes too.")
@click.option("--set", "assignments", type=_Assignment(), multiple=True,
              help="Give a `param` of the recipe another value; may be repeated.")
@click.pass_context
def check(ctx: click.Context, files: tuple[str, ...], form: str, strict: bool,
          assignments: tuple[tuple[str, str], ...]) -> None:
    """Parse, type-check and lint recipes; `-` reads standard input.

    Ends with 0 when every recipe is good, with 1 when one has errors.
    """
    # A tenth of the run would go to collecting the objects that imports make, none of which is garbage.
    gc.disable()
    try:
        problems = _report(files, form, dict(assignments))
    finally:
        gc.enable()
    if any(error or strict for error in problems):
        ctx.exit(1)


def _report(files: tuple[str, ...], form: str, set_params: dict[str, str]) -> list[bool]:
    """Check and write; for each finding, whether it is an error."""
    from lbdsl.view import diagnostics as view

    found: list[Diagnostic] = []
    entries: list[dict[str, Any]] = []
    for file in files:
        checked = _check(file, set_params)
        found += checked
        entries += view.diagnostics_json(checked, file) if form == "json" else []
    if form == "json":
        click.echo(json.dumps({"format_version": view.FORMAT_VERSION, "diagnostics": entries}, indent=2))
    elif form == "concise":
        click.echo(_writable(view.concise_text(found)), nl=False)
    else:
        click.echo(_writable(view.diagnostics_text(found, _style())), nl=False, color=True)
    if form == "rich":
        click.echo(view.summary(found) or f"{len(files)} recipe{'' if len(files) == 1 else 's'} checked, nothing found",
                   err=True)
    return [diagnostic.is_error for diagnostic in found]


def _check(file: str, set_params: dict[str, str]) -> tuple[Diagnostic, ...]:
    from lbdsl.recipe.load import load_recipe, recipe_from_bytes

    if file == "-":
        return recipe_from_bytes(sys.stdin.buffer.read(), "<stdin>", set_params).diagnostics
    return load_recipe(file, set_params).diagnostics


def _style() -> Style:
    """Colours and line drawing on a terminal that has them, and neither elsewhere."""
    from lbdsl.view.diagnostics import Style, is_unicode

    dumb = os.environ.get("TERM") == "dumb"
    terminal = sys.stdout.isatty()
    colour = terminal and not dumb and not os.environ.get("NO_COLOR")
    width = min(100, max(40, os.get_terminal_size(sys.stdout.fileno()).columns)) if terminal else 80
    return Style(width, colour, is_unicode(sys.stdout.encoding) and not dumb)


def _writable(text: str) -> str:
    """The text with what standard output cannot encode replaced."""
    encoding = sys.stdout.encoding or "ascii"
    return text.encode(encoding, "replace").decode(encoding)
