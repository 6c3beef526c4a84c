"""Runs as forks of a process that has imported everything: what they have of a process that Python starts."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.report.made_runs import settings_of

from layermatch.study import fork_server, processes, running
from layermatch.study.code_version import code_version
from layermatch.study.design import Cell, Setting
from layermatch.study.preparing import Prepared
from layermatch.study.processes import Forked, ForkServer, RunProcess, Started
from layermatch.study.running import Runner

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
def server(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", environment)
        made = ForkServer(tmp_path_factory.mktemp("server") / "log")
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
    assert server.sources == code_version().sources


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
    with ForkServer(tmp_path / "server") as server:
        go = str(tmp_path / "go")
        code = f"import os, time\nwhile not os.path.exists({go!r}): time.sleep(0.02)"
        process = server.start([*PROGRAM, code], log=tmp_path / "log", environment=environment)
        server._process.kill()
        server._process.wait()
        assert process.poll() is None
        with pytest.raises(OSError, match=r"has ended, see .*server|Broken pipe"):
            server.start([*PROGRAM, "1"], log=tmp_path / "other", environment=environment)
        (tmp_path / "go").touch()
        assert status_of(process) == 1  # what became of it is not known; its results and its log say it
        assert process.processor is None


def test_what_is_sent_to_all_of_a_job_ends_runs_and_not_what_they_are_forks_of(
    server: ForkServer, environment: dict[str, str], tmp_path: Path
) -> None:
    code = "import time\nprint('here', flush=True)\ntime.sleep(60)"
    process = server.start([*PROGRAM, code], log=tmp_path / "log", environment=environment)
    while "here" not in (tmp_path / "log").read_text():
        time.sleep(0.02)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
        server._process.send_signal(number)
    assert process.poll() is None
    process.send_signal(signal.SIGUSR1)
    assert status_of(process) == -signal.SIGUSR1
    assert process.processor > 0


def test_a_fork_that_cannot_be_made_is_an_answer_and_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_fork() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", no_fork)
    asked, answers = io.StringIO('{"words": ["a"]}\n{"words": ["b"]}\n'), io.StringIO()
    assert fork_server._serve(asked, answers) is None
    assert answers.getvalue().count('{"error": "[Errno 11] Resource temporarily unavailable"}\n') == 2


def parents_of(cells: list[Cell], runner: Runner) -> list[int]:
    """The number of the process that each run was started by."""
    runner.run(cells, finished=0, seconds={}, after=lambda: None)
    assert {why for _, why in runner.outcome.failed} == {"ended without results"}
    return [int((cell.study_dir / "logs" / f"{cell.slug}.log").read_text()) for cell in cells]


def test_runs_of_a_study_are_forks_of_one_process_that_has_imported_the_code_as_it_is(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    monkeypatch.setattr(processes, "MODULE", PROGRAM)
    monkeypatch.setattr(running, "command_of", lambda *_, **__: [*PROGRAM, "import os\nprint(os.getppid())"])
    raw = settings_of("trainer.max_steps=30", seed=0)
    cells = [Cell(Setting(name, ()), 10, 0, (), raw, tmp_path) for name in "abc"]
    now = code_version()
    versions = iter([now, now, replace(now, sources="changed")])
    said: list[str] = []
    prepared = Prepared({}, {}, "this machine")
    runner = Runner(cells, jobs=1, code=lambda: next(versions), prepared=prepared, say=said.append)
    first, second, changed = parents_of(cells, runner)
    assert first == second != os.getpid()
    assert changed == os.getpid()  # started by Python, as no process has imported that
    assert [line for line in said if "by itself" in line] == [
        "each run imports by itself: the code has changed while it was imported"
    ]
    assert not runner._servers
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


def test_a_run_that_may_compute_on_a_gpu_is_no_fork(tmp_path: Path) -> None:
    def is_started(accelerator: str, *, machine: str = "this machine", gpus: tuple[str, ...] = ()) -> bool:
        raw = settings_of("trainer.max_steps=30", f"trainer.accelerator={accelerator}", seed=0)
        prepared = Prepared({}, {}, machine, gpus=list(gpus))
        runner = Runner([], jobs=1, code=code_version, prepared=prepared, say=lambda _: None)
        return runner._may_use_gpu(Cell(Setting("a", ()), 10, 0, (), raw, tmp_path))

    assert is_started("gpu", gpus=("0",))
    assert is_started("auto", gpus=("0",))
    assert is_started("auto", machine="")  # nobody has looked for GPUs
    assert not is_started("auto")
    assert not is_started("cpu", gpus=("0",))
    assert not is_started("cpu", machine="")


def test_a_run_is_forked_and_no_other_command() -> None:
    assert ForkServer.starts(["-m", "layermatch.run", "seed=0"])
    assert not ForkServer.starts(["-m", "layermatch.evaluate"])
    assert not ForkServer.starts(["-c", "print()"])
