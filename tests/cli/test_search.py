"""A search by Optuna: what it proposes, what it goes on with, and what it says of jobs that fail."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.cli.test_sweeps import TINY, status_of
from tests.cli.test_wrong_input import refused

from layermatch.runs.claims import FAILED, take
from layermatch.search import _open, _Search

optuna = pytest.importorskip("optuna")

Cli = Callable[..., None]
WORDS = ("-m", "hparams_search=optuna", "run_dir=sw", "trainer.max_steps=5", "data.num_val=20", *TINY)


def study() -> optuna.Study:
    backend = optuna.storages.journal.JournalFileBackend("sw/optuna.journal")
    return optuna.load_study(study_name="layermatch", storage=optuna.storages.JournalStorage(backend))


def results(job: int) -> dict[str, object]:
    return json.loads(Path(f"sw/{job}/results.json").read_text())


@pytest.mark.slow
def test_it_seeks_the_best_validation_accuracy_and_goes_on(
    cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli(*WORDS, "hydra.sweeper.n_trials=2")
    first = study().trials
    assert [trial.value for trial in first] == [results(job)["val"]["accuracy_ema"] for job in range(2)]  # type: ignore[index]
    assert all(0.003 <= trial.params["optimizer.lr"] <= 0.3 for trial in first)
    assert first[0].params != first[1].params
    text = Path("sw/1/config.yaml").read_text()
    assert f"lr: {first[1].params['optimizer.lr']}" in text
    # As a kill between the proposal and the job leaves it.
    left = study().ask()
    left.suggest_float("optimizer.lr", 0.003, 0.3, log=True)
    before = {path: path.stat().st_mtime_ns for path in Path("sw/0").rglob("*")}
    capsys.readouterr()
    assert "run_dir=sw already holds jobs of a sweep (0, 1)" in refused(cli, capsys, *WORDS, "hydra.sweeper.n_trials=4")

    cli(*WORDS, "hydra.sweeper.n_trials=4", "ckpt_path=auto")
    trials = study().trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 4
    assert trials[2].params == left.params
    assert trials[:2] == first
    assert {path: path.stat().st_mtime_ns for path in Path("sw/0").rglob("*")} == before
    printed = capsys.readouterr().out
    best = max(trials, key=lambda trial: trial.value)
    assert f"sw/{best.number}, {best.value:.2%} of the validation images are right" in printed.partition("Search")[2]

    line = refused(cli, capsys, *WORDS, "ckpt_path=auto", "data.mu=2")
    assert "holds a search with other settings (data.mu)" in line


@pytest.mark.slow
def test_jobs_that_fail_are_named_and_end_no_other(
    cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("optimizer.lr=-1,0.03", "hydra.sweeper.n_trials=4", "hydra.sweeper.sampler=random")
    assert status_of(cli, *WORDS, *words) == 2
    trials = study().trials
    failed = [trial.number for trial in trials if trial.params["optimizer.lr"] == "-1"]
    assert 0 < len(failed) < 4
    assert failed == [trial.number for trial in trials if trial.state.name == "FAIL"]
    printed = capsys.readouterr()
    assert f"│ failed       │ {', '.join(map(str, failed))} " in printed.out
    assert f"error: {len(failed)} of 4 jobs failed: sw/{failed[0]}" in printed.err
    assert printed.err.rstrip().endswith(": the search has them as failed, and does not try them again")
    assert "Traceback" not in printed.err


def test_a_job_that_cannot_be_composed_has_failed_and_ends_no_other(
    cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(cli, *WORDS, "algorithm=supervised,linear_probe", "hydra.sweeper.n_trials=2") == 2
    assert [trial.state.name for trial in study().trials] == ["FAIL", "FAIL"]
    printed = capsys.readouterr()
    *lines, last = printed.err.strip().splitlines()
    assert last == "error: jobs 0, 1 of the search have no configuration, as said above: give other choices"
    assert [line.partition(": ")[2].partition(": ")[0] for line in lines] == ["sw/0", "sw/1"]
    assert all("pseudo_labels.threshold" in line for line in lines)
    assert re.search(r"failed +│ 0, 1 ", printed.out)


def test_processes_that_share_a_search_propose_no_more_than_asked(tmp_path: Path) -> None:
    sought = {"optimizer.lr": optuna.distributions.FloatDistribution(0.003, 0.3)}

    def launch(jobs: Sequence[Sequence[str]], first: int) -> None:
        for number in range(first, first + len(jobs)):
            claim = take(tmp_path / str(number))
            if claim is not None:
                claim.release(FAILED)

    def sampler(number: int) -> optuna.samplers.BaseSampler:
        time.sleep(0.1)  # so that the other one counts meanwhile
        return optuna.samplers.RandomSampler(seed=number)

    def share(barrier: threading.Barrier) -> None:
        one = _Search(_open(tmp_path, [], sought), tmp_path, launch, compose=list, fixed=[], sought=sought)
        barrier.wait()
        one.run(n_trials=3, n_jobs=3, make_sampler=sampler)

    _open(tmp_path, [], sought)
    barrier = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        for ended in [pool.submit(share, barrier) for _ in range(2)]:
            ended.result()
    assert len(_open(tmp_path, [], sought).trials) == 3


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials=0 is not legal: give a whole number, at least 1"),
        (["hydra.sweeper.sampler=best"], "hydra.sweeper.sampler='best' is not legal: choose one of tpe, random"),
        (["optimizer.lr=interval(1,0.1)"], "optimizer.lr=interval(1,0.1) is not legal: "),
        (["optimizer.lr=tag(log, interval(0,1))"], "is not legal: "),
        (["optimizer.lr=0.1", "optimizer.lr=0.2"], "has nothing to seek: give SETTING=interval(LOW,HIGH)"),
    ],
)
def test_mistakes_are_one_line(words: list[str], line: str, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert line in refused(cli, capsys, *WORDS, *words)
    assert not list(Path("sw").glob("*/config.yaml"))


def test_a_search_that_would_be_one_run_is_refused(
    cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "hparams_search=optuna is not legal without -m: give -m, or hparams_search=none for one run"
    assert refused(cli, capsys, *(word for word in WORDS if word != "-m")).endswith(line)
    assert not list(in_empty_folder.iterdir())


@pytest.mark.slow
def test_it_needs_validation_images(cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(cli, capsys, *WORDS, "data.num_val=0")
    assert line.endswith("chooses by validation images, and there are none: give data.num_val above 0")
