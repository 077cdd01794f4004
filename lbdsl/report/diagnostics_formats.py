"""Diagnostics in formats of others: SARIF 2.1.0, which code-scanning services read (OASIS, Static Analysis Results
Interchange Format, errata 01), and workflow commands of GitHub Actions, which are shown as annotations at their lines."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lbdsl.core.codes import code_for
from lbdsl.core.diagnostic import Diagnostic, Fix, Severity
from lbdsl.core.printed import visible
from lbdsl.core.span import Span

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"

_COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "notice"}


def _message(diagnostic: Diagnostic) -> str:
    return "\n".join([diagnostic.message, *(f"help: {line}" for line in diagnostic.help)])


def sarif_log(found: Sequence[tuple[str, Diagnostic]], version: str) -> dict[str, Any]:
    """A log with one run of the tool `lbdsl`. `found` are pairs of the checked file and a finding; a finding without a
    source position is reported for the whole file. Columns count Unicode code points from 1, ends are exclusive."""
    codes = sorted({diagnostic.code for _, diagnostic in found})
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "lbdsl", "version": version, "rules": [_rule(code) for code in codes]}},
                "columnKind": "unicodeCodePoints",
                "results": [_result(file, diagnostic, codes.index(diagnostic.code)) for file, diagnostic in found],
            }
        ],
    }


def _rule(id: str) -> dict[str, Any]:
    code = code_for(id)
    why = {"fullDescription": {"text": code.reason}} if code.reason else {}
    return {"id": id, "shortDescription": {"text": code.title}, **why, "help": {"text": f"lbdsl explain {id}"}}


def _result(file: str, diagnostic: Diagnostic, index: int) -> dict[str, Any]:
    result: dict[str, Any] = {
        "ruleId": diagnostic.code,
        "ruleIndex": index,
        "level": diagnostic.severity.value,
        "message": {"text": _message(diagnostic)},
        "locations": [{"physicalLocation": _physical(diagnostic.span, file)}],
    }
    if diagnostic.labels:
        result["relatedLocations"] = [
            {"id": place, "message": {"text": label.text}, "physicalLocation": _physical(label.span, file)}
            for place, label in enumerate(diagnostic.labels)
        ]
    if diagnostic.fix is not None:
        result["fixes"] = [_fix(diagnostic.fix)]
    return result


def _physical(span: Span | None, file: str) -> dict[str, Any]:
    """A source position; without one, the whole of `file`."""
    if span is None:
        return {"artifactLocation": {"uri": uri_of(file)}}
    return {"artifactLocation": {"uri": uri_of(span.source.name)}, "region": _region(span)}


def _region(span: Span) -> dict[str, int]:
    (line, column), (end_line, end_column) = span.start_line_column, span.end_line_column
    return {"startLine": line, "startColumn": column, "endLine": end_line, "endColumn": end_column}


def _fix(fix: Fix) -> dict[str, Any]:
    by_file: dict[str, list[dict[str, Any]]] = {}
    for edit in fix.edits:
        replacement: dict[str, Any] = {"deletedRegion": _region(edit.span)}
        if edit.text:
            replacement["insertedContent"] = {"text": edit.text}
        by_file.setdefault(edit.span.source.name, []).append(replacement)
    changes = [
        {"artifactLocation": {"uri": uri_of(name)}, "replacements": replacements} for name, replacements in by_file.items()
    ]
    return {"description": {"text": fix.title}, "artifactChanges": changes}


def uri_of(name: str) -> str:
    """A relative URI for a relative path, a `file:` URI for an absolute one; `<stdin>` becomes `stdin`."""
    if name.startswith("<") and name.endswith(">"):
        return quote(name[1:-1])
    path = Path(name)
    return path.as_uri() if path.is_absolute() else quote(os.fsencode(path.as_posix()))


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
    return f"::{_COMMANDS[diagnostic.severity]} {written}::{_data(_message(diagnostic))}"


def _data(text: str) -> str:
    """The text with `%` and line endings escaped: a line ending would end the command."""
    return visible(text, keep="\n\r\t").replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
