"""Two processes with half the batch each compute what one process with the whole batch does."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import processes
from tests.conftest import digits_data
from tests.dashboards.offline_file import wandb_files
from tests.distributed.script import BY_THEIR_BATCH, RULES
from tests.faults.runs import finish, newest_name, newest_step, wait_for
from tests.faults.runs import start as run_start

from layermatch.data.steps import RawBatch, TrainingSteps

pytestmark = pytest.mark.distributed

SCRIPT = Path(__file__).parent / "script.py"
SMALL = (
    "data.batch_size=4", "data.mu=1", "data.num_val=49", "eval_every=2", "trainer.max_steps=3",
    "trainer.precision=32-true",
)  # fmt: skip


def start(*command: str, cwd: Path, ranks: int | None = None) -> subprocess.CompletedProcess[str]:
    return processes.run([sys.executable, *command], cwd=cwd, ranks=ranks)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every rule, trained by one process with 8 labelled images a step and by two with 4 each."""
    out = tmp_path_factory.mktemp("runs")
    for devices, batch_size in ((1, 8), (2, 4)):
        done = start(str(SCRIPT), str(devices), str(batch_size), str(out), cwd=out, ranks=devices)
        assert done.returncode == 0, done.stderr[-3000:]
    return out


TABLE = "two processes with half the batch each"
BATCHES = "batches of two processes are those of one"


@pytest.mark.xdist_group("ddp")
@pytest.mark.parametrize("rule", RULES)
def test_two_processes_are_one(rule: str, runs: Path, cell: Callable[..., None]) -> None:
    one, first, second = (torch.load(runs / f"{rule}-{name}.pt", weights_only=True) for name in ("1-0", "2-0", "2-1"))
    # Ranks hold the same to the bit; one process holds it up to the order of sums.
    for column, names in parts_of(one["state"]).items():
        if names:
            same = all(torch.equal(first["state"][name], second["state"][name]) for name in names)
            cell(TABLE, row=rule, column=f"{column}: ranks", equal=same)
            close = all(is_close(name, first["state"][name], one["state"][name], rule) for name in names)
            cell(TABLE, row=rule, column=f"{column}: as one process", equal=close)
    moved = one["state"]["network.classifier.weight"] - one["state"]["ema.network.classifier.weight"]
    assert moved.abs().max() > 1e-3  # something was learnt at all
    counted = first["confusion"].sum() == 360  # each test image once, though 2 x 500 would hold more
    cell(TABLE, row=rule, column="evaluation: each image once", equal=bool(counted))
    assert first["latest"] == second["latest"]
    assert first["latest"]["test/accuracy"] == pytest.approx(one["latest"]["test/accuracy"], abs=2 / 360)


@pytest.mark.xdist_group("ddp")
@pytest.mark.parametrize("forward", BY_THEIR_BATCH)
def test_ranks_hold_the_same_where_each_normalises_by_its_own_batch(forward: str, runs: Path) -> None:
    first, second = (torch.load(runs / f"by-their-batch-{forward}-{rank}.pt", weights_only=True) for rank in range(2))
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    moved = [value for name, value in first.items() if name.endswith("running_var") and "ema." not in name]
    assert moved
    assert all((value != 1).all() for value in moved)  # BatchNorm was in training


#: What is logged of a step or an evaluation, beside accuracies, and how far rounding may move it.
LOGGED = {
    "avg_clustering/": 0.002, "layers/": 0.02, "features/": 0.02, "centres/": 0.02, "pseudo_labels/entropy": 0.01,
    "pseudo_labels/per_class_counts/": 0.01, "pseudo_labels/thresholds/": 0.0, "pseudo_labels/mask_rate": 0.01,
}  # fmt: skip


@pytest.mark.xdist_group("ddp")
@pytest.mark.parametrize("rule", RULES)
def test_two_processes_log_what_one_does(rule: str, runs: Path) -> None:
    one, first, second = (torch.load(runs / f"{rule}-{name}.pt", weights_only=True) for name in ("1-0", "2-0", "2-1"))
    names = [name for name in one["latest"] if name.startswith(tuple(LOGGED))]
    groups = {"features", "centres", "pseudo_labels"} | ({"layers"} if rule != "unmeasured" else set())
    if rule != "unmeasured" and getattr(getattr(RULES[rule](), "avg_clustering", None), "weight", 0):
        groups.add("avg_clustering")
    assert {name.partition("/")[0] for name in names} == groups
    for name in names:
        tolerance = next(tolerance for start, tolerance in LOGGED.items() if name.startswith(start))
        value = one["latest"][name]
        assert first["latest"][name] == pytest.approx(value, rel=tolerance, abs=tolerance), name
        assert second["latest"][name] == pytest.approx(first["latest"][name], rel=1e-6), name
    for run in (one, first, second):  # 360 images: one rank has 180, in batches that are not as large
        assert run["predictions"]["indices"].tolist() == list(range(360))
        confusion = torch.zeros_like(run["confusion"])
        confusion.index_put_((run["predictions"]["label"], run["predictions"]["prediction"]), torch.tensor(1), True)
        assert torch.equal(confusion, run["confusion"])
    assert (one["predictions"]["prediction"] == first["predictions"]["prediction"]).sum() >= 358


