"""Which runs are repetitions of each other, and what their settings are called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.report.made_runs import make_run

from layermatch.errors import UserError
from layermatch.report.compare import compare
from layermatch.report.groups import Group, choose_baseline, differing, group_runs
from layermatch.report.runs import read_run
from layermatch.report.tables import seed_table
from layermatch.runs.identity import Draw


def groups_of(*paths: Path) -> list[Group]:
    return group_runs([read_run(path) for path in paths])


def seeds(group: Group) -> list[int | None]:
    return [run.seed for run in group.runs]


def test_seed_place_speed_and_logger_make_no_setting(tmp_path: Path) -> None:
    moved = ("ckpt_path=last", "data.num_workers=2", "trainer.devices=2", "data.batch_size=4")
    (group,) = groups_of(
        make_run(tmp_path / "a", "data.batch_size=8", seed=2),
        make_run(tmp_path / "b", "data.batch_size=8", "logger=tensorboard", seed=0),
        make_run(tmp_path / "c", *moved, seed=1),
    )
    assert seeds(group) == [0, 1, 2]
    assert group.name == "layermatch"


def test_noisy_pseudo_labels_are_one_setting_paired_with_another_by_seed(tmp_path: Path) -> None:
    noisy, plain = groups_of(
        *(
            make_run(tmp_path / f"n{seed}", "pseudo_labels=noisy", f"seed={seed}", seed=seed, accuracy=0.5 + seed / 10)
            for seed in (0, 1, 2)
        ),
        make_run(tmp_path / "p", seed=1, accuracy=0.9),
    )
    assert noisy.figures("test", "accuracy_ema") == {Draw(0): 0.5, Draw(1): 0.6, Draw(2): 0.7}
    found = compare(plain.figures("test", "accuracy_ema"), noisy.figures("test", "accuracy_ema"))
    assert found is not None
    assert (round(found.difference, 3), found.n) == (0.3, 1)


def test_folds_of_one_seed_are_draws_of_one_setting(tmp_path: Path) -> None:
    paths = [
        make_run(tmp_path / f"{name}{fold}", f"algorithm={name}", f"data.fold={fold}", accuracy=accuracy + fold / 10)
        for name, accuracy in (("fixmatch", 0.5), ("layermatch", 0.6))
        for fold in (0, 1)
    ]
    fixmatch, layermatch = groups_of(*paths)
    assert [str(draw) for draw in fixmatch.figures("test", "accuracy_ema")] == ["0, fold=0", "0, fold=1"]
    found = compare(layermatch.figures("test", "accuracy_ema"), fixmatch.figures("test", "accuracy_ema"))
    assert found is not None
    assert (found.n, found.wins) == (2, 2)
    assert seed_table([fixmatch, layermatch]).header == ("Setting", "seed 0, fold=0", "seed 0, fold=1")


def test_one_other_setting_makes_another_group_with_a_name_of_its_own(tmp_path: Path) -> None:
    groups = groups_of(
        make_run(tmp_path / "a", "algorithm=fixmatch"),
        make_run(tmp_path / "b", "layerwise.grad_relu=off"),
        make_run(tmp_path / "c", "layerwise.grad_relu=off", "optimizer.lr=0.1"),
        make_run(tmp_path / "d", "algorithm=fixmatch", seed=1),
    )
    assert [group.name for group in groups] == ["fixmatch", "layermatch, lr=0.03", "layermatch, lr=0.1"]
    assert [seeds(group) for group in groups] == [[0, 1], [0], [0]]
    assert {"optimizer.lr", "layerwise.grad_relu", "algorithm.name"} <= set(differing(groups))
    assert "model.depth" not in differing(groups)


def test_names_are_short_and_never_the_same(tmp_path: Path) -> None:
    changes = [
        "data.mu=1", "algorithm.clip_norm=5", "optimizer.momentum=0", "model.depth=16", "data.val_from=labelled",
        "data.num_val=10",
    ]  # fmt: skip
    groups = groups_of(
        make_run(tmp_path / "a"),
        make_run(tmp_path / "b", *changes),
        make_run(tmp_path / "c", *changes, "data.overfit=true"),
    )
    names = [group.name for group in groups]
    assert names[0] == "layermatch, clip_norm=null, momentum=0.9, num_val=200, val_from=pool, 3 more"
    assert names[1] == "layermatch, clip_norm=5, momentum=0, num_val=10, val_from=labelled, 3 more #2"
    assert names[2] == "layermatch, clip_norm=5, momentum=0, num_val=10, val_from=labelled, 3 more #3"


def test_a_repetition_is_no_second_sample(tmp_path: Path) -> None:
    runs = [read_run(make_run(tmp_path / name, seed=3)) for name in "ab"]
    (group,) = group_runs(runs)
    assert seeds(group) == [3]
    assert runs[0].problems == []
    assert runs[1].problems == [f"setting and seed are those of {runs[0].name}: not counted again"]


def on(path: Path, *, pool: str) -> Path:
    """Say which files the images of a run are drawn from."""
    split = json.loads((path / "split.json").read_text())
    (path / "split.json").write_text(json.dumps(split | {"pool": pool}))
    return path


def test_one_setting_on_two_data_sets_is_two_groups(tmp_path: Path) -> None:
    def made(name: str, root: str, pool: str, *, is_finished: bool = True, **more: Any) -> Path:
        path = make_run(tmp_path / name, "data=folder", f"data.root={root}", is_finished=is_finished, **more)
        return on(path, pool=pool)

    flowers, birds = groups_of(
        made("a", "flowers", "9:a", seed=0, accuracy=0.9, classes=("rose", "lily")),
        made("b", "birds", "9:b", seed=0, accuracy=0.5, classes=("owl", "jay")),
        made("c", "flowers", "9:a", seed=1, accuracy=0.92, classes=("rose", "lily")),
        made("d", "birds", "9:b", seed=2, accuracy=0.4, classes=("owl", "jay")),
        made("e", "birds", "9:b", seed=3, is_finished=False),
    )
    assert [flowers.name, birds.name] == ["layermatch, root=flowers", "layermatch, root=birds"]
    assert flowers.figures("test", "accuracy_ema") == {Draw(0): 0.9, Draw(1): 0.92}
    assert birds.figures("test", "accuracy_ema") == {Draw(0): 0.5, Draw(2): 0.4}
    assert [run.seed for run in birds.unfinished] == [3]


def test_other_files_of_the_same_classes_are_another_data_set_and_unknown_ones_are_not(tmp_path: Path) -> None:
    one, other = groups_of(
        make_run(tmp_path / "a", seed=0),
        on(make_run(tmp_path / "b", seed=1), pool="9:a"),
        on(make_run(tmp_path / "c", seed=1), pool="8:b"),
        on(make_run(tmp_path / "d", seed=2), pool="9:a"),
    )
    assert (seeds(one), seeds(other)) == ([0, 1, 2], [1])
    assert [one.name, other.name] == ["layermatch #1", "layermatch #2"]


def test_unfinished_runs_do_not_count_and_unreadable_ones_are_in_no_group(tmp_path: Path) -> None:
    done, stopped, unknown = (
        make_run(tmp_path / "a"),
        make_run(tmp_path / "b", seed=1, is_finished=False),
        tmp_path / "c",
    )
    unknown.mkdir()
    (group,) = groups_of(done, stopped, unknown)
    assert seeds(group) == [0]
    assert [run.seed for run in group.unfinished] == [1]
    assert group.shown == group.runs
    (alone,) = groups_of(stopped)
    assert alone.shown == alone.unfinished


def test_the_baseline_is_named_or_the_first_with_a_finished_run(tmp_path: Path) -> None:
    groups = groups_of(
        make_run(tmp_path / "a", "algorithm=supervised", is_finished=False),
        make_run(tmp_path / "b", "algorithm=fixmatch"),
        make_run(tmp_path / "c"),
    )
    assert choose_baseline(groups, None) is groups[1]
    assert choose_baseline(groups, "layermatch") is groups[2]
    with pytest.raises(UserError, match=r"choose 'fixmatch', 'layermatch'"):
        choose_baseline(groups, "supervised")
    with pytest.raises(UserError, match="with a finished run: none is"):
        choose_baseline(groups[:1], "supervised")
    assert choose_baseline(groups[:1], None) is None
