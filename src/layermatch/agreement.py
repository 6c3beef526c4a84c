"""What the first process of a run decides for all, and what the first one of a machine does for the others there.

Two processes that look at the clock or into a directory themselves may see different things: a second has passed, a
checkpoint has been written. And data that each of them decodes are decoded as often as there are processes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

import torch.distributed as dist

from layermatch.launch import Launch, environment_of
from layermatch.meeting import DECIDED, Board, check_wait
from layermatch.rank_variables import number_of

__all__ = ["Agreement"]


class Agreement:
    """The exchange between the processes of a run before they meet to train; a single process has none.

    Processes that the run starts itself begin when the first one is ready, and find what it has decided in their
    environment. Processes of a launcher begin together: they wait for the word of the first one.

    Args:
        launch: The place of this process.
        wait: The seconds to wait for each word.

    Raises:
        UserError: ``wait`` is not legal.
    """

    def __init__(self, launch: Launch, *, wait: float) -> None:
        check_wait(wait)
        self.launch = launch
        self.wait = wait
        self._board: Board | None = None

    def __enter__(self) -> Self:
        """Let the first process listen, and others find it."""
        launch = self.launch
        if launch.size > 1 and launch.by:
            environment = environment_of(launch)
            self._board = self._board_at(environment.main_address, environment.main_port)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tell those that may still wait for this process where it ends with an error."""
        if self._board is not None and error is not None and self.launch.local_rank == 0:
            with suppress(dist.DistError):  # the first process has gone as well
                self._board.tell_failure()
        self._board = None
        if self.launch.rank == 0:
            os.environ.pop(DECIDED, None)

    def decide(self, choose: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return what the first process chooses, on every process.

        Args:
            choose: A function that the first one alone calls; it gives what JSON can hold.

        Raises:
            UserError: The first process has ended, and says why.
            RunError: The word of the first process has not come in time.
        """
        if self.launch.size == 1:
            return choose()
        if self.launch.rank > 0:
            decided: dict[str, Any] = json.loads(self._heard())
            return decided
        chosen = choose()
        os.environ[DECIDED] = json.dumps(chosen)
        if self._board is not None:
            self._board.tell(DECIDED, os.environ[DECIDED])
        return chosen

    def _heard(self) -> str:
        if not self.launch.by and self.launch.local_rank > 0:
            return os.environ[DECIDED]  # of the process that has started this one
        board = self._board
        if board is None:  # of a machine whose user was told where the first one is
            board = self._board_at(os.environ["MASTER_ADDR"], number_of("MASTER_PORT") or 0)
        os.environ[DECIDED] = board.hear(DECIDED, what="says which run this is")
        return os.environ[DECIDED]

    def _board_at(self, address: str, port: int) -> Board:
        return Board(self.launch, address=address, port=port, wait=self.wait)

    @contextmanager
    def first_of_machine(self) -> Iterator[None]:
        """Prepare data: the first process of each machine does so while the others there wait, and then they do.

        They find what it has left in the cache. Where none can be written, or ``data.storage=ram`` makes none, each
        reads and decodes the data itself, later.

        Raises:
            UserError: The first process has ended, and says why.
            RunError: The word of the first process has not come in time.
        """
        word = f"prepared/{self.launch.node}"
        if self._board is not None and self.launch.local_rank > 0:
            self._board.hear(word, what="the data are prepared")
        yield
        if self._board is not None and self.launch.local_rank == 0:
            self._board.tell(word)
