"""End to end: train, stop, resume, evaluate, sweep, and what a run directory holds."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests import processes
from tests.data import stand_ins

from layermatch.checkpoints import read_checkpoint
from layermatch.evaluate import evaluate
from layermatch.runs.plan import read_plan

Cli = Callable[..., None]

SMALL = (
    "data.num_labels=40", "data.batch_size=8", "data.mu=2", "data.num_val=50", "trainer.log_every=2", "eval_every=3",
    "checkpoint.every_n_steps=3", "pseudo_labels.threshold=0.15", "trainer.precision=32-true",
    "algorithm.layer_gradients_every=2",
)  # fmt: skip
SUPERVISED = tuple(setting for setting in SMALL if not setting.startswith("pseudo_labels"))


def results_of(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "results.json").read_text())


@pytest.mark.pictures
def test_a_run_leaves_everything_behind(cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli("run_dir=out", "trainer.max_steps=7", *SMALL, "layerwise.avg_clustering=ema_centroids")
    out = in_empty_folder / "out"
    for name in (
        "config.yaml", "split.json", "plan.json", "run.log", "metrics.csv", "results.json", "predictions.csv",
    ):  # fmt: skip
        assert (out / name).stat().st_size > 100, name
    for name in ("views", "curves", "pseudo_labels", "layers", "features", "confusion", "mistakes"):
        assert (out / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG"), name
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == [
        "step-0000003.ckpt", "step-0000006.ckpt", "step-0000007.ckpt",
    ]  # fmt: skip
    assert list(in_empty_folder.iterdir()) == [out]  # and nothing anywhere else

    results = results_of(out)
    assert set(results) == {
        "status", "algorithm", "experiment", "seed", "num_labels", "steps", "test", "val", "pseudo_labels", "loss",
        "seconds", "versions", "classes", "confusion", "leaks", "checkpoint",
    }  # fmt: skip
    assert results["status"] == "finished"
    assert results["classes"] == [str(digit) for digit in range(10)]
    assert (results["algorithm"], results["experiment"], results["seed"]) == ("layermatch", "digits", 0)
    assert (results["num_labels"], results["steps"]) == (40, 7)
    assert set(results["test"]) == {"accuracy", "accuracy_ema", "macro_accuracy", "macro_accuracy_ema", "selection"}
    assert results["test"]["selection"] == "last step"
    assert results["checkpoint"] == "step-0000007.ckpt"
    assert set(results["pseudo_labels"]) == {"mask_rate", "accuracy", "accuracy_accepted", "entropy"}
    assert set(results["loss"]) == {"features", "classifier", "supervised", "pseudo", "avg_clustering"}
    assert results["val"]["num_evaluations"] == 2
    assert 0 < results["pseudo_labels"]["mask_rate"] <= 1

    with (out / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows if row["loss/features"]] == [2, 4, 6]
    assert [int(row["step"]) for row in rows if row["val/accuracy"]] == [3, 6, 7]
    for column in (
        "loss/classifier",
        "loss/supervised",
        "loss/pseudo",
        "loss/avg_clustering",
        "lr",
        "pseudo_labels/mask_rate",
    ):
        assert column in rows[0]

    printed = capsys.readouterr().out
    for text in (
        "layermatch",
        "algorithm",
        "Plan",
        "1,387, the labelled ones among them",
        "parameters, classifier",
        "step 3/7",
        "L_feat",
        "L_cls",
        "mask",
        "ema 0.",
        "Results",
        "EMA weights",
        "live weights",
        "last step",
    ):
        assert text in printed, text
    plan = read_plan(out / "plan.json")
    assert plan["steps"] == "7, an evaluation every 3"
    assert all(name in printed for name in plan)
    assert printed == (out / "run.log").read_text()  # without a terminal both are the same plain lines
    assert "\x1b[" not in printed
    settings = yaml.safe_load((out / "config.yaml").read_text())
    assert settings["trainer"]["max_steps"] == 7


def test_num_labels_and_validation_are_what_was_asked_for(cli: Cli, in_empty_folder: Path) -> None:
    cli("run_dir=out", "trainer.max_steps=1", *SMALL, "data.num_labels=60", "data.val_from=labelled", "data.num_val=20")
    split = json.loads((in_empty_folder / "out" / "split.json").read_text())
    assert (len(split["labelled"]), len(split["validation"])) == (40, 20)
    cli("run_dir=again", "trainer.max_steps=1", "seed=5", *SMALL, "data.num_val=20", "data.split=out/split.json")
    assert json.loads((in_empty_folder / "again" / "split.json").read_text())["labelled"] == split["labelled"]


VARIANTS = {
    "supervised": ("algorithm=supervised", *SUPERVISED),
    "fixmatch": ("algorithm=fixmatch", *SMALL),
    "ema_centroids": (*SMALL, "layerwise.avg_clustering=ema_centroids"),
    "ema_outputs": (*SMALL, "layerwise.avg_clustering=ema_outputs"),
    "ema_classifier": (*SMALL, "layerwise.avg_clustering=ema_classifier"),
    "ema_teacher": (*SMALL, "layerwise.avg_clustering=ema_teacher"),
    "decoupled": (*SMALL, "layerwise.decoupled=true"),
    "conflict": (*SMALL, "layerwise.grad_relu=conflict"),
    "accumulate": (*SMALL, "algorithm.accumulate=2"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_train_stop_resume_is_training_in_one_go(variant: str, cli: Cli, in_empty_folder: Path) -> None:
    options = VARIANTS[variant]
    cli("run_dir=whole", "trainer.max_steps=8", *options)
    # The schedule spans the whole run, so the first part is a run of 8 steps that is cut off after 3.
    cli("run_dir=parts", "trainer.max_steps=8", *options, "ckpt_path=whole/checkpoints/step-0000003.ckpt")
    whole = read_checkpoint(in_empty_folder / "whole/checkpoints/step-0000008.ckpt")
    parts = read_checkpoint(in_empty_folder / "parts/checkpoints/step-0000008.ckpt")
    assert set(whole["state_dict"]) == set(parts["state_dict"])
    for name, value in whole["state_dict"].items():
        assert torch.equal(parts["state_dict"][name], value), name
    momenta = [checkpoint["optimizer_states"][0]["state"] for checkpoint in (whole, parts)]
    for key, state in momenta[0].items():
        assert torch.equal(momenta[1][key]["momentum_buffer"], state["momentum_buffer"])
    same = ("test", "pseudo_labels")
    assert [results_of(in_empty_folder / "parts")[key] for key in same] == [
        results_of(in_empty_folder / "whole")[key] for key in same
    ]


def test_last_goes_on_in_place_and_keeps_the_metrics(cli: Cli, in_empty_folder: Path) -> None:
    # Stopped inside an interval of the log, in which the gradients of the layers have been measured.
    # Centres that are there from the first step on, so that they drift in each interval.
    centres = "layerwise.avg_clustering=ema_classifier"
    options = ("schedule=constant", *SMALL, "algorithm.layer_gradients_every=3", centres)
    cli("run_dir=whole", "trainer.max_steps=9", *options)
    cli("run_dir=out", "trainer.max_steps=3", *options)
    cli("run_dir=out", "trainer.max_steps=9", *options, "ckpt_path=last")
    plans = [read_plan(in_empty_folder / name / "plan.json") for name in ("whole", "out")]
    assert plans[0] == plans[1]
    rows = {}
    for name in ("whole", "out"):
        with (in_empty_folder / name / "metrics.csv").open() as file:
            rows[name] = [
                {column: value for column, value in row.items() if not column.startswith(("time/", "memory/"))}
                for row in csv.DictReader(file)
                if row["loss/features"]
            ]
    assert [row["step"] for row in rows["out"]] == ["2", "4", "6", "8"]
    assert rows["out"] == rows["whole"]
    assert all(row["centres/drift"] for row in rows["out"])
    assert [bool(row["layers/classifier/grad_norm_supervised"]) for row in rows["out"]] == [False, True, True, False]
    assert results_of(in_empty_folder / "out")["test"] == results_of(in_empty_folder / "whole")["test"]


def test_last_without_a_directory_finds_the_newest_run(cli: Cli, in_empty_folder: Path) -> None:
    cli("trainer.max_steps=3", *SMALL)
    cli("trainer.max_steps=5", *SMALL, "ckpt_path=last")
    (run_dir,) = (in_empty_folder / "runs" / "digits").iterdir()
    assert results_of(run_dir)["steps"] == 5


@pytest.mark.parametrize("variant", ["supervised", "ema_centroids", "decoupled"])
def test_evaluate_reproduces_the_figure(
    variant: str, cli: Cli, evaluate_cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli("run_dir=out", "trainer.max_steps=6", *VARIANTS[variant], "seed=3")
    results = results_of(in_empty_folder / "out")
    checkpoint = "out/checkpoints/step-0000006.ckpt"
    for split in ("test", "val"):
        accuracy = evaluate(checkpoint, split=split)
        assert accuracy == {name: results[split][name] for name in ("accuracy", "accuracy_ema")}
    capsys.readouterr()
    evaluate_cli(f"ckpt_path={checkpoint}")
    printed = capsys.readouterr().out
    assert f"{results['test']['accuracy_ema']:.4%}" in printed
    assert f"{results['test']['accuracy']:.4%}" in printed


def test_best_val_reports_the_best_evaluation(cli: Cli, in_empty_folder: Path) -> None:
    cli("run_dir=out", "trainer.max_steps=9", *SMALL, "checkpoint.selection=best_val", "algorithm.ema_decay=0.5")
    results = results_of(in_empty_folder / "out")
    with (in_empty_folder / "out" / "metrics.csv").open() as file:
        evaluations = [
            (float(r["val/accuracy_ema"]), int(r["step"])) for r in csv.DictReader(file) if r["val/accuracy_ema"]
        ]
    assert [step for _, step in evaluations] == [3, 6, 9]  # the last line is of the last step's weights
    best = max(accuracy for accuracy, _ in evaluations)
    assert results["val"]["accuracy_ema"] == best
    assert results["test"]["selection"].startswith("best val/accuracy_ema, step ")
    step = int(results["test"]["selection"].rpartition(" ")[2])
    assert {at: accuracy for accuracy, at in evaluations}[step] == best
    assert evaluate("out/checkpoints/best_val.ckpt")["accuracy_ema"] == results["test"]["accuracy_ema"]


def test_a_last_step_that_was_evaluated_has_one_line(cli: Cli, in_empty_folder: Path) -> None:
    cli("run_dir=out", "trainer.max_steps=6", *SMALL)
    results = results_of(in_empty_folder / "out")
    with (in_empty_folder / "out" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["val/accuracy"]]
    assert [int(row["step"]) for row in rows] == [3, 6]
    assert float(rows[-1]["val/accuracy_ema"]) == results["val"]["accuracy_ema"]


def test_same_seed_same_results_and_other_seeds_other_splits(cli: Cli, in_empty_folder: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        cli(f"run_dir={name}", f"seed={seed}", "trainer.max_steps=4", *SMALL)
    a, b, c = (results_of(in_empty_folder / name) for name in "abc")
    ignored = {"seconds"}
    assert {k: v for k, v in a.items() if k not in ignored} == {k: v for k, v in b.items() if k not in ignored}
    splits = [json.loads((in_empty_folder / name / "split.json").read_text())["labelled"] for name in "abc"]
    assert splits[0] == splits[1] != splits[2]
    assert a["test"] != c["test"]


def test_a_sweep_runs_every_job_in_a_directory_of_its_own(
    cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli("-m", "run_dir=sweep", "seed=0,1", "algorithm=fixmatch,layermatch", "trainer.max_steps=2", *SMALL)
    found = {
        (r["algorithm"], r["seed"]) for r in (results_of(in_empty_folder / "sweep" / str(job)) for job in range(4))
    }
    assert found == {("fixmatch", 0), ("fixmatch", 1), ("layermatch", 0), ("layermatch", 1)}
    assert "Sweep" in capsys.readouterr().out


def test_a_folder_without_test_images(cli: Cli, in_empty_folder: Path) -> None:
    stand_ins.write_folder(in_empty_folder / "pictures", layout="labeled", test_per_class=0)
    options = [setting for setting in SMALL if not setting.startswith(("data.num_val", "data.num_labels"))]
    network = ("model=wrn_small", "data.num_val=3", "data.val_from=labelled")
    cli("experiment=folder", "data.root=pictures", "run_dir=out", "trainer.max_steps=2", *options, *network)
    results = results_of(in_empty_folder / "out")
    assert results["test"] is None
    assert results["val"]["accuracy"] >= 0
    assert results["confusion"] is None
    assert not (in_empty_folder / "out" / "predictions.csv").exists()
    assert results["pseudo_labels"]["accuracy"] is None or results["pseudo_labels"]["accuracy"] >= 0


def test_loggers(cli: Cli, in_empty_folder: Path) -> None:
    cli("run_dir=board", "logger=tensorboard", "trainer.max_steps=2", *SMALL)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(in_empty_folder / "board" / "tensorboard"))
    events.Reload()
    assert {"loss/features", "loss/classifier", "pseudo_labels/mask_rate", "val/accuracy_ema"} <= set(
        events.Tags()["scalars"]
    )
    cli("run_dir=quiet", "logger=none", "trainer.max_steps=2", *SMALL)
    assert not (in_empty_folder / "quiet" / "metrics.csv").exists()
    assert results_of(in_empty_folder / "quiet")["test"] == results_of(in_empty_folder / "board")["test"]


def test_debug_fast_and_overfit(cli: Cli, in_empty_folder: Path) -> None:
    cli("debug=fast", "run_dir=fast")
    assert results_of(in_empty_folder / "fast")["steps"] == 2
    cli(
        "debug=overfit", "run_dir=overfit", "trainer.max_steps=60", "data.batch_size=8", "data.mu=1", "optimizer.lr=0.1"
    )
    with (in_empty_folder / "overfit" / "metrics.csv").open() as file:
        losses = [float(row["loss/supervised"]) for row in csv.DictReader(file) if row["loss/supervised"]]
    assert losses[-1] < 0.05 < losses[0]


def test_a_users_own_config_directory(cli: Cli, in_empty_folder: Path) -> None:
    mine = in_empty_folder / "mine" / "experiment"
    mine.mkdir(parents=True)
    (mine / "tiny.yaml").write_text(
        "# @package _global_\ndefaults:\n  - digits\nname: tiny\ndata:\n  num_labels: 20\ntrainer:\n  max_steps: 2\n"
    )
    cli("--config-dir", "mine", "experiment=tiny", "run_dir=out")
    results = results_of(in_empty_folder / "out")
    assert (results["experiment"], results["num_labels"], results["steps"]) == ("tiny", 20, 2)


def test_a_run_without_figures_has_everything_else(cli: Cli, in_empty_folder: Path) -> None:
    for name, more in (("out", ["figures=false"]), ("drawn", [])):
        cli(f"run_dir={name}", "trainer.max_steps=2", *more, *SMALL)
    found = {name: {path.name for path in (in_empty_folder / name).iterdir()} for name in ("out", "drawn")}
    assert found["drawn"] - found["out"] == {"figures"}
    assert results_of(in_empty_folder / "out")["test"] == results_of(in_empty_folder / "drawn")["test"]
    cli("run_dir=out", "trainer.max_steps=3", *SMALL, "ckpt_path=last")  # it goes on with them
    assert {"views.png", "curves.png"} <= {path.name for path in (in_empty_folder / "out" / "figures").iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("forward", ["joint", "shared"])
def test_a_compiled_run_goes_on_uncompiled(forward: str, cli: Cli, in_empty_folder: Path) -> None:
    options = (f"algorithm.forward={forward}", "schedule=constant", "trainer.precision=32-true", *SMALL)
    more = ("data.eval_batch_size=360", "algorithm.layer_gradients_every=2")
    cli("run_dir=out", "compile=true", "trainer.max_steps=3", *more, *options)
    cli("run_dir=plain", "trainer.max_steps=3", *more, *options)
    compiled, plain = results_of(in_empty_folder / "out"), results_of(in_empty_folder / "plain")
    assert compiled["loss"] == pytest.approx(plain["loss"], rel=1e-4)
    keys = read_checkpoint(in_empty_folder / "out/checkpoints/step-0000003.ckpt")["state_dict"]
    assert not [name for name in keys if "_orig_mod" in name]
    cli("run_dir=out", "trainer.max_steps=5", *options, "ckpt_path=last")
    assert results_of(in_empty_folder / "out")["steps"] == 5


@pytest.mark.slow
def test_wandb_goes_offline_with_one_line(in_empty_folder: Path) -> None:
    """In a process of its own: wandb keeps global state."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    environment |= {"HOME": str(in_empty_folder), "NETRC": str(in_empty_folder / "none"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "layermatch.run", "logger=wandb", "run_dir=out", "trainer.max_steps=3", *SMALL]
    done = processes.run(command, cwd=in_empty_folder, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line for line in done.stderr.splitlines() if line.startswith("W&B: no API key is configured")]
    assert "WARNING" not in done.stderr
    (run_file,) = (in_empty_folder / "out" / "wandb").glob("offline-run-*/run-*.wandb")
    content = run_file.read_bytes()
    for key in (
        b"loss/features",
        b"loss/classifier",
        b"pseudo_labels/mask_rate",
        b"val/accuracy_ema",
        b"test/accuracy_ema",
    ):
        assert key in content, key
    assert results_of(in_empty_folder / "out")["steps"] == 3


def test_a_method_without_pseudo_labels_says_nothing_of_them(cli: Cli, in_empty_folder: Path) -> None:
    cli("run_dir=out", "algorithm=mean_teacher", "trainer.max_steps=2", *SUPERVISED)
    assert results_of(in_empty_folder / "out")["pseudo_labels"] is None
    assert results_of(in_empty_folder / "out")["loss"]["consistency"] >= 0
    assert "pseudo-labels" not in (in_empty_folder / "out" / "run.log").read_text()
