"""Conversion of lbdsl's values to those of the Language Server Protocol."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from lsprotocol import types as lsp

from lbdsl.core.diagnostic import Diagnostic, Fix, Severity
from lbdsl.core.resources import resource_folder
from lbdsl.core.span import Span
from lbdsl.editor.analysis import Analysis
from lbdsl.editor.claims import Hint
from lbdsl.editor.completion import Item
from lbdsl.editor.cursor import Cursor
from lbdsl.editor.documents import Position, Text
from lbdsl.editor.outline import Entry
from lbdsl.language import tree
from lbdsl.language.highlight import TextRole, pieces
from lbdsl.recipe.reading import joined

_SEVERITIES = {
    Severity.ERROR: lsp.DiagnosticSeverity.Error,
    Severity.WARNING: lsp.DiagnosticSeverity.Warning,
    Severity.NOTE: lsp.DiagnosticSeverity.Information,
}
_UNUSED = frozenset({"LB201", "LB202", "LB210"})
"""Findings about text without effect, which editors show faded."""

_ITEMS = {
    "keyword": lsp.CompletionItemKind.Keyword,
    "action": lsp.CompletionItemKind.Function,
    "metric": lsp.CompletionItemKind.Value,
    "function": lsp.CompletionItemKind.Function,
    "setting": lsp.CompletionItemKind.Property,
    "parameter": lsp.CompletionItemKind.Property,
    "variable": lsp.CompletionItemKind.Variable,
    "group": lsp.CompletionItemKind.Struct,
    "fact": lsp.CompletionItemKind.Constant,
    "type": lsp.CompletionItemKind.TypeParameter,
    "word": lsp.CompletionItemKind.EnumMember,
    "text": lsp.CompletionItemKind.Text,
}
_ENTRIES = {
    "variable": lsp.SymbolKind.Variable,
    "constant": lsp.SymbolKind.Constant,
    "group": lsp.SymbolKind.Array,
    "rule": lsp.SymbolKind.Function,
    "block": lsp.SymbolKind.Object,
    "setting": lsp.SymbolKind.Property,
    "gate": lsp.SymbolKind.Boolean,
    "file": lsp.SymbolKind.File,
}
_SEMANTIC = {
    TextRole.STATEMENT: "keyword",
    TextRole.KEYWORD: "keyword",
    TextRole.ACTION: "function",
    TextRole.METRIC: "macro",
    TextRole.FACT: "property",
    TextRole.KEY: "parameter",
    TextRole.VARIABLE: "variable",
    TextRole.GROUP: "class",
    TextRole.NUMBER: "number",
    TextRole.STRING: "string",
    TextRole.REGEX: "regexp",
    TextRole.COMMENT: "comment",
    TextRole.OPERATOR: "operator",
    TextRole.WORD_OPERATOR: "keyword",
    TextRole.TYPE: "type",
}
LEGEND = lsp.SemanticTokensLegend(token_types=list(dict.fromkeys(_SEMANTIC.values())), token_modifiers=[])


def position(place: Position) -> lsp.Position:
    return lsp.Position(place.line, place.character)


def place(given: lsp.Position) -> Position:
    return Position(given.line, given.character)


def range_of(text: Text, start: int, end: int) -> lsp.Range:
    return lsp.Range(position(text.place(start)), position(text.place(end)))


def docs_page(given: object) -> str | None:
    """The URL of the page of all diagnostic codes: from the editor's settings, or the file in a source tree."""
    if isinstance(given, str) and given.startswith(("http://", "https://", "file://")):
        return given
    page = resource_folder("grammars").parent / "docs" / "errors.md"
    return page.as_uri() if page.is_file() else None


def diagnostics(analysis: Analysis, text: Text, uri: str, docs: str | None, related: bool = True) -> list[lsp.Diagnostic]:
    """All findings. A finding in an included file is shown at the `include`, with its location as related information."""
    return [_diagnostic(found, analysis, text, uri, docs, related) for found in analysis.findings]


def _diagnostic(
    found: Diagnostic, analysis: Analysis, text: Text, uri: str, docs: str | None, related: bool
) -> lsp.Diagnostic:
    span = found.span
    if span is None:
        where = lsp.Range(lsp.Position(0, 0), lsp.Position(0, 0))
    elif analysis.is_own(span):
        # An empty span, such as the end of a statement, is drawn on the character before it.
        start = span.start - 1 if span.start == span.end and span.start > 0 else span.start
        where = range_of(text, start, span.end)
    else:
        where = _include_range(span, analysis, text)
    others = [_related(label.span, label.text, text, uri) for label in found.labels]
    if span is not None and not analysis.is_own(span):
        others.insert(0, _related(span, found.message, text, uri))
    return lsp.Diagnostic(
        range=where,
        severity=_SEVERITIES[found.severity],
        code=found.code,
        source="lbdsl",
        code_description=None if docs is None else lsp.CodeDescription(href=f"{docs}#{found.code.lower()}"),
        message="\n".join([found.message, *(f"help: {line}" for line in found.help)]),
        related_information=[other for other in others if other is not None] if related and others else None,
        tags=[lsp.DiagnosticTag.Unnecessary] if found.code in _UNUSED else None,
    )


