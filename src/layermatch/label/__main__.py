"""``python -m layermatch.label data.root=DIR``: label pictures on a page that proposes what to label next."""

from __future__ import annotations

import logging
import secrets
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from layermatch.cli import plain, run_app
from layermatch.components import check_keys
from layermatch.data.cache_place import check_cache_dir, default_cache_dir
from layermatch.data.wording import look_alikes_text, printable
from layermatch.errors import UserError, check_bool, check_choice, check_number
from layermatch.label.examine import Task
from layermatch.label.labels import Labels, checked_name, lock_labels
from layermatch.label.pictures import find_pictures
from layermatch.label.thumbnails import Thumbnails
from layermatch.label.training import Training, check_composes, newest_checkpoint_of
from layermatch.paths import expand, is_folder

__all__ = ["Options", "main", "serve"]

#: The manifest where none is given.
MANIFEST = "labels.csv"

#: The files of conf/debug that change no setting.
DEBUG = ("none", "tracebacks")

#: The only address that is listened on.
HOST = "127.0.0.1"

#: Seconds that requests have at the end.
GRACE = 2

SETTINGS = (
    "data", "links", "classes", "ckpt_path", "seed", "sample", "clusters", "train", "port", "open", "cache_dir",
    "cache_megabytes",
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    """The settings of a server, checked.

    Args:
        root: The folder of the pictures.
        manifest: The CSV file that is written.
        links: Whether links may lead out of the folder.
        classes: Classes to begin with.
        ckpt_path: The first model; None takes the newest one that was trained from the page.
        seed: The seed of the samples.
        sample: The pictures of the first sample.
        clusters: The number of groups.
        train: Settings of the runs that the page starts, by their names on the command line.
        port: The port; 0 takes a free one.
        open: Whether the page is opened in the browser.
        cache: The folder of small copies and features.
        cache_bytes: The bytes of small copies at most.
    """

    root: Path
    manifest: Path
    links: bool
    classes: tuple[str, ...]
    ckpt_path: Path | None
    seed: int
    sample: int
    clusters: int
    train: Mapping[str, Any]
    port: int
    open: bool
    cache: Path
    cache_bytes: int

    @staticmethod
    def parse(settings: Mapping[str, Any]) -> Options:
        """Check the settings of ``conf/label.yaml``.

        Args:
            settings: The composed configuration, as plain containers.

        Raises:
            UserError: One of them is missing or not legal.
        """
        _check_there(settings)
        data = settings["data"]
        check_keys("data", data, ("root", "manifest"))
        root = expand("data.root", data.get("root"), "a folder")
        if not is_folder(root):
            raise UserError(
                f"data.root={printable(str(root))}: there is no such folder: give the folder of the pictures"
            )
        check_bool("links", settings["links"])
        check_bool("open", settings["open"])
        bounds: dict[str, dict[str, Any]] = {
            "seed": {"low": 0, "high": 2**32 - 1}, "sample": {"low": 1}, "clusters": {"low": 1, "high": 10_000},
            "port": {"low": 0, "high": 65535}, "cache_megabytes": {"low": 1},
        }  # fmt: skip
        for name, bound in bounds.items():
            check_number(name, settings[name], integer=True, **bound)
        given = settings["cache_dir"]
        check_cache_dir(given)
        cache = default_cache_dir() if given is None else expand("cache_dir", given, "a folder")
        return Options(
            root=root,
            manifest=_manifest(root, data.get("manifest")),
            links=settings["links"],
            classes=_classes(settings["classes"]),
            ckpt_path=_checkpoint(settings["ckpt_path"]),
            seed=settings["seed"],
            sample=settings["sample"],
            clusters=settings["clusters"],
            train=_train(settings["train"]),
            port=settings["port"],
            open=settings["open"],
            cache=cache / "label",
            cache_bytes=settings["cache_megabytes"] * 1_000_000,
        )


def _check_there(settings: Mapping[str, Any]) -> None:
    check_keys("", settings, SETTINGS)
    for name in SETTINGS:
        if name not in settings:
            raise UserError(f"{name} is missing: give {name}=VALUE; ~{name} takes it away")
    if not isinstance(settings["data"], Mapping):
        raise UserError(f"data={settings['data']!r} is not legal: give data.KEY=VALUE")


def _manifest(root: Path, given: object) -> Path:
    manifest = (root / MANIFEST if given is None else expand("data.manifest", given, "a CSV file")).resolve()
    if manifest.suffix.lower() != ".csv":
        raise UserError(f"data.manifest={printable(str(given))} is no CSV file: give a name that ends with .csv")
    if not is_folder(manifest.parent):
        folder = printable(str(manifest.parent))
        raise UserError(f"data.manifest={printable(str(given))}: there is no folder {folder}: make it first")
    return manifest


def _checkpoint(given: object) -> Path | None:
    if given is None:
        return None
    path = expand("ckpt_path", given, "a checkpoint file or a run directory").absolute()
    found = newest_checkpoint_of(path)
    if found is None or not found.is_file():
        kind = "no checkpoint in this folder" if is_folder(path) else "no such file"
        raise UserError(f"ckpt_path={printable(str(given))}: there is {kind}: give a .ckpt file or a run directory")
    return found


def _classes(given: object) -> tuple[str, ...]:
    if not isinstance(given, list) or not all(isinstance(text, str | int) for text in given):
        raise UserError(f"classes={given!r} is not legal: give a list, classes=[cat, dog]")
    names = [checked_name(str(text)) for text in given]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise UserError(f"classes has {name} twice: give each class once")
        if alike := look_alikes_text([name], names[:place]):
            raise UserError(f"classes: {alike[0]}: give one of them, or another name")
    return tuple(names)


def _train(given: object) -> Mapping[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise UserError(f"train={given!r} is not legal: give names and values, 'train={{trainer.max_steps: 500}}'")
    own = next((name for name in ("data", "data.manifest", "data.root", "run_dir") if name in given), None)
    if own is not None:
        raise UserError(f"train: {own} is the page's to give: leave it out")
    return {str(name): value for name, value in given.items()}


def serve(options: Options, say: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C.

    Args:
        options: The settings of the server.
        say: A function that is called with each line for the user.

    Raises:
        UserError: The extra is not installed, the port is in use, another server labels into the manifest, there is no
            picture, or the manifest cannot be read.
    """
    uvicorn, make_app, make_session = _framework()
    runs = options.manifest.with_name(f"{options.manifest.stem}.runs")
    with _listening(options.port) as listener, lock_labels(options.manifest):
        pictures = find_pictures(options.root, links=options.links, leave_out=runs)
        if not pictures.paths:
            left = ", ".join(f"{count} x {why}" for why, count in pictures.left_out.items())
            raise UserError(f"data.root={printable(str(options.root))} holds no picture{f' ({left})' if left else ''}")
        labels = Labels(options.manifest, pictures.paths, classes=options.classes)
        training = Training(runs, root=pictures.root, settings=options.train)
        checkpoint = options.ckpt_path or training.checkpoint()
        session = make_session(
            pictures=pictures,
            labels=labels,
            thumbnails=Thumbnails(options.cache / "thumbnails", limit=options.cache_bytes),
            training=training,
            task=Task(
                root=str(pictures.root),
                paths=pictures.paths,
                cache=str(options.cache / "features"),
                ckpt_path=None if checkpoint is None else str(checkpoint),
                seed=options.seed,
                sample=options.sample,
                clusters=options.clusters,
            ),
        )
        try:
            port = listener.getsockname()[1]
            token = secrets.token_urlsafe(24)
            _say_what_there_is(session, say)
            url = f"http://{HOST}:{port}/?token={token}"
            say(f"open {url} in a browser of this machine; Ctrl-C ends")
            config = uvicorn.Config(
                make_app(session, token=token, port=port),
                log_level="warning",
                access_log=False,
                lifespan="off",
                server_header=False,
                timeout_graceful_shutdown=GRACE,
            )
            if options.open:
                threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()  # it is bound already
            _run(uvicorn.Server(config), listener)
        finally:
            if training.is_running:
                say("the training is asked to stop: its checkpoint is used at the next start")
            session.close()


def _framework() -> tuple[Any, Any, Any]:
    """Return what the extra has, imported once there is a use of it."""
    try:
        import uvicorn

        from layermatch.label.app import make_app
        from layermatch.label.session import Session
    except ImportError as error:
        if error.name not in {"starlette", "uvicorn", "anyio", "h11", "click"}:
            raise
        raise UserError(f"the page needs the package {error.name}: pip install 'layermatch[label]'") from error
    return uvicorn, make_app, Session


@contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    """Give a socket on this machine's own address."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":  # there it would let two servers have the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise UserError(f"port={port} cannot be used: {error.strerror or error}: give port=0 for a free one") from error
    with listener:
        yield listener


def _run(server: Any, listener: socket.socket) -> None:
    """Serve until a signal; uvicorn gives the signal back to the process when it has ended."""
    # Requests that are cut off at the end are no error.
    logging.getLogger("uvicorn.error").addFilter(lambda _: not server.should_exit)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    try:
        server.run(sockets=[listener])
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


def _say_what_there_is(session: Any, say: Callable[[str], None]) -> None:
    state = session.state()
    left = "".join(f"; not shown: {count:,} ({why})" for why, count in state["left_out"].items())
    say(f"{state['pictures']:,} pictures in {printable(str(session.pictures.root))}{left}")
    say(f"{state['labelled']:,} labels and {state['ignored']:,} of no class in {session.labels.manifest}")


def _label(config: DictConfig) -> None:
    choice = HydraConfig.get().runtime.choices.get("debug")
    if choice is not None:
        check_choice("debug", choice, DEBUG)
    options = Options.parse(plain(config))
    check_composes(options.train, root=options.root)

    def say(line: str) -> None:
        sys.stdout.write(f"{printable(line)}\n")
        sys.stdout.flush()

    serve(options, say)


def main() -> None:
    """Start the command."""
    run_app(_label, "label")


if __name__ == "__main__":
    main()
