"""The language server of recipes, over standard input and output: `lbdsl lsp`.

It keeps its own copy of each open text, since lines end here as the protocol says, and works everything out anew for
each version: a recipe is small. Findings are published a moment after the last key.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lsprotocol import types as lsp
from pygls.exceptions import JsonRpcInvalidParams
from pygls.lsp.server import LanguageServer
from pygls.uris import to_fs_path

from lbdsl.core.diagnostic import LbdslError
from lbdsl.core.facts import ModelFacts
from lbdsl.editor import protocol
from lbdsl.editor.analysis import Analysis
from lbdsl.editor.claims import claim_hints
from lbdsl.editor.completion import complete
from lbdsl.editor.documents import UNITS, Change, Text
from lbdsl.editor.fixes import formatting, together
from lbdsl.editor.hover import hover
from lbdsl.editor.names import definition_of, name_at, rename, uses_of
from lbdsl.editor.outline import outline
from lbdsl.editor.project import configured_model, facts_of
from lbdsl.version import VERSION

DELAY = 0.015
"""Seconds after the last edit until findings are published."""


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


@dataclass
class State:
    """What the server knows besides its texts."""

    model: str | None = None
    facts: ModelFacts | None = None
    docs: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    """`initializationOptions` of the client: `model` and `docs`."""

    documents: dict[str, Document] = field(default_factory=dict)
    waiting: dict[str, asyncio.TimerHandle] = field(default_factory=dict)


class RecipeServer(LanguageServer):
    """The server; `model` is the one named on the command line."""

    def __init__(self, model: str | None = None):
        super().__init__("lbdsl", VERSION, text_document_sync_kind=lsp.TextDocumentSyncKind.Incremental)
        self.state = State(model=model)

    def set_text(self, uri: str, text: Text, version: int) -> None:
        self.state.documents[uri] = Document(uri, text, version, self.state.facts)

    def encoding(self) -> str:
        found = str(getattr(self.workspace.position_encoding, "value", self.workspace.position_encoding))
        return found if found in UNITS else "utf-16"

    def publish_soon(self, uri: str) -> None:
        """Publish the findings of a text when no edit came for a moment."""
        waiting = self.state.waiting.pop(uri, None)
        if waiting is not None:
            waiting.cancel()
        self.state.waiting[uri] = asyncio.get_running_loop().call_later(DELAY, self.publish, uri)

    def publish(self, uri: str) -> None:
        self.state.waiting.pop(uri, None)
        document = self.state.documents.get(uri)
        if document is not None:
            found = protocol.diagnostics(document.analysis, document.text, uri, self.state.docs, self.shows_related())
            self.text_document_publish_diagnostics(lsp.PublishDiagnosticsParams(uri, found, document.version))

    def shows_related(self) -> bool:
        shown = _client(self, "text_document", "publish_diagnostics", "related_information")
        return bool(shown)

    async def load_model(self, asked: object, root: Path | None) -> None:
        """Read the facts of the configured model, and say everything again that depends on them."""
        model = configured_model(asked, self.state.model, root)
        if model is None:
            return
        try:
            self.state.facts = await asyncio.get_running_loop().run_in_executor(None, facts_of, model)
        except LbdslError as problem:
            self.window_show_message(lsp.ShowMessageParams(
                lsp.MessageType.Warning, f"lbdsl: no hints from the model {model}: {problem}"))
            return
        for document in list(self.state.documents.values()):
            self.set_text(document.uri, document.text, document.version)
            self.publish_soon(document.uri)
        if _client(self, "workspace", "inlay_hint", "refresh_support"):
            self.workspace_inlay_hint_refresh(None)


def _client(server: RecipeServer, *path: str) -> Any:
    """A capability of the client, or None where any part of the path is missing."""
    value: Any = server.client_capabilities
    for part in path:
        value = getattr(value, part, None)
    return value


def _is_no_refusal(record: logging.LogRecord) -> bool:
    return record.exc_info is None or not isinstance(record.exc_info[1], JsonRpcInvalidParams)


def make_server(model: str | None = None) -> RecipeServer:
    """A server with every feature registered; `start_io()` runs it."""
    # What a user asked for and cannot have is an answer, not a fault to be logged with its traceback.
    logging.getLogger("pygls.protocol.json_rpc").addFilter(_is_no_refusal)
    server = RecipeServer(model)
    _register_texts(server)
    _register_reading(server)
    _register_editing(server)
    return server


def _register_texts(server: RecipeServer) -> None:
    """Opening, editing, saving and closing."""

    @server.feature(lsp.INITIALIZE)
    def initialize(ls: RecipeServer, params: lsp.InitializeParams) -> None:
        given = params.initialization_options
        ls.state.options = dict(given) if isinstance(given, Mapping) else {}

    @server.feature(lsp.INITIALIZED)
    async def initialized(ls: RecipeServer, params: lsp.InitializedParams) -> None:
        root = ls.workspace.root_path
        ls.state.docs = protocol.docs_page(ls.state.options.get("docs"))
        await ls.load_model(ls.state.options.get("model"), Path(root) if root else None)

    @server.feature(lsp.TEXT_DOCUMENT_DID_OPEN)
    def opened(ls: RecipeServer, params: lsp.DidOpenTextDocumentParams) -> None:
        item = params.text_document
        ls.set_text(item.uri, Text(item.text, ls.encoding()), item.version)
        ls.publish_soon(item.uri)

    @server.feature(lsp.TEXT_DOCUMENT_DID_CHANGE)
    def changed(ls: RecipeServer, params: lsp.DidChangeTextDocumentParams) -> None:
        uri = params.text_document.uri
        before = ls.state.documents.get(uri)
        text = before.text if before is not None else Text("", ls.encoding())
        ls.set_text(uri, text.changed(map(_change, params.content_changes)), params.text_document.version)
        ls.publish_soon(uri)

    @server.feature(lsp.TEXT_DOCUMENT_DID_SAVE)
    def saved(ls: RecipeServer, params: lsp.DidSaveTextDocumentParams) -> None:
        # Another recipe may include the one that was saved.
        for document in list(ls.state.documents.values()):
            ls.set_text(document.uri, document.text, document.version)
            ls.publish_soon(document.uri)

    @server.feature(lsp.TEXT_DOCUMENT_DID_CLOSE)
    def closed(ls: RecipeServer, params: lsp.DidCloseTextDocumentParams) -> None:
        uri = params.text_document.uri
        ls.state.documents.pop(uri, None)
        ls.text_document_publish_diagnostics(lsp.PublishDiagnosticsParams(uri, []))


def _change(change: Any) -> Change:
    where = getattr(change, "range", None)
    if where is None:
        return Change(None, None, change.text)
    return Change(protocol.place(where.start), protocol.place(where.end), change.text)


def _register_reading(server: RecipeServer) -> None:
    """Features that only look."""

    @server.feature(lsp.TEXT_DOCUMENT_COMPLETION, lsp.CompletionOptions(trigger_characters=["$", "@", "(", ".", '"']))
    def completion(ls: RecipeServer, params: lsp.CompletionParams) -> lsp.CompletionList | None:
        document, offset = _at(ls, params)
        if document is None:
            return None
        cursor, items = complete(document.analysis, offset)
        snippets = bool(_client(ls, "text_document", "completion", "completion_item", "snippet_support"))
        return None if cursor is None else protocol.completion(items, cursor, document.text, snippets)

    @server.feature(lsp.TEXT_DOCUMENT_HOVER)
    def on_hover(ls: RecipeServer, params: lsp.HoverParams) -> lsp.Hover | None:
        document, offset = _at(ls, params)
        found = hover(document.analysis, offset) if document is not None else None
        if document is None or found is None:
            return None
        return lsp.Hover(lsp.MarkupContent(lsp.MarkupKind.Markdown, found.page),
                         protocol.range_of(document.text, found.start, found.end))

    @server.feature(lsp.TEXT_DOCUMENT_DOCUMENT_SYMBOL)
    def symbols(ls: RecipeServer, params: lsp.DocumentSymbolParams) -> list[lsp.DocumentSymbol]:
        document = ls.state.documents.get(params.text_document.uri)
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
        return [lsp.Location(document.uri, protocol.range_of(document.text, token.start, token.end))
                for token in uses_of(document.analysis, offset)
                if params.context.include_declaration or defined is None or defined.start != token.start]

    @server.feature(lsp.TEXT_DOCUMENT_INLAY_HINT)
    def inlay_hints(ls: RecipeServer, params: lsp.InlayHintParams) -> list[lsp.InlayHint]:
        document = ls.state.documents.get(params.text_document.uri)
        recipe = document.analysis.checked.value if document is not None else None
        if document is None or recipe is None or document.facts is None:
            return []
        first, last = params.range.start.line, params.range.end.line
        hints = [protocol.inlay_hint(hint, document.text) for hint in claim_hints(recipe, document.facts)
                 if document.analysis.is_own(hint.span)]
        return [hint for hint in hints if first <= hint.position.line <= last]

    @server.feature(lsp.TEXT_DOCUMENT_SEMANTIC_TOKENS_FULL, protocol.LEGEND)
    def semantic(ls: RecipeServer, params: lsp.SemanticTokensParams) -> lsp.SemanticTokens:
        document = ls.state.documents.get(params.text_document.uri)
        return lsp.SemanticTokens([] if document is None else protocol.semantic_tokens(document.text))


def _register_editing(server: RecipeServer) -> None:
    """Features that give edits."""

    @server.feature(lsp.TEXT_DOCUMENT_CODE_ACTION, lsp.CodeActionOptions(
        code_action_kinds=[lsp.CodeActionKind.QuickFix, lsp.CodeActionKind.SourceFixAll]))
    def code_actions(ls: RecipeServer, params: lsp.CodeActionParams) -> list[lsp.CodeAction]:
        document = ls.state.documents.get(params.text_document.uri)
        if document is None:
            return []
        wanted = params.context.only
        start, end = (document.text.offset(protocol.place(where)) for where in (params.range.start, params.range.end))
        shown = protocol.diagnostics(document.analysis, document.text, document.uri, ls.state.docs, ls.shows_related())
        actions, fixes = [], []
        for found, said in zip(document.analysis.findings, shown, strict=True):
            fix = protocol.own_fix(found, document.analysis)
            if fix is None:
                continue
            fixes.append(fix)
            near = found.span is not None and found.span.start <= end and start <= found.span.end
            if near and _asked(lsp.CodeActionKind.QuickFix, wanted):
                actions.append(lsp.CodeAction(fix.title, kind=lsp.CodeActionKind.QuickFix, diagnostics=[said],
                                              is_preferred=True, edit=protocol.fix_edit(fix, document.text, document.uri)))
        whole = together(fixes)
        if whole is not None and _asked(lsp.CodeActionKind.SourceFixAll, wanted):
            actions.append(lsp.CodeAction(whole.title, kind=lsp.CodeActionKind.SourceFixAll,
                                          edit=protocol.fix_edit(whole, document.text, document.uri)))
        return actions

    @server.feature(lsp.TEXT_DOCUMENT_FORMATTING)
    def formatted(ls: RecipeServer, params: lsp.DocumentFormattingParams) -> list[lsp.TextEdit] | None:
        document = ls.state.documents.get(params.text_document.uri)
        edit = formatting(document.text.text, document.analysis.name).value if document is not None else None
        if document is None or edit is None:
            return None  # a text with errors stays as it is; the findings say why
        if document.text.text[edit.start : edit.end] == edit.text:
            return []
        return [lsp.TextEdit(protocol.range_of(document.text, edit.start, edit.end), edit.text)]

    @server.feature(lsp.TEXT_DOCUMENT_PREPARE_RENAME)
    def prepare_rename(ls: RecipeServer, params: lsp.PrepareRenameParams) -> lsp.PrepareRenamePlaceholder | None:
        document, offset = _at(ls, params)
        token = name_at(document.analysis, offset) if document is not None else None
        found = document.analysis.definitions.get(token.text) if document is not None and token is not None else None
        if document is None or token is None or found is None or found.is_included:
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
    """Whether a kind, or one that it belongs to, is among those that the client asks for."""
    return wanted is None or any(kind.value == str(getattr(one, "value", one)) or kind.value.startswith(
        str(getattr(one, "value", one)) + ".") for one in wanted)


def _at(ls: RecipeServer, params: Any) -> tuple[Document | None, int]:
    """The text that a request is about, and the offset in it."""
    document = ls.state.documents.get(params.text_document.uri)
    return document, 0 if document is None else document.text.offset(protocol.place(params.position))
