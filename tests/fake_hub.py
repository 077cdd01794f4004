"""A stand-in of the hub's API for models: repositories, uploads by LFS, commits; what it was asked stays in lists."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Hub:
    """`repositories` are private or not, by name; `stored` LFS objects by sha256; `commits` the files of each, by name, and
    `files` the names that are there. `fails` are statuses to answer with, by the end of a path, the first of each once."""

    token: str = "hf_right"
    url: str = ""
    repositories: dict[str, bool] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    commits: list[dict[str, bytes]] = field(default_factory=list)
    files: set[str] = field(default_factory=set)
    fails: dict[str, list[int]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


@contextmanager
def running() -> Iterator[Hub]:
    hub = Hub()

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    state: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._handle("GET")

    def do_POST(self) -> None:
        self._handle("POST")

    def do_PUT(self) -> None:
        self._handle("PUT")

    def _handle(self, verb: str) -> None:
        hub, path = self.state, self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub.asked.append(f"{verb} {path}")
        for end, statuses in hub.fails.items():
            if path.endswith(end) and statuses:
                return self._answer({"error": "no"}, statuses.pop(0))
        if path.startswith("/lfs/"):
            hub.stored[path.removeprefix("/lfs/")] = body
            hub.sent.append(path.removeprefix("/lfs/"))
            return self._answer({})
        if self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self._answer({"error": "Invalid username or password."}, 401)
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if name in hub.repositories:
                return self._answer({"error": "You already created this model repo", "url": f"{hub.url}/{name}"}, 409)
            if asked["organization"] != "org":
                return self._answer({"error": "no rights"}, 403)
            hub.repositories[name] = asked.get("visibility") == "private" or bool(asked.get("private"))
            return self._answer({"url": f"{hub.url}/{name}", "name": name, "id": "1"})
        if path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        if path.endswith("/preupload/main"):
            files = [
                {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular"}
                for file in json.loads(body)["files"]
            ]
            return self._answer({"files": [{**file, "shouldIgnore": False, "oid": None} for file in files]})
        if path.endswith("/info/lfs/objects/batch"):
            found = [{"oid": each["oid"], "size": each["size"]} for each in json.loads(body)["objects"]]
            for each in found:
                if each["oid"] not in hub.stored:
                    each["actions"] = {"upload": {"href": f"{hub.url}/lfs/{each['oid']}", "header": {}}}
            return self._answer({"transfer": "basic", "objects": found})
        if path.endswith("/commit/main"):
            files: dict[str, bytes] = {}
            for line in body.splitlines():
                said = json.loads(line)
                if said["key"] == "file":
                    files[said["value"]["path"]] = base64.b64decode(said["value"]["content"])
                elif said["key"] == "lfsFile":
                    files[said["value"]["path"]] = hub.stored[said["value"]["oid"]]
                elif said["key"] == "deletedFile":
                    hub.files.discard(said["value"]["path"])
            hub.commits.append(files)
            hub.files |= files.keys()
            name = path.removeprefix("/api/models/").removesuffix("/commit/main")
            return self._answer(
                {"success": True, "commitOid": "c" * 40, "commitUrl": f"{hub.url}/{name}/commit/{'c' * 40}"}
            )
        name = path.removeprefix("/api/models/").removesuffix("/revision/main")
        if name in hub.repositories:
            siblings = [{"rfilename": name} for name in hub.files]
            return self._answer({"id": name, "private": hub.repositories[name], "siblings": siblings, "sha": "c" * 40})
        return self._answer({"error": "not found"}, 404)

    def _answer(self, value: Any, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status == 401 or status == 404:
            self.send_header("X-Error-Message", str(value.get("error")))
        self.end_headers()
        self.wfile.write(data)
