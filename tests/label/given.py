"""Pictures to label, a real server in this process, and what a page would ask it."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from layermatch.label.examine import Task
from layermatch.label.guard import reading_secret
from layermatch.label.labels import Labels, lock_labels
from layermatch.label.pictures import find_pictures
from layermatch.label.thumbnails import Thumbnails
from layermatch.label.training import Training

#: The colour of each class; every picture of a class has a shade of it.
COLOURS = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (40, 60, 200)}
TOKEN = "a-token-of-a-test"  # noqa: S105


def write_pictures(root: Path, *, per_class: int = 4, size: int = 12, seed: int = 0) -> dict[str, str]:
    """Pictures of three colours in one folder; the class of each by its path."""
    root.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    truth = {}
    for number in range(per_class * len(COLOURS)):
        name = list(COLOURS)[number % len(COLOURS)]
        pixels = np.clip(np.array(COLOURS[name]) + draw.integers(-40, 40, (size, size, 3)), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"IMG_{number:03d}.png")
        truth[f"IMG_{number:03d}.png"] = name
    return truth


class Client:
    """A window of the page, without a browser."""

    def __init__(self, port: int, *, window: str = "window") -> None:
        self.port, self.window = port, window
        self.session = ""

    def raw(
        self,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        method: str | None = None,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """The status, the headers and the body of an answer, with no header that is not given."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data=body, headers=dict(headers or {}), method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), error.read()

    def cookie(self) -> dict[str, str]:
        """The header that lets read."""
        return {"cookie": f"layermatch-label-{self.port}={reading_secret(TOKEN)}"}

    def get(self, path: str) -> tuple[int, Any]:
        """The status, and JSON."""
        status, _, body = self.raw(path, headers=self.cookie())
        return status, json.loads(body)

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.get("/api/state")[1]
        self.session = state["session"]
        return state

    def post(self, action: str, /, **asked: Any) -> tuple[int, Any]:
        """Change something."""
        body = json.dumps({"session": self.session or self.state()["session"], "window": self.window} | asked).encode()
        headers = {"content-type": "application/json", "x-layermatch-token": TOKEN}
        status, _, answer = self.raw(f"/api/{action}", body=body, headers=headers)
        return status, json.loads(answer)

    def label(self, ids: Sequence[int], label: str, seen: Sequence[Sequence[str]] | None = None) -> tuple[int, Any]:
        return self.post("label", ids=list(ids), label=label, ignored=False, seen=seen)

    def when_ready(self) -> dict[str, Any]:
        """The state once all pictures were looked at."""
        for _ in range(1200):
            state = self.state()
            if not state["proposals"]["is_working"] and state["proposals"]["is_ready"]:
                return state
            assert not state["proposals"]["problem"]
            time.sleep(0.1)
        raise AssertionError("nothing was found in two minutes")


@contextmanager
def serving(root: Path, cache: Path, *, ckpt_path: Path | None = None, links: bool = False) -> Iterator[Client]:
    """A server of the pictures in a folder, on a free port."""
    import socket

    import uvicorn

    from layermatch.label.app import make_app
    from layermatch.label.session import Session

    manifest = root / "labels.csv"
    with socket.create_server(("127.0.0.1", 0)) as listener, lock_labels(manifest):
        port = listener.getsockname()[1]
        pictures = find_pictures(root, links=links, leave_out=root / "labels.runs")
        session = Session(
            pictures=pictures,
            labels=Labels(manifest, pictures.paths),
            thumbnails=Thumbnails(cache / "thumbnails", limit=10_000_000),
            training=Training(root / "labels.runs", root=pictures.root),
            task=Task(
                root=str(pictures.root), paths=pictures.paths, cache=str(cache / "features"), sample=6, clusters=3,
                ckpt_path=None if ckpt_path is None else str(ckpt_path),
            ),
        )  # fmt: skip
        app = make_app(session, token=TOKEN, port=port)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield Client(port)
        finally:
            server.should_exit = True
            thread.join(20)
            session.close()
