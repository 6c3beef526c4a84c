"""Following a run: frames of what is there, a real run until its end, Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console
from tests import processes
from tests.report.made_runs import make_run

from layermatch.runs.layout import LOCK
from layermatch.watch.__main__ import main
from layermatch.watch.frame import draw, sparkline
from layermatch.watch.watcher import Pace, Watcher


def text_of(run_dir: Path, *, width: int = 120, height: int | None = None, is_ascii: bool = False) -> str:
    file = io.StringIO()
    frame = draw(Watcher(run_dir).look(), width=width, height=height, is_ascii=is_ascii)
    Console(file=file, width=width).print(frame)
    return file.getvalue()


def rows_in(shown: str) -> dict[str, list[str]]:
    """Name -> cells of the table of curves."""
    cells = [re.split(r" {2,}", line.strip()) for line in shown.splitlines()]
    return {name: rest for name, *rest in cells}


def test_a_finished_run_in_one_frame(tmp_path: Path) -> None:
    shown = text_of(make_run(tmp_path / "run", seed=3, accuracy=0.9)).replace("\xa0", " ")
    assert "run  digits  layermatch  seed 3" in shown
    assert "finished, 2.4 steps/s, took 12 s" in shown
    assert "step 30/30" in shown
    assert "100.0 %" in shown
    rows = rows_in(shown)
    assert rows["Validation, EMA weights"][:3] == ["90.0 %", "30.0 %", "90.0 %"]
    assert rows["Pseudo-labels that count"][:3] == ["50.0 %", "16.7 %", "50.0 %"]
    assert rows["Of those, right"][0] == "90.0 %"
    assert rows["Of all, right"][0] == "70.0 %"
    assert rows["Loss of the extractor"][3] in {"█▅▁", "█▄▁"}
    assert "9              ██████████████ 10" in shown  # the class with most
    assert "0              █              1" in shown
    assert shown.rstrip().endswith("step 10/30  ETA 0:00:02")


def test_new_lines_are_seen_and_timed(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", is_finished=False)
    (path / LOCK).touch()
    watcher = Watcher(path)
    first = watcher.look()
    assert (first.state.kind, first.step, first.max_steps, first.seconds) == ("running", 30, 30, None)
    assert first.speed == pytest.approx(5.0)  # by the run's own times: 0.1 + 0.1 s a step
    whole = (path / "metrics.csv").read_text()
    names = whole.splitlines()[0].split(",")
    for step in (40, 50, 60):
        line = ",".join(str(step) if name == "step" else "0.5" for name in names)
        with (path / "metrics.csv").open("a") as file:
            file.write(line[:5])
        watcher.look()
        with (path / "metrics.csv").open("a") as file:
            file.write(line[5:] + "\n")
        time.sleep(0.02)
        now = watcher.look()
        assert now.step == step
    assert now.curves["val/accuracy"].steps == [10, 20, 30, 40, 50, 60]
    assert now.speed is not None
    assert 20 < now.speed < 1000  # ten steps each time


def test_the_pace_starts_again_with_a_resumed_run() -> None:
    pace = Pace()
    for now, step in ((0, 5), (1, 10), (2, 20), (3, 30)):
        pace.see(step, now=float(now))
    assert pace.speed == 10.0
    pace.see(15, now=4.0)
    assert pace.speed is None
    for now, step in ((5, 16), (6, 18), (7, 20)):
        pace.see(step, now=float(now))
    assert pace.speed == 2.0


def test_stopped_and_empty_runs_say_so(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", is_finished=False)
    (path / LOCK).touch()
    assert "running" in text_of(path)
    then = time.time() - 90
    for file in path.iterdir():
        os.utime(file, (then, then))
    assert "stopped, not finished, last wrote 1 min 30 s ago" in text_of(path)
    (tmp_path / "empty").mkdir()
    assert "empty: waiting for a run" in text_of(tmp_path / "empty")
    assert "empty" in text_of(tmp_path / "missing")


@pytest.mark.parametrize("name", ["config.yaml", "results.json", "metrics.csv", "run.log"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\x00\x1b[2J", b"[1, 2]", b'{"seconds": NaN}'])
def test_a_broken_file_stops_nothing(tmp_path: Path, name: str, content: bytes) -> None:
    path = make_run(tmp_path / "run")
    (path / name).write_bytes(content)
    shown = text_of(path)
    assert "\x1b" not in shown
    if (name, content) in {("config.yaml", b"{"), ("results.json", b"{"), ("metrics.csv", b"[1, 2]\n")}:
        assert f"{name} cannot be read" in shown


def test_values_that_are_no_number_are_seen(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("loss/features,val/accuracy,step\n1,nan,1\n2,nan,2\nnan,nan,3\n")
    rows = rows_in(text_of(tmp_path))
    assert rows["Loss of the extractor"] == ["nan", "1", "2", "▁█?"]
    assert rows["Validation, live weights"] == ["nan", "nan", "nan", "???"]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (40, 12), (200, 60)])
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_a_frame_fits_the_terminal(tmp_path: Path, width: int, height: int, classes: int) -> None:
    path = make_run(tmp_path / "run", classes=[f"class number {place}" for place in range(classes)])
    lines = text_of(path, width=width, height=height).splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    if height >= 24:
        assert len(lines) <= height
        assert "Last lines of run.log" in "\n".join(lines)
    if classes == 100 and height == 24:
        assert any("fewest" in line and "most of 100" in line for line in lines)


def test_ascii_is_ascii_and_names_are_no_commands(tmp_path: Path) -> None:
    path = make_run(tmp_path / "rün\x1b[2J", classes=("[bold]café", "\x1b[31m"))
    with (path / "run.log").open("a") as file:
        file.write("│ \x1b]0;title\x07 │\n")
    shown = text_of(path, is_ascii=True)
    assert shown.isascii()
    assert "\x1b" not in shown
    assert "[bold]caf?" in shown
    assert "\x1b" not in text_of(path)


def test_sparklines_take_the_mean_of_neighbours() -> None:
    assert sparkline(range(64), width=8) == "▁▂▃▄▅▆▇█"
    assert sparkline([], width=8) == ""
    assert sparkline([5.0], width=8) == "▁"
    assert sparkline([1, 9], width=8, levels="ab") == "ab"
    assert len(sparkline(range(1000), width=37)) == 37


# ------------------------------------------------------------------------------------------------------- command line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing"], "missing is no folder: give the directory of a run"),
        ([], "the following arguments are required: RUN_DIR"),
        ([".", "--every", "0"], "--every=0.0 is not legal"),
        ([".", "--every", "soon"], "invalid float value"),
        ([".", "--onec"], "unrecognized arguments: --onec"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said in error


def test_once_and_a_finished_run_end_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(make_run(tmp_path / "going", is_finished=False)), "--once"])
    assert "stopped" in capsys.readouterr().out
    main([str(make_run(tmp_path / "done"))])
    shown = capsys.readouterr().out
    assert shown.count("finished, ") == 1


class Terminal:
    """A command on a terminal of 100 columns and 30 rows, and what it wrote there."""

    def __init__(self, command: Sequence[str]) -> None:
        ours, theirs = pty.openpty()
        environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30", "PYTHONUTF8": "1"}
        self.process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
        os.close(theirs)
        self.written = ""
        self._reader = threading.Thread(target=self._read, args=(ours,), daemon=True)
        self._reader.start()

    def _read(self, ours: int) -> None:
        with os.fdopen(ours, "rb", buffering=0) as file:
            try:
                while part := file.read(65_536):
                    self.written += part.decode("utf-8", "replace")
            except OSError:  # how Linux says that the other end is closed
                return

    @property
    def text(self) -> str:
        """Without colours; what switches the screen stays."""
        return re.sub(r"\x1b\[[0-9;]*m", "", self.written)

    def wait_for(self, text: str, seconds: float = 300) -> None:
        end = time.monotonic() + seconds
        while text not in self.text:
            assert time.monotonic() < end, f"{text!r} did not come: {self.text[-2000:]}"
            assert self.process.poll() is None or text in self.text, self.text[-2000:]
            time.sleep(0.05)

    def ended(self, seconds: float = 300) -> int:
        status = self.process.wait(timeout=seconds)
        self._reader.join(timeout=5)
        return status


@contextmanager
def on_terminal(*command: str) -> Iterator[Terminal]:
    terminal = Terminal([sys.executable, "-m", *command])
    try:
        yield terminal
    finally:
        if terminal.process.poll() is None:
            terminal.process.kill()
            terminal.process.wait()


def test_ctrl_c_ends_it_without_a_traceback(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", is_finished=False)
    (path / LOCK).touch()
    with on_terminal("layermatch.watch", str(path), "--every", "0.2") as terminal:
        terminal.wait_for("step 30/30")
        for file in path.iterdir():  # on a slow machine the run has looked dead until now
            file.touch()
        terminal.wait_for("running")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.ended() == 0
    assert "Traceback" not in terminal.written
    assert "\x1b[?1049h" in terminal.written  # the other screen
    before, _, last = terminal.text.rpartition("\x1b[?1049l")  # back on the usual one, with one more frame
    assert "running" in before
    assert last.count("step 30/30") == 1


@contextmanager
def kept_alive(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Not longer than the test."""
    try:
        yield
    finally:
        process.kill()


