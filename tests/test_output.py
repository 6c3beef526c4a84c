"""A reader of standard output that leaves, and a terminal that knows few characters, end no run."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import pytest
from rich.console import Console
from tests.cli.conftest import cli, evaluate_cli, in_empty_folder
from tests.faults.runs import SMALL
from tests.report.made_runs import make_run

from layermatch.console import Reporter, settings_tree, table
from layermatch.output import SteadyStream, steady_output, terminal
from layermatch.report.__main__ import main as report
from layermatch.watch.__main__ import main as watch

__all__ = ["cli", "evaluate_cli", "in_empty_folder"]  # fixtures

Cli = Callable[..., None]
TINY = ("run_dir=out", "trainer.max_steps=2", "experiment=digits", *SMALL)


def left_pipe() -> TextIO:
    """A pipe whose reader has left."""
    read, write = os.pipe()
    os.close(read)
    return os.fdopen(write, "w", encoding="utf-8")


def screen(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")


def shown_on(stream: io.TextIOWrapper) -> str:
    stream.flush()
    return stream.buffer.getvalue().decode(stream.encoding)  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------------------------- readers


@pytest.mark.parametrize("kind", ["pipe", "disk"])
def test_a_stream_that_takes_no_more_loses_the_rest_and_says_why(kind: str) -> None:
    with left_pipe() if kind == "pipe" else Path("/dev/full").open("w", encoding="utf-8") as raw:
        stream = SteadyStream(raw)
        for _ in range(3):
            assert stream.write("text\n") == 5
            stream.flush()
        assert stream.lost == {"pipe": "Broken pipe", "disk": "No space left on device"}[kind]
        raw.flush()  # as the interpreter does at its end


def test_a_closed_stream_loses_what_is_written() -> None:
    raw = io.StringIO()
    raw.close()
    stream = SteadyStream(raw)
    assert stream.write("text\n") == 5
    assert stream.lost == "I/O operation on closed file"


def test_a_run_goes_on_in_its_log_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with left_pipe() as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        reporter = Reporter(tmp_path / "run.log")
        for text in ("one", "two"):
            reporter.show(text)
        reporter.warn("three")
        reporter.show(table("four", {"a": "b"}))
        reporter.close()
        monkeypatch.undo()
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == (f"standard output takes no more (Broken pipe): the run goes on, {tmp_path}/run.log has every line")
    lines = (tmp_path / "run.log").read_text().splitlines()
    assert lines[:4] == ["one", f"warning: {said}", "two", "warning: three"]
    assert lines[4].startswith("four")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the file that holds what was lost
def test_a_warning_on_a_full_disk_ends_no_run(caplog: pytest.LogCaptureFixture) -> None:
    reporter = Reporter(Path("/dev/full"), terminal=Console(file=io.StringIO()))
    reporter.warn("one")
    reporter.warn("two")
    assert [record.getMessage().split(" (")[0] for record in caplog.records] == ["the log file cannot be written"]


@pytest.mark.slow
def test_training_goes_on_to_its_results_without_a_reader(
    cli: Cli, in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with left_pipe() as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        cli(*TINY)
    assert json.loads((in_empty_folder / "out/results.json").read_text())["steps"] == 2
    log = (in_empty_folder / "out/run.log").read_text()
    assert "standard output takes no more (Broken pipe)" in log
    assert "run directory: out" in log


def test_an_error_that_nobody_reads_keeps_its_status(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job script looks at it."""
    with left_pipe() as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        monkeypatch.setattr(sys, "stderr", pipe)
        with pytest.raises(SystemExit) as status:
            cli("trainer.max_steps=0")
    assert status.value.code == 2


def test_standard_output_that_was_never_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As with ``>&- 2>&-`` in a shell."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with steady_output():
        Reporter(tmp_path / "run.log").show("text")
        sys.stderr.write("error\n")
    assert (tmp_path / "run.log").read_text() == "text\n"


COMMAND = """
import sys
from layermatch.output import steady_output, terminal
with steady_output():
    terminal().print("first")
    sys.stdin.readline()
    terminal().print("second")
    print("third")
    sys.exit(3)
"""


