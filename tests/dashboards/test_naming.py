"""Names on a dashboard: what tells a run, within what W&B takes. What shares a group: tests/runs/test_identity.py."""

from __future__ import annotations

import pytest

from layermatch.dashboards.naming import MAX_NAME, MAX_TAG, changes_of, run_group, run_name, run_tags


def name(*overrides: str) -> str:
    return run_name("layermatch", changes_of(overrides), seed=0)


def test_draws_places_and_speeds_are_no_change() -> None:
    same = name("optimizer.lr=0.1", "views=randaugment")
    assert same == "layermatch lr=0.1 views=randaugment seed=0"
    for other in (
        "seed=3", "data.fold=1", "data.split=runs/a/split.json", "run_dir=x", "ckpt_path=last", "data.root=/data",
        "data.storage=ram", "logger=wandb", "logger.tags=[a]", "trainer.log_every=3", "experiment=digits",
        "hydra.verbose=true", "+hydra/launcher=joblib", "+plugins=[a]", "checkpoint.keep=3", "algorithm=layermatch",
    ):  # fmt: skip
        assert name("views=randaugment", other, "optimizer.lr=0.1") == same, other


@pytest.mark.parametrize(
    "other",
    [
        "optimizer.lr=0.2", "pseudo_labels.threshold=0.9", "algorithm.ema_decay=0.9", "data.num_labels=20",
        "model=wrn_28_2", "checkpoint.selection=best_val", "trainer.max_steps=10", "layerwise=uniform",
        "data.batch_size=3",
    ],
)  # fmt: skip
def test_every_other_setting_is_named(other: str) -> None:
    assert other.rpartition(".")[2] in name("seed=1", other)


def test_long_names_are_cut_and_stay_apart() -> None:
    many = [f"algorithm.gradient_scale.block{index}=0.{index}" for index in range(20)]
    other = [*many[:-1], "algorithm.gradient_scale.block19=0.99"]
    names = {run_name("layermatch", changes_of(each), seed=seed) for each in (many, other) for seed in (0, 10)}
    assert len(names) == 4
    assert {name.rpartition(" ")[2] for name in names} == {"seed=0", "seed=10"}
    assert all(len(name) <= MAX_NAME for name in names)


def test_a_group_is_told_by_its_setting_however_long_its_algorithm_is_called() -> None:
    settings = {"algorithm": {"name": "a" * 200}, "data": {"source": {"_target_": "my.Cats"}}, "seed": 0}
    groups = {run_group(settings | {"optimizer": {"lr": rate}, "seed": seed}) for rate in (1, 2) for seed in (0, 1)}
    assert len(groups) == 2
    assert all(len(group) <= MAX_NAME for group in groups)


def test_tags_are_what_wandb_takes() -> None:
    assert run_tags("digits", "", "a" * 100, "digits") == ["digits", "a" * MAX_TAG]
