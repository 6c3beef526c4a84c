"""Commands in processes of their own that need not import torch, torchvision and Lightning first.

To import them takes longer than to train for some steps. So a process that has imported them, and has done nothing
else, stands by, and every command here is a fork of it: with its own number, session, environment, folder, streams,
signals and end, its ranks included. What Python does at its start, and what is imported when, is not tested by this;
such tests start Python itself.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from lightning.fabric.utilities.rank_zero import _get_rank, rank_zero_only
from tests.shortcuts import compose_once, draw_nothing
from torchmetrics.utilities import prints

#: Everything that a command imports on its way; what it looks at as it is imported is set again in :func:`_become`.
PRELOADED = (
    "layermatch.run", "layermatch.evaluate", "layermatch.loggers", "layermatch.presets",
    "layermatch.dashboards.wandb_key", "torch._dynamo", "torch.utils.serialization", "sklearn.datasets",
    "matplotlib.figure", "matplotlib.backends.backend_agg", "tests.conftest", "tests.processes",
)  # fmt: skip
#: Modules that are started as the main one, which they are not if they are there already.
COMMANDS = ("layermatch.run", "layermatch.evaluate")

_context = multiprocessing.get_context("forkserver")


def stand_by() -> None:
    """Start the process that has imported everything, if it is not there."""
    forkserver.set_forkserver_preload(list(PRELOADED))
    before = dict(os.environ)
    # It has the search path of this process from its environment alone.
    os.environ |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)


class Process:
    """What :class:`subprocess.Popen` is to a command that Python runs.

    Args:
        words: The interpreter, and ``-m MODULE``, ``-c CODE`` or a script, with its words.
        cwd: The folder that it begins in.
        env: Its environment.
        start_new_session: Whether it and those that it starts are a group of their own.
        ranks: How many processes it becomes by starting others, ranks or jobs; None for what its words say. Those that
            it starts beyond them are started by Python.
        pictures: Whether a run draws its pictures.
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        cwd: Path | str | None = None,
        env: Mapping[str, str] | None = None,
        start_new_session: bool = False,
        ranks: int | None = None,
        pictures: bool = False,
    ) -> None:
        assert words[0] == sys.executable
        stand_by()
        self.args = list(words)
        self.is_leader = start_new_session
        self._written = [tempfile.NamedTemporaryFile(prefix="stream") for _ in range(2)]  # noqa: SIM115
        environment = dict(env or os.environ | {"OMP_NUM_THREADS": "1"})
        self._process = _context.Process(
            target=_become, args=(self.args[1:], str(cwd or Path.cwd()), environment),
            kwargs={
                "streams": [file.name for file in self._written], "is_leader": start_new_session, "ranks": ranks,
                "pictures": pictures,
            },
        )  # fmt: skip
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        _started.append(self)

    @property
    def returncode(self) -> int | None:
        """The status; None while it runs, and the number of a signal that ended it as a negative one."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self.returncode

    def written(self) -> tuple[str, str]:
        """Standard output and standard error, as far as they are written."""
        output, errors = (Path(file.name).read_text() for file in self._written)
        return output, errors

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        return self.written()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


_started: list[Process] = []


def end_those_left() -> None:
    """End what a test that failed has left running, and the processes that it started in turn."""
    while _started:
        process = _started.pop()
        if process.is_leader:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()


def run(
    words: Sequence[str],
    *,
    cwd: Path | str | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 550,
    ranks: int | None = None,
    pictures: bool = False,
) -> subprocess.CompletedProcess[str]:
    """As :func:`subprocess.run`, with what was written."""
    process = Process(words, cwd=cwd, env=env, ranks=ranks, pictures=pictures)
    try:
        output, errors = process.communicate(timeout)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.wait(), output, errors)


# -------------------------------------------------------------------------------------------------- in the new process


def _become(
    words: list[str],
    cwd: str,
    environment: dict[str, str],
    *,
    streams: Sequence[str] = (),
    is_leader: bool = False,
    ranks: int | None = None,
    pictures: bool = False,
) -> NoReturn:
    """Be the command from its first line to its end; without streams, it writes where this process does."""
    if is_leader:
        os.setsid()
    for number, path in enumerate(streams, start=1):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    # A suite that nohup has started, or a shell in the background, ignores some.
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # As at the start of Python; else that of its own start, for the workers of a loader too.
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    _take_rank()
    compose_once()
    if not pictures:
        draw_nothing()
    count = _num_ranks(words) if ranks is None else ranks
    for _ in range(count - 1):
        _Started.spare.append(_Spare(pictures=pictures))
    subprocess.Popen = _Started  # type: ignore[misc]
    status = _status_of(words)
    for spare in _Started.spare:
        spare.dismiss()
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(status)


def _take_rank() -> None:
    """Lightning and torchmetrics look at the environment as they are imported."""
    rank_zero_only.rank = _get_rank() or 0  # type: ignore[attr-defined]
    prints.rank_zero_only.rank = int(os.environ.get("LOCAL_RANK", "0"))  # type: ignore[attr-defined]


def _num_ranks(words: Sequence[str]) -> int:
    """How many processes a run will start, itself included; one that is not foreseen starts as it does for users."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return 1  # it is one of them
    devices = [word.partition("=")[2] for word in words if word.startswith("trainer.devices=")]
    if devices and devices[-1].isdecimal():
        return int(devices[-1])
    return 2 if "trainer=ddp_cpu" in words else 1


