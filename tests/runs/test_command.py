"""``python -m layermatch.runs``: what it lists, compares, takes away and refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.report.made_runs import make_run

from layermatch.files import unfinished_of
from layermatch.report.__main__ import main as report
from layermatch.runs.__main__ import main
from layermatch.runs.directory import lock_run_dir
from layermatch.runs.layout import checkpoint_name, checkpoints_in, step_of
from layermatch.watch.__main__ import main as watch

Runs = Callable[..., str]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runs:
    """``python -m layermatch.runs ARGS`` beside a folder ``runs``; gives what it prints."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> str:
        capsys.readouterr()
        main(arguments)
        return capsys.readouterr().out

    return call


def lines_of(text: str, mark: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if mark in line]


def test_the_list_has_a_line_for_each_run(runs: Runs, tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a", "algorithm=fixmatch", accuracy=0.5)
    make_run(tmp_path / "runs" / "b", "algorithm=layermatch", "optimizer.lr=0.3", seed=3, is_finished=False)
    shown = runs()
    assert lines_of(shown, "fixmatch")[0][:3] == ["a", "fixmatch", "40"]
    assert " ".join(lines_of(shown, "fixmatch")[0]).split(" finished ")[1].startswith("30 50.0 % 50.0 % ")
    assert lines_of(shown, "layermatch")[0][:3] == ["b", "layermatch", "10"]
    assert "0.3" in lines_of(shown, "layermatch")[0]  # the learning rate, in which they differ
    assert shown.splitlines()[-1].startswith(f"2 runs in {tmp_path}")
    assert all(len(line) <= 120 for line in shown.splitlines()[:-1])


def test_what_differs_is_compared(runs: Runs, tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a", "optimizer.lr=0.1", accuracy=0.5)
    make_run(tmp_path / "runs" / "b", "optimizer.lr=0.3", accuracy=0.625)
    rows = [line.split() for line in runs("--compare").splitlines() if line.strip()]
    assert ["optimizer.lr", "0.1", "0.3"] in rows
    assert ["test", "50.0", "%", "62.5", "%"] in rows
    names = [row[0] for row in rows[2:]]
    assert names == ["optimizer.lr", "state", "steps", "val", "test"]


def test_the_last_of_an_order(runs: Runs, tmp_path: Path) -> None:
    for name, accuracy in (("a", 0.9), ("b", 0.1), ("c", 0.5)):
        make_run(tmp_path / "runs" / name, accuracy=accuracy)
    found = json.loads(runs("--sort", "test", "--last", "2", "--json"))
    assert [Path(entry["path"]).name for entry in found] == ["c", "a"]
    assert found[1]["test"] == pytest.approx(0.9)
    assert found[1]["settings"]["data.num_labels"] == "10"


def test_tidying_shows_first_and_takes_only_what_is_the_runs(runs: Runs, tmp_path: Path) -> None:
    finished, stopped = tmp_path / "runs" / "done", tmp_path / "runs" / "stopped"
    make_run(finished)
    make_run(stopped, is_finished=False)
    for run_dir in (finished, stopped):
        (run_dir / "checkpoints").mkdir()
        names = ("step-0000010.ckpt", "step-0000030.ckpt", "best_val.ckpt", "mine.ckpt")
        for name in (*names, ".step-0000030.ckpt.0123abcd.tmp"):
            (run_dir / "checkpoints" / name).write_bytes(b"123")
        for name in ("mine.tmp", ".mine.0123abcd.tmp", ".results.json.mine.tmp", ".results.json.0123abcd.tmp"):
            (run_dir / name).touch()
    before = sorted(tmp_path.rglob("*"))
    assert "add --delete" in runs("--tidy")
    assert sorted(tmp_path.rglob("*")) == before
    runs("--tidy", "--delete")
    gone = {path.relative_to(tmp_path / "runs").as_posix() for path in set(before) - set(tmp_path.rglob("*"))}
    assert gone == {
        "done/checkpoints/step-0000010.ckpt",
        "done/checkpoints/.step-0000030.ckpt.0123abcd.tmp",
        "done/.results.json.0123abcd.tmp",
        "stopped/checkpoints/.step-0000030.ckpt.0123abcd.tmp",
        "stopped/.results.json.0123abcd.tmp",
    }
    runs("--tidy", "--delete", "--checkpoints", "none")
    assert [path.name for path in (finished / "checkpoints").iterdir()] == ["mine.ckpt"]
    assert len(list((stopped / "checkpoints").glob("*.ckpt"))) == 4
    assert "nothing to take away" in runs("--tidy", "--checkpoints", "none")


@pytest.mark.parametrize(
    ("steps", "there", "kept"),
    [
        (800, (700, 800, 900), {800}),  # it was set back, and ended before the later one
        (10_000_000, (9_999_000, 10_000_000), {10_000_000}),
        (30, (10, 20), {20}),  # that of its last step is gone
    ],
)
def test_tidying_keeps_the_checkpoint_of_the_results(
    steps: int, there: tuple[int, ...], kept: set[int], runs: Runs, tmp_path: Path
) -> None:
    folder = tmp_path / "runs" / "a"
    make_run(folder)
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps(results | {"steps": steps}))
    (folder / "checkpoints").mkdir()
    for step in there:
        (folder / "checkpoints" / checkpoint_name(step)).write_bytes(b"123")
    assert [step_of(path.name) for path in checkpoints_in(folder)] == sorted(there)
    runs("--tidy", "--delete")
    assert {step_of(path.name) for path in checkpoints_in(folder)} == kept


def test_a_run_that_is_in_use_stays_as_it_is(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "runs" / "a")
    old = unfinished_of(tmp_path / "runs" / "a" / "results.json")
    old.touch()
    with lock_run_dir(tmp_path / "runs" / "a"), pytest.raises(SystemExit) as end:
        runs("--tidy", "--delete")
    assert end.value.code == 1
    assert old.exists()
    said = capsys.readouterr().err
    assert said.startswith("error: 1 of 1 files stay, as the run is in use or they cannot be removed: ")
    assert said.endswith(f"{old.name}\n")


def test_a_link_is_not_followed(runs: Runs, tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a")
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "runs" / "a" / "checkpoints").mkdir()
    for step in (10, 30):
        (tmp_path / "runs" / "a" / "checkpoints" / f"step-{step:07d}.ckpt").symlink_to(tmp_path / "precious")
    runs("--tidy", "--delete", "--checkpoints", "none")
    assert (tmp_path / "precious").read_text() == "mine"
    assert len(list((tmp_path / "runs" / "a" / "checkpoints").iterdir())) == 2


MISTAKES = {
    "no such folder": (["missing"], "missing is no folder: give a folder with runs in it"),
    "none below one": (["--last", "0"], "--last 0 is not legal: give a whole number from 1 on"),
    "delete what": (["--delete"], "--delete and --checkpoints belong to --tidy"),
    "unknown state": (
        ["--where", "state=finish"],
        "--where state=finish: no run is 'finish': a run is running, finished, stopped, empty",
    ),
    "no number": (["--where", "test>nan"], "--where test>nan: 'nan' is no number, and > compares numbers"),
    "unknown order": (["--sort", "tset"], "no run here has tset: the nearest is test"),
    "unknown option": (["--tidyy"], "unrecognized arguments: --tidyy"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_status_2(
    name: str, runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, line = MISTAKES[name]
    make_run(tmp_path / "runs" / "a")
    with pytest.raises(SystemExit) as end:
        runs(*arguments)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1


def test_no_run_is_said(runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    assert runs() == "no run in runs\n"
    make_run(tmp_path / "runs" / "a")
    assert runs("--where", "seed=9") == "no run for which all conditions hold in runs\n"


def test_names_of_strangers_do_no_harm(runs: Runs, tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "[bold]\x1b[2J")
    shown = runs()
    assert "\x1b" not in shown
    assert "[bold]" in shown


def test_reports_and_watch_take_the_same_conditions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "runs" / "a", "algorithm=fixmatch", accuracy=0.5)
    make_run(tmp_path / "runs" / "b", "algorithm=layermatch", accuracy=0.9)
    report(["--multirun", "runs", "--where", "algorithm=fixmatch"])
    page = (tmp_path / "report.html").read_text()
    assert "runs/a" in page
    assert "runs/b" not in page
    watch(["runs", "--where", "algorithm=layermatch", "--once"])
    assert "layermatch" in capsys.readouterr().out
    for command in (report, watch):
        with pytest.raises(SystemExit) as end:
            command(["runs", "--where", "seed=9"])
        assert end.value.code == 2


def test_it_is_a_command_that_starts_at_once(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    script = "import sys; from layermatch.runs.__main__ import main; main([sys.argv[1]]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\nFalse\n")
