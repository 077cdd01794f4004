"""Conversion of lbdsl's values to those of the Language Server Protocol."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lsprotocol import types as lsp
from pygls.uris import to_fs_path
from pygments.token import Comment, Keyword, Name, Number, Operator, String

from lbdsl.core.diagnostic import Diagnostic, Severity
from lbdsl.core.resources import resource_folder
from lbdsl.core.span import Span
from lbdsl.cost.facts import ModelFacts
from lbdsl.editor.analysis import Analysis
from lbdsl.editor.completion import Item
from lbdsl.editor.cursor import Cursor
from lbdsl.editor.documents import Text
from lbdsl.editor.outline import Entry
from lbdsl.language import tree
from lbdsl.language.highlight import GROUP, STATEMENT, pieces
from lbdsl.language.lexer import Token
from lbdsl.recipe.reading import joined

_SEVERITIES = {
    Severity.ERROR: lsp.DiagnosticSeverity.Error,
    Severity.WARNING: lsp.DiagnosticSeverity.Warning,
    Severity.NOTE: lsp.DiagnosticSeverity.Information,
}
_UNUSED = frozenset({"LB201", "LB202", "LB210"})
"""Findings about text without effect, which editors show faded."""

_SEMANTIC = {
    **dict.fromkeys((STATEMENT, Keyword, Operator.Word), "keyword"),
    Name.Function: "function",
    Name.Builtin: "macro",
    Name.Attribute: "property",
    "key": "parameter",
    Name.Variable: "variable",
    GROUP: "class",
    Number: "number",
    String.Double: "string",
    String.Regex: "regexp",
    Comment.Single: "comment",
    Operator: "operator",
    Keyword.Type: "type",
}
LEGEND = lsp.SemanticTokensLegend(token_types=list(dict.fromkeys(_SEMANTIC.values())), token_modifiers=[])


@dataclass(frozen=True)
class Document:
    """One version of an open text."""

    uri: str
    text: Text
    version: int
    facts: ModelFacts | None

    @cached_property
    def analysis(self) -> Analysis:
        path = to_fs_path(self.uri) if self.uri.startswith("file:") else None
        return Analysis(self.text.text, path or self.uri, Path(path) if path else None, self.facts)

    def range(self, place: Span | Token) -> lsp.Range:
        return range_of(self.text, place.start, place.end)


def range_of(text: Text, start: int, end: int) -> lsp.Range:
    return lsp.Range(lsp.Position(*text.place(start)), lsp.Position(*text.place(end)))


def docs_page(given: object) -> str | None:
    """The URL of the page of all diagnostic codes: from the editor's settings, or the file in a source tree."""
    if isinstance(given, str) and given.startswith(("http://", "https://", "file://")):
        return given
    page = resource_folder("grammars").parent / "docs" / "errors.md"
    return page.as_uri() if page.is_file() else None


def diagnostics(document: Document, docs: str | None, related: bool = True) -> list[lsp.Diagnostic]:
    """All findings. A finding in an included file is shown at the `include`, with its location as related information."""
    return [_diagnostic(found, document, docs, related) for found in document.analysis.checked.diagnostics]


def _diagnostic(found: Diagnostic, document: Document, docs: str | None, related: bool) -> lsp.Diagnostic:
    span, places = found.span, [(label.span, label.text) for label in found.labels]
    if span is None:
        where = range_of(document.text, 0, 0)
    elif document.analysis.is_own(span):
        # An empty span, such as the end of a statement, is drawn on the character before it.
        start = span.start - 1 if span.start == span.end and span.start > 0 else span.start
        where = range_of(document.text, start, span.end)
    else:
        where = _include_range(span, document)
        places.insert(0, (span, found.message))
    others = [
        lsp.DiagnosticRelatedInformation(there, said)
        for place, said in places
        if related and (there := location(place, document)) is not None
    ]
    return lsp.Diagnostic(
        range=where,
        severity=_SEVERITIES[found.severity],
        code=found.code,
        source="lbdsl",
        code_description=None if docs is None else lsp.CodeDescription(href=f"{docs}#{found.code.lower()}"),
        message="\n".join([found.message, *(f"help: {line}" for line in found.help)]),
        related_information=others or None,
        tags=[lsp.DiagnosticTag.Unnecessary] if found.code in _UNUSED else None,
    )


