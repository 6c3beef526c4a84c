"""Which process of which machine has a job of a sweep, and how each job ended.

Several processes, on several machines that share a file system, may take jobs from one sweep. Each claim is a file of
its own that is made by one process alone: the attempts at a job are numbered, and the claim with the highest number is
the one that counts. So nothing is ever removed or written over by another process, which could not be done without a
race. A claim whose process has died is followed by one of the next number.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from layermatch.errors import UserError
from layermatch.files import replace_text
from layermatch.processes import birth_of, boot_id, living
from layermatch.runs.layout import CLAIMS

__all__ = ["FINISHED", "RUNNING", "SILENT", "Claim", "Holder", "ended_in", "holder_of", "take"]

#: What a job may be: at work, or ended in one of three ways.
RUNNING, FINISHED, FAILED, STOPPED = "running", "finished", "failed", "stopped"

#: Seconds between two signs of life, and those without one after which a process of another machine counts as dead. The
#: processes of this machine are known to live or not.
BEAT, SILENT = 20.0, 300.0

#: Digits of the number of an attempt in a file's name.
_DIGITS = 4


@dataclass(frozen=True)
class Holder:
    """The process that has a job, or had it last.

    Attributes:
        path: The file of the claim.
        number: Which attempt at the job this is, from 1.
        machine: The name of the machine.
        place: What tells machines and containers apart whose names are alike.
        pid: The number of the process there.
        born: When that process began, as :func:`~layermatch.processes.birth_of` said.
        state: ``running``, ``finished``, ``failed`` or ``stopped``.
        status: The status that a run of its own would have ended with.
        why: The reason why the job was not finished; empty otherwise.
    """

    path: Path
    number: int
    machine: str = ""
    place: str = ""
    pid: int = 0
    born: str | float = ""
    state: str = RUNNING
    status: int = 0
    why: str = ""

    def is_at_work(self) -> bool:
        """Return whether the process still has the job."""
        if self.state != RUNNING:
            return False
        if self.pid and self.place == _place():
            return living(self.pid, self.born) is not None
        try:
            return _now(self.path.parent) - self.path.stat().st_mtime < SILENT
        except OSError:
            return False

    def __str__(self) -> str:
        """Return who it is, for people."""
        return f"process {self.pid} on {self.machine or 'another machine'}"


class Claim:
    """A job that this process has taken; it shows that it lives until the job is released.

    Args:
        holder: This process.
        lose: A function that is called where another process has taken the job over.
    """

    def __init__(self, holder: Holder, *, lose: Callable[[], object] | None = None) -> None:
        self.holder = holder
        self._lose = lose or _stop_this_process
        self._is_over = threading.Event()
        self._beats = threading.Thread(target=self._beat, daemon=True)
        self._beats.start()

    def _beat(self) -> None:
        while not self._is_over.wait(BEAT):
            with suppress(OSError):  # the file system may come back
                os.utime(self.holder.path)
                newest = _newest(self.holder.path.parent, _job_of(self.holder.path))
                if newest > self.holder.number:
                    self._lose()
                    return

    def release(self, state: str, *, status: int = 0, why: str = "") -> None:
        """Say how the job ended, and show no longer that this process has it.

        Args:
            state: ``finished``, ``failed`` or ``stopped``.
            status: The status that a run of its own would have ended with.
            why: The reason, in one line.
        """
        self._is_over.set()
        self._beats.join()
        own = self.holder
        with suppress(OSError):  # a full disk: that the process is gone says enough
            replace_text(own.path, _text(state=state, status=status, why=why))


def take(run_dir: Path, *, lose: Callable[[], object] | None = None) -> Claim | None:
    """Take a job that no other process has.

    Args:
        run_dir: The directory of the job; it need not exist, but the one above it must.
        lose: A function that is called, in a thread, where another process has taken the job over because this one
            showed no life; None stops this process by ``SIGTERM``.

    Returns:
        The claim; None where a process that lives has the job.

    Raises:
        UserError: Nothing can be written there.
    """
    before = holder_of(run_dir)
    if before is not None and before.is_at_work():
        return None
    number = 1 if before is None else before.number + 1
    path = run_dir.parent / CLAIMS / f"{run_dir.name}.{number:0{_DIGITS}d}.json"
    try:
        path.parent.mkdir(exist_ok=True)
        if not _make(path):
            return None
    except OSError as error:
        raise UserError(
            f"run_dir={run_dir.parent} cannot be written to: {error.strerror or error}: give another run_dir"
        ) from error
    return Claim(_read(path), lose=lose)


def _make(path: Path) -> bool:
    """Write this process's claim; False where another one was faster: one alone makes the file, on NFS too."""
    try:
        file = path.open("x", encoding="utf-8")
    except FileExistsError:
        return False
    with file:
        file.write(_text())
    return True


def holder_of(run_dir: Path) -> Holder | None:
    """Return who has a job, or had it last; None where nobody ever had.

    Args:
        run_dir: The directory of the job.
    """
    folder = run_dir.parent / CLAIMS
    number = _newest(folder, run_dir.name)
    return _read(folder / f"{run_dir.name}.{number:0{_DIGITS}d}.json") if number else None


def ended_in(sweep_dir: Path) -> dict[Path, Holder]:
    """Return who had each job of a sweep last, by the directory of the job, in the order of their numbers.

    Args:
        sweep_dir: The directory of the sweep.
    """
    names = {_job_of(path) for path in (sweep_dir / CLAIMS).glob("*.json")}
    ordered = sorted(names, key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name))
    found = {sweep_dir / name: holder_of(sweep_dir / name) for name in ordered}
    return {run_dir: holder for run_dir, holder in found.items() if holder is not None}


def _job_of(path: Path) -> str:
    return path.name.rsplit(".", 2)[0]


def _newest(folder: Path, job: str) -> int:
    """Return the number of the newest attempt at a job, 0 without any."""
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError:
        return 0
    numbers = [name.removeprefix(f"{job}.").removesuffix(".json") for name in names if name.startswith(f"{job}.")]
    return max((int(number) for number in numbers if number.isdecimal()), default=0)


def _read(path: Path) -> Holder:
    number = int(path.name.rsplit(".", 2)[1])
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Holder(path, number, **found)
    except (OSError, ValueError, TypeError):  # it is being written, or was when its disk was full
        return Holder(path, number)


def _text(*, state: str = RUNNING, status: int = 0, why: str = "") -> str:
    own = {"machine": socket.gethostname(), "place": _place(), "pid": os.getpid(), "born": birth_of(os.getpid())}
    return json.dumps(own | {"state": state, "status": status, "why": why})


@cache
def _place() -> str:
    """Return what is the same for two processes where each sees the number of the other."""
    found = [socket.gethostname(), *filter(None, [boot_id()])]
    with suppress(OSError):
        found.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(found)


def _now(folder: Path) -> float:
    """Return the time by the clock that the times of files are of: a server's may go wrong by minutes."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime


def _stop_this_process() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
