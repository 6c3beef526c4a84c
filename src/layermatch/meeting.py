"""The processes of a run wait for each other, say for whom, and give up after a while."""

from __future__ import annotations

import logging
import os
import shlex
import socket
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel

from layermatch.errors import RunError, UserError, check_number
from layermatch.launch import Launch
from layermatch.rank_variables import number_of

__all__ = ["DECIDED", "Board", "MeetingDDP", "check_wait", "meet"]

_log = logging.getLogger(__name__)

#: Seconds before anybody is missed: that long processes of a launcher may take to start on a slow or busy machine.
PATIENCE = 300.0
#: Seconds before another machine is missed, which the user starts by what is said then.
PATIENCE_BY_HAND = 2.0
#: Seconds between two looks.
PAUSE = 0.1
#: Seconds; a week.
MAX_WAIT = 7 * 24 * 3600
#: The variable in which a run keeps what its first process has decided, for the processes that it starts itself; on the
#: board, the word of it for those of a launcher and of other machines.
DECIDED = "LAYERMATCH_DECIDED"
#: The word of a process for which others wait, and which ends.
FAILED = "failed"
#: What the first process tells the others when all are there; anything else is why it has given up.
ALL = "all"


def check_wait(wait: object) -> None:
    """Refuse a wrong number of seconds to wait.

    Args:
        wait: What was given.

    Raises:
        UserError: The value is no number of seconds from 1 to a week.
    """
    check_number("wait", wait, low=1, high=MAX_WAIT)


class MeetingDDP(DDPStrategy):
    """Lightning's DDP, which says whom it waits for at the start.

    Args:
        launch: The place of this process.
        wait: The seconds that the processes wait for each other.
        **options: The options of Lightning's ``DDPStrategy``.
    """

    def __init__(self, launch: Launch, *, wait: float, **options: Any) -> None:
        super().__init__(**options)
        self.launch = launch
        self.wait = wait

    def setup_distributed(self) -> None:
        """Meet, then go on as Lightning does.

        Raises:
            RunError: Some process did not come in time.
        """
        store = None
        if self.cluster_environment is not None and not dist.is_initialized():
            address, port = self.cluster_environment.main_address, self.cluster_environment.main_port
            store = meet(self.launch, address=address, port=port, wait=self.wait)
        super().setup_distributed()
        del store  # not before: the server that torch now uses is this one

    def _register_ddp_hooks(self) -> None:
        """Give torch the hook on any device: Lightning does so on GPUs alone, and gloo knows it as well."""
        if self._ddp_comm_hook is not None and isinstance(self.model, DistributedDataParallel):
            self.model.register_comm_hook(self._ddp_comm_state, self._ddp_comm_hook)


def meet(launch: Launch, *, address: str, port: int, wait: float) -> TCPStore:
    """Wait until every process of a run is there.

    Args:
        launch: The place of this process.
        address: The address of the process of rank 0.
        port: The port of the process of rank 0.
        wait: The seconds to wait.

    Returns:
        The store that they met at; it must be kept until something else listens at that port.

    Raises:
        RunError: The processes have not come, or cannot be reached.
    """
    meeting = _Meeting(launch, address=address, port=port, wait=wait)
    return meeting.receive() if launch.rank == 0 else meeting.join()


class Board:
    """A place where processes tell each other something before they meet; the first one keeps it.

    Args:
        launch: The place of this process.
        address: The address of the process of rank 0.
        port: The port of the process of rank 0.
        wait: The seconds to wait for the first process, and then for each word.

    Raises:
        RunError: The first process cannot listen, or be reached.
    """

    def __init__(self, launch: Launch, *, address: str, port: int, wait: float) -> None:
        self._meeting = _Meeting(launch, address=address, port=port, wait=wait)
        self._store = self._meeting.listen() if launch.rank == 0 else self._meeting.reach()

    def tell(self, name: str, text: str = "") -> None:
        """Write a word for all, also for those that come later.

        Args:
            name: The name of the word.
            text: The text that is told.
        """
        self._store.set(_key(name), text)

    def tell_failure(self) -> None:
        """Tell those that wait for this process that it ends; the first one stays until they have heard."""
        self.tell(FAILED)
        if self._meeting.launch.rank == 0:
            time.sleep(20 * PAUSE)

    def hear(self, name: str, *, what: str) -> str:
        """Wait for a word.

        Args:
            name: The name of the word.
            what: What the word says, for people.

        Returns:
            The text of the word.

        Raises:
            UserError: The process that was to tell it has ended, and says why.
            RunError: The word has not come in time.
        """
        self._meeting.start_clock()
        try:
            self._meeting.wait_until(
                lambda: self._is_told(name) or self._is_told(FAILED),
                lambda: (f"the word that {what}", "the process that is to say so has not yet come that far"),
            )
            if self._is_told(name):
                return self._store.get(_key(name)).decode()
        except dist.DistError as error:
            raise self._meeting.given_up(f"the first process of this run has gone ({_first_words(error)})") from error
        failed = UserError("another process of this run has ended, and says why")
        failed.is_said = False
        raise failed

    def _is_told(self, name: str) -> bool:
        return bool(self._store.check([_key(name)]))


