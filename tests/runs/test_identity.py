"""Which runs are the same but for the seed, and which settings may change: one catalogue for all who ask."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from tests.report.made_runs import settings_of

from layermatch.dashboards import run_group
from layermatch.runs.identity import (
    ALL_DEVICES,
    KINDS,
    Draw,
    Kind,
    differing,
    draw_of,
    fingerprint,
    images_of_step,
    kind_of,
    may_change,
    setting_of,
)
from layermatch.runs.settings import flatten

#: One for each way in which a run may differ from another of the same setting.
SAME = {
    "place": ["run_dir=elsewhere", "ckpt_path=last"],
    "name": ["name=mine"],
    "logger": ["logger=tensorboard"],
    "speed": ["data.num_workers=3", "data.storage=ram", "compile=true", "trainer.accelerator=cpu"],
    "how often": ["eval_every=7", "checkpoint.keep=9", "trainer.log_every=3", "algorithm.layer_gradients_every=0"],
    "devices": ["trainer.devices=2", "data.batch_size=4", "trainer.strategy=ddp"],
    "machines": ["trainer.num_nodes=2", "data.batch_size=4"],
    "draw": ["data.fold=3", "data.split=runs/a/split.json"],
    "the same number": ["layerwise.lambda_u=1", "data.mu=2"],
}
OTHER = [
    "optimizer.lr=0.2", "pseudo_labels.threshold=0.9", "algorithm.ema_decay=0.9", "data.num_labels=20",
    "model=wrn_28_2", "checkpoint.selection=best_val", "trainer.max_steps=10", "layerwise=uniform", "data.batch_size=4",
    "trainer.devices=2", "algorithm.accumulate=2", "algorithm=fixmatch", "pseudo_labels=noisy", "+layerwise.mine=1",
]  # fmt: skip


def run_of(*overrides: str, seed: int = 0) -> dict[str, Any]:
    return settings_of("data.batch_size=8", *overrides, seed=seed)


@pytest.mark.parametrize("name", SAME)
def test_what_is_not_trained_makes_no_setting(name: str) -> None:
    one, other = run_of(), run_of(*SAME[name], seed=1)
    assert setting_of(one) == setting_of(other)
    assert fingerprint(one) == fingerprint(other)
    assert run_group(one) == run_group(other)


@pytest.mark.parametrize("override", OTHER)
def test_everything_else_makes_another_setting(override: str) -> None:
    one, other = run_of(), run_of(override)
    assert differing([setting_of(one), setting_of(other)])
    assert fingerprint(one) != fingerprint(other)
    assert run_group(one) != run_group(other)


def test_noisy_pseudo_labels_of_several_seeds_are_one_setting() -> None:
    """Their own seed is interpolated from the run's."""
    runs = [settings_of("pseudo_labels=noisy", f"seed={seed}", seed=seed) for seed in (0, 1, 2)]
    assert [run["pseudo_labels"]["noise_seed"] for run in runs] == [0, 1, 2]
    assert len({fingerprint(run) for run in runs}) == 1
    assert [draw_of(run) for run in runs] == [Draw(0), Draw(1), Draw(2)]


def test_a_draw_is_told_by_all_that_it_is_drawn_by() -> None:
    assert draw_of(run_of(seed=3)) == Draw(3)
    assert draw_of(run_of("data.fold=3", seed=3)) == Draw(3, ("fold=3",))
    assert draw_of(settings_of("pseudo_labels=noisy", "pseudo_labels.noise_seed=5")) == Draw(0, ("noise_seed=5",))
    assert draw_of(run_of() | {"seed": None}) is None


def test_the_setting_names_the_batch_by_its_whole() -> None:
    setting = setting_of(run_of("trainer.devices=2", "trainer.num_nodes=3"))
    assert setting[ALL_DEVICES] == 48
    assert not {"data.batch_size", "trainer.devices", "trainer.num_nodes", "seed"} & setting.keys()
    flat = flatten(run_of("trainer.devices=2", "algorithm.accumulate=3"))
    assert images_of_step(flat) == "3 x 16 labelled images a step and mu=2"


@pytest.mark.parametrize(
    ("overrides", "may"),
    [
        (["data.num_workers=2"], True),
        (["trainer.max_steps=1001"], True),
        (["trainer.max_steps=999"], False),
        (["data.batch_size=4", "trainer.devices=2"], True),
        (["trainer.devices=2"], False),
        (["data.num_labels=20"], False),
        (["optimizer.lr=1"], False),
        (["optimizer.momentum=0"], False),
        (["data.fold=1"], False),
    ],
)
def test_what_may_change_in_a_run(overrides: list[str], may: bool) -> None:
    before, now = flatten(run_of("trainer.max_steps=1000")), flatten(run_of("trainer.max_steps=1000", *overrides))
    changed = [key for key in now if before[key] != now[key]]
    assert changed
    assert all(may_change(key, before, now) for key in changed) == may


@cache
def every_setting() -> set[str]:
    given = (
        [],
        ["experiment=stl10"],
        ["experiment=folder", "data.root=x"],
        ["data=manifest", "data.manifest=x"],
        ["data=shards", "data.root=x"],
        ["model=timm", "model.name=x"],
        ["algorithm=supervised"],
    )
    return {key for overrides in given for key in flatten(settings_of(*overrides))}


@pytest.mark.parametrize("name", KINDS)
def test_the_catalogue_names_settings_that_exist(name: str) -> None:
    assert any(key == name or key.startswith(f"{name}.") for key in every_setting())


def test_what_is_below_a_section_is_of_its_kind() -> None:
    assert kind_of("model.depth") is kind_of("optimizer.anything") is Kind.LEARNT
    assert kind_of("optimizer.lr") is kind_of("modelling") is kind_of("data.mu") is Kind.TRAINED
    assert kind_of("plugin.own_seed") is kind_of("plugin.seed") is Kind.SEED
    assert kind_of("seed") is kind_of("data.fold") is Kind.DRAW
    assert kind_of("logger.tags") is Kind.APART