def _include_range(span: Span, analysis: Analysis, text: Text) -> lsp.Range:
    """Of the `include` that brought a span's file, if through others."""
    bases = {source.name: source.base for source in analysis.included}
    where = None
    for node in analysis.file.statements if analysis.file is not None else ():
        if isinstance(node, tree.Include):
            name = os.path.join(os.path.dirname(analysis.name), joined("", node.path.value) or "")
            # Files are numbered as they are read: those that one brings come before the next one.
            if where is None or bases.get(name, span.source.base + 1) <= span.source.base:
                where = node.span
    return range_of(text, 0, 0) if where is None else range_of(text, where.start, where.start + len("include"))


def _related(span: Span, said: str, text: Text, uri: str) -> lsp.DiagnosticRelatedInformation | None:
    where = location(span, text, uri)
    return None if where is None else lsp.DiagnosticRelatedInformation(where, said)


def location(span: Span, text: Text, uri: str) -> lsp.Location | None:
    """The location of a span in this text or in an included file; None if it is not in a file."""
    if span.source.base == 0 and span.source.text == text.text:
        return lsp.Location(uri, range_of(text, span.start, span.end))
    path = Path(span.source.name)
    if not path.is_absolute():
        return None
    return lsp.Location(path.as_uri(), range_of(Text(span.source.text, text.encoding), span.start, span.end))


def fix_edit(fix: Fix, text: Text, uri: str) -> lsp.WorkspaceEdit:
    return lsp.WorkspaceEdit(
        changes={uri: [lsp.TextEdit(range_of(text, edit.span.start, edit.span.end), edit.text) for edit in fix.edits]}
    )


def own_fix(found: Diagnostic, analysis: Analysis) -> Fix | None:
    """The fix of a finding if all its edits are in this text, else None."""
    fix = found.fix
    return fix if fix is not None and all(analysis.is_own(edit.span) for edit in fix.edits) else None


def completion(items: Sequence[Item], cursor: Cursor, text: Text, snippets: bool) -> lsp.CompletionList:
    """Suggestions in the given order. For a client without snippet support, a snippet is replaced by its label."""
    where = range_of(text, cursor.start, cursor.end)
    out = []
    for number, item in enumerate(items):
        snippet = item.snippet and snippets
        new = item.text if snippet or not item.snippet else item.label
        out.append(
            lsp.CompletionItem(
                label=item.label,
                kind=_ITEMS[item.kind],
                detail=item.detail or None,
                sort_text=f"{number:04}",
                filter_text=item.label,
                text_edit=lsp.TextEdit(where, new),
                insert_text_format=lsp.InsertTextFormat.Snippet if snippet else lsp.InsertTextFormat.PlainText,
                documentation=lsp.MarkupContent(lsp.MarkupKind.Markdown, item.page) if item.page else None,
            )
        )
    return lsp.CompletionList(is_incomplete=False, items=out)


def inlay_hint(hint: Hint, text: Text) -> lsp.InlayHint:
    return lsp.InlayHint(
        position=position(text.place(hint.span.end)), label=hint.text, tooltip=hint.more, padding_left=True
    )


def symbol(entry: Entry, text: Text) -> lsp.DocumentSymbol:
    return lsp.DocumentSymbol(
        name=entry.name,
        kind=_ENTRIES[entry.kind],
        detail=entry.detail or None,
        range=range_of(text, entry.span.start, entry.span.end),
        selection_range=range_of(text, entry.name_span.start, entry.name_span.end),
        children=[symbol(child, text) for child in entry.children] or None,
    )


def semantic_tokens(text: Text) -> list[int]:
    """Five numbers per token: line delta, character delta, length, type, modifiers."""
    return list(_semantic(text))


def _semantic(text: Text) -> Iterator[int]:
    line = character = 0
    for piece in pieces(text.text):
        kind = _SEMANTIC.get(piece.role)
        if kind is None:
            continue
        at = text.place(piece.start)
        yield at.line - line
        yield at.character - (character if at.line == line else 0)
        yield text.units(piece.start, piece.start + len(piece.text.rstrip("\r")))
        yield LEGEND.token_types.index(kind)
        yield 0
        line, character = at
