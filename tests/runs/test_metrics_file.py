"""A metrics.csv that grows, is rewritten, or is broken."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.report.made_runs import rows_of, write_metrics

from layermatch.runs.metrics_file import MetricsFile


def read(path: Path) -> MetricsFile:
    file = MetricsFile(path)
    file.poll()
    return file


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """With a comma, a quote and a line break in the name of a class."""
    write_metrics(tmp_path, rows_of(0.9, classes=("cat", 'a,"b"\nc')))
    return tmp_path / "metrics.csv"


def test_every_value_is_read_under_its_name(written: Path) -> None:
    curves = read(written).curves
    assert curves["val/accuracy"].steps == [10, 20, 30]
    assert curves["val/accuracy"].values == pytest.approx([0.3, 0.6, 0.9])
    assert curves['pseudo_labels/per_class_counts/a,"b"\nc'].values == [2.0, 2.0, 2.0]
    assert "step" not in curves


@pytest.mark.parametrize("size", [1, 7, 100])
def test_pieces_give_what_the_whole_gives(written: Path, tmp_path: Path, size: int) -> None:
    whole, growing = written.read_bytes(), tmp_path / "growing.csv"
    growing.touch()
    file = MetricsFile(growing)
    seen = []
    for start in range(0, len(whole), size):
        with growing.open("ab") as out:
            out.write(whole[start : start + size])
        file.poll()
        seen.append(file.last_step)
    assert file.curves == read(written).curves
    assert seen == sorted(seen)
    assert file.bad_lines == 0


def test_a_half_written_line_waits_for_its_end(written: Path) -> None:
    text = written.read_bytes()
    end = text.rindex(b"0.9,0.9")  # the last accuracies
    written.write_bytes(text[: end + 2])  # "0."
    file = read(written)
    assert file.has_open_line
    assert file.curves["val/accuracy"].steps == [10, 20]
    written.write_bytes(text)
    assert file.poll()
    assert not file.has_open_line
    assert file.curves["val/accuracy"].values[-1] == pytest.approx(0.9)
    assert not file.poll()


def test_a_new_column_rewrites_the_file(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.csv")
    rows = rows_of(0.9)
    write_metrics(tmp_path, rows)
    file.poll()
    (tmp_path / "metrics.csv").unlink()
    write_metrics(tmp_path, [*rows, {"step": 30, "test/accuracy": 0.8}])
    assert file.poll()
    assert file.curves["test/accuracy"].values == [0.8]
    assert file.curves == read(tmp_path / "metrics.csv").curves


@pytest.mark.parametrize("resumed_at", [10, 20])
def test_a_resumed_run_takes_steps_back(tmp_path: Path, resumed_at: int) -> None:
    """Steps after the checkpoint are made again, with the same names and more bytes than before."""
    write_metrics(tmp_path, rows_of(0.5))
    file = read(tmp_path / "metrics.csv")
    kept = [row for row in rows_of(0.5) if row["step"] <= resumed_at]
    (tmp_path / "metrics.csv").unlink()
    write_metrics(tmp_path, [*kept, *rows_of(0.8, steps=(resumed_at + 5, 40, 50, 60))])
    file.poll()
    assert file.curves["val/accuracy"].steps == [*(s for s in (10, 20) if s <= resumed_at), resumed_at + 5, 40, 50, 60]
    assert file.last_step == 60


def test_rows_that_are_none_are_counted_and_left_out(written: Path) -> None:
    before = read(written).curves
    with written.open("a") as file:
        file.write("1,2,3\nnonsense\n" + "\x00" * 20 + "\n" + "9" * 30 + "," * 20 + "\n")
    after = read(written)
    assert after.bad_lines == 4
    assert after.curves == before


def test_values_that_are_no_number_stay_visible(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("loss/features,step\n1.5,1\nnan,2\ninf,3\n")
    values = read(tmp_path / "m.csv").curves["loss/features"].values
    assert [str(value) for value in values] == ["1.5", "nan", "inf"]


@pytest.mark.parametrize("content", ["a,b\n1,2\n", "\n", "x" * (1 << 20), "a\rb,step\n"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "m.csv").write_bytes(content.encode())
    with pytest.raises(ValueError, match="first line"):
        read(tmp_path / "m.csv")


def test_names_whose_quotes_do_not_end_are_waited_for(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text('"step\n1\n2\n')
    assert read(tmp_path / "m.csv").curves == {}


def test_no_file_yet(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.csv")
    with pytest.raises(FileNotFoundError):
        file.poll()
    (tmp_path / "metrics.csv").touch()
    assert not file.poll()
    write_metrics(tmp_path / "other", rows_of(0.9))
    (tmp_path / "metrics.csv").write_bytes((tmp_path / "other" / "metrics.csv").read_bytes())
    assert file.poll()
    assert file.last_step == 30
