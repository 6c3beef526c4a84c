"""Going on with pictures, settings or a validation set that are not as they were."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tests.data import stand_ins

from layermatch import run
from layermatch.predictor import resolve_checkpoint_file

Cli = Callable[..., None]

SIDE = 8
SMALL = (
    "experiment=folder", "data.root=pictures", f"data.image_size={SIDE}", "data.storage=ram", "data.batch_size=4",
    "data.mu=1", "model=wrn_small", "trainer.log_every=1", "trainer.precision=32-true", "algorithm=fixmatch",
    "algorithm.layer_gradients_every=0", "eval_every=2",
)  # fmt: skip
DRAWN = ("data.num_labels=6", "data.num_val=3")
LAST = "ckpt_path=last"


@pytest.fixture
def pictures(in_empty_folder: Path) -> Path:
    """18 pictures of three classes to train on."""
    stand_ins.write_folder(in_empty_folder / "pictures", size=SIDE)
    return in_empty_folder / "pictures"


@pytest.fixture(scope="module")
def run_of_two_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once, as all that is done with it begins with a copy."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        stand_ins.write_folder(folder / "pictures", size=SIDE)
        patch.setattr(sys, "argv", ["layermatch.run", "run_dir=out", "trainer.max_steps=2", *SMALL, *DRAWN])
        run.main()
    return folder / "out"


@pytest.fixture
def trained(run_of_two_steps: Path, pictures: Path, in_empty_folder: Path) -> Path:
    """A run of two steps; three pictures of each class are labelled or held out."""
    return shutil.copytree(run_of_two_steps, in_empty_folder / "out")


def split_of(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "split.json").read_text())


def refused(command: Cli, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a refusal."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        command(*arguments)
    assert stop.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def learning_rates(run_dir: Path) -> list[float]:
    with (run_dir / "metrics.csv").open() as file:
        return [float(row["lr"]) for row in csv.DictReader(file) if row["lr"]]


def snapshot(run_dir: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------------------------------------- images


def test_pictures_that_were_renamed_are_not_taken_for_others(
    trained: Path, pictures: Path, cli: Cli, evaluate_cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(trained)
    names = split_of(trained)["names"]
    first = [next(name for name in names if f"/{kind}/" in name) for kind in ("cat", "dog", "fox")]
    for name in first:  # the order of all files changes, their number does not
        (pictures / name).rename((pictures / name).with_name("zzz.png"))
    what = f"3 of its 9 labelled and validation images are not there ({', '.join(sorted(first))})"
    checkpoint = "ckpt_path=out/checkpoints/step-0000002.ckpt"
    for line in (
        refused(cli, capsys, "run_dir=out", "trainer.max_steps=4", *SMALL, *DRAWN, LAST),
        refused(cli, capsys, "run_dir=new", "trainer.max_steps=4", *SMALL, "data.split=out/split.json"),
        refused(evaluate_cli, capsys, checkpoint, "split=val"),
    ):
        assert what in line
    assert snapshot(trained) == before
    evaluate_cli(checkpoint)  # the test images are the same


def test_a_folder_that_has_grown_is_gone_on_with(
    trained: Path,
    pictures: Path,
    cli: Cli,
    evaluate_cli: Cli,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = split_of(trained)
    for kind in ("cat", "dog", "fox"):
        stand_ins.write_pngs(pictures / "new", np.zeros((1, 3, SIDE, SIDE), np.uint8))
        (pictures / "new" / "00000.png").rename(pictures / "train" / kind / "000.png")  # before all others
    (pictures / "new").rmdir()
    cli("run_dir=out", "trainer.max_steps=4", *SMALL, *DRAWN, LAST)
    assert "(18 training images then, 21 now)" in caplog.text
    now = split_of(trained)
    assert (now["names"], now["contents"]) == (before["names"], before["contents"])
    assert now["labelled"] != before["labelled"]
    results = json.loads((trained / "results.json").read_text())
    evaluate_cli("ckpt_path=out/checkpoints/step-0000002.ckpt", "split=val")  # of before
    evaluate_cli("ckpt_path=out/checkpoints/step-0000004.ckpt", "split=val")
    assert f"{results['val']['accuracy_ema']:.4%}" in capsys.readouterr().out


def test_a_checkpoint_without_names_is_evaluated_on_test_images_alone(
    trained: Path, evaluate_cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    path = trained / "checkpoints" / "step-0000002.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    for key in ("names", "contents", "pool"):
        del checkpoint["layermatch"]["split"][key]
    torch.save(checkpoint, path)
    evaluate_cli(f"ckpt_path={path}")
    line = refused(evaluate_cli, capsys, f"ckpt_path={path}", "split=val")
    assert "does not say which files it is of" in line


# ---------------------------------------------------------------------------------------------------------- validation


def test_the_best_evaluation_can_be_chosen_with_the_validation_images_of_a_split(
    trained: Path, cli: Cli, in_empty_folder: Path
) -> None:
    cli("run_dir=new", "trainer.max_steps=2", *SMALL, "data.split=out/split.json", "checkpoint.selection=best_val")
    results = json.loads((in_empty_folder / "new" / "results.json").read_text())
    assert results["test"]["selection"] == "best val/accuracy_ema, step 2"
    assert split_of(in_empty_folder / "new") == split_of(trained)


@pytest.mark.parametrize("num_val", [0, 6])
def test_a_split_without_validation_images_is_refused_before_training(
    num_val: int, trained: Path, cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = split_of(trained)
    fields |= {"validation": [], "names": fields["names"][:6], "contents": fields["contents"][:6]}
    (in_empty_folder / "split.json").write_text(json.dumps(fields))
    options = ("trainer.max_steps=2", *SMALL, "data.split=split.json", "checkpoint.selection=best_val")
    line = refused(cli, capsys, "run_dir=new", *options, f"data.num_val={num_val}")
    assert ("needs validation images, and there are none: give a data.split" if num_val == 0 else "num_val=6") in line
    assert not (in_empty_folder / "new").exists()


def test_best_val_without_validation_images_names_the_setting(
    pictures: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(cli, capsys, "trainer.max_steps=2", *SMALL, "checkpoint.selection=best_val")
    assert "give data.num_val above 0, or checkpoint.selection=last" in line


@pytest.mark.slow
def test_the_best_checkpoint_is_found_where_the_run_was_moved_to(
    pictures: Path,
    cli: Cli,
    in_empty_folder: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    options = (*SMALL, *DRAWN, "checkpoint.selection=best_val", "eval_every=3")
    cli("run_dir=out", "trainer.max_steps=3", *options)
    (in_empty_folder / "out").rename(in_empty_folder / "moved")
    cli("run_dir=moved", "trainer.max_steps=4", *options, LAST)
    results = json.loads((in_empty_folder / "moved" / "results.json").read_text())
    assert results["test"]["selection"] == "best val/accuracy_ema, step 3"
    # Without it, and without an evaluation to come, there would be nothing to report after training.
    (in_empty_folder / "moved" / "checkpoints" / "best_val.ckpt").unlink()
    line = refused(cli, capsys, "run_dir=moved", "trainer.max_steps=5", *options, LAST)
    assert "no evaluation follows step 4 with eval_every=3 and trainer.max_steps=5" in line
    cli("run_dir=moved", "trainer.max_steps=6", *options, LAST)
    assert "best_val.ckpt is gone: the best evaluation from here on is chosen" in caplog.text
    results = json.loads((in_empty_folder / "moved" / "results.json").read_text())
    assert results["test"]["selection"] == "best val/accuracy_ema, step 6"


@pytest.mark.slow
def test_a_run_in_another_directory_has_the_checkpoint_that_it_reports(
    pictures: Path, cli: Cli, in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (*SMALL, *DRAWN, "eval_every=3")
    best = "checkpoint.selection=best_val"
    cli("run_dir=out", "trainer.max_steps=3", *options, best)
    cli("run_dir=new", "trainer.max_steps=4", *options, best, "ckpt_path=out/checkpoints/step-0000003.ckpt")
    shutil.rmtree("out")
    new = in_empty_folder / "new"
    assert json.loads((new / "results.json").read_text())["checkpoint"] == "best_val.ckpt"
    assert resolve_checkpoint_file(new) == new / "checkpoints" / "best_val.ckpt"
    # And one that went on without choosing the best reports its last step, though the best one is still there.
    cli("run_dir=new", "trainer.max_steps=5", *options, LAST)
    assert (new / "checkpoints" / "best_val.ckpt").exists()
    assert resolve_checkpoint_file(new) == new / "checkpoints" / "step-0000005.ckpt"


@pytest.mark.slow
def test_what_was_said_at_the_step_of_a_checkpoint_is_not_said_again(cli: Cli, in_empty_folder: Path) -> None:
    options = (
        "data.batch_size=4", "data.mu=1", "model.width=1", "pseudo_labels.threshold=1", "trainer.accelerator=cpu",
        "trainer.precision=32-true", "trainer.log_every=50", "eval_every=1000", "schedule=constant", "logger=none",
    )  # fmt: skip
    cli("run_dir=out", "trainer.max_steps=200", *options)
    said = "no pseudo-label has counted for 200 steps"
    assert (in_empty_folder / "out" / "run.log").read_text().count(said) == 1
    cli("run_dir=out", "trainer.max_steps=250", *options, LAST)
    assert (in_empty_folder / "out" / "run.log").read_text().count(said) == 1


# ------------------------------------------------------------------------------------------------------------ settings


def test_a_longer_run_says_what_changed_and_keeps_the_old_configuration(
    trained: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    old = (trained / "config.yaml").read_text()
    cli("run_dir=out", "trainer.max_steps=4", *SMALL, *DRAWN, LAST, "algorithm.ema_decay=0.5")
    printed = capsys.readouterr().out
    changed = printed[printed.index("Changed since") : printed.index("layermatch ")]
    rows = [
        [cell.strip() for cell in line.strip("│").split("│")] for line in changed.splitlines() if line.startswith("│")
    ]
    was, now = 0.03 * 0.1951, 0.03 * 0.7730  # cos(7 pi / 16) and cos(7 pi / 32)
    assert rows == [
        ["algorithm.ema_decay", "0.999", "0.5"],
        ["trainer.max_steps", "2", "4"],
        ["learning rate at step 2", f"{was:.4g}", f"{now:.4g}"],
    ]
    assert changed in (trained / "run.log").read_text()
    assert changed.splitlines()[0].strip() == "Changed since step 2"
    assert (trained / "config-until-step-0000002.yaml").read_text() == old
    assert yaml.safe_load((trained / "config.yaml").read_text())["trainer"]["max_steps"] == 4


@pytest.mark.slow
def test_a_run_that_goes_on_as_it_was_says_nothing(
    pictures: Path, cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("trainer.max_steps=4", *SMALL, *DRAWN, "checkpoint.every_n_steps=2")
    cli("run_dir=out", *options)
    (in_empty_folder / "out" / "checkpoints" / "step-0000004.ckpt").unlink()
    (in_empty_folder / "out" / "results.json").unlink()
    capsys.readouterr()
    cli("run_dir=out", *options, LAST)
    assert "Changed" not in capsys.readouterr().out
    assert not list((in_empty_folder / "out").glob("config-*"))


@pytest.mark.slow
def test_every_configuration_of_a_run_is_kept(trained: Path, cli: Cli) -> None:
    checkpoint = "ckpt_path=out/checkpoints/step-0000002.ckpt"
    for max_steps in (3, 4):
        cli("run_dir=out", f"trainer.max_steps={max_steps}", *SMALL, *DRAWN, checkpoint)
    kept = sorted(path.name for path in trained.glob("config*"))
    assert kept == ["config-until-step-0000002-2.yaml", "config-until-step-0000002.yaml", "config.yaml"]
    steps = [yaml.safe_load((trained / name).read_text())["trainer"]["max_steps"] for name in kept]
    assert steps == [3, 2, 4]


def test_another_learning_rate_is_used_from_the_first_step_on(trained: Path, cli: Cli) -> None:
    cli("run_dir=out", "trainer.max_steps=4", *SMALL, *DRAWN, LAST, "schedule=constant", "optimizer.lr=0.001")
    assert learning_rates(trained)[2:] == [0.001, 0.001]
    groups = torch.load(trained / "checkpoints" / "step-0000004.ckpt", weights_only=True)["optimizer_states"][0]
    assert {group["initial_lr"] for group in groups["param_groups"]} == {0.001}


@pytest.mark.parametrize(
    "changes",
    [
        ("data.image_size=16",),
        ("data.mean=[0.5,0.5,0.5]",),
        ("model.batch_norm_momentum=0.5",),
        ("optimizer.momentum=0.5",),
        ("optimizer.weight_decay=0.1", "data.std=[0.5,0.5,0.5]"),
        ("algorithm.name=mine",),
    ],
)
def test_what_a_network_learnt_with_cannot_change(
    changes: tuple[str, ...], trained: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(trained)
    line = refused(cli, capsys, "run_dir=out", "trainer.max_steps=4", *SMALL, *DRAWN, LAST, *changes)
    for change in changes:
        assert change.replace("[", "").replace("]", "").replace(",", ", ") in line
    assert "a run goes on with what it learnt with" in line
    assert snapshot(trained) == before


def test_other_labelled_images_name_the_setting_that_draws_them(
    trained: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(cli, capsys, "run_dir=out", "trainer.max_steps=4", *SMALL, *DRAWN, LAST, "seed=1")
    assert "has other labelled images than seed=1 (not 0): give its seed" in line