@pytest.mark.xdist_group("ddp")
def test_to_measure_gradients_changes_no_bit_of_two_processes(runs: Path) -> None:
    for rank in range(2):
        measured, without = (
            torch.load(runs / f"{rule}-2-{rank}.pt", weights_only=True) for rule in ("layermatch", "unmeasured")
        )
        for name, value in without["state"].items():
            assert torch.equal(measured["state"][name], value), name


def parts_of(state: dict[str, torch.Tensor]) -> dict[str, list[str]]:
    """Names by what they are; after four steps equal weights mean equal gradients."""
    names = {
        "weights": [name for name in state if name.startswith("network.")],
        "EMA": [name for name in state if name.startswith("ema.")],
        "centres": [name for name in state if name.startswith("method.rule.")],
    }
    rest = [name for name in state if not name.startswith(("network.", "ema.", "method.rule."))]
    return names | {"policy and metrics": rest}


def is_close(name: str, value: torch.Tensor, expected: torch.Tensor, rule: str) -> bool:
    tolerance = 1e-2 if rule == "conflict" and "classifier" in name else 1e-4
    return torch.allclose(value.double(), expected.double(), rtol=1e-3, atol=tolerance)


def test_two_processes_share_the_batches_of_one(cell: Callable[..., None]) -> None:
    data = digits_data(batch_size=4)

    def batch(step: int, rank: int, world_size: int, batch_size: int) -> RawBatch:
        weak, strong = (data.kinds[kind].num_draws for kind in ("weak", "strong"))
        return TrainingSteps(
            data.labelled, data.unlabelled, batch_size=batch_size, mu=2, seed=0, rank=rank, world_size=world_size,
            draws=([weak], [weak, strong]),
        )[step]  # fmt: skip

    for part in ("labelled", "unlabelled"):
        for step in range(50):
            whole = getattr(batch(step, 0, 1, 8), part)
            halves = [getattr(batch(step, rank, 2, 4), part) for rank in (0, 1)]
            for column in ("indices", "label", "images"):
                together = torch.cat([getattr(half, column) for half in halves])
                equal = sorted(map(str, together.tolist())) == sorted(map(str, getattr(whole, column).tolist()))
                cell(BATCHES, row=part, column=column, equal=equal)
            draws = [torch.cat(pair) for pair in zip(*(half.draws for half in halves), strict=True)]
            equal = all(
                sorted(map(str, a.tolist())) == sorted(map(str, b.tolist()))
                for a, b in zip(draws, whole.draws, strict=True)
            )
            cell(BATCHES, row=part, column="augmentations", equal=equal)


def test_a_stop_signal_to_either_process(tmp_path: Path, fault: Callable[..., None]) -> None:
    options = ("trainer=ddp_cpu", "run_dir=out", *SMALL, "checkpoint.every_n_steps=2")
    for to_child, resume in ((False, ()), (True, ("ckpt_path=last",))):
        process = run_start(tmp_path, *options, "trainer.max_steps=100000", *resume)
        before = newest_step(tmp_path / "out")
        wait_for(lambda before=before: newest_name(tmp_path / "out") > before, process)
        child = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
        os.kill(child if to_child else process.pid, signal.SIGTERM)
        status, text = finish(process)
        assert status == 75, text
        assert len(text.splitlines()) == 1, text
        assert text.startswith(f"stopped by {'a signal to another process' if to_child else 'SIGTERM'} at step ")
    steps = newest_step(tmp_path / "out") + 2
    # The same images a step in one process: the number of processes may change.
    alone = ("run_dir=out", *SMALL, f"trainer.max_steps={steps}", "ckpt_path=last")
    refused = start("-m", "layermatch.run", *alone, cwd=tmp_path)
    assert refused.returncode == 2
    assert "is of a run with 1 x 8 labelled images a step" in refused.stderr
    assert "this one has 1 x 4 labelled images a step" in refused.stderr
    done = start("-m", "layermatch.run", *alone, "data.batch_size=8", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert results_of(tmp_path / "out")["steps"] == steps
    fault("SIGTERM to one of 2 processes (status 75), resumed by 1", tried=2, survived=2, lost="nothing")


def results_of(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "results.json").read_text())


