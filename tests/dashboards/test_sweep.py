"""``conf/sweep/wandb.yaml``: its parameters are settings, and W&B's own commands accept it and run it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from tests.dashboards.commands import clean_environment
from tests.dashboards.servers import Server, environment_for

from layermatch.build import build_parts
from layermatch.cli import config_dir, plain
from layermatch.metrics import OBJECTIVE
from layermatch.runs.settings import flatten
from layermatch.settings import Settings

SWEEP = config_dir() / "sweep" / "wandb.yaml"


def definition() -> dict[str, Any]:
    return yaml.safe_load(SWEEP.read_text())


def test_every_parameter_is_a_setting_and_every_value_is_legal() -> None:
    sweep = definition()
    settings_given = [word for word in sweep["command"] if "=" in word and not word.startswith("run_dir")]
    for name, parameter in sweep["parameters"].items():
        for value in parameter["values"]:
            with initialize_config_dir(str(config_dir()), version_base="1.3"):
                settings = plain(compose("run", [*settings_given, "run_dir=run", f"{name}={value}"]))
            assert flatten(settings)[name] == value
            build_parts(Settings.parse(settings))


def test_the_search_is_one_that_wandb_knows() -> None:
    sweep = definition()
    assert sweep["method"] in {"grid", "random", "bayes"}
    assert sweep["metric"] == {"name": OBJECTIVE.name, "goal": "maximize"}
    assert all(set(parameter) == {"values"} for parameter in sweep["parameters"].values())


def wandb_command(*arguments: str, folder: Path, server: Server) -> str:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "wandb"), *arguments], cwd=folder, capture_output=True, text=True,
        env=clean_environment(folder) | environment_for(server.url), timeout=550, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout + done.stderr


@pytest.mark.slow
def test_wandb_sweep_and_wandb_agent_run_it(tmp_path: Path) -> None:
    """Both are the real commands; the server, which would search, gives one choice of parameters."""
    chosen = {name: parameter["values"][-1] for name, parameter in definition()["parameters"].items()}
    beats: list[dict[str, Any]] = []

    def search(_path: str, operation: str, variables: dict[str, Any]) -> tuple[int, Any] | None:
        if operation == "SweepWithRuns":
            sweep = {"id": "s", "name": "sweep1", "config": yaml.safe_dump(uploaded), "runs": {"edges": []}}
            return 200, {"data": {"project": {"sweep": sweep | {"controller": None}}}}
        if operation == "Heartbeat":
            beats.append(variables)
            run = {"type": "run", "run_id": "run1", "program": uploaded["program"]}
            run["args"] = {name: {"value": value} for name, value in chosen.items()}
            return 200, {"data": {"agentHeartbeat": {"commands": json.dumps([run] if len(beats) == 1 else [])}}}
        return None

    with Server(search) as server:
        wandb_command("sweep", "--project", "layermatch", str(SWEEP), folder=tmp_path, server=server)
        uploaded = yaml.safe_load(server.sent("UpsertSweep")[0]["config"])
        assert uploaded == definition()
        uploaded["command"].insert(-1, "trainer.max_steps=2")  # the shortest run, else as it is
        wandb_command("agent", "--count", "1", "me/layermatch/sweep1", folder=tmp_path, server=server)

    results = json.loads((tmp_path / "runs" / "sweep" / "run1" / "results.json").read_text())
    assert (results["seed"], results["steps"]) == (2, 2)
    settings = flatten(yaml.safe_load((tmp_path / "runs" / "sweep" / "run1" / "config.yaml").read_text()))
    assert {name: settings[name] for name in chosen} == chosen
    run = server.sent("UpsertBucket")[0]
    assert (run["name"], run["sweep"]) == ("run1", "sweep1")
    config = json.loads(run["config"])
    assert {name: config[name]["value"] for name in chosen} == chosen
    (objective,) = [row[OBJECTIVE.name] for row in server.history if OBJECTIVE.name in row]
    assert objective == pytest.approx(results["val"]["accuracy_ema"])
