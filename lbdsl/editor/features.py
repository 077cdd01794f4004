"""The features of the language server: its answers to requests about a position or a text, and texts that come and go."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lsprotocol import types as lsp
from pygls.exceptions import JsonRpcInvalidParams

from lbdsl.api.fixing import chosen_fixes
from lbdsl.core.diagnostic import Fix
from lbdsl.editor import protocol
from lbdsl.editor.claims import claim_hints
from lbdsl.editor.completion import complete
from lbdsl.editor.documents import Change, Text
from lbdsl.editor.fixes import formatting
from lbdsl.editor.hover import hover
from lbdsl.editor.names import definition_of, name_at, rename, uses_of
from lbdsl.editor.outline import outline
from lbdsl.editor.server import Document, RecipeServer


def _is_no_refusal(record: logging.LogRecord) -> bool:
    return record.exc_info is None or not isinstance(record.exc_info[1], JsonRpcInvalidParams)


def make_server(model: str | None = None, default_model: str | None = None) -> RecipeServer:
    """A server with every feature registered; `start_io()` runs it."""
    # A request refused because of invalid parameters is a normal answer; do not log it with a traceback.
    logging.getLogger("pygls.protocol.json_rpc").addFilter(_is_no_refusal)
    server = RecipeServer(model, default_model)
    _register_texts(server)
    _register_reading(server)
    _register_editing(server)
    return server


def _register_texts(server: RecipeServer) -> None:
    """Register the handlers of initialization and of opening, editing, saving and closing texts."""

    @server.feature(lsp.INITIALIZE)
    def initialize(ls: RecipeServer, params: lsp.InitializeParams) -> None:
        given = params.initialization_options
        ls.options = dict(given) if isinstance(given, Mapping) else {}

    @server.feature(lsp.INITIALIZED)
    async def initialized(ls: RecipeServer, params: lsp.InitializedParams) -> None:
        root = ls.workspace.root_path
        ls.docs = protocol.docs_page(ls.options.get("docs"))
        await ls.load_model(ls.options.get("model"), Path(root) if root else None)

    @server.feature(lsp.TEXT_DOCUMENT_DID_OPEN)
    def opened(ls: RecipeServer, params: lsp.DidOpenTextDocumentParams) -> None:
        item = params.text_document
        ls.set_text(item.uri, Text(item.text, ls.encoding()), item.version)
        ls.publish_soon(item.uri)

    @server.feature(lsp.TEXT_DOCUMENT_DID_CHANGE)
    def changed(ls: RecipeServer, params: lsp.DidChangeTextDocumentParams) -> None:
        uri = params.text_document.uri
        before = ls.documents.get(uri)
        text = before.text if before is not None else Text("", ls.encoding())
        ls.set_text(uri, text.changed(map(_change, params.content_changes)), params.text_document.version)
        ls.publish_soon(uri)

    @server.feature(lsp.TEXT_DOCUMENT_DID_SAVE)
    def saved(ls: RecipeServer, params: lsp.DidSaveTextDocumentParams) -> None:
        # Other open recipes may include the saved one.
        for document in list(ls.documents.values()):
            ls.set_text(document.uri, document.text, document.version)
            ls.publish_soon(document.uri)

    @server.feature(lsp.TEXT_DOCUMENT_DID_CLOSE)
    def closed(ls: RecipeServer, params: lsp.DidCloseTextDocumentParams) -> None:
        uri = params.text_document.uri
        ls.documents.pop(uri, None)
        ls.text_document_publish_diagnostics(lsp.PublishDiagnosticsParams(uri, []))


def _change(change: Any) -> Change:
    where = getattr(change, "range", None)
    if where is None:
        return Change(None, None, change.text)
    return Change(protocol.place(where.start), protocol.place(where.end), change.text)


def _register_reading(server: RecipeServer) -> None:
    """Register the features that only read the text."""

    @server.feature(lsp.TEXT_DOCUMENT_COMPLETION, lsp.CompletionOptions(trigger_characters=["$", "@", "(", ".", '"']))
    def completion(ls: RecipeServer, params: lsp.CompletionParams) -> lsp.CompletionList | None:
        document, offset = _at(ls, params)
        if document is None:
            return None
        cursor, items = complete(document.analysis, offset)
        snippets = bool(ls.client_says("text_document", "completion", "completion_item", "snippet_support"))
        return None if cursor is None else protocol.completion(items, cursor, document.text, snippets)

    @server.feature(lsp.TEXT_DOCUMENT_HOVER)
    def on_hover(ls: RecipeServer, params: lsp.HoverParams) -> lsp.Hover | None:
        document, offset = _at(ls, params)
        found = hover(document.analysis, offset) if document is not None else None
        if document is None or found is None:
            return None
        return lsp.Hover(
            lsp.MarkupContent(lsp.MarkupKind.Markdown, found.page), protocol.range_of(document.text, found.start, found.end)
        )

    @server.feature(lsp.TEXT_DOCUMENT_DOCUMENT_SYMBOL)
    def symbols(ls: RecipeServer, params: lsp.DocumentSymbolParams) -> list[lsp.DocumentSymbol]:
        document = ls.documents.get(params.text_document.uri)
        return [] if document is None else [protocol.symbol(entry, document.text) for entry in outline(document.analysis)]

    @server.feature(lsp.TEXT_DOCUMENT_DEFINITION)
    def definition(ls: RecipeServer, params: lsp.DefinitionParams) -> lsp.Location | None:
        document, offset = _at(ls, params)
        span = definition_of(document.analysis, offset) if document is not None else None
        return None if document is None or span is None else protocol.location(span, document.text, document.uri)

    @server.feature(lsp.TEXT_DOCUMENT_REFERENCES)
    def references(ls: RecipeServer, params: lsp.ReferenceParams) -> list[lsp.Location]:
        document, offset = _at(ls, params)
        if document is None:
            return []
        defined = definition_of(document.analysis, offset)
        own = defined is not None and document.analysis.is_own(defined)
        return [
            lsp.Location(document.uri, protocol.range_of(document.text, token.start, token.end))
            for token in uses_of(document.analysis, offset)
            if params.context.include_declaration or defined is None or not own or defined.start != token.start
        ]

    @server.feature(lsp.TEXT_DOCUMENT_INLAY_HINT)
    def inlay_hints(ls: RecipeServer, params: lsp.InlayHintParams) -> list[lsp.InlayHint]:
        document = ls.documents.get(params.text_document.uri)
        recipe = document.analysis.checked.value if document is not None else None
        if document is None or recipe is None or document.facts is None:
            return []
        first, last = params.range.start.line, params.range.end.line
        hints = [
            protocol.inlay_hint(hint, document.text)
            for hint in claim_hints(recipe, document.facts)
            if document.analysis.is_own(hint.span)
        ]
        return [hint for hint in hints if first <= hint.position.line <= last]

    @server.feature(lsp.TEXT_DOCUMENT_SEMANTIC_TOKENS_FULL, protocol.LEGEND)
    def semantic(ls: RecipeServer, params: lsp.SemanticTokensParams) -> lsp.SemanticTokens:
        document = ls.documents.get(params.text_document.uri)
        return lsp.SemanticTokens([] if document is None else protocol.semantic_tokens(document.text))


def _register_editing(server: RecipeServer) -> None:
    """Register the features that return edits."""

    @server.feature(
        lsp.TEXT_DOCUMENT_CODE_ACTION,
        lsp.CodeActionOptions(code_action_kinds=[lsp.CodeActionKind.QuickFix, lsp.CodeActionKind.SourceFixAll]),
    )
    def code_actions(ls: RecipeServer, params: lsp.CodeActionParams) -> list[lsp.CodeAction]:
        document = ls.documents.get(params.text_document.uri)
        if document is None:
            return []
        wanted = params.context.only
        start, end = (document.text.offset(protocol.place(where)) for where in (params.range.start, params.range.end))
        shown = protocol.diagnostics(document.analysis, document.text, document.uri, ls.docs, ls.shows_related())
        actions = []
        for found, said in zip(document.analysis.findings, shown, strict=True):
            fix = protocol.own_fix(found, document.analysis)
            if fix is None:
                continue
            near = found.span is not None and found.span.start <= end and start <= found.span.end
            if near and _asked(lsp.CodeActionKind.QuickFix, wanted):
                actions.append(
                    lsp.CodeAction(
                        fix.title,
                        kind=lsp.CodeActionKind.QuickFix,
                        diagnostics=[said],
                        is_preferred=True,
                        edit=protocol.fix_edit(fix, document.text, document.uri),
                    )
                )
        chosen = chosen_fixes(document.text.text, document.analysis.findings)
        edits = tuple(edit for found in chosen if found.fix is not None for edit in found.fix.edits)
        if edits and _asked(lsp.CodeActionKind.SourceFixAll, wanted):
            whole = Fix("fix everything that can be fixed", edits)
            actions.append(
                lsp.CodeAction(
                    whole.title,
                    kind=lsp.CodeActionKind.SourceFixAll,
                    edit=protocol.fix_edit(whole, document.text, document.uri),
                )
            )
        return actions

    @server.feature(lsp.TEXT_DOCUMENT_FORMATTING)
    def formatted(ls: RecipeServer, params: lsp.DocumentFormattingParams) -> list[lsp.TextEdit] | None:
        document = ls.documents.get(params.text_document.uri)
        edit = formatting(document.text.text, document.analysis.name).value if document is not None else None
        if document is None or edit is None:
            return None  # a text with errors is not formatted; its diagnostics show why
        start, end = edit.span.start, edit.span.end
        if document.text.text[start:end] == edit.text:
            return []
        return [lsp.TextEdit(protocol.range_of(document.text, start, end), edit.text)]

    @server.feature(lsp.TEXT_DOCUMENT_PREPARE_RENAME)
    def prepare_rename(ls: RecipeServer, params: lsp.PrepareRenameParams) -> lsp.PrepareRenamePlaceholder | None:
        document, offset = _at(ls, params)
        token = name_at(document.analysis, offset) if document is not None else None
        if document is None or token is None or rename(document.analysis, offset, token.text).value is None:
            return None
        return lsp.PrepareRenamePlaceholder(protocol.range_of(document.text, token.start, token.end), token.text)

    @server.feature(lsp.TEXT_DOCUMENT_RENAME, lsp.RenameOptions(prepare_provider=True))
    def renamed(ls: RecipeServer, params: lsp.RenameParams) -> lsp.WorkspaceEdit | None:
        document, offset = _at(ls, params)
        if document is None:
            return None
        found = rename(document.analysis, offset, params.new_name)
        if found.value is None:
            raise JsonRpcInvalidParams(found.diagnostics[0].message)
        edits = [lsp.TextEdit(protocol.range_of(document.text, token.start, token.end), new) for token, new in found.value]
        return lsp.WorkspaceEdit(changes={document.uri: edits})


def _asked(kind: lsp.CodeActionKind, wanted: Any) -> bool:
    """Whether the client requested a code action kind, or a parent kind of it."""
    return wanted is None or any(
        kind.value == str(getattr(one, "value", one)) or kind.value.startswith(str(getattr(one, "value", one)) + ".")
        for one in wanted
    )


def _at(ls: RecipeServer, params: Any) -> tuple[Document | None, int]:
    """The document of a request, and the offset in it."""
    document = ls.documents.get(params.text_document.uri)
    return document, 0 if document is None else document.text.offset(protocol.place(params.position))
