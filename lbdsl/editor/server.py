"""The language server for recipes, over standard input and output: `lbdsl lsp`.

It keeps its own copy of each open text, with line endings as defined by the protocol, and analyzes each version from
scratch: a recipe is small. Findings are published shortly after the last edit.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, BinaryIO

from lsprotocol import types as lsp
from pygls.capabilities import get_capability
from pygls.lsp.server import LanguageServer

from lbdsl.core.diagnostic import LbdslError, fail
from lbdsl.cost.facts import ModelFacts
from lbdsl.editor.documents import UNITS, Text
from lbdsl.editor.hints import configured_model, facts_of
from lbdsl.editor.protocol import Document, diagnostics
from lbdsl.version import VERSION

DELAY = 0.015
"""Seconds after the last edit until findings are published."""

LARGE = 100_000
"""Number of characters above which a text is checked in a thread instead of in the event loop."""


MOST_DIGITS, MOST_HEADER = 8, 1000
"""Of the length of a message in bytes, and the bytes of a line before it."""


class Messages:
    """Standard input as pygls reads it, taking as much memory as a header says. Raises LB062 for what no editor sends."""

    def __init__(self, stream: BinaryIO):
        self.read, self._readline = stream.read, stream.readline

    def readline(self) -> bytes:
        line = self._readline(MOST_HEADER)
        name, _, length = line.partition(b":")
        if len(line) == MOST_HEADER or (name == b"Content-Length" and len(length.strip()) > MOST_DIGITS):
            said = line[:40].decode(errors="replace").strip()
            raise fail("LB062", f"no message of an editor begins with `{said}`", help="start `lbdsl lsp` from an editor")
        return line


class RecipeServer(LanguageServer):
    """The server; `model` is given on the command line, `default_model` is used if neither it nor the editor names one."""

    def __init__(self, model: str | None = None, default_model: str | None = None):
        super().__init__("lbdsl", VERSION, text_document_sync_kind=lsp.TextDocumentSyncKind.Incremental)
        self.model, self.default_model = model, default_model
        self.facts: ModelFacts | None = None
        self.docs: str | None = None
        # `initializationOptions` of the client: `model` and `docs`.
        self.options: dict[str, Any] = {}
        self.documents: dict[str, Document] = {}
        self.waiting: dict[str, asyncio.TimerHandle] = {}
        self.tasks: set[asyncio.Future[None]] = set()

    def set_text(self, uri: str, text: Text, version: int) -> None:
        """Keep a text, and publish its findings when no edit arrives for `DELAY` seconds."""
        self.documents[uri] = Document(uri, text, version, self.facts)
        waiting = self.waiting.pop(uri, None)
        if waiting is not None:
            waiting.cancel()
        self.waiting[uri] = asyncio.get_running_loop().call_later(DELAY, self.publish, uri)

    def check_again(self) -> None:
        """All texts, because a model or a file that they depend on has changed."""
        for document in list(self.documents.values()):
            self.set_text(document.uri, document.text, document.version)

    def encoding(self) -> str:
        found = str(getattr(self.workspace.position_encoding, "value", self.workspace.position_encoding))
        return found if found in UNITS else "utf-16"

    def publish(self, uri: str) -> None:
        self.waiting.pop(uri, None)
        document = self.documents.get(uri)
        if document is None:
            return
        if len(document.text.text) <= LARGE:
            self._send(document)
        else:
            task = asyncio.ensure_future(self._publish_large(document))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _publish_large(self, document: Document) -> None:
        """Check in a thread, so that completion does not wait; a text that changed meanwhile is not reported."""
        await asyncio.get_running_loop().run_in_executor(None, getattr, document.analysis, "checked")
        if self.documents.get(document.uri) is document:
            self._send(document)

    def _send(self, document: Document) -> None:
        found = self.diagnostics(document)
        self.text_document_publish_diagnostics(lsp.PublishDiagnosticsParams(document.uri, found, document.version))

    def diagnostics(self, document: Document) -> list[lsp.Diagnostic]:
        related = get_capability(self.client_capabilities, "text_document.publish_diagnostics.related_information")
        return diagnostics(document, self.docs, bool(related))

    async def load_model(self, asked: object, root: Path | None) -> None:
        """Read the facts of the configured model, and publish again everything that depends on them."""
        model = configured_model(self.model, asked, self.default_model, root)
        if model is None:
            return
        try:
            self.facts = await asyncio.get_running_loop().run_in_executor(None, facts_of, model)
        except LbdslError as problem:
            self.window_show_message(
                lsp.ShowMessageParams(lsp.MessageType.Warning, f"lbdsl: no hints from the model {model}: {problem}")
            )
            return
        self.check_again()
        if get_capability(self.client_capabilities, "workspace.inlay_hint.refresh_support"):
            self.workspace_inlay_hint_refresh(None)