def test_the_process_ends_with_its_own_status_and_without_a_word() -> None:
    """Without care the interpreter says ``Exception ignored`` at its end, and its status is 120."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", COMMAND], **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"first\n"
        process.stdout.close()
        process.stdin.close()
        assert (process.wait(timeout=300), process.stderr.read()) == (3, b"")


def test_a_report_is_written_for_a_reader_that_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [make_run(tmp_path / f"run{seed}", seed=seed) for seed in (0, 1)]
    with left_pipe() as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        report([*map(str, runs), "--out", str(tmp_path / "report.html")])
    assert (tmp_path / "report.md").exists()


@pytest.mark.timeout(60)
def test_nobody_follows_a_run_for_a_reader_that_has_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = make_run(tmp_path / "run", is_finished=False)
    with left_pipe() as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        watch([str(run_dir), "--every", "0.05"])


@pytest.mark.parametrize(("main", "options"), [(report, ("--out", "Größe.html")), (watch, ())])
def test_reports_and_frames_are_shown_on_a_terminal_of_ascii(
    main: Callable[[list[str]], None], options: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = make_run(tmp_path / "Größe", classes=("猫", "[b]"))
    stream = screen("ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.chdir(tmp_path)
    main([run_dir.name, *options])
    monkeypatch.undo()
    assert "Gr" in shown_on(stream)
    assert shown_on(stream).isascii()


# ---------------------------------------------------------------------------------------------------------- characters


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437", "utf-8"])
def test_a_terminal_shows_what_it_has_and_escapes_the_rest(
    encoding: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stream = screen(encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    reporter = Reporter(tmp_path / "run.log")
    reporter.show(table("Plan", {"root": "Größe/猫/🐈"}))
    reporter.show(settings_tree({"data": {"root": "猫"}}, title="settings"))
    reporter.warn("mean ± 1 …")
    reporter.close()
    monkeypatch.undo()
    text = shown_on(stream)
    if encoding == "utf-8":
        assert "Größe/猫/🐈" in text
    else:
        assert r"\u732b/\U0001f408" in text
        assert ("Größe" in text) == (encoding != "ascii")
        assert "└── " not in text
    assert "Größe/猫/🐈" in (tmp_path / "run.log").read_text(encoding="utf-8")
    if encoding == "ascii":
        assert "warning: mean +- 1 ..." in text


def test_half_of_a_character_is_shown_as_a_sign(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is left of a file name that is not UTF-8."""
    stream = screen("utf-8")
    monkeypatch.setattr(sys, "stdout", stream)
    with steady_output():
        Reporter(tmp_path / "run.log").show("caf\udce9")
        print("caf\udce9")  # noqa: T201 -- as a library does
    monkeypatch.undo()
    assert shown_on(stream) == "caf\N{REPLACEMENT CHARACTER}\ncaf\\udce9\n"
    assert (tmp_path / "run.log").read_text(encoding="utf-8") == "caf\N{REPLACEMENT CHARACTER}\n"


@pytest.mark.slow
def test_training_on_a_terminal_of_ascii(cli: Cli, in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = screen("ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    cli(*TINY, "run_dir='Größe [1] [/bold]'")
    monkeypatch.undo()
    assert r"run directory: Gr\xf6\xdfe [1] [/bold]" in shown_on(stream)
    assert (in_empty_folder / "Größe [1] [/bold]/results.json").exists()


# ------------------------------------------------------------------------------------------------------------- brackets

ODD = ["[1] [bold]a[/bold]", "[/red]", "[link=x]a", ":cat: :smile:", "\\[a]", "[@click=x]", "a\x1b[2Jb", "猫 🐈"]


@pytest.mark.parametrize("text", ODD)
def test_text_is_shown_as_it_is(text: str, tmp_path: Path) -> None:
    stream = io.StringIO()
    reporter = Reporter(tmp_path / "run.log", terminal=Console(file=stream, force_terminal=True, width=80))
    reporter.show(f"run directory: {text}")
    reporter.warn(text)
    reporter.show(table(text, {text: text}))
    reporter.show(table("rows", [(text, text)], header=(text, text)))
    reporter.show(settings_tree({text: {text: text, "of": [text]}}, title=text))
    reporter.close()
    expected = text.replace("\x1b", "\N{REPLACEMENT CHARACTER}")
    # Each once; the list has it as Python writes it.
    assert stream.getvalue().count(expected) >= 12
    assert (tmp_path / "run.log").read_text(encoding="utf-8").count(expected) >= 12


def test_a_long_run_directory_stays_in_one_line(tmp_path: Path) -> None:
    """So that it can be copied, and found by a script."""
    stream = io.StringIO()
    reporter = Reporter(tmp_path / "run.log", terminal=Console(file=stream, width=80))
    line = f"run directory: {'long/' * 60}"
    reporter.show(line)
    assert stream.getvalue() == (tmp_path / "run.log").read_text() == f"{line}\n"


def test_a_terminal_is_as_wide_as_it_is_and_a_pipe_wide_enough() -> None:
    assert terminal().width == 120
