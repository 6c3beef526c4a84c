"""benchmarks/forwards.py: its cells are runs that exist, finished ones are left alone, its table compares by seed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchmarks import forwards
from hydra import compose, initialize_config_dir

from layermatch.build import build_parts
from layermatch.cli import config_dir, plain
from layermatch.methods import PseudoLabelling
from layermatch.settings import Settings
from layermatch.training import SemiSupervisedModule

TINY = ("trainer.max_steps=20", "data.batch_size=4", "data.mu=1", "trainer.log_every=10")


def test_every_seed_has_every_setting() -> None:
    cells = forwards.make_cells(seeds=range(2), num_labels=(10, 40))
    assert len(cells) == len(set(cells)) == 2 * 2 * (1 + 2 * 3)
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)
    assert {(cell.algorithm, cell.forward) for cell in cells} == {
        ("supervised", None),
        *((algorithm, forward) for algorithm in ("fixmatch", "layermatch") for forward in ("split", "shared", "joint")),
    }


def test_a_cell_is_a_run_and_is_run_once(tmp_path: Path) -> None:
    path = tmp_path / "forwards.json"
    cell = forwards.Cell("layermatch", "shared", 10, 3)
    (run,) = forwards.sweep([cell], path, more=TINY)
    assert forwards.cell_of(run) == cell
    assert 0 < run["accuracy"] < 1
    assert run["curve"].keys() == {"step", *forwards.CURVE}
    assert all(len(values) == len(run["curve"]["step"]) for values in run["curve"].values())
    before = path.stat().st_mtime_ns
    assert forwards.sweep([cell], path, more=TINY) == [run]
    assert path.stat().st_mtime_ns == before
    with pytest.raises(SystemExit, match="give another --out"):
        forwards.sweep([cell], path)


def test_processes_give_what_one_gives(tmp_path: Path) -> None:
    cells = forwards.make_cells(seeds=[0], num_labels=[10], algorithms=["fixmatch"], forwards=["joint"])
    found = [
        {forwards.cell_of(run): run["accuracy"] for run in forwards.sweep(cells, path, jobs=jobs, more=TINY)}
        for jobs, path in enumerate((tmp_path / "one.json", tmp_path / "two.json"), start=1)
    ]
    assert found[0] == found[1]
    assert len(found[0]) == 2


def made_algorithm(forward: str) -> SemiSupervisedModule:
    """An algorithm as a cell has it."""
    cell = forwards.Cell("layermatch", forward, 10, 0)
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        settings = plain(compose("run", overrides=["run_dir=unused", *forwards.overrides(cell)]))
    algorithm = build_parts(Settings.parse(settings)).algorithm
    assert isinstance(algorithm.method, PseudoLabelling)
    return algorithm.train()


@pytest.mark.parametrize(
    ("forward", "moves_averages", "by_averages"),
    [("split", True, False), ("split, weak not averaged", False, False), ("weak by the averages", False, True)],
)
def test_each_trial_changes_one_statistic(forward: str, *, moves_averages: bool, by_averages: bool) -> None:
    algorithm = made_algorithm(forward)
    weak = torch.rand(8, 1, 8, 8)
    network = algorithm.network
    before = {name: buffer.clone() for name, buffer in network.named_buffers() if name.endswith("running_mean")}
    with torch.no_grad():
        expected = network.eval()(weak).logits
    network.train()
    found = algorithm.method.send_weak(weak, network).logits
    assert network.training
    assert bool(torch.equal(found, expected)) == by_averages
    after = {name: buffer for name, buffer in network.named_buffers() if name.endswith("running_mean")}
    assert all(torch.equal(before[name], after[name]) != moves_averages for name in before)
    with torch.no_grad():  # momenta are what they were: an ordinary pass moves the averages
        network(weak)
    assert all(not torch.equal(before[name], after[name]) for name in before)


def made_runs(accuracies: dict[str, tuple[float, ...]]) -> list[forwards.Run]:
    """Runs with these accuracies."""
    curve = {"step": [50, 100], "mask_rate": [0.1, 0.2], "accuracy": [0.5, 0.6], "accuracy_accepted": [None, 0.9]}
    return [
        {"algorithm": "layermatch", "forward": forward, "num_labels": 10, "seed": seed, "accuracy": value}
        | {"curve": curve}
        for forward, values in accuracies.items()
        for seed, value in enumerate(values)
    ]


def test_the_table_compares_by_seed() -> None:
    runs = made_runs({"split": (0.7, 0.7, 0.71), "joint": (0.8, 0.9, 0.7)})
    lines = forwards.table(runs).splitlines()
    assert lines[2] == "| 10 | layermatch | joint | 80.0 ± 10.0 |  |  | 80.0 90.0 70.0 |"
    # Differences -10, -20, 1: mean -9.67, standard error 6.06, t(2) = 4.303.
    assert lines[3] == "| 10 | layermatch | split | 70.3 ± 0.6 | -9.7 [-35.8, +16.4] | 1 of 3 | 70.0 70.0 71.0 |"


def test_the_figure_has_a_curve_for_each_forward() -> None:
    figure = forwards.draw(made_runs({"split": (0.7, 0.7), "joint": (0.8, 0.9)}))
    right, counting = figure.axes
    assert [line.get_label() for line in right.lines] == ["joint (2 seeds)", "split (2 seeds)"]
    assert counting.lines[0].get_ydata().tolist() == [10.0, 20.0]
    assert right.lines[0].get_ydata().tolist() == [None, 90.0]  # no label counted at first


@pytest.mark.parametrize("arguments", [["--seeds", "many"], ["--forwards", "no such"], ["--out"]])
def test_wrong_arguments_end_with_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        forwards.main(arguments)
