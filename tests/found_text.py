"""Findings as golden files hold them: every word and every position."""

from __future__ import annotations

from collections.abc import Iterable

from lbdsl.core.diagnostic import Diagnostic
from lbdsl.core.span import Span


def found_text(found: Iterable[Diagnostic], recipe: str = "recipe.lbr") -> str:
    """The findings in a recipe of that name; places in other files are written with theirs."""
    lines = []
    for d in found:
        end = "{}:{}".format(*d.span.end_line_column) if d.span else "0:0"
        lines.append(f"{d.severity.value}: {d.code} at {_place(d.span, recipe)}-{end}")
        lines.append(f"  {d.message}")
        lines += [f"  help: {text}" for text in d.help]
        lines += [f"  label at {_place(label.span, recipe)}: {label.text}" for label in d.labels]
        if d.fix:
            lines.append(f"  fix: {d.fix.title}")
            lines += [
                f"    {_place(edit.span, recipe)}-{edit.span.end_line_column[0]}:{edit.span.end_line_column[1]}"
                f" {edit.text!r}"
                for edit in d.fix.edits
            ]
    return "".join(line + "\n" for line in lines)


def _place(span: Span | None, recipe: str) -> str:
    if span is None:
        return "0:0"
    name = "" if span.source.name == recipe else f"{span.source.name}:"
    return "{}{}:{}".format(name, *span.start_line_column)
