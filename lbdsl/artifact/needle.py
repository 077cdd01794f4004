"""The heat map of needles: what two models find, by length and depth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lbdsl.core.pictures import Target, picture
from lbdsl.core.printed import printable


def needles_in(evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    """The tasks of an evaluation that are needles at known depths."""
    return [task for task in evaluation.get("tasks", ()) if task["name"].startswith("needle(") and task["parts"]]


def draw_needles(tasks: Sequence[dict[str, Any]], to: Target) -> None:
    """A row of cells for each length, a cell for each depth, the base beside this model, if there is one."""
    titles = {"base": "base", **({"artifact": "this model"} if "artifact" in tasks[0] else {})}
    with picture(to, len(titles), figsize=(4.5 * len(titles), 1.2 + 0.5 * len(tasks)), sharey=True) as (figure, found):
        import matplotlib

        both = found if len(titles) > 1 else [found]
        for axes, (model, title) in zip(both, titles.items(), strict=True):
            for row, task in enumerate(tasks):
                parts = list(task["parts"].values())
                width = 100 / len(parts)
                for number, part in enumerate(parts):
                    # None: not a number.
                    share = 0.0 if part[model] is None else part[model]
                    ink = "#111111" if 0.15 < share < 0.85 else "white"
                    color = matplotlib.colormaps["RdYlGn"](share)
                    axes.barh(row, width, left=number * width, height=0.9, color=color, edgecolor="white")
                    axes.text(
                        (number + 0.5) * width,
                        row,
                        "NaN" if part[model] is None else f"{100 * share:.0f}",
                        ha="center",
                        va="center",
                        fontsize=8,
                        color=ink,
                    )
            axes.set_title(title, fontsize=10)
            axes.set_xlabel("depth of the fact, % of the text", fontsize=8)
            axes.set_xlim(0, 100)
            axes.tick_params(labelsize=8)
        both[0].set_yticks(range(len(tasks)), [printable(task["name"]) for task in tasks], fontsize=8)
        both[0].invert_yaxis()
        figure.suptitle("facts found, %", fontsize=10)
