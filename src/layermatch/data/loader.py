"""A DataLoader whose failures are one line: what its worker processes raise, and their end."""

from __future__ import annotations

import errno
import re
import signal
import time
from collections.abc import Iterator, Sized
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from torch.utils.data import DataLoader, Dataset

from layermatch.errors import RunError

__all__ = ["BatchLoader", "Guarded", "explain_loader_error", "loader_errors"]

# torch says: worker (pid 7) is killed by signal: Killed; or: worker (pid(s) 7, 8) exited unexpectedly.
_ENDED = re.compile(r"DataLoader worker \(pid(?:\(s\))? (?P<pids>[\d, ]+)\) (?P<end>[^.]*)")
#: Seconds in which the signal of the end of a process arrives.
_SIGNAL_TAKES = 2.0


class Batches(Protocol):
    """Random access to batches, such as :class:`~layermatch.data.steps.TrainingSteps`."""

    def __getitem__(self, step: int) -> Any:
        """Return one batch."""
        ...


@dataclass(frozen=True)
class _Failure:
    """What stands in the place of a batch that could not be read."""

    message: str


class Guarded(Dataset[Any]):
    """Batches for a :class:`BatchLoader`, which raises their errors.

    Args:
        batches: Random access to batches.
    """

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        if not isinstance(self.batches, Sized):
            raise TypeError(f"{type(self.batches).__name__} has no end")  # as without this class
        return len(self.batches)

    def __getitem__(self, step: int) -> Any:
        """Return a batch, or what stands in its place."""
        try:
            return self.batches[step]
        except RunError as error:
            return _Failure(str(error))


class BatchLoader(DataLoader[Any]):
    """A DataLoader of whole batches that are :class:`Guarded`.

    A :class:`~layermatch.errors.RunError` of a worker process comes out as it is: torch would put the worker's
    traceback into its message. The end of a worker becomes one too, if it is found while a batch is waited for; found
    at another time, torch raises its own error wherever the program is, see :func:`loader_errors`.

    Raises:
        RunError: A batch cannot be read, or a worker process ended.

    Example:
        >>> import torch
        >>> loader = BatchLoader(Guarded([torch.zeros(2), torch.ones(2)]), batch_size=None)
        >>> [batch.tolist() for batch in loader]
        [[0.0, 0.0], [1.0, 1.0]]
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch promises its own class of iterators
        self.worker_init_fn = self.worker_init_fn or _leave_stopping
        try:
            iterator = super().__iter__()
        except BlockingIOError as error:  # a fork that the system refuses
            raise RunError(
                "the system lets no further process start: raise the limit (ulimit -u in the shell), or have fewer "
                "(num_workers=NUMBER), then go on with ckpt_path=last"
            ) from error
        while True:
            with loader_errors(), _handing_over() if self.num_workers else nullcontext():
                batch = next(iterator, None)
            if batch is None:
                return
            if isinstance(batch, _Failure):
                raise RunError(batch.message)
            yield batch


def _leave_stopping(worker: int) -> None:  # noqa: ARG001 -- torch's signature
    """Leave it to the first process to stop, which these signals reach as well, and let the worker go on reading.

    A worker that is forked has the first process's handlers; another one would end.
    """
    for name in ("SIGHUP", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(signal.Signals[name], signal.SIG_IGN)


@contextmanager
def _handing_over() -> Iterator[None]:
    """Explain the connection's error that shows when a worker ends between announcing a batch and handing it over."""
    try:
        yield
    except (ConnectionError, EOFError, FileNotFoundError) as error:
        if "in DataLoader worker process" in str(error):  # one that the worker itself met, and told of
            raise
        # torch's own error comes with the signal of the end, any moment: here, and not in the middle of what follows.
        time.sleep(_SIGNAL_TAKES)
        raise RunError(_ended_text("ended while it handed over a batch")) from error


def explain_loader_error(error: BaseException) -> str | None:
    """Say in one line that a process of a DataLoader ended, or that the system lets it have no more.

    Args:
        error: Any exception.

    Returns:
        What happened and what to do; None if ``error`` says something else.

    Example:
        >>> explain_loader_error(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "))[:77]
        'a process that reads images (pid 7) ended: it is killed by signal: Killed, as'
        >>> explain_loader_error(RuntimeError("something else")) is None
        True
    """
    is_of_system = isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ENFILE}
    if is_of_system or (isinstance(error, RuntimeError) and "Too many open files" in str(error)):
        return (
            "too many open files: raise the limit (ulimit -n 4096 in the shell), or have fewer processes that read "
            "images (num_workers=NUMBER), then go on with ckpt_path=last"
        )
    found = _ENDED.search(str(error)) if isinstance(error, RuntimeError) else None
    if found is None:
        return None
    return _ended_text(f"(pid {found['pids']}) ended: it {' '.join(found['end'].split())}")


def _ended_text(what: str) -> str:
    return (
        f"a process that reads images {what}, as happens when memory or /dev/shm is full: go on with ckpt_path=last, "
        "and with fewer of them (num_workers=NUMBER) if it happens again"
    )


@contextmanager
def loader_errors() -> Iterator[None]:
    """Turn torch's error that a process of a DataLoader ended into one line, and likewise where none can start.

    torch raises it in the main thread wherever that is: in the middle of a step as well as while it waits for a batch.
    So this is for the code around the whole training.

    Raises:
        RunError: Such a process ended, or could not start.

    Example:
        >>> with loader_errors():
        ...     raise RuntimeError("DataLoader worker (pid 7) exited unexpectedly")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        layermatch.errors.RunError: a process that reads images (pid 7) ended: it exited unexpectedly, as ...
    """
    try:
        yield
    except (RuntimeError, OSError) as error:
        explanation = explain_loader_error(error)
        if explanation is None:
            raise
        raise RunError(explanation) from error
