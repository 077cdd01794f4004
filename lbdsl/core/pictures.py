"""Pictures in files, by matplotlib, which is loaded when one is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lbdsl.core.extras import check_installed, is_installed


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return is_installed("matplotlib")


def check_drawing(path: Path) -> None:
    """Raise LB485 if a picture cannot be drawn; called before the work that it shows."""
    check_installed("matplotlib", f"drawing {path}")


@contextmanager
def picture(path: Path, columns: int = 1, **options: Any) -> Iterator[tuple[Any, Any]]:
    """A figure and its row of axes (the axes themselves, of one column), which are written to `path` at the end. `options`
    are those of `pyplot.subplots`. Raises LB485 without matplotlib."""
    check_drawing(path)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, columns, dpi=110, squeeze=False, layout="constrained", **options)
    try:
        yield figure, axes[0] if columns > 1 else axes[0][0]
        figure.savefig(path)
    finally:
        pyplot.close(figure)
