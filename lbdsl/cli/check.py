"""`lbdsl check`: parse, type-check and lint recipes. Never loads torch; everything else is imported on use."""

from __future__ import annotations

import gc
import json
import sys
from typing import TYPE_CHECKING

import click

from lbdsl.cli.options import FILE, RecipeFirst, model_option, set_option
from lbdsl.cli.output import output_style, writable, write_text
from lbdsl.core.units import plural

if TYPE_CHECKING:
    from lbdsl.api.checked_model import CheckedModel
    from lbdsl.core.diagnostic import Diagnostic

FORMATS = ("rich", "concise", "json", "sarif", "github")


@click.command(cls=RecipeFirst)
@click.argument("files", nargs=-1, required=True, metavar="FILES...", type=FILE)
@click.option(
    "--format", "form", type=click.Choice(FORMATS), default="rich", show_default=True, help="How findings are written."
)
@click.option("--strict", is_flag=True, help="End with 1 for warnings and notes too.")
@model_option(help="Check against this model too, from its headers: a folder, a GGUF file or a hub id.")
@click.option("--fix", is_flag=True, help="Apply the fixes that are proposed; with `-` the result goes to standard output.")
@click.option("--diff", is_flag=True, help="Show what --fix would change, and write nothing.")
@set_option
@click.option("--offline", is_flag=True, help="Never ask a hub for MODEL.")
@click.pass_context
def check(
    ctx: click.Context,
    files: tuple[str, ...],
    form: str,
    strict: bool,
    model: str | None,
    fix: bool,
    diff: bool,
    assignments: tuple[tuple[str, str], ...],
    offline: bool,
) -> None:
    """Parse, type-check and lint recipes; `-` reads standard input.

    The exit code is 0 when no recipe has errors, else that of the most severe error: 1, 5 for an
    assert that fails, or 6 for a model that lbdsl does not have.
    """
    # Garbage collection would take a tenth of the run time: imports create many objects, none of which is garbage.
    gc.disable()
    try:
        found = _found(files, model, offline, dict(assignments), fix, diff)
        # When the fixed text or a diff is on standard output, findings go to standard error.
        apart = diff or (fix and "-" in files)
        _write(found, form, len(set(files)), apart)
    finally:
        gc.enable()
    errors = [problem for _, problem in found if problem.is_error]
    if errors:
        ctx.exit(max(problem.exit_code for problem in errors))
    if found and strict:
        ctx.exit(1)


def _found(
    files: tuple[str, ...], model: str | None, offline: bool, given: dict[str, str], fix: bool, diff: bool
) -> list[tuple[str, Diagnostic]]:
    """Pairs of checked file and finding. For a model that cannot be read, only that error."""
    facts = None
    if model is not None:
        from lbdsl.api.checked_model import CheckedModel
        from lbdsl.api.inspecting import inspect_model
        from lbdsl.core.diagnostic import LbdslError

        try:
            facts = CheckedModel(inspect_model(model, offline=offline))
        except LbdslError as problem:
            return [(model, found) for found in problem.diagnostics]
    checked = (
        (lambda file: _fixed(file, given, facts, diff)) if fix or diff else (lambda file: _checked(file, given, facts))
    )
    return [(file, problem) for file in dict.fromkeys(files) for problem in checked(file)]


def _checked(file: str, given: dict[str, str], facts: CheckedModel | None) -> tuple[Diagnostic, ...]:
    from lbdsl.api.checking import check_file, on_model
    from lbdsl.recipe.load import recipe_from_bytes

    if file != "-":
        return check_file(file, given, facts=facts).diagnostics
    return on_model(recipe_from_bytes(sys.stdin.buffer.read(), "<stdin>", given), facts).diagnostics


def _fixed(file: str, given: dict[str, str], facts: CheckedModel | None, diff: bool) -> tuple[Diagnostic, ...]:
    """What is left after the fixes are applied; prints them, and with `diff` a diff instead of writing."""
    from lbdsl.api.fixing import fix_bytes, fix_file
    from lbdsl.report.diagnostics import difference, fixes_text

    if file == "-":
        found, fixed = fix_bytes(sys.stdin.buffer.read(), "<stdin>", given, facts)
        if fixed is not None and not diff:
            write_text(fixed.text)
    else:
        found, fixed = fix_file(file, given, facts, write=not diff)
    if fixed is not None:
        if diff and fixed.applied:
            click.echo(writable(difference(file, fixed.before, fixed.text)), nl=False)
        click.echo(writable(fixes_text(file, fixed, written=not diff)), nl=False, err=True)
    return found


def _write(found: list[tuple[str, Diagnostic]], form: str, files: int, apart: bool) -> None:
    from lbdsl.report import diagnostics as view

    problems = [problem for _, problem in found]
    if form == "json":
        entries = [view.diagnostic_json(problem, file) for file, problem in view.for_programs(found)]
        text = json.dumps({"format_version": view.FORMAT_VERSION, "diagnostics": entries}, indent=2) + "\n"
    elif form == "sarif":
        from lbdsl.report.diagnostics_formats import sarif_log
        from lbdsl.version import VERSION

        text = json.dumps(sarif_log(view.for_programs(found), VERSION), indent=2) + "\n"
    else:
        text = "".join(_shown(item.file, item.found, form, apart) + item.rest for item in view.capped(found))
    click.echo(writable(text), nl=False, err=apart, color=True if form == "rich" else None)
    if form == "rich":
        first = next((problem.code for problem in problems if problem.is_error), None)
        more = f"; `lbdsl explain {first}` says more" if first else ""
        nothing = f"{plural(files, 'recipe')} checked, nothing found"
        click.echo(view.summary(problems) + more or nothing, err=True)


def _shown(file: str, found: tuple[Diagnostic, ...], form: str, apart: bool) -> str:
    """The findings of one file as readable text, or as GitHub annotations."""
    from lbdsl.report.diagnostics import concise_text, diagnostics_text

    if form == "github":
        from lbdsl.report.diagnostics_formats import github_text

        return github_text([(file, problem) for problem in found])
    if form == "concise":
        return concise_text(found, "<stdin>" if file == "-" else file)
    return diagnostics_text(found, output_style(apart))
