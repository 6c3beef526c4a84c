"""What W&B is given, read back from the files of real offline runs; and real online runs with a server of our own."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests import processes
from tests.dashboards.commands import SMALL, clean_environment, do_runs
from tests.dashboards.offline_file import WandbFile, wandb_files
from tests.dashboards.servers import Server, environment_for

from layermatch import loggers
from layermatch.checkpoints import CHECKPOINT_KEY, read_checkpoint
from layermatch.dashboards import RUN_ID, WandbDashboard, run_group
from layermatch.errors import UserError
from layermatch.runs.settings import flatten

OFFLINE = ("logger=wandb", "logger.offline=true", *SMALL)


def rows_of(run_dir: Path) -> list[dict[str, float]]:
    with (run_dir / "metrics.csv").open() as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two seeds; the first is resumed; a branch goes off from the second."""
    folder = tmp_path_factory.mktemp("wandb")
    best = ("checkpoint.selection=best_val", "logger.log_checkpoint=best", "logger.tags=[mine]", "optimizer.lr=0.05")
    do_runs(
        ("-m", "run_dir=sweep", "seed=0,1", "trainer.max_steps=6", *best, *OFFLINE),
        ("run_dir=sweep/0", "ckpt_path=last", "trainer.max_steps=9", *best, *OFFLINE),
        ("run_dir=branch", "ckpt_path=sweep/1/checkpoints/step-0000006.ckpt", "seed=1", "trainer.max_steps=9",
         *OFFLINE),
        ("run_dir=plain", "algorithm=supervised", "trainer.max_steps=2", "logger.log_checkpoint=last",
         *(setting for setting in OFFLINE if not setting.startswith("pseudo_labels"))),
        folder=folder, pictures=True,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def second(folder: Path) -> WandbFile:
    (read,) = wandb_files(folder / "sweep" / "1")
    return read


pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("wandb_run")]


def test_every_job_of_a_sweep_is_a_run_that_ended(folder: Path, second: WandbFile) -> None:
    first = wandb_files(folder / "sweep" / "0")[0]
    assert first.run_id != second.run_id
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert not list(folder.glob("wandb"))
    assert not list(folder.glob(".local/**/staging/*"))  # what is still to be sent is in the run directory as well


def test_seeds_of_a_setting_are_grouped(folder: Path, second: WandbFile) -> None:
    first = wandb_files(folder / "sweep" / "0")[0]
    assert first.group == second.group
    settings = yaml.safe_load((folder / "sweep" / "1" / "config.yaml").read_text())
    assert first.group == run_group(settings)
    assert first.group.startswith("layermatch Digits ")
    assert first.job_type == second.job_type == "layermatch"
    assert first.name.startswith("layermatch ")
    assert (first.name[-7:], second.name[-7:]) == (" seed=0", " seed=1")
    assert second.tags == ["digits", "layermatch", "sweep sweep", "mine"]
    (plain,) = wandb_files(folder / "plain")
    assert plain.group != first.group
    assert plain.job_type == "supervised"


def test_the_whole_configuration_is_there(folder: Path, second: WandbFile) -> None:
    settings = flatten(yaml.safe_load((folder / "sweep" / "1" / "config.yaml").read_text()))
    assert settings["optimizer.lr"] == 0.05
    assert {name: second.config[name] for name in settings} == settings
    assert set(second.config) - set(settings) == {"_wandb"}


def test_every_number_of_metrics_csv_is_there_at_its_step(folder: Path, second: WandbFile) -> None:
    rows = rows_of(folder / "sweep" / "1")
    assert {"loss/features", "val/accuracy_ema", "test/accuracy_ema", "pseudo_labels/mask_rate"} <= set().union(*rows)
    by_step: dict[float, dict[str, Any]] = {}
    for row in second.history:
        assert row["_step"] == row["trainer/global_step"]
        by_step.setdefault(row["_step"], {}).update(row)
    numbers: dict[tuple[float, str], float] = {}
    for row in rows:  # a step's first: the chosen weights are evaluated at the end, after those of the last step
        numbers = {(row["step"], name): value for name, value in row.items() if name != "step"} | numbers
    assert len(numbers) > 30
    for (step, name), value in numbers.items():
        assert by_step[step][name] == pytest.approx(value, rel=1e-6), (step, name)


