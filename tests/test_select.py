"""Runs that are chosen without a label: the measures against slow references, and the command on real tiny runs."""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from layermatch import run, select
from layermatch.errors import UserError
from layermatch.predictor import Predictor
from layermatch.select import MEASURES, measure_run, measures_of

SETTINGS = (
    "experiment=digits", "model=wrn_small", "model.width=1", "trainer=cpu", "data.batch_size=8", "data.mu=1",
    "data.num_labels=40", "data.num_val=100", "logger=none", "trainer.log_every=10", "algorithm=supervised",
    "trainer.precision=32-true",
)  # fmt: skip


def train(folder: Path, name: str, *settings: str) -> Path:
    """``python -m layermatch.run`` with these settings, in a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["layermatch.run", *SETTINGS, f"run_dir={name}", *settings])
        run.main()
    return folder / name


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that learnt something, one that learnt nothing, and one without a checkpoint."""
    folder = tmp_path_factory.mktemp("runs")
    train(folder, "long", "trainer.max_steps=60")
    train(folder, "short [1]", "trainer.max_steps=1", "optimizer.lr=1e-9")
    return folder


@pytest.fixture
def command(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """The command in this process: its exit status, and what it says."""

    def start(*words: str) -> tuple[int, str, str]:
        monkeypatch.chdir(runs)
        status = 0
        try:
            select.main(words)
        except SystemExit as end:
            status = int(end.code or 0)
        return status, *capsys.readouterr()

    return start


# ------------------------------------------------------------------------------------------------------------ measures


def pairs_of(first: np.ndarray, second: np.ndarray) -> tuple[int, int, int, int]:
    """The pairs that are together in both, in the first alone, in the second alone, in none."""
    both = one = other = neither = 0
    for i, j in itertools.combinations(range(len(first)), 2):
        together = first[i] == first[j], second[i] == second[j]
        both += together == (True, True)
        one += together == (True, False)
        other += together == (False, True)
        neither += together == (False, False)
    return both, one, other, neither


def blobs(classes: int, noise: float, *, wrong: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Directions of classes with noise, what is said of them, of which some is wrong, and the class."""
    generator = np.random.default_rng(0)
    label = np.arange(12 * classes) % classes
    features = np.eye(classes, classes + 2)[label] + noise * generator.normal(size=(len(label), classes + 2))
    said = label.copy()
    said[:wrong] = (said[:wrong] + 1) % classes
    return 5 * features, 0.6 * np.eye(classes)[said] + 0.4 / classes, label


@pytest.mark.parametrize("classes", [2, 4])
def test_measures_of_clear_clusters_are_those_of_pairs_and_scatter(classes: int) -> None:
    features, probs, label = blobs(classes, 0.05, wrong=5)
    found = measures_of(features, probs)
    said = probs.argmax(axis=1)
    # The clusters are the classes: clear as they are, by whatever number.
    both, one, other, neither = pairs_of(said, label)
    assert found["fmi"] == pytest.approx(both / math.sqrt((both + one) * (both + other)))
    pairs = both + one + other + neither
    expected = (both + one) * (both + other) / pairs
    assert found["ari"] == pytest.approx((both - expected) / (((both + one) + (both + other)) / 2 - expected))
    scaled = features / np.linalg.norm(features, axis=1, keepdims=True)
    within = between = 0.0
    for k in range(classes):
        mine = scaled[label == k]
        within += ((mine - mine.mean(axis=0)) ** 2).sum()
        between += len(mine) * ((mine.mean(axis=0) - scaled.mean(axis=0)) ** 2).sum()
    wanted = (between / (classes - 1)) / (within / (len(label) - classes))
    assert found["calinski_harabasz"] == pytest.approx(wanted)
    joint = np.array([[((said == i) & (label == j)).mean() for j in range(classes)] for i in range(classes)])
    p, q = joint.sum(axis=1), joint.sum(axis=0)
    of_joint = -sum(x * math.log(x) for x in joint.ravel() if x)
    h_said, h_label = (-sum(x * math.log(x) for x in each if x) for each in (p, q))
    information = h_said + h_label - of_joint
    assert found["v_measure"] == pytest.approx(2 * information / (h_said + h_label))
    assert 0 < found["ami"] < found["v_measure"]  # less what chance gives


def test_right_predictions_and_better_features_are_worth_more() -> None:
    good, bad = (measures_of(*blobs(4, noise, wrong=wrong)[:2]) for noise, wrong in ((0.05, 0), (0.8, 20)))
    for name in ("ami", "ari", "v_measure", "fmi", "calinski_harabasz"):
        assert good[name] > bad[name], name
    assert set(good) == set(MEASURES)


def test_a_network_that_says_one_thing_of_everything_has_measures_too() -> None:
    features, probs = np.ones((20, 3)), np.tile([0.7, 0.2, 0.1], (20, 1))
    found = measures_of(features, probs)
    assert math.isnan(found["calinski_harabasz"])
    assert found["rankme"] == pytest.approx(1, abs=1e-4)
    assert all(math.isfinite(value) for name, value in found.items() if name != "calinski_harabasz")


def test_what_has_no_measures_is_refused() -> None:
    with pytest.raises(UserError, match="2 images for 3 classes"):
        measures_of(np.ones((2, 4)), np.full((2, 3), 1 / 3))
    with pytest.raises(UserError, match="not finite"):
        measures_of(np.full((9, 4), np.nan), np.full((9, 3), 1 / 3))


# ---------------------------------------------------------------------------------------------------------------- runs


def test_a_run_is_measured_on_its_own_pool(runs: Path) -> None:
    path = runs / "long"
    found = measure_run(path, max_images=0)
    predictor = Predictor.load(path, temperature=1.0)
    from layermatch.data.sources import Digits

    pool = np.setdiff1d(np.arange(len(Digits().load().labelled.images)), predictor.checkpoint.split["validation"])
    images = torch.from_numpy(Digits().load().labelled.images.read(pool))
    said = predictor(images)
    wanted = measures_of(said.features.numpy(), said.probabilities.numpy())
    assert found.num_images == len(pool)
    for name, value in wanted.items():
        assert found.scores[name] == pytest.approx(value, rel=1e-4), name
    live = measure_run(path, max_images=0, weights="live")
    assert live.scores != found.scores
    fewer = measure_run(path, max_images=200)
    assert fewer.num_images == 200


def test_the_run_that_learnt_is_chosen(command: Callable[..., tuple[int, str, str]], runs: Path) -> None:
    status, out, _ = command(".", "--images", "400", "--json")
    assert status == 0
    found = json.loads(out)
    assert found["chosen"] == "long"
    assert [one["run"] for one in found["runs"]] == ["long", "short [1]"]
    ranks = [one["mean_squared_rank"] for one in found["runs"]]
    assert ranks == sorted(ranks)
    assert set(found["runs"][0]["scores"]) == set(MEASURES)
    assert found["runs"][0]["checkpoint"].endswith("step-0000060.ckpt")
    # A pattern that the shell left alone, a checkpoint, and a table.
    checkpoint = runs / found["runs"][1]["checkpoint"]
    status, out, _ = command("lo*", os.fspath(checkpoint), "--images", "400")
    assert status == 0
    assert "chosen: long" in out
    assert all(title in out.replace("\n", " ") for title in MEASURES.values())
    assert "400 images of the pool, no label" in out


def test_conditions_choose_among_the_runs(command: Callable[..., tuple[int, str, str]]) -> None:
    status, out, _ = command(".", "--where", "steps<=1", "--images", "100", "--json")
    assert status == 0
    assert json.loads(out)["chosen"] == "short [1]"


def test_a_run_that_cannot_be_measured_is_left_out_and_told_of(
    command: Callable[..., tuple[int, str, str]], runs: Path
) -> None:
    broken = runs / "broken"
    shutil.copytree(runs / "long", broken, ignore=shutil.ignore_patterns("*.ckpt*"))
    try:
        status, out, err = command("broken", "long", "--images", "100")
        assert status == 1
        assert "chosen: long" in out
        assert err.startswith("left out: broken: ")
        assert err.count("\n") == 1
        status, out, err = command("broken")
        assert (status, out) == (2, "")
        assert err.startswith("error: no run can be measured: broken: ")
        assert err.count("\n") == 1
    finally:
        shutil.rmtree(broken)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "error: the following arguments are required: RUN_DIR"),
        (("nothing",), "error: nothing is no folder: give a folder with runs in it"),
        (("no*thing",), "error: no*thing is no folder"),
        ((".", "--images", "-1"), "error: --images=-1 is not legal"),
        ((".", "--seed", "-1"), "error: --seed=-1 is not legal"),
        ((".", "--images", "few"), "error: argument --images: invalid int value: 'few'"),
        ((".", "--weights", "best"), "error: argument --weights: invalid choice: 'best'"),
        ((".", "--where", "algorithm=uda"), "error: no run for which all conditions hold in ."),
        (("long", "--images", "5"), "error: no run can be measured: long: there are 5 images for 10 classes"),
        (("long", "--device", "gpu0"), "error: no run can be measured: long: device='gpu0' is not legal"),
    ],
)
def test_mistakes_are_one_line(
    command: Callable[..., tuple[int, str, str]], words: tuple[str, ...], message: str
) -> None:
    status, out, err = command(*words)
    assert (status, out) == (2, "")
    assert err.startswith(message)
    assert err.count("\n") == 1
