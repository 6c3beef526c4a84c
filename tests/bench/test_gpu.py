"""What benchmarks/gpu.sh leaves: put together, told, and made a table; and what the script refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.bench.test_accuracy import a_run, content_of

from layermatch.bench import collect, tables
from layermatch.bench.accuracy import ACCURACY_FORMAT
from layermatch.bench.report import FORMAT
from layermatch.errors import UserError

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.sh"
CARD = {"gpu": "a card"}


def bench_result(network: str, whole: float) -> dict[str, Any]:
    share = f"{network} share outside the network, joint"
    figures = [
        {"name": share, "unit": "%", "value": 4.5, "target": "<= 5", "measured": [4.5]},
        {"name": f"{network} whole step, joint", "unit": "ms", "value": whole, "measured": [whole]},
        {"name": f"{network} memory: whole step, joint", "unit": "MiB", "value": 2048.0, "measured": [2048.0]},
    ]
    return {
        "format": FORMAT, "machine": CARD, "sections": {"step": {"settings": {}, "ratios": [], "figures": figures}},
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "parts.tsv").write_text(
        "tests\t0\t7\t90\nstep-32\t0\t60\t110\nstep-96\t124\t150\t150\naccuracy\t3\t2\t9\n"
    )
    (tmp_path / "step-32.json").write_text(json.dumps(bench_result("WRN-28-2", 31.5)))
    (tmp_path / "step-96.json").write_text(json.dumps(bench_result("WRN-37-2", 155.0)))
    (tmp_path / "accuracy.json").write_text(json.dumps({"format": ACCURACY_FORMAT, "runs": {}}))
    (tmp_path / "policies.json").write_text('{"format": "layermatch ben')  # ended while it wrote
    return tmp_path


def test_all_parts_are_put_together_and_what_failed_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        collect.main([str(folder)])
    assert stopped.value.code == 1
    shown = capsys.readouterr().out
    assert "failed: step-96, accuracy; see" in shown
    result = json.loads((folder / "gpu.json").read_text())
    assert [part["outcome"] for part in result["parts"]] == [
        "passed", "passed", "time was up after 150 s", "failed with status 3"
    ]  # fmt: skip
    assert len(result["sections"]["step"]["figures"]) == 6
    assert result["machine"] == CARD
    assert result["accuracy"]["runs"] == {}


def test_its_table_has_both_networks(folder: Path) -> None:
    page = folder / "page.md"
    page.write_text("<!-- The table of GPU begins. -->\nNot yet.\n<!-- The table of GPU ends. -->\nmore\n")
    (folder / "parts.tsv").write_text("tests\t0\t7\t90\n")
    collect.main([str(folder)])
    tables.main([str(folder / "gpu.json"), "--page", str(page)])
    text = page.read_text()
    assert "| whole step, `joint` (ms) | 31.50 | 155.00 | - |\n" in text
    assert "| share of the step outside the network, `joint` (%) | 4.50 | 4.50 | <= 5 |\n" in text
    assert "| peak memory, whole step, `joint` (MiB) | 2,048.00 | 2,048.00 | - |\n" in text
    assert "| whole step / pure compute, `joint` |  |  | - |\n" in text  # not measured: no figure
    assert text.endswith("Measured on a card.\n<!-- The table of GPU ends. -->\nmore\n")
    assert "Not yet" not in text


def ratios_result(subject: str, ratios: dict[str, float], target: str = "") -> dict[str, Any]:
    named = [{"name": name, "value": value, "target": target} for name, value in ratios.items()]
    section = {"settings": {}, "ratios": named, "figures": []}
    return {"format": FORMAT, "machine": CARD, "sections": {subject: section}}


def test_its_table_has_every_part_that_was_measured(folder: Path) -> None:
    policies = {f"pseudo_labels={number} / pure compute": number / 1000 for number in range(7)}
    (folder / "policies.json").write_text(json.dumps(ratios_result("policies", policies, "<= 0.02")))
    (folder / "data.json").write_text(json.dumps(ratios_result("data", {"reading a batch, ram / copying": 1.3})))
    runs = [a_run("fast fixmatch", 0, [0.55, 0.65]), a_run("fast layermatch", 0, [0.65, 0.75])]
    runs = [run | {"setting": "cifar10_jpeg", "labels": 250} for run in runs]
    (folder / "accuracy.json").write_text(json.dumps(content_of(*runs)))
    text = tables.gpu_table(collect.collected(folder))
    assert "| pseudo_labels=6 / pure compute | 0.006 | <= 0.02 |\n" in text
    assert "pseudo_labels=1 " not in text
    assert "Of 7 policies and states of methods, the dearest 5.\n" in text
    assert "| reading a batch, ram / copying | 1.3 | - |\n" in text
    for recipe, seconds in (("fast fixmatch", "20.0"), ("fast layermatch", "10.0")):
        assert f"| cifar10_jpeg | 250 | 60 % | {recipe} | {seconds} |" in text
    assert "| cifar10_jpeg | 250 | 80 % | fast layermatch | never |" in text


def test_the_script_measures_the_targets_that_its_table_has() -> None:
    assert f"--targets {' '.join(map(str, tables.GPU_TARGETS))} " in SCRIPT.read_text()


@pytest.mark.slow
def test_one_part_runs_on_any_machine(tmp_path: Path) -> None:
    out = tmp_path / "out"
    environment = os.environ | {"PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": "", "TIMES": "4"}
    command = ["bash", SCRIPT, "--short", "--only", "policies", str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((out / "gpu.json").read_text())
    assert [(part["name"], part["outcome"]) for part in result["parts"]] == [("policies", "passed")]
    assert result["machine"]["gpu"] is None
    assert all(ratio["value"] > 0 for ratio in result["sections"]["policies"]["ratios"])
    assert "| pseudo_labels=" in tables.gpu_table(result)


def test_a_folder_without_parts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no parts\.tsv"):
        collect.collected(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fast"], "--fast is unknown"),
        (["--images"], "--images needs a folder"),
        (["--images", "nowhere"], "there is no folder train in it"),
        (["--only"], "--only needs names"),
    ],
)
def test_the_script_refuses_a_mistake_before_anything(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", SCRIPT, str(tmp_path / "out"), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_part_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    """The interpreter is a script that notes what it is asked, and fails where it is to measure steps."""
    asked = tmp_path / "asked"
    interpreter = tmp_path / "python"
    interpreter.write_text(f'#!/bin/sh\necho "$*" >> {asked}\ncase "$*" in *bench\\ step*) exit 3;; esac\n')
    interpreter.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(interpreter)}
    out = tmp_path / "out"
    command = ["bash", SCRIPT, "--short", str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr  # of what puts them together, which this interpreter does not
    rows = [line.split("\t")[:2] for line in (out / "parts.tsv").read_text().splitlines()]
    assert rows == [
        ["tests", "0"], ["step", "3"], ["policies", "0"], ["augment", "0"], ["data", "0"], ["accuracy", "0"]
    ]  # fmt: skip
    assert asked.read_text().splitlines()[-1] == f"-m layermatch.bench.collect {out}"
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "holds results already" in again.stderr
