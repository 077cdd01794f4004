"""`lbdsl calibrate MODEL`."""

from __future__ import annotations

from typing import Any

import click

from lbdsl.cli.engines import engine_options
from lbdsl.cli.options import json_option, model_argument, run_options


@click.command()
@model_argument
@engine_options
@json_option
@run_options
def calibrate(model: str, asked: Any, as_json: bool, **running: Any) -> None:
    """Time variants of MODEL in an engine, and keep what its parts cost there: what `bench` then predicts.

    The profile is for models of the same shape on this machine. After an interruption the same command continues.
    """
    from lbdsl.cli.output import give

    if getattr(asked, "served", False) or hasattr(asked, "urls"):
        raise click.UsageError("--served and --url are of `lbdsl bench`: a profile is of offline runs")
    from lbdsl.api.calibrating import calibrate_model

    give(calibrate_model(model, asked, **running), as_json)
