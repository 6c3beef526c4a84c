"""A server that speaks as much of the Hugging Face hub's HTTP as an upload needs, and keeps what it is given."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_of_a_test"  # noqa: S105


class Hub:
    """What the server knows.

    Attributes:
        repos: What each repository was made with, by its name.
        commits: The files of each commit, by their paths.
        objects: Large files by their SHA-256, as they were uploaded.
        refuses_objects: Whether large files are refused.
    """

    def __init__(self) -> None:
        self.address = ""
        self.repos: dict[str, dict[str, Any]] = {}
        self.commits: list[dict[str, bytes]] = []
        self.objects: dict[str, bytes] = {}
        self.refuses_objects = False

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """The status and the JSON of an answer."""
        if path.startswith("/objects/"):
            return self._object(method, path.rpartition("/")[2], body)
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path.endswith("/preupload/main"):
            return 200, {"files": [self._mode(file["path"]) for file in json.loads(body)["files"]]}
        if path.endswith(".git/info/lfs/objects/batch"):
            return 200, {"transfer": "basic", "objects": [self._place(each) for each in json.loads(body)["objects"]]}
        assert path.endswith("/commit/main")
        return self._commit([json.loads(line) for line in body.splitlines()], path)

    def _create(self, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        name = f"{asked['organization']}/{asked['name']}"
        status = 409 if name in self.repos else 200
        self.repos.setdefault(name, asked)
        return status, {"url": f"{self.address}/{name}", "id": name, "name": name}

    def _mode(self, path: str) -> dict[str, Any]:
        mode = "regular" if path.endswith((".md", ".json")) else "lfs"
        return {"path": path, "uploadMode": mode, "shouldIgnore": False}

    def _place(self, wanted: dict[str, Any]) -> dict[str, Any]:
        href = f"{self.address}/objects/{wanted['oid']}"
        return wanted | {"actions": {"upload": {"href": href}, "verify": {"href": href}}}

    def _object(self, method: str, oid: str, body: bytes) -> tuple[int, dict[str, Any]]:
        if self.refuses_objects:
            return 403, {"error": "no more room for large files"}
        if method == "PUT":
            assert hashlib.sha256(body).hexdigest() == oid
            self.objects[oid] = body
            return 200, {}
        return (200, {}) if len(self.objects.get(oid, b"")) == json.loads(body)["size"] else (404, {})

    def _commit(self, lines: list[dict[str, Any]], path: str) -> tuple[int, dict[str, Any]]:
        files = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
        self.commits.append(files)
        oid = f"{len(self.commits):040x}"
        name = path.removeprefix("/api/models/").removesuffix("/commit/main")
        return 200, {"success": True, "commitOid": oid, "commitUrl": f"{self.address}/{name}/commit/{oid}"}


@contextmanager
def serving_hub() -> Iterator[Hub]:
    """A hub on a free port of this machine."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self._body()
            is_known = self.headers.get("authorization") == f"Bearer {TOKEN}" or self.path.startswith("/objects/")
            status, said = (
                hub.answer(self.command, self.path.partition("?")[0], body)
                if is_known
                else (401, {"error": "Invalid username or password."})
            )
            content = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_PUT = do_POST  # noqa: N815 -- as the library calls it

        def _body(self) -> bytes:
            if "chunked" not in self.headers.get("transfer-encoding", ""):
                return self.rfile.read(int(self.headers.get("content-length", 0)))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def log_message(self, *_: object) -> None:
            """Nothing is said of requests."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join(20)
