"""`lbdsl inspect MODEL`."""

from __future__ import annotations

import click

from lbdsl.cli.options import DTYPE, json_option, model_argument, offline_option


@click.command()
@model_argument
@click.option("--dtype", type=DTYPE, help="As if run in this type.")
@offline_option
@json_option
def inspect(model: str, dtype: str | None, offline: bool, as_json: bool) -> None:
    """Layers, shapes, sizes and cache per token of MODEL, from its headers only.

    MODEL is a local folder, a hub id with an optional @revision, or a GGUF file.
    """
    from lbdsl.api.inspecting import inspect_model
    from lbdsl.cli.output import print_json, show_diagnostics

    found = inspect_model(model, dtype=dtype, offline=offline)
    show_diagnostics(found.diagnostics)
    if as_json:
        print_json(found.summary)
    else:
        from lbdsl.report.console import stdout_console
        from lbdsl.report.facts import render_facts

        render_facts(found.facts, found.source.short_name, stdout_console(), base=found.base)