def _status_of(words: list[str]) -> int:
    try:
        _execute(words)
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
        return 1 if isinstance(end.code, str) else end.code or 0
    except BaseException:  # noqa: BLE001 -- as at the end of any program
        sys.excepthook(*sys.exc_info())
        return 1
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()  # multiprocessing leaves these out
    return 0


def _execute(words: list[str]) -> None:
    first, *rest = words
    for name in COMMANDS:
        sys.modules.pop(name, None)
    if first == "-m":
        sys.argv = rest
        _search(str(Path.cwd()))
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = ["-c", *rest[1:]]
        _search("")
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), sys.modules["__main__"].__dict__)  # noqa: S102
    else:
        sys.argv = words
        _search(str(Path(first).parent))
        runpy.run_path(first, run_name="__main__")


def _search(folder: str) -> None:
    """Find modules where Python would look first."""
    sys.path[:0] = [folder, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]


class _Spare:
    """A fork that waits to be told what it is: a rank or a job, which its command would start anew."""

    def __init__(self, *, pictures: bool) -> None:
        here, self._socket = socket.socketpair()
        self.pid = os.fork()
        if self.pid:
            here.close()
            return
        status = 1
        try:
            for spare in (self, *_Started.spare):
                spare._socket.close()  # each ends where its own command, and nobody else, holds the other end
            _Started.spare.clear()
            with here:
                told, streams, _, _ = socket.recv_fds(here, 1, 3)
                given = here.makefile("rb").read()
            if told:
                words, cwd, environment, numbers, is_leader = json.loads(given)
                for stream, number in zip(streams, numbers, strict=True):
                    os.dup2(stream, number)
                    os.close(stream)
                sys.stdin = open(0, closefd=False)  # noqa: SIM115 -- multiprocessing has put it away
                _become(words, cwd, environment, is_leader=is_leader, pictures=pictures)
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        finally:
            os._exit(status)

    def be(
        self, words: list[str], cwd: str, environment: dict[str, str], *, streams: Mapping[int, int], is_leader: bool
    ) -> int:
        """Tell it, and give its number.

        Args:
            words: What follows the interpreter.
            cwd: Its folder.
            environment: Its environment.
            streams: The open file that each of 0, 1 and 2 is to be, where it is another one than that of this process.
            is_leader: Whether it is a group of its own.
        """
        with self._socket as told:
            socket.send_fds(told, [b"!"], list(streams.values()))
            told.sendall(json.dumps((words, cwd, environment, list(streams), is_leader)).encode())
        return self.pid

    def dismiss(self) -> None:
        self._socket.close()
        os.waitpid(self.pid, 0)


_Popen: Any = subprocess.Popen


class _Started(_Popen):  # type: ignore[misc]
    """A process that a command starts: a spare one, as long as there is one and it is Python that is started."""

    spare: ClassVar[list[_Spare]] = []

    def _execute_child(self, args: Any, executable: Any, *rest: Any) -> None:
        before, _, passed, cwd, environment = rest[:5]
        is_ours = not isinstance(args, str) and args[0] == sys.executable and before is None and not passed
        if not is_ours or not self.spare:
            super()._execute_child(args, executable, *rest)
            return
        # Each is -1 where it is that of this process; the others are the ends of pipes that this process keeps.
        given, _, _, output, _, errors = rest[8:14]
        streams = {number: stream for number, stream in enumerate((given, output, errors)) if stream != -1}
        self.pid = self.spare.pop().be(
            list(args[1:]), str(cwd or Path.cwd()), dict(environment or os.environ), streams=streams, is_leader=rest[19]
        )
        self._child_created = True
        self._close_pipe_fds(*rest[8:14])
