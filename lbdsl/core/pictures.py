"""Pictures in files, and in pages as SVG, by matplotlib, which is loaded when one is drawn."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Target = Path | io.StringIO
"""A file, or text that takes the SVG of a page: without a background, and with the page's own colour of text."""


@contextmanager
def picture(to: Target, columns: int = 1, **options: Any) -> Iterator[tuple[Any, Any]]:
    """A figure and its row of axes (the axes themselves, of one column), which are written to `to` at the end. `options`
    are those of `pyplot.subplots`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    in_page = isinstance(to, io.StringIO)
    looks: Any = {"svg.fonttype": "none", "svg.hashsalt": "lbdsl", "legend.frameon": False} if in_page else {}
    # A dollar in a name is no formula.
    with matplotlib.rc_context({**looks, "text.parse_math": False}):
        figure, axes = pyplot.subplots(1, columns, dpi=110, squeeze=False, layout="constrained", **options)
        try:
            yield figure, axes[0] if columns > 1 else axes[0][0]
            if in_page:
                figure.savefig(to, format="svg", transparent=True, metadata={"Date": None})
            else:
                figure.savefig(to)
        finally:
            pyplot.close(figure)


def svg_of(written: io.StringIO) -> str:
    """The `svg` element of a picture that was drawn for a page."""
    element = written.getvalue()
    return re.sub("#000000|black", "currentColor", element[element.index("<svg") :])