@pytest.mark.slow
def test_a_real_run_is_followed_to_its_end(tmp_path: Path) -> None:
    """On a terminal, and through a pipe at the same time."""
    path = tmp_path / "run"
    path.mkdir()
    settings = ["trainer.max_steps=40", "trainer.log_every=2", "eval_every=10", "data.batch_size=8", "data.mu=2"]
    piped = [sys.executable, "-m", "layermatch.watch", str(path), "--every", "0.1"]
    with (
        (tmp_path / "out").open("w") as out,
        (tmp_path / "err").open("w") as err,
        subprocess.Popen(piped, stdout=out, stderr=err) as pipe,
        on_terminal("layermatch.watch", str(path), "--every", "0.1") as terminal,
        kept_alive(pipe),
    ):
        terminal.wait_for("empty: waiting for a run")
        command = [sys.executable, "-m", "layermatch.run", *settings, f"run_dir={path}"]
        assert processes.run(command).returncode == 0
        assert terminal.ended() == 0
        assert pipe.wait(timeout=300) == 0
    assert (tmp_path / "err").read_text() == ""
    output = (tmp_path / "out").read_text()
    for word in ("running", "ETA ", "steps/s", "Loss of the extractor", "Pseudo-labels that count"):
        assert word in terminal.text, word
    results = json.loads((path / "results.json").read_text())
    for shown in (terminal.text.rpartition("\x1b[?1049l")[2], output[output.rindex("finished") :]):
        assert "step 40/40" in shown
        assert f"{100 * results['test']['accuracy_ema']:.1f}\xa0%" in shown
    assert output.count("running") >= 2
    assert "Traceback" not in terminal.written