def _include_range(span: Span, document: Document) -> lsp.Range:
    """Of the `include` that brought a span's file, if through others."""
    analysis, text = document.analysis, document.text
    bases = {source.name: source.base for source in analysis.included}
    where = None
    for node in analysis.file.statements if analysis.file is not None else ():
        if isinstance(node, tree.Include):
            name = os.path.join(os.path.dirname(analysis.name), joined("", node.path.value) or "")
            # Files are numbered as they are read: those that one brings come before the next one.
            if where is None or bases.get(name, span.source.base + 1) <= span.source.base:
                where = node.span
    return range_of(text, 0, 0) if where is None else range_of(text, where.start, where.start + len("include"))


def location(span: Span, document: Document) -> lsp.Location | None:
    """The location of a span in this text or in an included file; None if it is not in a file."""
    if document.analysis.is_own(span):
        return lsp.Location(document.uri, document.range(span))
    path = Path(span.source.name)
    if not path.is_absolute():
        return None
    return lsp.Location(path.as_uri(), range_of(Text(span.source.text, document.text.encoding), span.start, span.end))


def edits(document: Document, changes: Iterable[tuple[Span | Token, str]]) -> lsp.WorkspaceEdit:
    """The edit that writes a text at each of these places."""
    return lsp.WorkspaceEdit(changes={document.uri: [lsp.TextEdit(document.range(at), new) for at, new in changes]})


def completion(items: Sequence[Item], cursor: Cursor, document: Document, snippets: bool) -> lsp.CompletionList:
    """Suggestions in the given order. For a client without snippet support, a snippet is replaced by its label."""
    where = range_of(document.text, cursor.start, cursor.end)
    out = []
    for number, item in enumerate(items):
        snippet = item.snippet and snippets
        new = item.text if snippet or not item.snippet else item.label
        out.append(
            lsp.CompletionItem(
                label=item.label,
                kind=lsp.CompletionItemKind[item.kind],
                detail=item.detail or None,
                sort_text=f"{number:04}",
                filter_text=item.label,
                text_edit=lsp.TextEdit(where, new),
                insert_text_format=lsp.InsertTextFormat.Snippet if snippet else lsp.InsertTextFormat.PlainText,
                documentation=lsp.MarkupContent(lsp.MarkupKind.Markdown, item.page) if item.page else None,
            )
        )
    return lsp.CompletionList(is_incomplete=False, items=out)


def symbol(entry: Entry, document: Document) -> lsp.DocumentSymbol:
    return lsp.DocumentSymbol(
        name=entry.name,
        kind=lsp.SymbolKind[entry.kind],
        detail=entry.detail or None,
        range=document.range(entry.span),
        selection_range=document.range(entry.name_span),
        children=[symbol(child, document) for child in entry.children] or None,
    )


def semantic_tokens(text: Text) -> Iterator[int]:
    """Five numbers per token: line delta, character delta, length, type, modifiers."""
    line = character = 0
    for piece in pieces(text.text):
        # A fact is dotted, and a key is not.
        kind = _SEMANTIC.get("key" if piece.role is Name.Attribute and "." not in piece.text else piece.role)
        if kind is None:
            continue
        at_line, at = text.place(piece.start)
        yield at_line - line
        yield at - (character if at_line == line else 0)
        yield text.units(piece.start, piece.start + len(piece.text.rstrip("\r")))
        yield LEGEND.token_types.index(kind)
        yield 0
        line, character = at_line, at
