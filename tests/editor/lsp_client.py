"""A small client of the Language Server Protocol over a real server's standard streams."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
URI = "file:///recipes/a.lbr"

CAPABILITIES = {
    "textDocument": {
        "completion": {"completionItem": {"snippetSupport": True}},
        "publishDiagnostics": {"relatedInformation": True, "versionSupport": True},
        "codeAction": {"codeActionLiteralSupport": {"codeActionKind": {"valueSet": ["quickfix", "source.fixAll"]}}},
    },
    "workspace": {"inlayHint": {"refreshSupport": True}},
}


class Client:
    """Starts `lbdsl lsp`, talks to it, and keeps what it says on its own."""

    def __init__(
        self,
        *,
        options: dict[str, Any] | None = None,
        root: Path | None = None,
        encodings: list[str] | None = None,
        code: str | None = None,
    ):
        command = [sys.executable, "-m", "lbdsl", "lsp"] if code is None else [sys.executable, "-c", code]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "LBDSL_DOCS": ""},
        )
        self.messages: queue.Queue[dict[str, Any]] = queue.Queue()
        self.said: list[dict[str, Any]] = []
        self.number = 0
        threading.Thread(target=self._read, daemon=True).start()
        capabilities = {**CAPABILITIES, **({"general": {"positionEncodings": encodings}} if encodings else {})}
        self.server = self.ask(
            "initialize",
            {
                "processId": None,
                "rootUri": None if root is None else root.as_uri(),
                "capabilities": capabilities,
                "initializationOptions": options or {},
            },
        )
        self.tell("initialized", {})

    def _read(self) -> None:
        out = self.process.stdout
        assert out is not None
        while True:
            length = 0
            while line := out.readline().strip():
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            if not length:
                break
            self.messages.put(json.loads(out.read(length)))
        self.messages.put({"gone": True})

    def _write(self, message: dict[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        assert self.process.stdin is not None
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self.process.stdin.flush()

    def tell(self, method: str, params: Any) -> None:
        self._write({"method": method, "params": params})

    def _next(self, timeout: float) -> dict[str, Any]:
        message = self.messages.get(timeout=timeout)
        assert "gone" not in message, self.process.stderr.read().decode() if self.process.stderr else "the server died"
        if "id" in message and "method" in message:  # the server asks; it is content with nothing
            self._write({"id": message["id"], "result": None})
        return message

    def ask(self, method: str, params: Any, *, error: bool = False, timeout: float = 30) -> Any:
        """The result of a request; with `error`, the error that it must end with."""
        self.number += 1
        self._write({"id": self.number, "method": method, "params": params})
        while True:
            message = self._next(timeout)
            if message.get("id") == self.number and "method" not in message:
                assert ("error" in message) == error, message
                return message["error"] if error else message["result"]
            self.said.append(message)

    def wait(self, method: str, timeout: float = 30, **params: Any) -> dict[str, Any]:
        """The parameters of the next message of that method (one already heard counts) that agrees with `params`.

        Earlier messages of that method are forgotten, those of others are kept: their order is the server's.
        """
        while True:
            for index, message in enumerate(self.said):
                if message.get("method") == method and all(
                    (message.get("params") or {}).get(key) == value for key, value in params.items()
                ):
                    self.said = [
                        kept for place, kept in enumerate(self.said) if place > index or kept.get("method") != method
                    ]
                    return message.get("params") or {}
            self.said.append(self._next(timeout))

    def open(self, text: str, uri: str = URI, version: int = 1) -> list[dict[str, Any]]:
        """Open a text; its diagnostics."""
        self.tell(
            "textDocument/didOpen", {"textDocument": {"uri": uri, "languageId": "lbr", "version": version, "text": text}}
        )
        return self.wait("textDocument/publishDiagnostics", uri=uri, version=version)["diagnostics"]

    def edit(self, version: int, *changes: dict[str, Any], uri: str = URI) -> list[dict[str, Any]]:
        """Change a text; its diagnostics."""
        self.tell(
            "textDocument/didChange", {"textDocument": {"uri": uri, "version": version}, "contentChanges": list(changes)}
        )
        return self.wait("textDocument/publishDiagnostics", uri=uri, version=version)["diagnostics"]

    def at(self, feature: str, line: int, character: int, uri: str = URI, fails: bool = False, **more: Any) -> Any:
        """A request about a place; see `ask`."""
        place = {"textDocument": {"uri": uri}, "position": {"line": line, "character": character}}
        return self.ask(f"textDocument/{feature}", {**place, **more}, error=fails)

    def close(self) -> int:
        """End the server as an editor does; its exit code."""
        self.ask("shutdown", None)
        self.tell("exit", None)
        return self.process.wait(20)


def where(line: int, start: int, end: int | None = None, end_line: int | None = None) -> dict[str, Any]:
    """A range of the protocol."""
    return {
        "start": {"line": line, "character": start},
        "end": {"line": line if end_line is None else end_line, "character": start if end is None else end},
    }
