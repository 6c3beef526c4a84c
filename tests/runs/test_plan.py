"""The plan of a run is read as it was written."""

from __future__ import annotations

from pathlib import Path

import pytest

from layermatch.runs.layout import PLAN
from layermatch.runs.plan import read_plan, write_plan


def test_any_text_comes_back_and_the_last_plan_counts(tmp_path: Path) -> None:
    rows = {"steps": "20, │ an │ end", "kept": "data.root=/日本/ä \N{EN DASH} a long text, " * 20, "empty": ""}
    write_plan(tmp_path, {"steps": "10", "of the run before": "yes"})
    write_plan(tmp_path, rows)
    assert read_plan(tmp_path / PLAN) == rows
    assert list(read_plan(tmp_path / PLAN)) == list(rows)
    assert (tmp_path / PLAN).read_bytes().isascii()
    assert [path.name for path in tmp_path.iterdir()] == [PLAN]


def test_what_means_something_to_a_terminal_does_not_reach_it(tmp_path: Path) -> None:
    write_plan(tmp_path, {"a\x1b[2J": "b\udcff\nc"})
    assert read_plan(tmp_path / PLAN) == {"a\ufffd[2J": "b\ufffd\ufffdc"}


@pytest.mark.parametrize("content", ["", "[]", '{"steps": 3}', "{"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / PLAN).write_text(content)
    with pytest.raises(ValueError, match=r"plan|Expecting"):
        read_plan(tmp_path / PLAN)
