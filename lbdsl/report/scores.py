"""Terminal output of `lbdsl measure`: a table of layers by scores."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.console import Console

from lbdsl.report.console import headed_table

if TYPE_CHECKING:
    from lbdsl.api.planning import Measured


def render_scores(measured: Measured, console: Console) -> None:
    """Print a table with one row per layer and one column per score, with standard errors."""
    if not measured.scores:
        console.print("The recipe asks for no measured score.")
        return
    cells: dict[int, dict[tuple[str, str], str]] = {}
    for request, found in measured.scores.items():
        error = "" if math.isnan(found.stderr) else f" ±{found.stderr:.4f}"
        cells.setdefault(request.layer, {})[request.metric, request.action] = f"{found.value:+.4f}{error}"
    names = sorted({name for row in cells.values() for name in row})
    table = headed_table("layer", (f"{metric}({action})" if action else metric for metric, action in names), "right")
    for layer, row in sorted(cells.items()):
        table.add_row(str(layer), *(row.get(name, "") for name in names))
    console.print(table)
    if measured.on is not None:
        on = f"{measured.on.tokens} tokens of {measured.on.data}"
        console.print(f"mean over {on}; ± one standard error, clustered by sequence")
        if measured.on.estimated:
            console.print(f"estimated by a screen: {', '.join(measured.on.estimated)}")