class _Meeting:
    def __init__(self, launch: Launch, *, address: str, port: int, wait: float) -> None:
        self.launch, self.address, self.port, self.wait = launch, address, port, wait
        self.start_clock()

    def start_clock(self) -> None:
        """Wait as long as is allowed, from now on."""
        self.deadline = time.monotonic() + self.wait

    def listen(self) -> TCPStore:
        """Be there for others, as rank 0."""
        # torchrun serves its processes itself.
        is_served = self.launch.by == "torchrun" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)
        try:
            return self._store(is_master=not is_served)
        except dist.DistError as error:
            raise self.given_up(f"cannot listen at {self.address}:{self.port} ({_first_words(error)})") from error

    def receive(self) -> TCPStore:
        """Wait for all others, as rank 0."""
        store = self.listen()
        if DECIDED in os.environ:  # processes of other machines, which have not come yet, want to know
            store.set(_key(DECIDED), os.environ[DECIDED])
        store.set(_key(0), "here")
        try:
            self.wait_until(lambda: not self._missing(store), lambda: self._others(self._missing(store)))
        except RunError as error:
            store.set(_key(None), str(error))
            time.sleep(10 * PAUSE)  # those that are there hear it: torch would make a page of a connection that ends
            raise
        store.set(_key(None), ALL)
        return store

    def reach(self) -> TCPStore:
        """Return any other rank: find the first process."""
        self.wait_until(self._is_listening, lambda: (self._first, "MASTER_ADDR and MASTER_PORT say where it is"))
        try:
            return self._store(is_master=False)
        except dist.DistError as error:
            raise self.given_up(f"{self._first}, has gone ({_first_words(error)})") from error

    def join(self) -> TCPStore:
        """Return any other rank: find the first process, and wait until it has seen all."""
        store = self.reach()
        try:
            store.set(_key(self.launch.rank), "here")
            # The first one says who is missing, and gives up by itself.
            while not store.check([_key(None)]):
                time.sleep(PAUSE)
            heard = store.get(_key(None)).decode()
        except dist.DistError as error:
            raise self.given_up(f"{self._first}, has gone ({_first_words(error)})") from error
        if heard != ALL:
            raise self.given_up(heard)
        return store

    @property
    def _first(self) -> str:
        return f"the first process of this run, at {self.address}:{self.port}"

    def _store(self, *, is_master: bool) -> TCPStore:
        left = max(self.deadline - time.monotonic(), 1.0)
        return TCPStore(
            self.address,
            self.port,
            self.launch.size,
            is_master=is_master,
            timeout=timedelta(seconds=left),
            wait_for_workers=False,
            multi_tenant=True,
        )

    def _is_listening(self) -> bool:
        try:
            with socket.create_connection((self.address, self.port), timeout=5):
                return True
        except OSError:
            return False

    def _missing(self, store: TCPStore) -> list[int]:
        return [rank for rank in range(self.launch.size) if not store.check([_key(rank)])]

    def wait_until(self, is_done: Callable[[], bool], whom: Callable[[], tuple[str, str]]) -> None:
        """Wait; say once for whom and what to do, where it takes long."""
        begin, has_said = time.monotonic(), False
        while not is_done():
            now, (missing, remedy) = time.monotonic(), whom()
            if now > self.deadline:
                raise self.given_up(
                    f"{missing} did not come in {self.wait:g} s: see there why, and start all processes again, or give "
                    f"a longer trainer.wait"
                )
            if now > begin + self._patience and not has_said:
                has_said = True
                if self._speaks:
                    left = f"{self.deadline - now:.0f} s are left (trainer.wait={self.wait:g})"
                    _log.warning("waiting for %s: %s; %s", missing, remedy, left)
            time.sleep(PAUSE)

    @property
    def _patience(self) -> float:
        is_started_by_hand = not self.launch.by and self.launch.size > self.launch.local_size
        return min(PATIENCE_BY_HAND if is_started_by_hand else PATIENCE, self.wait / 2)

    @property
    def _speaks(self) -> bool:
        """One process of each machine says what it waits for."""
        return self.launch.local_rank == 0

    def _others(self, ranks: list[int]) -> tuple[str, str]:
        """Say who is missing, and what to do."""
        by, size = self.launch.by, self.launch.local_size
        nodes = sorted({rank // size for rank in ranks})
        if not by and nodes != [0]:
            which = f"machine {', '.join(map(str, nodes))} of {self.launch.size // size} (they count from 0)"
            place = f"NODE_RANK={nodes[0] if nodes else 0} MASTER_ADDR={self._own_name()} MASTER_PORT={self.port}"
            return which, f"start it there with {place} {_command_line()}"
        which = f"process {', '.join(map(str, ranks))} of {self.launch.size} (they count from 0)"
        if by == "hand":
            return which, "RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT say that it comes; if it does not, unset them"
        return which, f"{by or 'this run'} has started it{'' if by else ' on this machine'}"

    def _own_name(self) -> str:
        return socket.gethostname() if self.address in {"127.0.0.1", "localhost"} else self.address

    def given_up(self, what: str) -> RunError:
        """Return the error of a process that waits no longer; one of each machine says it."""
        error = RunError(what)
        error.is_said = self._speaks
        return error


def _key(word: int | str | None) -> str:
    # The store of torchrun stays when torchrun starts the processes again.
    attempt = number_of("TORCHELASTIC_RESTART_COUNT") or 0
    return f"layermatch/meeting/{attempt}/{'all' if word is None else word}"


def _command_line() -> str:
    return f"python -m layermatch.run {shlex.join(sys.argv[1:])}".rstrip()


def _first_words(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
