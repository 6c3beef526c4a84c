"""Servers on 127.0.0.1 that a W&B client can talk to: one that does what a run and a sweep need, and broken ones."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: What a run needs in its environment; the key is nobody's.
KEY = "0123456789" * 4


def environment_for(url: str) -> dict[str, str]:
    return {"WANDB_BASE_URL": url, "WANDB_API_KEY": KEY}


class Server:
    """Answers as W&B's does, as far as a run, a sweep and its agent ask; keeps what it was sent.

    Args:
        answer: ``(path, GraphQL operation, variables) -> (status, answer)`` in the place of the regular answer; None
            for an answer leaves that as it is.
    """

    def __init__(self, answer: Callable[[str, str, dict[str, Any]], tuple[int, Any] | None] | None = None) -> None:
        self.answer = answer
        self.operations: list[tuple[str, dict[str, Any]]] = []
        self.files: dict[str, bytes] = {}
        self.history: list[dict[str, Any]] = []
        self.has_died = threading.Event()
        self._open: list[socket.socket] = []
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Server:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.die()

    def die(self) -> None:
        """Hang up on everybody, and listen no more."""
        if self.has_died.is_set():
            return
        self.has_died.set()
        threading.Thread(target=self._http.shutdown, daemon=True).start()
        self._http.server_close()
        for connection in self._open:
            connection.close()

    def sent(self, operation: str) -> list[dict[str, Any]]:
        """The variables of every request of an operation."""
        return [variables for name, variables in self.operations if name == operation]

    def regular_answer(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables.get("name")
        project = {"id": "p", "name": "layermatch", "entity": {"id": "e", "name": "me"}}
        known = any(name == earlier["name"] for earlier in self.sent("UpsertBucket")[:-1])
        bucket = {
            "id": "b", "name": name, "displayName": variables.get("displayName") or "run", "project": project,
            "historyLineCount": 0,
        }  # fmt: skip
        answers: dict[str, Any] = {
            "Viewer": {"viewer": {"id": "1", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}},
            "RunResumeStatus": {"model": None},
            "ServerFeaturesQuery": {"serverInfo": {"features": []}},
            "UpsertBucket": {"upsertBucket": {"inserted": not known, "bucket": bucket}},
            "CreateRunFiles": {
                "createRunFiles": {
                    "runID": "b", "uploadHeaders": [],
                    "files": [{"name": f, "uploadUrl": f"{self.url}/upload/{f}"} for f in variables.get("files") or ()],
                }
            },
            "UpsertSweep": {
                "upsertSweep": {"sweep": {"name": "sweep1", "project": project}, "configValidationWarnings": []}
            },
            "ArtifactType": {"project": None},
            "CreateArtifact": {
                "createArtifact": {
                    "artifact": {"id": "a", "state": "COMMITTED", "artifactSequence": {"latestArtifact": {"id": "a"}}}
                }
            },
            "CreateAgent": {"createAgent": {"agent": {"id": "agent1"}}},
        }  # fmt: skip
        return answers.get(operation, {})

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                server._open.append(self.connection)

            def respond(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, answer = server._respond(self.path, body)
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def handle(self) -> None:
                try:
                    super().handle()
                except (OSError, ValueError):  # a client that was killed, or a server that has died
                    self.close_connection = True

            def finish(self) -> None:
                try:
                    super().finish()
                except (OSError, ValueError):
                    self.close_connection = True

            do_GET = do_POST = do_PUT = respond  # noqa: N815 -- the library's names

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def _respond(self, path: str, body: bytes) -> tuple[int, Any]:
        operation, variables = "", {}
        if path == "/graphql":
            request = json.loads(body)
            found = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
            operation, variables = found[1] if found else "", request.get("variables") or {}
            self.operations.append((operation, variables))
        elif path.startswith("/upload/"):
            self.files[path.removeprefix("/upload/")] = body
        elif path.endswith("/file_stream"):
            lines = json.loads(body).get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
            self.history += [json.loads(line) for line in lines]
        special = self.answer(path, operation, variables) if self.answer else None
        if special is not None:
            return special
        return 200, {"data": self.regular_answer(operation, variables)} if operation else {}


@contextmanager
def closed_port() -> Iterator[str]:
    """An address where nobody listens; held, so that nobody else will."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


@contextmanager
def silent_server() -> Iterator[str]:
    """Takes every connection and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)  # the kernel accepts; nobody reads
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
