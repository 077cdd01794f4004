"""`lbdsl lsp`: the language server, for editors."""

from __future__ import annotations

import gc
import os
import sys
from typing import BinaryIO, cast

import click

from lbdsl.cli.options import model_option


@click.command()
@model_option(help="The model that hints are about. Default: the editor's setting, else that of lbdsl.toml.")
@click.option("--stdio", is_flag=True, hidden=True, help="How editors start it; there is no other way.")
@click.pass_context
def lsp(ctx: click.Context, model: str | None, stdio: bool) -> None:
    """Serve an editor over standard input and output.

    docs/editors.md shows how to set up VS Code, Neovim and Helix. It needs pygls: pip install ".[editor]" in a
    checkout of lbdsl.
    """
    from lbdsl.core.extras import check_installed

    check_installed("pygls", "the language server")
    from lbdsl.editor.features import make_server
    from lbdsl.editor.server import Messages

    # Standard output is reserved for the protocol; everything else that is printed goes to standard error.
    protocol = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    asked = ctx.get_parameter_source("model") is click.core.ParameterSource.COMMANDLINE
    server = make_server(model if asked else None, None if asked else model)
    # What is imported is no garbage, and each edit makes tens of thousands of objects: a tenth of an answer's time.
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)
    server.start_io(stdin=cast(BinaryIO, Messages(sys.stdin.buffer)), stdout=protocol)
