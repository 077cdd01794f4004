"""Diagnostics as GitHub Actions workflow commands, which are shown as annotations at their lines."""

from __future__ import annotations

from collections.abc import Sequence

from lbdsl.core.diagnostic import Diagnostic, Severity

_COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "notice"}


def github_text(found: Sequence[tuple[str, Diagnostic]]) -> str:
    """One `::error file=...,line=...::message` per finding; `found` are pairs of the checked file and a finding."""
    return "".join(_command(file, diagnostic) + "\n" for file, diagnostic in found)


def _command(file: str, diagnostic: Diagnostic) -> str:
    span = diagnostic.span
    properties = {"file": span.source.name if span is not None else file}
    if span is not None:
        (line, column), (end_line, end_column) = span.start_line_column, span.end_line_column
        properties |= {"line": str(line), "col": str(column), "endLine": str(end_line)}
        # GitHub supports columns only within one line.
        if line == end_line:
            properties["endColumn"] = str(end_column)
    properties["title"] = f"lbdsl {diagnostic.code}"
    written = ",".join(f"{key}={_data(value).replace(':', '%3A').replace(',', '%2C')}" for key, value in properties.items())
    message = "\n".join([diagnostic.message, *(f"help: {line}" for line in diagnostic.help)])
    return f"::{_COMMANDS[diagnostic.severity]} {written}::{_data(message)}"


def _data(text: str) -> str:
    """The text with `%` and line endings escaped: a line ending would end the command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
