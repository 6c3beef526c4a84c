"""The runs of a study, several at once, each a process of its own."""

from __future__ import annotations

import os
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout

from layermatch.command_line import as_typed
from layermatch.device_places import own_gpus
from layermatch.errors import StoppedError
from layermatch.metrics import TEST_ACCURACY_EMA, VAL_ACCURACY_EMA
from layermatch.runs.layout import checkpoints_in
from layermatch.runs.quantities import duration
from layermatch.runs.reading import finite_number
from layermatch.runs.state import is_locked
from layermatch.study.code_version import CodeVersion
from layermatch.study.design import Cell
from layermatch.study.places import gpus_of
from layermatch.study.preparing import Prepared, last_line
from layermatch.study.processes import ENVIRONMENT, Forked, ForkServer, RunProcess, Started
from layermatch.study.records import State, Status, look, read_record, write_record
from layermatch.text import printable

__all__ = ["Outcome", "Runner", "command_of", "shown_command"]

#: Seconds between two looks at the processes, and at runs of other processes.
LOOK_EVERY, LOOK_ELSEWHERE_EVERY = 0.2, 3.0

#: The folder of the locks by which processes of a study share its runs and this machine's GPUs.
LOCKS = ".locks"

#: Asks a study to stop. Its runs get SIGTERM, and write a checkpoint.
STOPS = tuple(name for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))


def command_of(cell: Cell, *, options: Sequence[str] = ()) -> list[str]:
    """Return the words after ``python`` that start a run, and let it go on.

    Args:
        cell: The run.
        options: Options of Hydra's.
    """
    words = [*cell.words, as_typed(f"run_dir={cell.run_dir}"), "ckpt_path=auto"]
    return ["-m", "layermatch.run", *words, *options]


def shown_command(cell: Cell, *, options: Sequence[str] = ()) -> str:
    """Return the same as a line that can be copied into a shell.

    Args:
        cell: The run.
        options: Options of Hydra's.
    """
    before = " ".join(f"{name}={value}" for name, value in ENVIRONMENT.items())
    return f"{before} python {shlex.join(command_of(cell, options=options))}"


@dataclass
class Outcome:
    """What became of the runs that were started.

    Args:
        failed: The run and the reason, in the order in which they failed.
        stopped_by: The name of the signal that stopped the study; empty where none did.
    """

    failed: list[tuple[Cell, str]]
    stopped_by: str = ""


@dataclass
class _Job:
    cell: Cell
    process: RunProcess
    #: What it has as long as it runs: its claim, and its GPU where it is given one.
    held: ExitStack
    started: float
    #: Processor seconds of the attempts before; None where they are not known.
    before: float | None = 0.0

    @property
    def all_processor(self) -> float | None:
        """Processor seconds of all attempts; None where those of one are not known."""
        its_own = self.process.processor
        return None if self.before is None or its_own is None else round(self.before + its_own, 2)


