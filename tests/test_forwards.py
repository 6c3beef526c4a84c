"""benchmarks/forwards.py: its cells are runs that exist, finished ones are left alone, its table compares by seed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks import forwards

TINY = ("trainer.max_steps=2", "data.batch_size=10", "data.mu=1", "data.num_val=0", "checkpoint.every_n_steps=1")


def test_every_seed_has_every_setting() -> None:
    cells = forwards.make_cells(seeds=range(2), num_labels=(10, 40))
    assert len(cells) == len(set(cells)) == 2 * 2 * (1 + 2 * 3)
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)
    assert {cell.setting for cell in cells} == {
        "supervised", "fixmatch-split", "fixmatch-shared", "fixmatch-joint", "layermatch-split", "layermatch-shared",
        "layermatch-joint",
    }  # fmt: skip


def test_a_cell_is_a_run_and_is_run_once(tmp_path: Path) -> None:
    cell = forwards.Cell("layermatch", "shared", 10, 3)
    assert forwards.accuracy_of(cell, tmp_path) is None
    line = forwards.train(cell, tmp_path, TINY)
    path = cell.run_dir(tmp_path) / "results.json"
    results = json.loads(path.read_text())
    assert (results["algorithm"], results["seed"], results["num_labels"]) == ("layermatch", 3, 10)
    assert "forward: shared" in (cell.run_dir(tmp_path) / "config.yaml").read_text()
    assert line.endswith(f": {100 * results['test']['accuracy_ema']:.1f} %")
    before = path.stat().st_mtime_ns
    assert forwards.train(cell, tmp_path, TINY) == line
    assert path.stat().st_mtime_ns == before


def test_a_run_that_fails_is_named_and_counts_for_nothing(tmp_path: Path) -> None:
    cell = forwards.Cell("fixmatch", "joint", 10, 0)
    assert "status 2" in forwards.train(cell, tmp_path, ("trainer.max_steps=-1",))
    assert forwards.table([cell], tmp_path).count("\n") == 1  # the header alone


def test_the_table_compares_by_seed(tmp_path: Path) -> None:
    accuracies = {"joint": (0.8, 0.9, 0.7), "split": (0.7, 0.7, 0.71)}
    cells = []
    for forward, values in accuracies.items():
        for seed, value in enumerate(values):
            cell = forwards.Cell("layermatch", forward, 10, seed)
            cell.run_dir(tmp_path).mkdir(parents=True)
            results = {"status": "finished", "test": {"accuracy_ema": value}}
            (cell.run_dir(tmp_path) / "results.json").write_text(json.dumps(results))
            cells.append(cell)
    lines = forwards.table(cells, tmp_path).splitlines()
    assert lines[2] == "| 10 | `layermatch-joint` | 80.0 ± 10.0 |  |  | 80.0 90.0 70.0 |"
    # Differences -10, -20, 1: mean -9.67, standard error 6.06, t(2) = 4.303.
    assert lines[3] == "| 10 | `layermatch-split` | 70.3 ± 0.6 | -9.7 [-35.8, +16.4] | 1 of 3 | 70.0 70.0 71.0 |"


@pytest.mark.parametrize("arguments", [["--seeds", "many"], ["--out"]])
def test_wrong_arguments_end_with_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        forwards.main(arguments)
