"""What the page asks the server, and what it answers: one page, pictures, and JSON."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from layermatch.data.decoding import ImageFileError
from layermatch.label.guard import Guard
from layermatch.label.labels import Given, LabelsError
from layermatch.label.session import Session
from layermatch.label.thumbnails import SIDES

__all__ = ["make_app"]

#: Pictures of one request for what is said of them.
MOST_ITEMS = 500

#: The files of the page, and what they are.
_FILES = {"page.css": "text/css", "page.js": "text/javascript"}

Answer = Callable[[Session, dict[str, Any]], dict[str, Any]]


def make_app(session: Session, *, token: str, port: int) -> ASGIApp:
    """Return the application of one server.

    Args:
        session: What the server knows.
        token: The token that every request needs, see :class:`~layermatch.label.guard.Guard`.
        port: The port of the server.
    """
    app = Starlette(
        routes=[
            Route("/", _page),
            Route("/static/{name}", _file),
            Route("/favicon.ico", _nothing),
            Route("/api/state", _state),
            Route("/api/view", _view),
            Route("/api/items", _items),
            Route("/picture/{number:int}", _picture),
            *(Route(f"/api/{name}", _changing(answer), methods=["POST"]) for name, answer in _ANSWERS.items()),
        ],
        exception_handlers={LabelsError: _refused, HTTPException: _http_error},
    )
    app.state.session = session
    return Guard(app, token=token, port=port)


def _refused(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, status_code=409)


def _http_error(_: Request, error: Exception) -> Response:
    status, detail = getattr(error, "status_code", 500), getattr(error, "detail", str(error))
    return JSONResponse({"error": detail}, status_code=status)


def _session(request: Request) -> Session:
    session: Session = request.app.state.session
    return session


# ----------------------------------------------------------------------------------------------------------- the page


def _static(name: str) -> str:
    return (files("layermatch.label") / "static" / name).read_text(encoding="utf-8")


def _page(_: Request) -> Response:
    """Return the page. The token is not in it: whoever has the cookie may read this."""
    return Response(_static("page.html"), media_type="text/html")


def _file(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in _FILES:
        raise HTTPException(404, "there is no such file")
    return Response(_static(name), media_type=_FILES[name])


def _nothing(_: Request) -> Response:
    return Response(status_code=204)


def _picture(request: Request) -> Response:
    """Return a copy of a picture, by its number: no path ever comes from a request.

    Browsers keep it for a while under its address, so that names the session, as numbers are of one session.
    """
    session = _session(request)
    _check_session(session, request.query_params.get("session"))
    number = _known(session, [request.path_params["number"]])[0]
    side = SIDES[1] if request.query_params.get("size") == "large" else SIDES[0]
    file = session.pictures.file_of(number)
    if file is None:
        raise HTTPException(404, "it leads out of the folder")
    try:
        content = session.thumbnails.get(file, side)
    except ImageFileError as error:
        raise HTTPException(404, error.reason) from error
    return Response(content, media_type="image/jpeg", headers={"cache-control": "private, max-age=600"})


# ------------------------------------------------------------------------------------------------------------ reading


def _state(request: Request) -> Response:
    return JSONResponse(_session(request).state())


def _view(request: Request) -> Response:
    asked = dict(request.query_params)
    return JSONResponse(_session(request).view(asked.get("kind", ""), asked))


def _items(request: Request) -> Response:
    session = _session(request)
    words = request.query_params.get("ids", "").split(",")
    numbers = [int(word) if word.isascii() and word.isdigit() else -1 for word in words]
    return JSONResponse({"items": session.items(_known(session, numbers, most=MOST_ITEMS))})


def _check_session(session: Session, name: object) -> None:
    """Refuse what a page of an earlier server asks: its numbers mean other pictures now."""
    if name != session.name:
        raise HTTPException(410, "the server has started again: load the page again")


def _known(session: Session, numbers: object, *, most: int | None = None) -> list[int]:
    """Return the numbers of pictures, as they were given."""
    total = len(session.pictures.paths)
    if not isinstance(numbers, list) or not all(type(number) is int and 0 <= number < total for number in numbers):
        raise HTTPException(404, "there is no such picture")
    if most is not None and len(numbers) > most:
        raise HTTPException(400, f"ask for at most {most} pictures")
    return numbers


# ----------------------------------------------------------------------------------------------------------- changing


def _changing(answer: Answer) -> Callable[[Request], Awaitable[Response]]:
    """Return a request that changes something: JSON in, JSON out."""

    async def respond(request: Request) -> Response:
        session = _session(request)
        try:
            asked = json.loads(await request.body())
        except (ValueError, RecursionError) as error:
            raise HTTPException(400, "give JSON") from error
        if not isinstance(asked, dict):
            raise HTTPException(400, "give a JSON object")
        _check_session(session, asked.get("session"))
        return JSONResponse(await run_in_threadpool(answer, session, asked))

    return respond


def _label(session: Session, asked: dict[str, Any]) -> dict[str, Any]:
    numbers = _known(session, asked.get("ids"))
    label, seen = asked.get("label"), asked.get("seen")
    left = session.answer(
        _text(asked, "window"),
        numbers,
        label=label if isinstance(label, str) else "",
        is_ignored=asked.get("ignored") is True,
        seen=None if seen is None else _seen(seen, len(numbers)),
    )
    return {"left": left, **_now(session, numbers)}


def _seen(seen: object, count: int) -> list[Given]:
    is_legal = isinstance(seen, list) and len(seen) == count
    if not is_legal or not all(isinstance(each, list) and len(each) == 2 for each in seen):  # type: ignore[attr-defined]
        raise HTTPException(400, "seen: give a label and a split for each picture")
    return [Given(str(label), str(split)) for label, split in seen]  # type: ignore[attr-defined]


def _undo(session: Session, asked: dict[str, Any]) -> dict[str, Any]:
    said, numbers = session.undo(_text(asked, "window"))
    return {"said": said, "ids": numbers, **_now(session, numbers)}


def _add_class(session: Session, asked: dict[str, Any]) -> dict[str, Any]:
    return {"name": session.labels.add_class(_text(asked, "name")), **_now(session, [])}


def _train(session: Session, asked: dict[str, Any]) -> dict[str, Any]:
    steps = asked.get("steps")
    session.train(steps if type(steps) is int else None)
    return _now(session, [])


def _stop(session: Session, _: dict[str, Any]) -> dict[str, Any]:
    session.training.stop()
    return _now(session, [])


def _now(session: Session, numbers: Sequence[int]) -> dict[str, Any]:
    """Return what is said of some pictures now, and the state; of many pictures the page asks for what it shows."""
    return {"items": session.items(numbers[:MOST_ITEMS]), "state": session.state()}


def _text(asked: dict[str, Any], name: str) -> str:
    value = asked.get(name)
    if not isinstance(value, str):
        raise HTTPException(400, f"{name}: give text")
    return value


_ANSWERS: dict[str, Answer] = {
    "label": _label, "undo": _undo, "class": _add_class, "train": _train, "stop": _stop,
}  # fmt: skip
