"""The clock divides the time that passes among its phases, and memory is that of the process."""

from __future__ import annotations

import csv
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.profilers import PassThroughProfiler, SimpleProfiler

from layermatch.callbacks import CostMonitor, FeatureClustering
from layermatch.callbacks.cost import PHASES, StepClock, process_memory
from layermatch.data import SemiSupervisedData
from layermatch.loggers import MetricsCsv
from layermatch.trainer import make_trainer
from layermatch.training import SemiSupervisedModule

Make = Callable[..., Any]

DELAY = 0.2  # far above what a busy machine adds


def rows_of(folder: Path) -> list[dict[str, float]]:
    with (folder / "metrics.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    return [row for row in rows if "lr" in row]


class SlowNetwork(SemiSupervisedModule):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        time.sleep(DELAY)
        super().training_step(batch, batch_idx)


class SlowSteps:
    def __init__(self, steps: Any) -> None:
        self.steps = steps

    def __getitem__(self, step: int) -> Any:
        time.sleep(DELAY)
        return self.steps[step]


class SlowCallback(Callback):
    def on_train_batch_end(self, *args: Any) -> None:
        time.sleep(DELAY)


def slow_data(make_data: Make, monkeypatch: pytest.MonkeyPatch, phase: str) -> SemiSupervisedData:
    data = make_data()
    if phase == "data":
        training_steps = data.training_steps
        monkeypatch.setattr(data, "training_steps", lambda **options: SlowSteps(training_steps(**options)))
    if phase == "augment":
        make_views = data.make_views

        def slow(raw: Any) -> Any:
            time.sleep(DELAY)
            return make_views(raw)

        monkeypatch.setattr(data, "make_views", slow)
    return data


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_each_delay_is_in_its_phase(
    phase: str,
    accumulate: int,
    make_data: Make,
    make_algorithm: Make,
    train: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = slow_data(make_data, monkeypatch, phase)
    kind = SlowNetwork if phase == "network" else SemiSupervisedModule
    algorithm = make_algorithm(data, kind=kind, log_every=2, accumulate=accumulate)
    callbacks = [CostMonitor(), *([SlowCallback()] if phase == "other" else [])]
    train(algorithm, data, tmp_path, max_steps=6, callbacks=callbacks, loggers=[MetricsCsv(tmp_path)])
    rows = rows_of(tmp_path)
    assert len(rows) == 3
    for row in rows:
        times = {name: row[f"time/{name}"] for name in PHASES}
        assert times.pop(phase) >= accumulate * DELAY * 0.99
        times.pop("network", None)
        assert max(times.values()) < accumulate * DELAY  # in no other phase


def test_the_phases_add_up_to_the_time_that_passed(
    make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path
) -> None:
    moments: list[float] = []

    class Watch(SemiSupervisedModule):
        def _log_interval(self) -> None:
            moments.append(time.perf_counter())
            super()._log_interval()

    data = make_data()
    algorithm = make_algorithm(data, kind=Watch, log_every=5)
    # Evaluations are part of what passes: they are in `other`.
    callbacks = [CostMonitor(), FeatureClustering(eval_every=2)]
    train(algorithm, data, tmp_path, max_steps=15, eval_every=2, callbacks=callbacks, loggers=[MetricsCsv(tmp_path)])
    for row, start, end in zip(rows_of(tmp_path)[1:], moments, moments[1:], strict=False):
        total = sum(row[f"time/{name}"] for name in PHASES)
        # An interval of the clock ends where the step starts, one of the log where it has been made.
        assert 5 * total == pytest.approx(end - start, rel=0.3)
        assert row["time/other"] > 0
        assert row["time/network"] > row["time/data"]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux says it there")
def test_memory_is_what_the_system_says() -> None:
    resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
    assert process_memory() == pytest.approx(resident_pages * os.sysconf("SC_PAGE_SIZE"), rel=0.02)


def test_memory_of_the_process(make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path) -> None:
    before = process_memory()
    held = mmap.mmap(-1, 50 * 2**20)  # from the system, not from what the process has kept of freed memory
    held.write(b"1" * 50 * 2**20)
    assert process_memory() - before > 40 * 2**20
    data = make_data()
    train(make_algorithm(data, log_every=1), data, tmp_path, max_steps=1, callbacks=[CostMonitor()],
          loggers=[MetricsCsv(tmp_path)])  # fmt: skip
    (row,) = rows_of(tmp_path)
    assert row["memory/process"] * 2**30 == pytest.approx(process_memory(), rel=0.2)
    assert "memory/device" not in row
    assert "time/network" not in row  # no step has passed when the first line is written
    held.close()


def test_another_profiler_stays(make_data: Make, make_algorithm: Make, tmp_path: Path) -> None:
    data = make_data()
    algorithm = make_algorithm(data, log_every=1)
    trainer = make_trainer(
        accelerator="cpu", precision="32-true", max_steps=2, eval_every=10, accumulate=1, run_dir=tmp_path,
        callbacks=[CostMonitor()], loggers=[],
    )  # fmt: skip
    mine = trainer.profiler = SimpleProfiler()
    trainer.fit(algorithm, datamodule=data)
    assert trainer.profiler is mine
    assert not [name for name in algorithm.latest if name.startswith("time/")]


def test_the_clock_is_taken_away(make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path) -> None:
    data = make_data()
    trainer = train(make_algorithm(data), data, tmp_path, max_steps=1, callbacks=[CostMonitor()])
    assert isinstance(trainer.profiler, PassThroughProfiler)


def test_evaluation_batches_are_not_training_batches() -> None:
    clock = StepClock()
    clock.begin()
    with clock.profile("[_TrainingEpochLoop].train_dataloader_next"):
        pass
    with clock.profile("[Strategy]SingleDeviceStrategy.batch_to_device"):
        pass
    with clock.profile("[Strategy]SingleDeviceStrategy.training_step"):
        pass
    with clock.profile("[_EvaluationLoop].val_next"):
        pass
    with clock.profile("[Strategy]SingleDeviceStrategy.batch_to_device"):
        time.sleep(DELAY)
    with clock.profile("[_TrainingEpochLoop].train_dataloader_next"):
        pass
    seconds = clock.read_out()
    assert seconds["augment"] < DELAY <= seconds["other"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_a_phase_has_the_time_of_its_kernels() -> None:
    clock = StepClock(use_events=True)
    matrix = torch.randn(8192, 8192, device="cuda")
    clock.begin()
    for _ in range(3):
        with clock.profile("[Strategy]SingleDeviceStrategy.training_step"):
            for _ in range(20):
                matrix = (matrix @ matrix).clamp(-1, 1)  # launched at once, computed for long
        with clock.profile("[_TrainingEpochLoop].train_dataloader_next"):
            pass
    assert sum(clock.read_out().values()) >= 0  # does not wait
    torch.cuda.synchronize()
    seconds = clock.read_out()
    assert seconds["network"] > 100 * seconds["data"]
