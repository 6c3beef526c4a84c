"""Where run directories are, and what is in them."""

from __future__ import annotations

from pathlib import Path

from layermatch.files import unfinished_of
from layermatch.runs import layout
from layermatch.runs.layout import find_runs


def test_runs_of_a_folder_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("0", "2", "10", "sub/1"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "config.yaml").touch()
    (tmp_path / "9").mkdir()  # a job that left nothing
    for name in (".hydra", "wandb/run-1/files"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.yaml").touch()
    (tmp_path / "multirun.yaml").touch()
    found = [path.relative_to(tmp_path).as_posix() for path in find_runs(tmp_path)]
    assert found == ["sub/1", "0", "2", "9", "10"]
    assert find_runs(tmp_path / "0") == [tmp_path / "0"]
    assert find_runs(tmp_path / "9") == []


def test_checkpoints_are_named_so_that_the_newest_is_last(tmp_path: Path) -> None:
    steps = (9_999_999, 5, 10_000_000, 70)
    assert [layout.step_of(layout.checkpoint_name(step)) for step in steps] == list(steps)
    assert layout.step_of(layout.BEST_CHECKPOINT) is None
    folder = tmp_path / layout.CHECKPOINTS
    folder.mkdir()
    for name in map(layout.checkpoint_name, steps[:2]):
        (folder / name).touch()
    unfinished = unfinished_of(folder / layout.checkpoint_name(7))
    for path in (unfinished, unfinished_of(folder / "mine.txt")):
        path.touch()
    assert [layout.step_of(path.name) for path in layout.checkpoints_in(tmp_path)] == [5, 9_999_999]
    assert layout.unfinished_checkpoints_in(folder) == layout.unfinished_outputs_in(tmp_path) == [unfinished]
    assert layout.checkpoints_in(tmp_path / "missing") == []
    assert layout.unfinished_outputs_in(tmp_path / "missing") == []


def test_a_run_goes_on_with_a_checkpoint_of_its_own_only(tmp_path: Path) -> None:
    inside, outside = (tmp_path / name / layout.CHECKPOINTS / "step-0000001.ckpt" for name in ("a", "b"))
    assert layout.is_checkpoint_of(tmp_path / "a", inside)
    assert layout.is_checkpoint_of(tmp_path / "b" / ".." / "a", inside)
    assert not layout.is_checkpoint_of(tmp_path / "a", outside)
    assert not layout.is_checkpoint_of(tmp_path / "a", None)
