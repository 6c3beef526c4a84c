"""Runs as forks of a process that has imported everything: what they have of a process that Python starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from layermatch.study import processes
from layermatch.study.processes import Forked, ForkServer, RunProcess, Started

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks are taken on Linux alone")

#: Where runs are, there is ``python -m layermatch.run``; here it is a module that does what it is told.
PROGRAM = ("-m", "does_what_it_is_told")
SAYS_WHAT_IT_HAS = """
import json, os, signal, sys
handlers = {str(int(number)): str(signal.getsignal(number)) for number in signal.valid_signals() if number > 0}
print(json.dumps({
    "environment": dict(os.environ), "group": os.getpgid(0) == os.getpid(), "session": os.getsid(0) == os.getpid(),
    "folder": os.getcwd(), "path": sys.path, "main": sys.modules["__main__"].__spec__.name, "words": sys.argv[1:],
    "handlers": handlers, "read": sys.stdin.read(), "files": sorted(os.listdir("/proc/self/fd"))[:-1],
    "start": __import__("multiprocessing").get_start_method(), "threads": len(os.listdir("/proc/self/task")),
}))
print("and errors", file=sys.stderr)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("modules")
    (folder / f"{PROGRAM[1]}.py").write_text("import sys\nexec(sys.argv[1])\n")
    return os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def server(environment: dict[str, str]) -> Iterator[ForkServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", environment)
        made = ForkServer()
    with made:
        yield made


def status_of(process: RunProcess) -> int:
    until = time.monotonic() + 120
    while (status := process.poll()) is None:
        assert time.monotonic() < until
        time.sleep(0.02)
    return status


def test_a_fork_has_what_a_process_of_its_own_has(
    server: ForkServer, environment: dict[str, str], tmp_path: Path
) -> None:
    words, environment = [*PROGRAM, SAYS_WHAT_IT_HAS], environment | {"ONE_MORE": "yes"}
    found = {}
    for name, start in (("forked", server.start), ("started", Started)):
        process = start(words, log=tmp_path / name, environment=environment)
        assert status_of(process) == 0
        first, second = (tmp_path / name).read_text().splitlines()[:2]
        found[name] = json.loads(first if first.startswith("{") else second)
        assert "and errors" in (tmp_path / name).read_text()
    assert found["forked"] == found["started"]
    assert found["forked"]["environment"] == environment
    assert (found["forked"]["group"], found["forked"]["session"]) == (True, True)
    assert found["forked"]["main"] == PROGRAM[1]


def test_a_fork_tells_how_it_ended_and_what_it_used(
    server: ForkServer, environment: dict[str, str], tmp_path: Path
) -> None:
    burn = "import time, sys\nwhile time.process_time() < 0.3: pass\nsys.exit(75)"
    process = server.start([*PROGRAM, burn], log=tmp_path / "log", environment=environment)
    assert isinstance(process, Forked)
    assert process.processor is None
    assert status_of(process) == 75
    assert 0.25 < process.processor < 30
    assert process.poll() == 75  # asked again, too


def test_what_is_written_at_the_end_of_a_process_is_there(
    server: ForkServer, environment: dict[str, str], tmp_path: Path
) -> None:
    """Buffers are flushed and what is registered for the end is done, as wandb's and tensorboard's writers need."""
    code = "import atexit\natexit.register(print, 'at the end')\nprint('before')\nraise SystemExit('a reason')"
    process = server.start([*PROGRAM, code], log=tmp_path / "log", environment=environment)
    assert status_of(process) == 1
    assert sorted((tmp_path / "log").read_text().splitlines()) == ["a reason", "at the end", "before"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_a_fork(
    server: ForkServer, environment: dict[str, str], number: signal.Signals, tmp_path: Path
) -> None:
    code = "import time\nprint(open('/proc/self/comm').read(), 'here', flush=True)\ntime.sleep(60)"
    process = server.start([*PROGRAM, code], log=tmp_path / "log", environment=environment)
    while "here" not in (tmp_path / "log").read_text():
        assert process.poll() is None
        time.sleep(0.02)
    if number == signal.SIGTERM:
        assert PROGRAM[1][:15] in (tmp_path / "log").read_text()  # as top shows it
    process.send_signal(number)
    assert status_of(process) == -number
    process.send_signal(number)  # it has ended: nobody is meant


def test_a_server_that_is_killed_leaves_its_forks_and_is_not_asked_in_vain(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", environment)
    with ForkServer() as server:
        go = str(tmp_path / "go")
        code = f"import os, time\nwhile not os.path.exists({go!r}): time.sleep(0.02)"
        process = server.start([*PROGRAM, code], log=tmp_path / "log", environment=environment)
        server._process.kill()
        server._process.wait()
        assert process.poll() is None
        with pytest.raises(OSError, match=r"ended|Broken pipe"):
            server.start([*PROGRAM, "1"], log=tmp_path / "other", environment=environment)
        (tmp_path / "go").touch()
        assert status_of(process) == -signal.SIGKILL  # what became of it is not known; its results say it
        assert process.processor is None


def test_a_run_is_forked_and_no_other_command() -> None:
    assert ForkServer.starts(["-m", "layermatch.run", "seed=0"])
    assert not ForkServer.starts(["-m", "layermatch.evaluate"])
    assert not ForkServer.starts(["-c", "print()"])


def test_a_process_that_has_imported_everything_has_one_thread() -> None:
    """What it asks before it forks; torch, numpy and SciPy start none with OMP_NUM_THREADS=1."""
    command = [sys.executable, "-m", "layermatch.study.fork_server"]
    environment = os.environ | processes.ENVIRONMENT
    done = subprocess.run(command, input="", env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
