"""Terminal output of `lbdsl measure`: a table of layers by scores."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from lbdsl.api.planning import Measured


def render_scores(measured: Measured, console: Console) -> None:
    """Print a table with one row per layer and one column per score, with standard errors."""
    if not measured.scores:
        console.print("The recipe asks for no measured score.", highlight=False)
        return
    names = sorted({(request.metric, request.action) for request in measured.scores})
    layers = sorted({request.layer for request in measured.scores})
    by_key = {(r.metric, r.action, r.layer): found for r, found in measured.scores.items()}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer", justify="right")
    for metric, action in names:
        table.add_column(f"{metric}({action})" if action else metric, justify="right", overflow="fold")
    for layer in layers:
        cells = []
        for metric, action in names:
            found = by_key.get((metric, action, layer))
            if found is None:
                cells.append("")
            else:
                error = "" if math.isnan(found.stderr) else f" ±{found.stderr:.4f}"
                cells.append(f"{found.value:+.4f}{error}")
        table.add_row(str(layer), *cells)
    console.print(table, highlight=False)
    if measured.on is not None:
        console.print(
            f"mean over {measured.on.tokens} tokens of {measured.on.data}; ± one standard error, clustered by sequence",
            highlight=False,
            markup=False,
        )
