"""Training from the page, as far as it goes without training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from hydra import compose, initialize_config_dir
from tests.label.given import write_pictures

from layermatch.cli import config_dir, plain
from layermatch.data.labelling import Labelling
from layermatch.data.manifest import Row, write_manifest
from layermatch.label.labels import LabelsError
from layermatch.label.training import Training, newest_checkpoint_of
from layermatch.processes import birth_of
from layermatch.settings import DataSettings

ROWS = [Row("a.png", "cat"), Row("b.png", "dog"), Row("c.png")]


def test_labels_of_two_classes_are_needed(tmp_path: Path) -> None:
    training = Training(tmp_path / "labels.runs", root=tmp_path)
    for rows in ([], ROWS[:1], [ROWS[0], Row("b.png", "dog", "test")], [ROWS[0], ROWS[2]]):
        with pytest.raises(LabelsError, match="training needs labels of two classes"):
            training.start(rows)
    with pytest.raises(LabelsError, match="steps=0 is not legal: give a whole number, at least 1"):
        training.start(ROWS, max_steps=0)
    assert training.status() == {"kind": "none"}
    assert not list(tmp_path.rglob("*.csv"))


def test_paths_of_any_name_are_words_of_the_command_line(tmp_path: Path) -> None:
    root = tmp_path / "Größe [1], $a$ {x}"
    training = Training(
        root / "labels.runs", root=root, settings={"algorithm": "fixmatch", "data.mean": [0.5, 1], "name": "a b=1"}
    )
    words = training.words(root / "labels.runs" / "now", 7)
    assert words[:7] == [
        "experiment=folder", "trainer.max_steps=7", "data.val_from=labelled", "algorithm=fixmatch",
        "data.mean=[0.5,1]", 'name="a b=1"', "data=manifest",
    ]  # fmt: skip
    from hydra.core.override_parser.overrides_parser import OverridesParser

    read = {each.key_or_group: each.value() for each in OverridesParser.create().parse_overrides(words)}
    values = {name: str(value) for name, value in read.items()}
    for name, path in {
        "data.root": root,
        "data.manifest": root / "labels.runs" / "now.csv",
        "run_dir": root / "labels.runs" / "now",
    }.items():
        assert values[name].strip("'\"") == str(path)


def test_images_to_validate_come_from_the_labels(tmp_path: Path) -> None:
    """Every label of the table is learnt from, so that the pool has no other image whose class is known."""
    truth = write_pictures(tmp_path / "pictures", per_class=4)
    run_dir = tmp_path / "labels.runs" / "now"
    run_dir.parent.mkdir()
    write_manifest(run_dir.with_suffix(".csv"), [Row(path, label) for path, label in truth.items()])
    training = Training(run_dir.parent, root=tmp_path / "pictures", settings={"data.num_val": 3})
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        data = DataSettings.parse(plain(compose("run", overrides=training.words(run_dir, None)))["data"], ())
    given = {name: data.module[name] for name in ("num_labels", "num_val", "val_from", "fold")}
    drawn = Labelling(**given, imbalance=None, seed=0).split(data.source.make().load(), None)
    assert (len(drawn.labelled), len(drawn.validation)) == (9, 3)


@pytest.mark.parametrize("is_new", [True, False])  # or of an earlier version: seconds since the epoch
def test_a_run_that_a_server_left_behind_is_taken_over_and_stopped(is_new: bool, tmp_path: Path) -> None:
    runs = tmp_path / "labels.runs"
    runs.mkdir()
    sleeper = subprocess.Popen(
        [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"], stdout=subprocess.PIPE
    )
    try:
        assert sleeper.stdout is not None
        sleeper.stdout.readline()
        created = birth_of(sleeper.pid) if is_new else psutil.Process(sleeper.pid).create_time()
        (runs / "2026-01-02_03-04-05.json").write_text(json.dumps({"pid": sleeper.pid, "created": created}))
        (runs / "2026-01-01_03-04-05.json").write_text("{")
        training = Training(runs, root=tmp_path)
        assert training.status()["kind"] == "running"
        assert not training.has_ended()
        with pytest.raises(LabelsError, match="a training is running: stop it, or wait until it ends"):
            training.start(ROWS)
        training.stop()
        sleeper.wait(30)  # it was asked to end, or this would not come back
        assert training.has_ended()
        assert not training.has_ended()  # it is said once
        assert training.status()["kind"] == "stopped"
    finally:
        sleeper.kill()
        sleeper.communicate()


def test_a_run_that_cannot_be_noted_is_not_left_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody could stop it, and no other could be started."""
    children = []

    def fail(path: Path, _: str) -> None:
        children.extend(psutil.Process().children())
        raise OSError(28, "No space left on device", str(path))

    training = Training(tmp_path / "labels.runs", root=tmp_path)
    before = psutil.Process().children()
    monkeypatch.setattr("layermatch.label.training.replace_text", fail)
    for _ in range(2):
        with pytest.raises(LabelsError, match=r"^training cannot be started: No space left on device$"):
            training.start(ROWS)
        assert not training.is_running
        assert training.status() == {"kind": "none"}
    started = set(children) - set(before)
    assert len(started) == 2
    assert not any(child.is_running() for child in started)


def test_another_process_of_the_same_number_is_left_alone(tmp_path: Path) -> None:
    runs = tmp_path / "labels.runs"
    runs.mkdir()
    created = psutil.Process(os.getpid()).create_time()
    (runs / "2026-01-02_03-04-05.json").write_text(json.dumps({"pid": os.getpid(), "created": created - 100}))
    training = Training(runs, root=tmp_path)
    assert not training.is_running
    training.stop()


def test_the_model_is_the_newest_checkpoint_of_the_newest_run(tmp_path: Path) -> None:
    runs = tmp_path / "labels.runs"
    training = Training(runs, root=tmp_path)
    assert training.checkpoint() is None
    for name, step in (("2026-01-01_00-00-00", 9), ("2026-01-02_00-00-00", 5), ("2026-01-02_00-00-00", 7)):
        path = runs / name / "checkpoints" / f"step-{step:07d}.ckpt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (step, step))
    (runs / "2026-01-03_00-00-00").mkdir()  # it has none yet
    assert training.checkpoint() == runs / "2026-01-02_00-00-00" / "checkpoints" / "step-0000007.ckpt"
    best = runs / "2026-01-02_00-00-00" / "checkpoints" / "best_val.ckpt"
    best.touch()
    assert newest_checkpoint_of(runs / "2026-01-02_00-00-00") == best
    assert newest_checkpoint_of(best) == best
    assert newest_checkpoint_of(tmp_path) is None


@pytest.mark.slow
def test_why_a_training_failed_is_said(tmp_path: Path) -> None:
    training = Training(tmp_path / "labels.runs", root=tmp_path, settings={"no_such_setting": 1})
    training.start(ROWS)
    for _ in range(2400):
        if not training.is_running:
            break
        time.sleep(0.1)
    status = training.status()
    assert status["kind"] == "failed"
    assert status["said"].startswith("error: unknown setting no_such_setting: choose one of ")
    assert training.has_ended()
