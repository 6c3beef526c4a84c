"""A second interpreter for what is compared with, as its users start it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from types import TracebackType
from typing import ParamSpec, TypeVar

import torch

__all__ = ["OwnProcess"]

P = ParamSpec("P")
T = TypeVar("T")


class OwnProcess:
    """One interpreter, started anew, that calls functions while this one waits.

    The command lines of layermatch change how the process keeps freed memory
    (:func:`~layermatch.freed_memory.keep_freed_memory`). Code that is compared with ours does not, and on a CPU gains
    by it too: measured in this process it would be faster than its users ever see it. Torch has as many threads there
    as here, and processes are started in the same way. A context manager: the interpreter ends with it.

    Example:
        >>> with OwnProcess() as other:
        ...     other.call(abs, -3)
        3
    """

    def __init__(self) -> None:
        # Not forked: a fork would inherit the setting.
        self._pool = ProcessPoolExecutor(
            max_workers=1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_prepare,
            initargs=(torch.get_num_threads(), multiprocessing.get_start_method()),
        )

    def __enter__(self) -> OwnProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what the function returns there; what it raises is raised here.

        Args:
            function: It is found by its name in its module, as are those among its arguments.
            args: The function's positional arguments.
            kwargs: The function's keyword arguments.
        """
        return self._pool.submit(function, *args, **kwargs).result()


def _prepare(threads: int, start_method: str) -> None:
    torch.set_num_threads(threads)
    multiprocessing.set_start_method(start_method, force=True)  # else that of its own start, for a loader's workers too