class Runner:
    """Runs what is missing.

    Args:
        cells: All runs of the study, in the order in which they are started.
        jobs: The processes at once.
        code: A function that gives the code as it is when a run is started.
        prepared: What is known of the data and of this machine.
        say: A function that prints a line.
        options: Options of Hydra's that every run gets.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        *,
        jobs: int,
        code: Callable[[], CodeVersion],
        prepared: Prepared,
        say: Callable[[str], None],
        options: Sequence[str] = (),
    ) -> None:
        self.cells, self.jobs, self.options = cells, jobs, options
        self.code, self.prepared, self.say = code, prepared, say
        self.after: Callable[[], None] = lambda: None
        self.running: list[_Job] = []
        self.waiting: list[Cell] = []
        #: Runs of other processes, and when they were last looked at.
        self.elsewhere: dict[str, Cell] = {}
        self.looked = 0.0
        self.done = 0
        self.seconds: dict[str, list[float]] = {}
        self.outcome = Outcome([])
        #: By the digest of the code that they are to have imported.
        self._servers: dict[str, ForkServer] = {}
        self._says_why_not = True

    def run(
        self,
        missing: Sequence[Cell],
        *,
        finished: int,
        seconds: Mapping[str, Sequence[float]],
        after: Callable[[], None],
    ) -> Outcome:
        """Run what is missing until all have ended, or the study is asked to stop.

        Args:
            missing: The runs, in the order in which they are started.
            finished: The number of runs that are finished already.
            seconds: The seconds of finished runs of each setting, which the end is foretold by.
            after: A function that is called whenever a run has ended.
        """
        self.after = after
        self.waiting = list(missing)
        self.done = finished
        self.seconds = {name: list(values) for name, values in seconds.items()}
        with self._signals(), self._servers_ended(), self._none_left():
            while self.running or ((self.waiting or self.elsewhere) and not self.outcome.stopped_by):
                self._start_more()
                self._end_those_that_ended()
                self._look_elsewhere()
                time.sleep(LOOK_EVERY)
        return self.outcome

    # ------------------------------------------------------------------------------------------------------- starting

    def _start_more(self) -> None:
        while len(self.running) < self.jobs and self.waiting and not self.outcome.stopped_by:
            self._start(self.waiting.pop(0))

    def _start(self, cell: Cell) -> None:
        try:
            claim = _claim(cell)
        except OSError as error:
            self._fail(cell, f"cannot be started: {error.strerror or error}")
            return
        if claim is None:
            self._leave_to_others(cell)
            return
        status = look(cell)  # another process may have been at it since
        if status.state is not State.MISSING:
            claim.release()
            self._take(cell, status)
            return
        with ExitStack() as held:
            held.callback(claim.release)
            try:
                self._launch(cell, held)
            except OSError as error:  # a full disk, among others
                held.close()
                self._fail(cell, f"cannot be started: {error.strerror or error}")

    def _launch(self, cell: Cell, held: ExitStack) -> None:
        goes_on = bool(checkpoints_in(cell.run_dir))
        code, data = self.code(), self.prepared.data_of(cell)
        known = read_record(cell)
        begun = known.begun(code=code.plain(), data=data, machine=self.prepared.machine, goes_on=goes_on)
        write_record(cell, begun)
        log_of(cell).parent.mkdir(parents=True, exist_ok=True)
        gpus = self.prepared.gpus
        place = held.enter_context(own_gpus(cell.study_dir / LOCKS, gpus, count=gpus_of(cell, gpus)))
        process = self._process_of(cell, os.environ | ENVIRONMENT | place, code=code)
        before = known.processor if goes_on else 0.0
        self.running.append(_Job(cell, process, held.pop_all(), time.monotonic(), before))
        if self.outcome.stopped_by:  # meanwhile: the signal was not given to this one
            process.send_signal(signal.SIGTERM)
        self.say(f"{'goes on' if goes_on else 'starts'}: {cell.title}")

    def _process_of(self, cell: Cell, environment: Mapping[str, str], *, code: CodeVersion) -> RunProcess:
        """Start a process: a fork of one that has imported the code as it is, unless it computes on a GPU.

        A driver of a GPU does not know its way in a fork if anything has woken it before.
        """
        words, log = command_of(cell, options=self.options), log_of(cell)
        if ForkServer.starts(words) and not self._may_use_gpu(cell):
            try:
                return self._server(cell, code).start(words, log=log, environment=environment)
            except OSError as error:
                self._say_why_not(error)
        return Started(words, log=log, environment=environment)

    def _may_use_gpu(self, cell: Cell) -> bool:
        is_looked_for = bool(self.prepared.machine)  # else nothing was missing when the study was started
        may = not is_looked_for and cell.raw["trainer"]["accelerator"] != "cpu"
        return may or gpus_of(cell, self.prepared.gpus) > 0

    def _server(self, cell: Cell, code: CodeVersion) -> ForkServer:
        """Return the process that has imported the code as it is; those of other code end with their last run."""
        in_use = {id(job.process.server) for job in self.running if isinstance(job.process, Forked)}
        for sources, server in list(self._servers.items()):
            if sources != code.sources and id(server) not in in_use:
                del self._servers[sources]
                server.close()
        if code.sources not in self._servers:
            self._servers[code.sources] = ForkServer(log_of(cell).with_name(f"fork_server_{code.sources}.log"))
        found = self._servers[code.sources]
        if found.sources != code.sources:
            raise OSError("the code has changed while it was imported")
        return found

    def _say_why_not(self, error: OSError) -> None:
        if self._says_why_not and not self.outcome.stopped_by:
            self.say(f"each run imports by itself: {error}")
            self._says_why_not = False

    def _take(self, cell: Cell, status: Status) -> None:
        """Do what is to be done with a run that is not missing any more."""
        if status.state is State.FINISHED:
            self._count(cell, status)
        elif status.state is State.OTHER:
            self._fail(cell, f"{cell.run_dir} holds a run with {status.why}")
        else:
            self._leave_to_others(cell)

    def _leave_to_others(self, cell: Cell) -> None:
        if cell.slug not in self.elsewhere:
            self.elsewhere[cell.slug] = cell
            self.say(f"left to another process: {cell.title}")

    def _look_elsewhere(self) -> None:
        """See what became of runs of other processes; one that was left unfinished is run here."""
        now = time.monotonic()
        if not self.elsewhere or now - self.looked < LOOK_ELSEWHERE_EVERY:
            return
        self.looked = now
        for slug, cell in list(self.elsewhere.items()):
            try:
                claim = _claim(cell)
            except OSError:  # a full disk, among others
                continue
            if claim is None:
                continue
            claim.release()
            status = look(cell)
            if status.state is State.RUNNING:
                continue
            del self.elsewhere[slug]
            if status.state is State.MISSING:
                self.waiting.insert(0, cell)
            else:
                self._take(cell, status)

    # --------------------------------------------------------------------------------------------------------- ending

    def _end_those_that_ended(self) -> None:
        for job in [job for job in self.running if job.process.poll() is not None]:
            self.running.remove(job)
            status = look(job.cell)
            if status.state is State.RUNNING and is_locked(job.cell.run_dir) is False:
                status = Status(State.MISSING)  # it was killed: its lock is there, and nobody holds it
            why = "" if status.state is State.FINISHED else self._why(job, status)
            with suppress(OSError):  # what it used is not known, then
                write_record(job.cell, replace(read_record(job.cell), failure=why, processor=job.all_processor))
            job.held.close()
            if status.state is State.FINISHED:
                self._count(job.cell, status, seconds=time.monotonic() - job.started)
            elif status.state is State.RUNNING:
                self._leave_to_others(job.cell)
            elif not self.outcome.stopped_by:
                self._fail(job.cell, why)

    def _why(self, job: _Job, status: Status) -> str:
        if status.state is State.RUNNING or self.outcome.stopped_by:
            return ""
        if status.state is State.OTHER:
            return f"{job.cell.run_dir} holds a run with {status.why}"
        code = job.process.poll() or 0
        text = log_of(job.cell).read_text(encoding="utf-8", errors="replace")
        if code < 0:
            return f"killed by {_signal_name(-code)}"
        if code == StoppedError.status:
            return "asked to stop by a signal"
        return last_line(text) if code else "ended without results"

    def _fail(self, cell: Cell, why: str) -> None:
        self.outcome.failed.append((cell, why))
        self.say(f"failed: {cell.title}: {why}")
        self.after()

    def _count(self, cell: Cell, status: Status, *, seconds: float | None = None) -> None:
        self.done += 1
        if seconds is not None:
            self.seconds.setdefault(cell.setting.name, []).append(seconds)
        # What a fold is held out for is not the test images.
        judged = (TEST_ACCURACY_EMA, VAL_ACCURACY_EMA) if cell.fold is None else (VAL_ACCURACY_EMA,)
        shares = (finite_number(metric.read(status.results)) for metric in judged)
        share = next((share for share in shares if share is not None), None)
        found = "finished" if share is None else f"{100 * share:.1f} %"
        took = "" if seconds is None else f" in {duration(seconds)}"
        self.say(f"{self.done} of {len(self.cells)}: {cell.title}: {found}{took}{self._foretold()}")
        self.after()

    def _foretold(self) -> str:
        """Say when all will have ended, by what runs took so far."""
        everything = [value for values in self.seconds.values() for value in values]
        left = [*self.waiting, *(job.cell for job in self.running), *self.elsewhere.values()]
        if not left or not everything:
            return ""
        mean = sum(everything) / len(everything)
        expected = 0.0
        for cell in left:
            own = self.seconds.get(cell.setting.name)
            expected += sum(own) / len(own) if own else mean
        now = time.monotonic()
        expected -= sum(min(now - job.started, mean) for job in self.running)
        rest = max(0.0, expected) / self.jobs
        end = time.strftime("%H:%M", time.localtime(time.time() + rest))
        return f"; {len(left)} left, about {duration(rest)}, until {end}"

    # -------------------------------------------------------------------------------------------------------- signals

    @contextmanager
    def _servers_ended(self) -> Iterator[None]:
        try:
            yield
        finally:
            with ExitStack() as ending:
                for server in self._servers.values():
                    ending.enter_context(server)
                self._servers.clear()

    @contextmanager
    def _none_left(self) -> Iterator[None]:
        """Leave no process behind, whatever happens here."""
        try:
            yield
        except BaseException:
            for job in self.running:
                with suppress(OSError):
                    job.process.send_signal(signal.SIGTERM)
            while any(job.process.poll() is None for job in self.running):
                time.sleep(LOOK_EVERY)
            raise

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Take the signals that ask to stop."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before: dict[signal.Signals, Any] = {}
        for name in STOPS:
            number = signal.Signals[name]
            if name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN:  # not so under nohup
                before[number] = signal.signal(number, self._stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 -- the signal module's
        is_second = bool(self.outcome.stopped_by) and number == signal.SIGINT
        if not self.outcome.stopped_by:
            self.outcome.stopped_by = signal.Signals(number).name
        for job in self.running:
            with suppress(OSError):
                job.process.send_signal(signal.SIGKILL if is_second and hasattr(signal, "SIGKILL") else signal.SIGTERM)
        if is_second:
            for server in self._servers.values():
                server.kill()  # one that imports keeps this process waiting


def log_of(cell: Cell) -> Path:
    """Return what the last process of a run wrote to its terminal.

    Args:
        cell: The run.
    """
    return cell.study_dir / "logs" / f"{cell.slug}.log"


def _claim(cell: Cell) -> FileLock | None:
    """Take a run from the other processes of this study; None where one has it."""
    path = cell.study_dir / LOCKS / f"{cell.slug}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    return lock


def _signal_name(number: int) -> str:
    try:
        return printable(signal.Signals(number).name)
    except ValueError:
        return f"signal {number}"
