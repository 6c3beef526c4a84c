"""The first process of a run decides for all, and the first one of a machine prepares its data.

The processes are started by hand, at moments of the test's choice.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from tests import processes
from tests.data import stand_ins
from tests.processes import Process

from layermatch.agreement import Agreement
from layermatch.errors import RunError, UserError
from layermatch.launch import Launch
from layermatch.meeting import DECIDED

SCRIPT = Path(__file__).parent / "watched_run.py"
PAIR = ("trainer=ddp_cpu", "data.batch_size=4", "data.mu=1", "trainer.precision=32-true")
FOLDER = ("experiment=folder", "data.root=pictures", "data.num_labels=6", "data.num_workers=0", "trainer.max_steps=1")


class Pair:
    """Two processes of one run, each started when the test says so."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.folder = folder
        self.words = words
        self.environment = os.environ | {
            "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(find_free_network_port()), "XDG_CACHE_HOME": str(folder / "cache"),
        }  # fmt: skip

    def start(self, rank: int) -> Process:
        return Process(
            [sys.executable, str(SCRIPT), str(self.folder), *self.words], cwd=self.folder, ranks=1,
            env=self.environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )  # fmt: skip

    def found(self, rank: int, process: Process) -> dict[str, Any]:
        """What a process reports; waits for it."""
        path = self.folder / f"{rank}.json"
        while not path.exists():
            assert process.poll() in {None, 0}, process.communicate()[1][-3000:]
            time.sleep(0.05)
        return json.loads(path.read_text())


def end(process: Process) -> tuple[int, str]:
    _, errors = process.communicate(timeout=550)
    return process.returncode, errors


@pytest.mark.slow
@pytest.mark.distributed
def test_a_directory_that_is_named_by_the_time_is_one_for_both(tmp_path: Path) -> None:
    pair = Pair(tmp_path, "decide", *PAIR)
    first = pair.start(0)
    of_first = pair.found(0, first)  # the second one begins seconds later
    second = pair.start(1)
    assert pair.found(1, second) == of_first
    assert of_first["run_dir"] == of_first["set_to"]
    assert of_first["run_dir"].startswith("runs/digits/")
    assert end(first)[0] == end(second)[0] == 0


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("word", ["last", "auto"])
def test_a_checkpoint_that_appears_meanwhile_is_nobodys(word: str, tmp_path: Path) -> None:
    steps = ("run_dir=out", "checkpoint.every_n_steps=1", "checkpoint.keep=2", "trainer.max_steps=2", "eval_every=9")
    alone = ("data.batch_size=4", "data.mu=1", "trainer.accelerator=cpu")
    done = processes.run([sys.executable, "-m", "layermatch.run", *steps, *alone], cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    (tmp_path / "out" / "results.json").unlink()
    newest = tmp_path / "out" / "checkpoints" / "step-0000002.ckpt"
    newest.rename(tmp_path / "elsewhere")
    pair = Pair(tmp_path, "decide", *PAIR, "run_dir=out", f"ckpt_path={word}", "trainer.max_steps=4")
    first = pair.start(0)
    of_first = pair.found(0, first)
    assert of_first["ckpt_path"] == "out/checkpoints/step-0000001.ckpt"
    (tmp_path / "elsewhere").rename(newest)
    second = pair.start(1)
    assert pair.found(1, second) == of_first
    assert end(first)[0] == end(second)[0] == 0


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("storage", ["disk", "lazy"])
def test_data_are_prepared_by_the_first_process_alone(storage: str, tmp_path: Path) -> None:
    stand_ins.write_folder(tmp_path / "pictures")
    pair = Pair(tmp_path, "train", *PAIR, *FOLDER, "run_dir=out", f"data.storage={storage}")
    second = pair.start(1)
    time.sleep(5)  # it would be there first
    first = pair.start(0)
    for process in (first, second):
        status, errors = end(process)
        assert status == 0, errors[-3000:]
    decoded = [pair.found(rank, process)["decoded"] for rank, process in enumerate((first, second))]
    pictures = [path for path in (tmp_path / "pictures").rglob("*") if path.is_file()]
    assert len(set(decoded[0])) == len(pictures) == 24
    # Else what it trains and evaluates on: one step of 8 images, and some of the test images. A check looks at all.
    assert len(decoded[1]) < (1 if storage == "disk" else 24)


@pytest.mark.slow
@pytest.mark.distributed
def test_who_waits_for_a_process_that_is_refused_ends_without_a_word(tmp_path: Path) -> None:
    pair = Pair(tmp_path, "train", *PAIR, *FOLDER, "run_dir=out")  # there are no pictures
    processes = [pair.start(rank) for rank in (1, 0)]
    (second_status, of_second), (first_status, of_first) = map(end, processes)
    assert (first_status, second_status) == (2, 2)
    assert of_first.startswith("error: data.root='pictures' is not a folder")
    assert not of_second
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}


# -------------------------------------------------------------------------------------------------------- in a process


def test_one_process_decides_for_itself() -> None:
    with Agreement(Launch("", 1, 0, 0, 1), wait=1) as agreement, agreement.first_of_machine():
        assert agreement.decide(lambda: {"x": 1}) == {"x": 1}
    assert DECIDED not in os.environ


def test_processes_that_a_run_starts_find_it_in_their_environment() -> None:
    with Agreement(Launch("", 2, 0, 0, 2), wait=1) as agreement:
        agreement.decide(lambda: {"run_dir": "caf\udce9"})
        with Agreement(Launch("", 2, 1, 1, 2), wait=1) as of_child:
            assert of_child.decide(dict) == {"run_dir": "caf\udce9"}
    assert DECIDED not in os.environ  # the next run of this process decides anew


def test_a_first_process_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_PORT", str(find_free_network_port()))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(RunError, match=r"the first process of this run, at 127\.0\.0\.1:.* did not come in 1 s"):
        Agreement(Launch("hand", 2, 1, 1, 2), wait=1).__enter__()


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Agreement, Agreement]]:
    """Both sides, in one process."""
    monkeypatch.setenv("MASTER_PORT", str(find_free_network_port()))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with (
        Agreement(Launch("hand", 2, 0, 0, 2), wait=1) as first,
        Agreement(Launch("hand", 2, 1, 1, 2), wait=1) as second,
    ):
        yield first, second


def test_a_word_that_does_not_come(both: tuple[Agreement, Agreement]) -> None:
    _, second = both
    with pytest.raises(
        RunError, match=r"the word that says which run this is did not come in 1 s.* longer trainer\.wait"
    ):
        second.decide(dict)
    with pytest.raises(RunError, match="the word that the data are prepared did not come in 1 s"):
        second.first_of_machine().__enter__()


def test_words_come_in_their_order(both: tuple[Agreement, Agreement]) -> None:
    first, second = both
    assert first.decide(lambda: {"x": 1}) == second.decide(dict) == {"x": 1}
    order = []

    def prepare(agreement: Agreement, name: str, seconds: float) -> None:
        with agreement.first_of_machine():
            time.sleep(seconds)
            order.append(name)

    waiting = Thread(target=prepare, args=(second, "second", 0.0))
    waiting.start()
    prepare(first, "first", 0.5)
    waiting.join()
    assert order == ["first", "second"]


def test_a_wrong_wait_is_refused() -> None:
    with pytest.raises(UserError, match=r"^wait=0 is not legal"):
        Agreement(Launch("hand", 2, 0, 0, 2), wait=0)
