"""The mean of the classes' accuracies in the table of results: there where it is another figure than the accuracy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.report.made_runs import make_run

from layermatch.report.groups import group_runs
from layermatch.report.runs import read_run
from layermatch.report.tables import result_table

COLUMN = "Test, EMA, classes"


@pytest.mark.parametrize(("of_seeds", "is_shown"), [((0.9, 0.9), False), ((0.9, 0.7), True), ((None, 0.5), True)])
def test_it_has_a_column_where_a_set_is_not_balanced(
    of_seeds: tuple[float | None, ...], is_shown: bool, tmp_path: Path
) -> None:
    runs = []
    for seed, macro in enumerate(of_seeds):
        path = make_run(tmp_path / str(seed), seed=seed, accuracy=0.9)
        results = json.loads((path / "results.json").read_text())
        if macro is not None:  # one from before there was such a figure has none
            results["test"]["macro_accuracy_ema"] = macro
        (path / "results.json").write_text(json.dumps(results))
        runs.append(read_run(path))
    table = result_table(group_runs(runs))
    assert (COLUMN in table.header) == is_shown
    if of_seeds[0] is not None and is_shown:
        assert table.rows[0][table.header.index(COLUMN)].startswith("80.0")
