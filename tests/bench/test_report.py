"""Figures, ratios, the table and the file."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from layermatch.bench.report import FORMAT, Figure, Ratio, Section, check_json_path, machine, show, write_json
from layermatch.bench.timing import Stopwatch, alternate, timed
from layermatch.console import Reporter
from layermatch.errors import UserError

CPU = torch.device("cpu")


def a_section() -> Section:
    theirs, ours = Figure.in_ms("theirs", [0.006, 0.5, 0.007]), Figure.in_ms("ours", [0.002])
    return Section("augment", {"images": 3}, [Ratio("times as fast", theirs, ours, ">= 3")], [theirs, ours])


def test_a_figure_is_the_median_and_a_ratio_the_quotient() -> None:
    ratio = a_section().ratios[0]
    assert ratio.numerator.value == pytest.approx(7.0)
    assert ratio.value == pytest.approx(3.5)


def test_the_file_has_every_figure_and_says_what_it_is(tmp_path: Path) -> None:
    about = machine(device=CPU)
    write_json(tmp_path / "b.json", [a_section()], about=about, quick=True)
    content = json.loads((tmp_path / "b.json").read_text())
    assert set(content) == {"format", "quick", "machine", "sections"}
    assert content["format"] == FORMAT
    assert content["quick"] is True
    assert content["machine"] == about
    section = content["sections"]["augment"]
    assert set(section) == {"settings", "ratios", "figures"}
    by_name = {figure["name"]: figure["value"] for figure in section["figures"]}
    (ratio,) = section["ratios"]
    assert ratio["value"] == by_name[ratio["numerator"]] / by_name[ratio["denominator"]]
    assert section["figures"][0]["measured"] == [6.0, 500.0, 7.0]


def test_the_machine_names_threads_and_versions() -> None:
    about = machine(device=CPU)
    assert about["threads"] == torch.get_num_threads()
    assert about["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert about["gpu"] is None
    assert about["processor"]


def test_the_table_has_ratios_first_and_the_machine_last() -> None:
    text = io.StringIO()
    reporter = Reporter(terminal=Console(file=text, width=120))
    show([a_section()], about=machine(device=CPU), reporter=reporter)
    shown = text.getvalue()
    places = [shown.index(part) for part in ("Ratios", "times as fast", "theirs", "Machine", "threads", "torch ")]
    assert places == sorted(places)
    assert "3.50" in shown
    assert "500.00" in shown


def test_only_a_bench_result_is_overwritten(tmp_path: Path) -> None:
    result = tmp_path / "bench.json"
    check_json_path(result)
    write_json(result, [], about={}, quick=True)
    check_json_path(result)
    for content in ("my notes", '{"format": "other"}', "[1]", "\xff"):
        result.write_text(content, encoding="latin-1")
        with pytest.raises(UserError, match="no bench result"):
            check_json_path(result)
        assert result.read_text(encoding="latin-1") == content
    with pytest.raises(UserError, match="is a folder"):
        check_json_path(tmp_path)
    with pytest.raises(UserError, match="there is no folder"):
        check_json_path(tmp_path / "missing" / "bench.json")


def test_variants_take_turns_and_warmups_do_not_count() -> None:
    calls: list[str] = []

    def variant(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    times = alternate({name: lambda name=name: variant(name) for name in "ab"}, rounds=3, warmups=1)
    assert calls == ["b", "a", "a", "b", "b", "a", "a", "b"]
    assert times == {"a": [3.0, 6.0, 7.0], "b": [4.0, 5.0, 8.0]}


def test_the_clock_measures_the_work_and_nothing_before() -> None:
    watch = Stopwatch(CPU)
    torch.ones(200, 200).matmul(torch.ones(200, 200))
    watch.start()
    short = watch.stop()
    long = timed(lambda: [torch.ones(200, 200).matmul(torch.ones(200, 200)) for _ in range(50)], CPU)()
    assert 0 <= short < long
