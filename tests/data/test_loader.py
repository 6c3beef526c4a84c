"""A failure of a loader is one line, in whichever process it happened."""

from __future__ import annotations

import errno
import os
import signal
from typing import Any

import pytest
import torch

from layermatch.data.loader import BatchLoader, Guarded, explain_loader_error, loader_errors
from layermatch.data.open_files import FILES_OF_READER, check_open_files, readers_that_fit
from layermatch.errors import RunError, UserError


class Steps:
    """Three batches; what happens at the third is up to the test."""

    def __init__(self, third: Any) -> None:
        self.third = third

    def __len__(self) -> int:
        return 3

    def __getitem__(self, step: int) -> torch.Tensor:
        if step == 2:
            self.third()
        return torch.full((2,), step)


def lost() -> None:
    raise RunError("the image x.png cannot be read any more")


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def broken() -> None:
    raise RuntimeError("a mistake in the code")


def loader(third: Any, num_workers: int) -> BatchLoader:
    return BatchLoader(Guarded(Steps(third)), batch_size=None, num_workers=num_workers)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_lost_image_is_one_line_after_the_batches_before_it(num_workers: int) -> None:
    batches = iter(loader(lost, num_workers))
    assert [next(batches).tolist() for _ in range(2)] == [[0, 0], [1, 1]]
    with pytest.raises(RunError, match=r"^the image x\.png cannot be read any more$"):
        next(batches)


@pytest.mark.parametrize("attempt", range(3))  # it may be found in three ways, as the moment is
def test_a_killed_worker_is_one_line(attempt: int) -> None:
    match = r"^a process that reads images [^\n]*ended[^\n]*: go on with ckpt_path=last"
    # As around a training: torch may find out between two batches, too.
    with pytest.raises(RunError, match=match), loader_errors():
        list(loader(killed, 1))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_mistake_in_the_code_stays_what_it_is(num_workers: int) -> None:
    with pytest.raises(RuntimeError, match="a mistake in the code"):
        list(loader(broken, num_workers))


def test_the_number_of_batches_is_known_where_there_is_an_end() -> None:
    assert len(loader(lost, 0)) == 3
    endless = Guarded(type("Endless", (), {"__getitem__": lambda self, step: step})())
    with pytest.raises(TypeError, match="Endless has no end"):
        len(endless)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "DataLoader worker (pid 7) is killed by signal: Killed. ",
            r"\(pid 7\) ended: it is killed by signal: Killed,",
        ),
        (
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers",
            r"\(pid 7\) ended: it is killed by signal: Bus error,",
        ),
        ("DataLoader worker (pid(s) 7, 8) exited unexpectedly", r"\(pid 7, 8\) ended: it exited unexpectedly,"),
        (
            "DataLoader worker (pid 7) exited unexpectedly with exit code 1. Details",
            "it exited unexpectedly with exit code",
        ),
    ],
)
def test_torchs_words_are_understood(text: str, said: str) -> None:
    with pytest.raises(RunError, match=said) as caught, loader_errors():
        raise RuntimeError(text)
    assert "\n" not in str(caught.value)
    assert explain_loader_error(RuntimeError(text)) == str(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), ValueError("DataLoader worker (pid 7) exited")])
def test_other_errors_are_left_alone(error: Exception) -> None:
    assert explain_loader_error(error) is None
    with pytest.raises(type(error)) as caught, loader_errors():
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.ENFILE, "Too many open files in system", "x.png"),
        RuntimeError("Too many open files. Communication with the workers is no longer possible. Please ..."),
    ],
)
def test_too_many_open_files_are_not_blamed_on_memory(error: Exception) -> None:
    with (
        pytest.raises(RunError, match=r"^too many open files: raise the limit \(ulimit -n 4096") as caught,
        loader_errors(),
    ):
        raise error
    assert "memory" not in str(caught.value)


@pytest.mark.parametrize("limit", [40, 5])  # a process with more than 5 files open can open none
def test_the_systems_limit_is_met_and_named(limit: int) -> None:
    """The limit is real, and lowered for this process; to raise it again is what the check is for."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
        check_open_files(4, loaders=2)
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        assert soft >= 8 * FILES_OF_READER
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    too_many = readers_that_fit() + 2
    with pytest.raises(UserError, match=rf"^num_workers={too_many} needs about \d+ open files, and the system"):
        check_open_files(too_many, loaders=1)


def hung_up() -> None:
    """As every process of a terminal is when it is closed."""
    for number in (signal.SIGHUP, signal.SIGUSR1):
        os.kill(os.getpid(), number)


@pytest.mark.slow
def test_a_closed_terminal_leaves_a_worker_reading() -> None:
    """Its first process stops between two steps; until then it needs the images of the step that it is at."""
    batches = BatchLoader(Guarded(Steps(hung_up)), batch_size=None, num_workers=1, multiprocessing_context="spawn")
    assert [batch.tolist() for batch in batches] == [[0, 0], [1, 1], [2, 2]]
