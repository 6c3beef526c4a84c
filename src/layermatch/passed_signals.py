"""Signals that ask a sweep to stop, on their way to the runs that it has started, and back to who requeues them."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from layermatch.callbacks.stop_signals import StopSignals

__all__ = ["pass_to_runs_below", "run_and_pass_signals", "take_away_the_mark", "was_asked_to_stop"]

#: The signal that submitit sends before the time is up, and requeues at; the variable may name another one.
REQUEUES, REQUEUES_AT = "SUBMITIT_PREEMPT_SIGNAL", "USR2"
#: The process that a job's launcher runs in has this variable from submitit.
OF_SUBMITIT = ("SUBMITIT_EXECUTOR", "SUBMITIT_FOLDER")


def _requeue_signal() -> int | None:
    """Return the number of the signal at which submitit requeues this process; None where it has not started it."""
    if not any(name in os.environ for name in OF_SUBMITIT):
        return None
    number = getattr(signal, f"SIG{os.environ.get(REQUEUES, REQUEUES_AT)}", None)
    return None if number is None else int(number)


def run_and_pass_signals(command: Sequence[str], *, env: Mapping[str, str], cwd: str) -> tuple[int, int | None]:
    """Return the status of a run in a process of its own, which is given the signals that this one gets.

    Args:
        command: The words of the command.
        env: Its environment.
        cwd: The folder that it begins in.

    Returns:
        Its status, the number of a signal that killed it as a negative one; and a signal that asked for it to be
        requeued, which whoever had it before has not seen.
    """
    process = subprocess.Popen(list(command), env=dict(env), cwd=cwd)  # noqa: S603 -- our own module
    with _passing_to(process) as held_back:
        status = process.wait()
    return status, held_back[0] if held_back else None


@contextmanager
def _passing_to(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    held_back: list[int] = []
    requeues_at = _requeue_signal()
    numbers = {int(signal.Signals[name]) for name in StopSignals.names} | ({requeues_at} if requeues_at else set())

    def pass_on(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 -- Python's
        if number == requeues_at:
            held_back.append(number)
        # A terminal gives Ctrl-C to both, and the run would take a second one for impatience; SIGUSR2 it does not know.
        sent = signal.SIGTERM if number in {signal.SIGINT, requeues_at} else number
        with suppress(ProcessLookupError):
            process.send_signal(sent)

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        yield held_back
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ------------------------------------------------------------------------------------- the first process of a sweep


def pass_to_runs_below(folder: Path) -> None:
    """Give every run that this process has started, through whomever, a signal that asks this one to stop.

    This process then goes on to wait for them.

    Args:
        folder: The folder in which workers that have not started their next run find that they should not.
    """

    def pass_on(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 -- Python's
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / _mark_of(os.getpid())).touch()
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if _is_run(process.cmdline()):
                    process.send_signal(signal.SIGTERM)

    (folder / _mark_of(os.getpid())).unlink(missing_ok=True)  # of a process before that had this number
    if threading.current_thread() is threading.main_thread():
        for name in StopSignals.names:
            if name != "SIGHUP" or signal.getsignal(signal.Signals[name]) != signal.SIG_IGN:  # as nohup has it
                signal.signal(signal.Signals[name], pass_on)


def was_asked_to_stop(folder: Path) -> bool:
    """Return whether the first process of this sweep was asked to stop.

    Args:
        folder: The folder that :func:`pass_to_runs_below` was given.
    """
    return any((folder / _mark_of(process.pid)).exists() for process in psutil.Process().parents())


def take_away_the_mark(folder: Path) -> bool:
    """Return whether this process was asked to stop, and forget it.

    Args:
        folder: The folder that :func:`pass_to_runs_below` was given.
    """
    mark = folder / _mark_of(os.getpid())
    was_there = mark.exists()
    mark.unlink(missing_ok=True)
    return was_there


def _mark_of(pid: int) -> str:
    return f"stop.{pid}"


def _is_run(words: Sequence[str]) -> bool:
    return any(one == "-m" and two == "layermatch.run" for one, two in pairwise(words))
