"""How results show themselves: a short line in a shell, the terminal's picture in a notebook."""

from __future__ import annotations


class NotebookResult:
    """A result whose `repr` is one line, `in_short`, and which a notebook draws as the terminal would."""

    def in_short(self) -> str:
        """What it is, in a few words."""
        raise TypeError(f"{type(self).__name__} says nothing of itself")

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.in_short()}>"

    def _repr_html_(self) -> str:
        from lbdsl.report.html import html_of

        return html_of(self)
