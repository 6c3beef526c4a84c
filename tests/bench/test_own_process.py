"""What is compared with runs in an interpreter of its own, with its own settings and as many threads."""

import multiprocessing
import os

import pytest
import torch

from layermatch.bench.own_process import OwnProcess


def fail() -> None:
    raise ValueError("from there")


def test_it_is_another_process_and_stays_the_same_one() -> None:
    with OwnProcess() as other:
        first, second = other.call(os.getpid), other.call(os.getpid)
    assert first == second != os.getpid()


def test_it_has_as_many_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with OwnProcess() as other:
            assert other.call(torch.get_num_threads) == 3
    finally:
        torch.set_num_threads(before)


def test_it_starts_processes_as_this_one_does() -> None:
    with OwnProcess() as other:
        assert other.call(multiprocessing.get_start_method) == multiprocessing.get_start_method()


def test_what_it_raises_is_raised_here() -> None:
    with OwnProcess() as other, pytest.raises(ValueError, match="from there"):
        other.call(fail)
