"""Conditions that choose runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.report.made_runs import make_run

from layermatch.errors import UserError
from layermatch.runs.directory import lock_run_dir
from layermatch.runs.entries import read_entry
from layermatch.runs.search import newest_run, read_entries
from layermatch.runs.where import choose, full_name, read_condition


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four runs: two algorithms, one with another learning rate, one that was stopped."""
    folder = tmp_path_factory.mktemp("runs")
    make_run(folder / "0", "algorithm=fixmatch", accuracy=0.5)
    make_run(folder / "1", "algorithm=layermatch", accuracy=0.8)
    make_run(folder / "2", "algorithm=layermatch", "optimizer.lr=0.3", seed=1, accuracy=0.7)
    make_run(folder / "10", "algorithm=layermatch", seed=2, is_finished=False)
    return folder


CONDITIONS = {
    "none": ([], ["0", "1", "2", "10"]),
    "short name": (["algorithm=fixmatch"], ["0"]),
    "full name": (["algorithm.name=fixmatch"], ["0"]),
    "several values": (["algorithm=fixmatch,layermatch"], ["0", "1", "2", "10"]),
    "pattern": (["algorithm=*match"], ["0", "1", "2", "10"]),
    "not": (["algorithm!=fixmatch"], ["1", "2", "10"]),
    "not one of several": (["seed!=0,1"], ["10"]),
    "number": (["lr>0.03"], ["2"]),
    "both ends": (["seed>=1", "seed<=1"], ["2"]),
    "below": (["test<0.75"], ["0", "2"]),
    "what a run has not": (["test!=0.5"], ["1", "2"]),
    "state": (["state=finished"], ["0", "1", "2"]),
    "path": (["path=*/1*"], ["1", "10"]),
    "nothing is left": (["seed=9"], []),
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_conditions_choose(name: str, runs: Path) -> None:
    conditions, expected = CONDITIONS[name]
    assert [entry.path.name for entry in read_entries([runs], conditions)] == expected


MISTAKES = {
    "no sign": ("fixmatch", "--where fixmatch is no condition: give NAME=PATTERN, NAME!=PATTERN or NAME<=NUMBER"),
    "no name": ("=3", "--where =3 is no condition"),
    "no number": ("seed<two", "--where seed<two: 'two' is no number, and < compares numbers"),
    "unknown": ("optimizer.lrr=3", "no run here has optimizer.lrr: the nearest is optimizer.lr"),
    "far off": ("zebra=3", "no run here has zebra: give path, state, steps, val, test, seconds, or a setting"),
    "several": ("_target_=x", "_target_ is short for several settings: give one of "),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str, runs: Path) -> None:
    condition, line = MISTAKES[name]
    with pytest.raises(UserError) as error:
        read_entries([runs], [condition])
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


def test_a_condition_reads_as_it_was_written() -> None:
    assert str(read_condition("data.num_labels <= 40")) == "data.num_labels<=40"
    assert read_condition("name=a=b").value == "a=b"


def test_an_exact_name_is_no_short_one() -> None:
    assert full_name("seed", ["seed", "other.seed"]) == "seed"
    assert full_name("labels", ["data.num_labels"]) == "data.num_labels"


def test_an_unfinished_run_is_as_far_as_its_files_tell(runs: Path) -> None:
    entry = read_entry(runs / "10")
    assert entry.steps == 30
    assert entry.val == pytest.approx(0.9)  # of the last line of metrics.csv
    assert (entry.test, entry.seconds) == (None, None)
    (runs / "10" / "checkpoints").mkdir()
    (runs / "10" / "checkpoints" / "step-0000040.ckpt").write_bytes(b"")
    assert read_entry(runs / "10").steps == 40


def test_a_run_without_files_that_can_be_read_is_listed(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("[1, 2")
    (tmp_path / "results.json").write_text("{")
    (tmp_path / "metrics.csv").write_bytes(b"\xff\xfe")
    entry = read_entry(tmp_path)
    assert (dict(entry.settings), entry.steps, entry.val, entry.test) == ({}, 0, None, None)
    assert choose([entry], [read_condition("state=*")]) == [entry]


def test_the_newest_run_is_the_one_that_runs(runs: Path, tmp_path: Path) -> None:
    assert newest_run(tmp_path) is None
    newest = newest_run(runs, ["algorithm=fixmatch"])
    assert newest is not None
    assert newest.name == "0"
    (runs / "1" / "results.json").rename(tmp_path / "results.json")
    with lock_run_dir(runs / "1"):
        running = newest_run(runs)
    (tmp_path / "results.json").rename(runs / "1" / "results.json")
    assert running is not None
    assert running.name == "1"


def test_an_empty_folder_is_a_run_only_of_a_sweep(tmp_path: Path) -> None:
    (tmp_path / "pictures" / "7").mkdir(parents=True)
    (tmp_path / "sweep" / "7").mkdir(parents=True)
    (tmp_path / "sweep" / "multirun.yaml").touch()
    assert [entry.path for entry in read_entries([tmp_path])] == [tmp_path / "sweep" / "7"]
