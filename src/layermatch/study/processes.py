"""The processes of runs: started by Python, or forks of a process that has imported everything."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from layermatch.study.fork_server import can_fork

__all__ = ["ENVIRONMENT", "ForkServer", "Forked", "RunProcess", "Started"]

#: What each run's process gets: one thread, so that several of them share the cores.
ENVIRONMENT = {"OMP_NUM_THREADS": "1"}

#: What starts a run, in front of its words.
MODULE = ("-m", "layermatch.run")


class RunProcess(Protocol):
    """A process of a run.

    Attributes:
        processor: The processor seconds of it and of those that it waited for, once it has ended; None where they are
            not known.
    """

    processor: float | None

    def poll(self) -> int | None:
        """Return its status, that of a signal as a negative number; None while it runs."""

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""


class Started:
    """A process that Python starts.

    Args:
        words: What follows the interpreter.
        log: The file that it writes to instead of a terminal.
        environment: Its environment.
    """

    def __init__(self, words: Sequence[str], *, log: Path, environment: Mapping[str, str]) -> None:
        self.processor: float | None = None
        with log.open("wb") as file:
            self._process = subprocess.Popen(  # noqa: S603 -- our own module
                [sys.executable, *words],
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=dict(environment),
                start_new_session=True,  # Ctrl-C comes to the study alone, which tells each run once
            )  # fmt: skip

    def poll(self) -> int | None:
        """Return its status; see :class:`RunProcess`."""
        if self._process.returncode is None and hasattr(os, "wait4"):
            try:
                number, status, used = os.wait4(self._process.pid, os.WNOHANG)
            except ChildProcessError:
                return self._process.poll()
            if number:
                # Popen's own poll() would take the process from the system, and with it what it used.
                self._process.returncode = os.waitstatus_to_exitcode(status)
                self.processor = used.ru_utime + used.ru_stime
        return self._process.poll()

    def send_signal(self, number: int) -> None:
        """Send it a signal; see :class:`RunProcess`."""
        self._process.send_signal(number)


class ForkServer:
    """A process that has imported what runs import, whose forks they are; see :mod:`layermatch.study.fork_server`.

    Args:
        log: The file that it writes to instead of a terminal.
    """

    def __init__(self, log: Path) -> None:
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "layermatch.study.fork_server"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, env=os.environ | ENVIRONMENT,
                start_new_session=True, text=True, encoding="utf-8",
            )  # fmt: skip
        self._sources: str | None = None
        self._log = log

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close it; see :meth:`close`."""
        self.close()

    def close(self) -> None:
        """Let it end; runs that it has started go on."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        self._process.wait()

    @staticmethod
    def starts(words: Sequence[str]) -> bool:
        """Return whether it can start this.

        Args:
            words: What follows the interpreter.
        """
        return can_fork() and tuple(words[: len(MODULE)]) == MODULE

    @property
    def sources(self) -> str:
        """The digest of the code that it has imported; the first one to ask waits for it.

        Raises:
            OSError: It has ended.
        """
        if self._sources is None:
            self._sources = str(self._line()["sources"])
        return self._sources

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Return its answer.

        Args:
            question: What :mod:`layermatch.study.fork_server` knows.

        Raises:
            OSError: It has ended, or cannot do it.
        """
        if self._process.stdin is None or not self.sources:
            raise OSError("it cannot be asked")
        self._process.stdin.write(f"{json.dumps(question)}\n")
        self._process.stdin.flush()
        answer = self._line()
        if "error" in answer:
            raise OSError(answer["error"])
        return answer

    def _line(self) -> dict[str, Any]:
        line = "" if self._process.stdout is None else self._process.stdout.readline()
        if not line.endswith("\n"):
            raise OSError(f"the process that runs are forks of has ended, see {self._log}")
        return dict(json.loads(line))

    def kill(self) -> None:
        """End it at once; who waits for an answer waits no more."""
        self._process.kill()

    def start(self, words: Sequence[str], *, log: Path, environment: Mapping[str, str]) -> Forked:
        """Start a run.

        Args:
            words: What follows the interpreter, ``-m MODULE`` first.
            log: The file that it writes to instead of a terminal.
            environment: Its environment.

        Raises:
            OSError: The server has ended, or cannot fork.
        """
        log.touch()  # what hinders is said here, and not by a fork to nobody
        asked = {"words": list(words[1:]), "log": str(log.absolute()), "environment": dict(environment)}
        return Forked(self, self.ask(asked)["number"])


class Forked:
    """A fork that is a run.

    Args:
        server: What has started it, and is asked after it.
        number: Its number.
    """

    def __init__(self, server: ForkServer, number: int) -> None:
        self.server = server
        self.processor: float | None = None
        self._status: int | None = None
        # Of this process and of no later one with its number: until the server is asked after it, it is not gone.
        self._handle: int | None = os.pidfd_open(number)
        self._number = number

    def poll(self) -> int | None:
        """Return its status; see :class:`RunProcess`. That of one whose server has ended is not known: it is 1."""
        if self._handle is not None and select.select([self._handle], [], [], 0)[0]:
            try:
                found = self.server.ask({"number": self._number})
            except OSError:
                found = {"status": 1}
            self._status, self.processor = found["status"], found.get("processor")
            os.close(self._handle)
            self._handle = None
        return self._status

    def send_signal(self, number: int) -> None:
        """Send it a signal; see :class:`RunProcess`."""
        if self._handle is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)