def test_two_processes_from_the_configuration_alone(tmp_path: Path) -> None:
    done = start("-m", "layermatch.run", "trainer=ddp_cpu", "run_dir=out", *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "8 labelled + 8 unlabelled (2 devices x 1 accumulated)" in done.stdout
    assert done.stdout.count("run directory: out") == 1  # only one rank speaks
    assert results_of(tmp_path / "out")["steps"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["out"]

    # The figure is reproduced by one process, and the run goes on with two.
    checkpoint = "ckpt_path=out/checkpoints/step-0000003.ckpt"
    evaluated = start("-m", "layermatch.evaluate", checkpoint, cwd=tmp_path)
    assert f"{results_of(tmp_path / 'out')['test']['accuracy_ema']:.4%}" in evaluated.stdout, evaluated.stderr[-3000:]
    more = start(
        "-m",
        "layermatch.run",
        "trainer=ddp_cpu",
        "run_dir=out",
        *SMALL,
        "trainer.max_steps=5",
        "ckpt_path=last",
        cwd=tmp_path,
    )
    assert more.returncode == 0, more.stderr[-3000:]
    assert results_of(tmp_path / "out")["steps"] == 5


def test_two_processes_go_on_in_the_middle_of_an_interval(tmp_path: Path) -> None:
    options = ("trainer=ddp_cpu", *SMALL, "trainer.max_steps=4", "trainer.log_every=4", "checkpoint.every_n_steps=1")
    saved = ("ckpt_path=whole/checkpoints/step-0000003.ckpt",)
    lines = []
    for name, resume in (("whole", ()), ("rest", saved)):
        done = start("-m", "layermatch.run", f"run_dir={name}", *options, *resume, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
        with (tmp_path / name / "metrics.csv").open() as file:
            (line,) = (row for row in csv.DictReader(file) if row["loss/features"])
        # Not what belongs to the machine.
        lines.append({k: v for k, v in line.items() if v and not k.startswith(("time/", "memory/"))})
    assert lines[0]["step"] == "4"
    assert lines[0] == lines[1]  # to the bit: the steps before the checkpoint are those of both processes


@pytest.mark.slow
def test_a_network_that_teaches_does_so_by_the_statistics_that_are_saved(tmp_path: Path) -> None:
    """Each process has BatchNorm statistics of its own images; a resume and an evaluation have those of the first."""
    usual = ("trainer=ddp_cpu", *SMALL, "algorithm=mean_teacher", "trainer.max_steps=4", "checkpoint.every_n_steps=2")
    runs: dict[str, tuple[str, ...]] = {
        "whole": ("eval_every=1000",),
        "often": ("eval_every=1",),
        "rest": ("eval_every=1000", "ckpt_path=whole/checkpoints/step-0000002.ckpt"),
    }
    states = {}
    for name, words in runs.items():
        done = start("-m", "layermatch.run", f"run_dir={name}", *usual, *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
        last = tmp_path / name / "checkpoints" / "step-0000004.ckpt"
        states[name] = torch.load(last, weights_only=True)["state_dict"]
    for name in ("often", "rest"):
        assert states["whole"].keys() == states[name].keys()
        assert [key for key, value in states["whole"].items() if not torch.equal(value, states[name][key])] == []


def test_a_sweep_of_two_process_jobs_does_not_hang(tmp_path: Path) -> None:
    options = ("seed=0,1", "trainer=ddp_cpu", "run_dir=sweep (1)", "logger=wandb", "logger.offline=true", *SMALL)
    # Started anew, as users do: W&B's own process does not come to its end in a fork that has a fork for each job.
    command = [sys.executable, "-m", "layermatch.run", "-m", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, timeout=550, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert [results_of(tmp_path / "sweep (1)" / str(job))["seed"] for job in range(2)] == [0, 1]
    first, second = (shown for job in range(2) for shown in wandb_files(tmp_path / "sweep (1)" / str(job)))
    assert first.tags == second.tags == ["digits", "layermatch", "sweep sweep (1)"]  # as if it had run in one process
    assert first.group == second.group


def test_a_mistake_ends_both_processes_with_one_line(tmp_path: Path) -> None:
    done = start("-m", "layermatch.run", "trainer=ddp_cpu", "data.num_labels=45", cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
