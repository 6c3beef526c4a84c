"""A command that is forked is the command that Python starts: same words, streams, status, signals, ranks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from tests.processes import Process, run

from layermatch.cli import config_dir

TELL = """
import multiprocessing, os, sys, threading
sys.stderr.write("an error\\n")
print(sys.argv[1:], __name__, __spec__ and __spec__.name, os.getcwd())
print(os.environ.get("RANK"), sys.path[0], multiprocessing.get_start_method())
import beside
threading.Timer(0.2, lambda: print("to the end")).start()
if len(sys.argv) > 2:
    sys.exit(sys.argv[2] if sys.argv[2] == "why" else int(sys.argv[2]))
"""


@pytest.mark.parametrize("words", [["a b", "3"], ["x=1", "why"], ["a"]])
@pytest.mark.parametrize("kind", ["-m", "-c", "script"])
def test_a_fork_is_what_python_starts(kind: str, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "tell.py").write_text(TELL)
    (tmp_path / "beside.py").write_text("print('beside')")
    command = {"-m": ["-m", "tell"], "-c": ["-c", TELL], "script": [str(tmp_path / "tell.py")]}[kind]
    environment = {"PYTHONPATH": str(tmp_path), "RANK": "7", "PATH": os.environ["PATH"]}
    command = [sys.executable, *command, *words]
    ours = run(command, cwd=tmp_path, env=environment)
    theirs = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (ours.returncode, ours.stdout, ours.stderr) == (theirs.returncode, theirs.stdout, theirs.stderr)
    assert "to the end" in ours.stdout


def test_an_error_is_a_traceback_and_a_signal_is_a_status(tmp_path: Path) -> None:
    done = run([sys.executable, "-c", "import os; print(os.getsid(0) == os.getpid()); 1 / 0"], cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "False\n")
    assert done.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"
    sleeps = "import os, time; print(os.getsid(0) == os.getpid(), flush=True); time.sleep(60)"
    process = Process([sys.executable, "-c", sleeps], cwd=tmp_path, start_new_session=True)
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=0.01)
    while not process.written()[0]:
        time.sleep(0.01)
    assert process.poll() is None
    process.terminate()
    assert (process.communicate(), process.returncode) == (("True\n", ""), -signal.SIGTERM)


RANKS = """
import os, subprocess, sys
if "RANK" in os.environ:
    print("rank", os.environ["RANK"], os.getppid() == int(sys.argv[1]), flush=True)
    sys.exit(int(os.environ["RANK"]))
command = [sys.executable, sys.argv[0], str(os.getpid())]
print([subprocess.Popen(command, env={**os.environ, "RANK": str(rank)}).wait() for rank in (1, 2)], flush=True)
print(subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True, check=True).stdout)
"""


@pytest.mark.parametrize("ranks", [3, 2, 9])
def test_its_ranks_are_its_children(ranks: int, tmp_path: Path) -> None:
    """Where it starts more than were foreseen, Python starts them."""
    (tmp_path / "ranks.py").write_text(RANKS)
    done = run([sys.executable, str(tmp_path / "ranks.py")], cwd=tmp_path, ranks=ranks)
    assert done.stdout.splitlines() == ["rank 1 True", "rank 2 True", "[1, 2]", "b'1\\n'"]
    assert (done.returncode, done.stderr) == (0, "")


JOBS = """
import os, subprocess, sys
tell = "import os, sys; print(sys.stdin.read(), os.getsid(0) == os.getpid(), os.getppid() == int(sys.argv[1])); 1 / 0"
command = [sys.executable, "-c", tell, str(os.getpid())]
done = subprocess.run(command, input="said", capture_output=True, text=True)
print([done.returncode, done.stdout, done.stderr.splitlines()[-1]])
with open("log", "wb") as log:
    streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
    print(subprocess.Popen(command, **streams, start_new_session=True, cwd="there").wait())
"""


@pytest.mark.parametrize("ranks", [3, 1])
def test_its_jobs_have_streams_of_their_own(ranks: int, tmp_path: Path) -> None:
    """Where there is no fork for them, Python starts them: it makes no difference."""
    (tmp_path / "there").mkdir()
    done = run([sys.executable, "-c", JOBS], cwd=tmp_path, ranks=ranks)
    assert (done.returncode, done.stderr) == (0, "")
    first = [1, "said False True\n", "ZeroDivisionError: division by zero"]
    assert done.stdout.splitlines() == [str(first), "1"]
    lines = (tmp_path / "log").read_text().splitlines()
    assert sorted((lines[0], lines[-1])) == sorted((" True True", first[2]))


@pytest.mark.parametrize("name", ["run", "evaluate"])
def test_our_configuration_says_nothing_of_the_mode(name: str) -> None:
    """Hydra composes it for nothing else a second time, which tests leave out."""
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        assert compose(name, return_hydra_config=True, overrides=[]).hydra.mode is None
    assert "mode:" not in "".join(path.read_text() for path in config_dir().rglob("*.yaml"))
