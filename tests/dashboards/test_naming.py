"""Names: seeds and draws of a setting share a group, and nothing else does."""

from __future__ import annotations

import pytest

from layermatch.dashboards.naming import MAX_NAME, MAX_TAG, changes_of, run_group, run_name, run_tags


def group(*overrides: str) -> str:
    return run_group("digits", "layermatch", changes_of(overrides))


def test_seeds_draws_places_and_speeds_share_a_group() -> None:
    same = group("optimizer.lr=0.1", "views=randaugment")
    for other in (
        "seed=3", "data.fold=1", "data.split=runs/a/split.json", "run_dir=x", "ckpt_path=last", "data.root=/data",
        "data.storage=ram", "logger=wandb", "logger.tags=[a]", "trainer.log_every=3", "experiment=digits",
        "hydra.verbose=true", "+plugins=[a]", "checkpoint.keep=3",
    ):  # fmt: skip
        assert group("views=randaugment", other, "optimizer.lr=0.1") == same, other


@pytest.mark.parametrize(
    "other",
    [
        "optimizer.lr=0.2", "pseudo_labels.threshold=0.9", "algorithm.ema_decay=0.9", "data.num_labels=20",
        "model=wrn_28_2", "checkpoint.selection=best_val", "trainer.max_steps=10", "layerwise=uniform",
    ],
)  # fmt: skip
def test_every_other_setting_makes_another_group(other: str) -> None:
    assert group("seed=1", other) != group("seed=1")
    assert other in group("seed=1", other)


def test_long_names_are_cut_and_stay_apart() -> None:
    many = [f"algorithm.gradient_scale.block{index}=0.{index}" for index in range(12)]
    groups = {group(*many), group(*many[:-1], "algorithm.gradient_scale.block11=0.99")}
    assert len(groups) == 2
    names = {run_name("layermatch", changes_of(many), seed=seed) for seed in (0, 10)}
    assert {name.rpartition(" ")[2] for name in names} == {"seed=0", "seed=10"}
    assert all(len(text) <= MAX_NAME for text in groups | names)


def test_tags_are_what_wandb_takes() -> None:
    assert run_tags("digits", "", "a" * 100, "digits") == ["digits", "a" * MAX_TAG]
