"""How results are displayed: as one line in a Python shell, as the terminal output by `print` and in a notebook."""

from __future__ import annotations


class NotebookResult:
    """A result whose `repr` is one line with `in_short`, and which `print` and a notebook show like the terminal output."""

    @property
    def exit_code(self) -> int:
        """0, or the code of the most severe error."""
        return max((d.exit_code for d in getattr(self, "diagnostics", ())), default=0)

    def in_short(self) -> str:
        """A summary of the result in a few words."""
        raise TypeError(f"{type(self).__name__} says nothing of itself")

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.in_short()}>"

    def __str__(self) -> str:
        from lbdsl.report.results import text_of

        return text_of(self)

    def _repr_html_(self) -> str:
        from lbdsl.report.results import html_of

        return html_of(self)