def test_the_summary_says_which_value_it_holds(folder: Path, second: WandbFile) -> None:
    results = json.loads((folder / "sweep" / "1" / "results.json").read_text())
    rows = rows_of(folder / "sweep" / "1")
    during = [row["val/accuracy_ema"] for row in rows if "val/accuracy_ema" in row]
    losses = [row["loss/features"] for row in rows if "loss/features" in row]
    summary = second.summary
    assert summary["test/selection"] == results["test"]["selection"]
    assert summary["test/selection"].startswith("best val/accuracy_ema")
    assert summary["test/accuracy_ema"] == pytest.approx(results["test"]["accuracy_ema"])
    assert summary["val/accuracy_ema"]["max"] == pytest.approx(max(during))
    assert summary["val/median_accuracy_ema"] == pytest.approx(results["val"]["median_accuracy_ema"])
    assert summary["loss/features"]["min"] == pytest.approx(min(losses))
    assert summary["objective"] == pytest.approx(results["val"]["accuracy_ema"])
    assert summary["num_labels"] == 10
    numbers = {name for row in rows for name in row} - {"step"}
    axes = {name: metric.step_metric for name, metric in second.metrics.items()}
    assert {axes[name] for name in numbers} == {"trainer/global_step"}


def test_every_picture_is_there(folder: Path, second: WandbFile) -> None:
    figures = {f"figures/{path.stem}" for path in (folder / "sweep" / "1" / "figures").glob("*.png")}
    assert {"figures/views", "figures/curves", "figures/confusion"} <= figures
    pictures = [(name, row[name], row["_step"]) for row in second.history for name in row if is_picture(row[name])]
    assert {name for name, _, _ in pictures} == figures | {"panels/pseudo_labels", "figures/per_class"}
    assert [step for name, _, step in pictures if name.startswith("panels/")] == [3, 6]
    for name, picture, _ in pictures:
        content = (second.folder / "files" / picture["path"]).read_bytes()
        assert content.startswith(b"\x89PNG"), name
        assert hashlib.sha256(content).hexdigest() == picture["sha256"]
        assert picture["path"] in second.files


def is_picture(value: object) -> bool:
    return isinstance(value, dict) and value.get("_type") == "image-file"


def test_confusion_matrix_and_class_accuracies(second: WandbFile) -> None:
    def table(name: str) -> list[list[Any]]:
        (path,) = (second.folder / "files" / "media" / "table" / "test").glob(f"{name}_table_*.table.json")
        return json.loads(path.read_text())["data"]

    counts = {(truth, predicted): count for truth, predicted, count in table("confusion")}
    assert len(counts) == 100
    assert sum(counts.values()) == 360
    right = sum(counts[str(digit), str(digit)] for digit in range(10))
    assert right / 360 == pytest.approx(second.summary["test/accuracy_ema"], abs=1e-6)
    for name, accuracy in table("per_class"):
        total = sum(counts[name, str(digit)] for digit in range(10))
        assert accuracy == pytest.approx(counts[name, name] / total)
    charts = second.config["_wandb"]["visualize"]
    assert charts["test/confusion"]["panel_config"]["panelDefId"] == "wandb/confusion_matrix/v1"
    assert charts["test/per_class"]["panel_config"]["panelDefId"] == "wandb/bar/v0"


def test_a_checkpoint_is_an_artifact_on_request(folder: Path, second: WandbFile) -> None:
    for read, alias, name in (
        (second, "best", "best_val.ckpt"),
        (*wandb_files(folder / "plain"), "last", "step-0000002.ckpt"),
    ):
        (artifact,) = [artifact for artifact in read.artifacts if artifact.type == "model"]
        assert alias in artifact.aliases
        (content,) = artifact.manifest.contents
        path = read.folder.parent.parent / "checkpoints" / name
        assert Path(content.local_path) == path  # not a copy
        assert path.stat().st_size == content.size
    (branch,) = wandb_files(folder / "branch")
    assert not [artifact for artifact in branch.artifacts if artifact.type == "model"]


