"""The features of the language server: its answers to requests about a position or a text, and texts that come and go."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lsprotocol import types as lsp
from pygls.capabilities import get_capability
from pygls.exceptions import JsonRpcInvalidParams

from lbdsl.api.fixing import chosen_fixes
from lbdsl.core.diagnostic import Fix
from lbdsl.editor import protocol
from lbdsl.editor.completion import complete
from lbdsl.editor.documents import Text
from lbdsl.editor.edits import definition_of, formatting, name_at, rename, uses_of
from lbdsl.editor.hints import claim_hints
from lbdsl.editor.hover import hover
from lbdsl.editor.outline import outline
from lbdsl.editor.protocol import Document
from lbdsl.editor.server import RecipeServer


def make_server(model: str | None = None, default_model: str | None = None) -> RecipeServer:
    """A server with every feature registered; `start_io()` runs it."""
    # A request refused because of invalid parameters is a normal answer; do not log it with a traceback.
    logging.getLogger("pygls.protocol.json_rpc").addFilter(
        lambda record: record.exc_info is None or not isinstance(record.exc_info[1], JsonRpcInvalidParams)
    )
    server = RecipeServer(model, default_model)
    _register_texts(server)
    _register_answers(server)
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

    @server.feature(lsp.TEXT_DOCUMENT_DID_CHANGE)
    def changed(ls: RecipeServer, params: lsp.DidChangeTextDocumentParams) -> None:
        uri = params.text_document.uri
        before = ls.documents.get(uri)
        text = before.text if before is not None else Text("", ls.encoding())
        ls.set_text(uri, text.changed(params.content_changes), params.text_document.version)

    @server.feature(lsp.TEXT_DOCUMENT_DID_SAVE)
    def saved(ls: RecipeServer, params: lsp.DidSaveTextDocumentParams) -> None:
        ls.check_again()  # other open recipes may include the saved one

    @server.feature(lsp.TEXT_DOCUMENT_DID_CLOSE)
    def closed(ls: RecipeServer, params: lsp.DidCloseTextDocumentParams) -> None:
        uri = params.text_document.uri
        ls.documents.pop(uri, None)
        ls.text_document_publish_diagnostics(lsp.PublishDiagnosticsParams(uri, []))


def _answers(server: RecipeServer, name: str, options: object = None) -> Callable[[Callable[..., Any]], None]:
    """Registers a function of the server, an open text and a request as the answer to that request, which is null for a
    text that is not open."""

    def register(answer: Callable[..., Any]) -> None:
        @server.feature(name, options)
        def answered(ls: RecipeServer, params: Any) -> Any:
            document = ls.documents.get(params.text_document.uri)
            return None if document is None else answer(ls, document, params)

    return register


def _register_answers(server: RecipeServer) -> None:
    """Register the features that read the text, then those that return edits."""
    answers = partial(_answers, server)

    @answers(lsp.TEXT_DOCUMENT_COMPLETION, lsp.CompletionOptions(trigger_characters=["$", "@", "(", ".", '"']))
    def completion(ls: RecipeServer, document: Document, params: lsp.CompletionParams) -> lsp.CompletionList | None:
        cursor, items = complete(document.analysis, document.text.offset(params.position))
        snippets = get_capability(ls.client_capabilities, "text_document.completion.completion_item.snippet_support")
        return None if cursor is None else protocol.completion(items, cursor, document, bool(snippets))

    @answers(lsp.TEXT_DOCUMENT_HOVER)
    def on_hover(ls: RecipeServer, document: Document, params: lsp.HoverParams) -> lsp.Hover | None:
        found = hover(document.analysis, document.text.offset(params.position))
        if found is None:
            return None
        page = lsp.MarkupContent(lsp.MarkupKind.Markdown, found.page)
        return lsp.Hover(page, protocol.range_of(document.text, found.start, found.end))

    @answers(lsp.TEXT_DOCUMENT_DOCUMENT_SYMBOL)
    def symbols(ls: RecipeServer, document: Document, params: object) -> list[lsp.DocumentSymbol]:
        return [protocol.symbol(entry, document) for entry in outline(document.analysis)]

    @answers(lsp.TEXT_DOCUMENT_DEFINITION)
    def definition(ls: RecipeServer, document: Document, params: lsp.DefinitionParams) -> lsp.Location | None:
        span = definition_of(document.analysis, document.text.offset(params.position))
        return None if span is None else protocol.location(span, document)

    @answers(lsp.TEXT_DOCUMENT_REFERENCES)
    def references(ls: RecipeServer, document: Document, params: lsp.ReferenceParams) -> list[lsp.Location]:
        offset = document.text.offset(params.position)
        defined = definition_of(document.analysis, offset)
        own = defined is not None and document.analysis.is_own(defined)
        return [
            lsp.Location(document.uri, document.range(token))
            for token in uses_of(document.analysis, offset)
            if params.context.include_declaration or defined is None or not own or defined.start != token.start
        ]

    @answers(lsp.TEXT_DOCUMENT_INLAY_HINT)
    def inlay_hints(ls: RecipeServer, document: Document, params: lsp.InlayHintParams) -> list[lsp.InlayHint]:
        recipe = document.analysis.checked.value
        if recipe is None or document.facts is None:
            return []
        first, last = params.range.start.line, params.range.end.line
        hints = [
            lsp.InlayHint(document.range(hint.span).end, hint.text, tooltip=hint.more, padding_left=True)
            for hint in claim_hints(recipe, document.facts)
            if document.analysis.is_own(hint.span)
        ]
        return [hint for hint in hints if first <= hint.position.line <= last]

    @answers(lsp.TEXT_DOCUMENT_SEMANTIC_TOKENS_FULL, protocol.LEGEND)
    def semantic(ls: RecipeServer, document: Document, params: object) -> lsp.SemanticTokens:
        return lsp.SemanticTokens(list(protocol.semantic_tokens(document.text)))

    @answers(
        lsp.TEXT_DOCUMENT_CODE_ACTION,
        lsp.CodeActionOptions(code_action_kinds=[lsp.CodeActionKind.QuickFix, lsp.CodeActionKind.SourceFixAll]),
    )
    def code_actions(ls: RecipeServer, document: Document, params: lsp.CodeActionParams) -> list[lsp.CodeAction]:
        analysis, wanted, actions = document.analysis, params.context.only, list[lsp.CodeAction]()
        start, end = document.text.offset(params.range.start), document.text.offset(params.range.end)

        def add(kind: lsp.CodeActionKind, fix: Fix, **more: Any) -> None:
            if _asked(kind, wanted):
                edit = protocol.edits(document, ((edit.span, edit.text) for edit in fix.edits))
                actions.append(lsp.CodeAction(fix.title, kind=kind, edit=edit, **more))

        for found, said in zip(analysis.checked.diagnostics, ls.diagnostics(document), strict=True):
            near = found.span is not None and found.span.start <= end and start <= found.span.end
            if near and found.fix is not None and all(analysis.is_own(edit.span) for edit in found.fix.edits):
                add(lsp.CodeActionKind.QuickFix, found.fix, diagnostics=[said], is_preferred=True)
        chosen = chosen_fixes(analysis.text, analysis.checked.diagnostics)
        edits = tuple(edit for found in chosen if found.fix is not None for edit in found.fix.edits)
        if edits:
            add(lsp.CodeActionKind.SourceFixAll, Fix("fix everything that can be fixed", edits))
        return actions

    @answers(lsp.TEXT_DOCUMENT_FORMATTING)
    def formatted(ls: RecipeServer, document: Document, params: object) -> list[lsp.TextEdit] | None:
        edit = formatting(document.text.text, document.analysis.name).value
        if edit is None:
            return None  # a text with errors is not formatted; its diagnostics show why
        return [] if edit.span.text == edit.text else [lsp.TextEdit(document.range(edit.span), edit.text)]

    @answers(lsp.TEXT_DOCUMENT_PREPARE_RENAME)
    def prepare_rename(ls: RecipeServer, document: Document, params: Any) -> lsp.PrepareRenamePlaceholder | None:
        offset = document.text.offset(params.position)
        token = name_at(document.analysis, offset)
        if token is None or rename(document.analysis, offset, token.text).value is None:
            return None
        return lsp.PrepareRenamePlaceholder(document.range(token), token.text)

    @answers(lsp.TEXT_DOCUMENT_RENAME, lsp.RenameOptions(prepare_provider=True))
    def renamed(ls: RecipeServer, document: Document, params: lsp.RenameParams) -> lsp.WorkspaceEdit:
        found = rename(document.analysis, document.text.offset(params.position), params.new_name)
        if found.value is None:
            raise JsonRpcInvalidParams(found.diagnostics[0].message)
        return protocol.edits(document, found.value)


def _asked(kind: lsp.CodeActionKind, wanted: Any) -> bool:
    """Whether the client requested a code action kind, or a parent kind of it."""
    names = None if wanted is None else [str(getattr(one, "value", one)) for one in wanted]
    return names is None or any(f"{kind.value}.".startswith(f"{name}.") for name in names)