def test_a_resumed_run_goes_on_with_the_same_run(folder: Path) -> None:
    first, resumed = wandb_files(folder / "sweep" / "0")
    assert resumed.run_id == first.run_id
    for path in (folder / "sweep" / "0" / "checkpoints").glob("*.ckpt"):
        assert read_checkpoint(path)[CHECKPOINT_KEY][RUN_ID] == first.run_id
    assert {row["_step"] for row in first.history} == {2, 3, 4, 6}
    assert {row["_step"] for row in resumed.history} == {8, 9}  # one after the other, they are one curve
    assert resumed.exit_code == 0


def test_a_branch_is_a_run_of_its_own(folder: Path, second: WandbFile) -> None:
    (branch,) = wandb_files(folder / "branch")
    assert branch.run_id != second.run_id


def test_without_pseudo_labels_there_is_no_panel_of_them(folder: Path) -> None:
    (plain,) = wandb_files(folder / "plain")
    assert "figures/confusion" in plain.keys
    assert not [name for name in plain.keys if name.startswith("panels/")]


@pytest.mark.distributed
def test_one_run_for_all_processes(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "layermatch.run", "trainer=ddp_cpu", "run_dir=out", "trainer.max_steps=3", *OFFLINE
    ]  # fmt: skip
    done = processes.run(command, cwd=tmp_path, env=clean_environment(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    (read,) = wandb_files(tmp_path / "out")
    assert read.exit_code == 0
    assert read.config["trainer.devices"] == 2
    assert "panels/pseudo_labels" in read.keys
    assert [path.name for path in tmp_path.glob("**/run-*.wandb") if "latest" not in str(path)] == [
        f"run-{read.run_id}.wandb"
    ]


def test_online_everything_arrives_and_a_resumed_run_is_the_same(tmp_path: Path) -> None:
    with Server() as server:
        online = ("run_dir=out", "logger=wandb", "logger.offline=false", *SMALL)
        _, errors = do_runs(
            ("trainer.max_steps=3", *online), ("trainer.max_steps=5", "ckpt_path=last", *online),
            folder=tmp_path, environment=environment_for(server.url),
        )  # fmt: skip
    assert "W&B:" not in errors
    asked = server.sent("RunResumeStatus")
    assert len(asked) == 2
    assert asked[0]["name"] == asked[1]["name"]
    started = server.sent("UpsertBucket")[0]
    assert started["groupName"].startswith("layermatch Digits ")
    assert (started["jobType"], started["tags"]) == ("layermatch", ["digits", "layermatch"])
    assert {row["_step"] for row in server.history} == {2, 3, 4, 5}
    assert {"loss/features", "val/accuracy_ema", "test/accuracy_ema"} <= {key for row in server.history for key in row}
    assert [name for name in server.files if name.startswith("media/images/panels/pseudo_labels_3_")]


def test_what_wandb_refuses_is_said_once_and_a_failed_run_is_marked(tmp_path: Path) -> None:
    """As any Lightning logger, without settings."""
    script = """if True:
        import pathlib
        import numpy as np
        from layermatch.dashboards import WandbDashboard
        dashboard = WandbDashboard(pathlib.Path("out"), project="layermatch", tags=["mine"], offline=True)
        for step in range(3):
            dashboard.show_picture("no picture", np.zeros((2, 2, 2, 2, 2), np.uint8), step=step)
            dashboard.log_metrics({"x": step / 2}, step=step)
        dashboard.close(failed=True)
        dashboard.log_metrics({"x": 3}, step=3)
        assert dashboard.experiment.anything_at_all is not None
    """
    done = processes.run([sys.executable, "-c", script], cwd=tmp_path, env=clean_environment(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("W&B:")]
    assert "something was not logged" in line
    (read,) = wandb_files(tmp_path / "out")
    assert [(row["_step"], row["x"]) for row in read.history] == [(0, 0), (1, 0.5), (2, 1)]
    assert (read.exit_code, read.tags) == (1, ["mine"])


KILLED_AT_ONCE = """
import pathlib
import psutil
from layermatch.dashboards import WandbDashboard
dashboard = WandbDashboard(pathlib.Path("out"), project="layermatch", offline=True)
dashboard.log_metrics({"x": 0}, step=0)
(core,) = [child for child in psutil.Process().children(recursive=True) if child.name() == "wandb-core"]
core.kill()
core.wait()
for step in range(1, 4):
    dashboard.log_metrics({"x": step}, step=step)
dashboard.close(failed=False)
"""


def test_wandb_that_is_killed_before_it_wrote_leaves_nothing_that_sync_stops_at(tmp_path: Path) -> None:
    done = processes.run([sys.executable, "-c", KILLED_AT_ONCE], cwd=tmp_path, env=clean_environment(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("W&B:")]
    assert "the run goes on offline" in line
    (read,) = wandb_files(tmp_path / "out")
    assert [row["x"] for row in read.history][-1] == 3
    assert read.exit_code == 0


#: As a class may be called, and its curve where W&B has another name for it.
STAR = "\N{ASTERISK OPERATOR}"
ODD_NAMES = {
    "a*b": f"a{STAR}b", "a*": f"a{STAR}", "*": STAR, "a\nb": "a\N{REPLACEMENT CHARACTER}b",
    **{name: name for name in ("a.b", "a\\b", "$x_$", "[b]", "猫", "🐈", "a b", "_a", "", 'a"b', "x" * 200)},
}  # fmt: skip


def test_curves_of_classes_with_odd_names_arrive(tmp_path: Path) -> None:
    script = f"""if True:
        import pathlib
        from layermatch.dashboards import WandbDashboard
        names = {list(ODD_NAMES)!r}
        dashboard = WandbDashboard(pathlib.Path("out"), project="layermatch", offline=True)
        for step in range(3):
            dashboard.log_metrics({{"loss/x": step, **{{"counts/" + name: step for name in names}}}}, step=step)
        confusion = [[int(row == column) for column in names] for row in names]
        dashboard.show_results({{"steps": 2, "classes": names, "confusion": confusion}})
        dashboard.close(failed=False)
    """
    done = processes.run([sys.executable, "-c", script], cwd=tmp_path, env=clean_environment(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "W&B:" not in done.stderr
    (read,) = wandb_files(tmp_path / "out")
    curves = {"loss/x", *(f"counts/{name}" for name in ODD_NAMES.values())}
    for row in read.history[:3]:
        assert {name: row.get(name) for name in curves} == dict.fromkeys(curves, row["_step"])
    (path,) = (read.folder / "files" / "media" / "table" / "test").glob("per_class_table_*.table.json")
    assert [name for name, _ in json.loads(path.read_text())["data"]] == list(ODD_NAMES)


# ------------------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("project", ""), ("project", 3), ("entity", ""), ("group", 3), ("tags", "poison"), ("tags", [3]),
        ("offline", "poison"), ("log_checkpoint", "poison"), ("log_checkpoint", True), ("timeout", "poison"),
        ("timeout", 0), ("timeout", True),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(name: str, value: Any, tmp_path: Path) -> None:
    given = {"offline": True, name: value}
    with pytest.raises(UserError, match=rf"^{name}=.*is not legal"):
        loggers.wandb(run_dir=tmp_path, first_step=0, **given)


def test_settings_arrive(tmp_path: Path) -> None:
    given = {"project": "p", "entity": "e", "group": "g", "tags": ["t"], "timeout": 7}
    *_, dashboard = loggers.wandb(run_dir=tmp_path, first_step=0, offline="true", log_checkpoint="last", **given)
    assert isinstance(dashboard, WandbDashboard)
    arguments = dashboard._arguments()
    assert {name: arguments[name] for name in ("project", "entity", "group", "tags")} == {
        name: given[name] for name in ("project", "entity", "group", "tags")
    }
    assert (arguments["settings"].init_timeout, arguments["settings"].finish_timeout) == (7, 7)
    assert dashboard.log_checkpoint == "last"
    assert dashboard.goes_offline


def test_the_best_checkpoint_needs_one_that_is_chosen(tmp_path: Path) -> None:
    *_, dashboard = loggers.wandb(run_dir=tmp_path, first_step=0, offline=True, log_checkpoint="best")
    assert isinstance(dashboard, WandbDashboard)
    dashboard.check({"checkpoint": {"selection": "best_val"}})
    with pytest.raises(UserError, match=r"needs checkpoint\.selection=best_val"):
        dashboard.check({"checkpoint": {"selection": "last"}})


def test_online_without_a_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(UserError, match="offline=false needs an API key"):
        loggers.wandb(run_dir=tmp_path, first_step=0, offline=False)
