"""``python -m layermatch.study study=NAME``: run what answers a question, and write the table that does.

A study is a file of conf/study. Whatever stops it, the same command goes on.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.text import Text

from layermatch.cli import config_dir, one_line_errors, plain, run_app
from layermatch.command_line import as_typed
from layermatch.components import check_keys
from layermatch.errors import RunError, StoppedError, UserError, check_bool, check_number
from layermatch.output import steady_output, terminal
from layermatch.paths import expand
from layermatch.report.tables import on_terminal
from layermatch.runs.directory import make_run_dir
from layermatch.runs.reading import finite_number
from layermatch.study.baselines import with_baselines
from layermatch.study.code_version import CodeVersion, code_version
from layermatch.study.collecting import FILES, Collector, check_study_dir, differences
from layermatch.study.composing import Composer, config_folders, files_of
from layermatch.study.design import Cell, Study
from layermatch.study.places import jobs_for
from layermatch.study.preparing import Prepared, known_refusals, prepare, refusals
from layermatch.study.records import State, Status, look, read_record
from layermatch.study.running import Runner, shown_command
from layermatch.study.tables import result_tables, verdict_lines
from layermatch.text import printable

__all__ = ["main"]

#: Settings of the study itself, beside ``study.KEY``. Everything else is given to every run.
OWN = ("study", "run_dir", "jobs", "dry_run")


def say(text: str) -> None:
    """Print a line at once, however long: a study is mostly read in a file, while it is at it."""
    console = terminal()
    console.print(Text(printable(text)), highlight=False, soft_wrap=True)
    console.file.flush()


def parted(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words of the study and those of every run.

    Args:
        words: The command line.

    Example:
        >>> parted(["study=smoke", "data.root=pictures (1)", "jobs=2"])
        (['study=smoke', 'jobs=2'], ['data.root="pictures (1)"'])
    """
    known, unknown = get_args_parser().parse_known_args(list(words))
    if known.multirun:
        raise UserError("a study runs several settings itself: leave -m away")
    settings = [*known.overrides, *(word for word in unknown if not word.startswith("-"))]
    given = [word for word in settings if _is_of_runs(word)]
    # By identity: the value of an option may be the same text as a setting.
    taken = {id(word) for word in given}
    return [word for word in words if id(word) not in taken], [as_typed(word) for word in given]


def _is_of_runs(word: str) -> bool:
    key = word.partition("=")[0].lstrip("+~").partition("@")[0]
    return "=" in word and key not in {*OWN, ""} and not key.startswith(("study.", "study/", "hydra.", "hydra/"))


def shown_study(words: Sequence[str]) -> str:
    """Return the command of a study as a line for people, without what says where and how fast.

    Args:
        words: The command line.

    Example:
        >>> shown_study(["study=digits10", "jobs=1", "study.seeds=[0,1]"])
        "python -m layermatch.study study=digits10 'study.seeds=[0,1]'"
    """
    apart = ("run_dir=", "jobs=", "dry_run=")
    return printable(shlex.join(["python", "-m", "layermatch.study", *(w for w in words if not w.startswith(apart))]))


def _study(config: DictConfig, given: Sequence[str], command: str) -> None:
    settings = plain(config)
    check_keys("", settings, OWN)
    for name in OWN:
        if name not in settings:
            raise UserError(f"{name} is missing: ~{name} takes it away")
    check_bool("dry_run", settings["dry_run"])
    jobs = _jobs(settings["jobs"])
    study_dir = expand("run_dir", settings["run_dir"], "a directory")
    name = str(HydraConfig.get().runtime.choices["study"])
    study = Study.parse(name, settings["study"], given=given, files_of=files_of)
    composer = Composer(study_dir)
    has_reference = settings["study"].get("reference") is not None
    study = with_baselines(study, model_of=composer.model_of, has_reference=has_reference)
    cells, left_out = composer.cells(study, study_dir=study_dir)
    options = [word for folder in config_folders() for word in ("--config-dir", folder)]
    if settings["dry_run"]:
        for cell in cells:
            say(shown_command(cell, options=options))
        for setting, why in left_out.items():
            sys.stderr.write(f"left out: {setting}: {printable(why)}\n")
        return
    before = check_study_dir(study_dir, study)
    make_run_dir(study_dir)
    composer.keep()
    collector = Collector(study, cells, left_out=left_out, command=command, study_dir=study_dir)
    _run(collector, jobs=jobs, options=options, before=before)


def _jobs(given: object) -> int | None:
    if given is None:
        return None
    check_number("jobs", given, low=1, integer=True)
    return int(str(given))


def _run(collector: Collector, *, jobs: int | None, options: Sequence[str], before: Mapping[str, Any] | None) -> None:
    """Run what is missing, and write what is known."""
    study, cells, code = collector.study, collector.cells, collector.code
    left_out = dict(collector.left_out)
    # of a study that leaves them out
    left_out |= refusals(study, cells, code=code, known=known_refusals(collector.study_dir))
    found = {cell.slug: look(cell) for cell in cells if cell.setting.name not in left_out}
    prepared = Prepared({}, {})
    if any(status.state is State.MISSING for status in found.values()):
        prepared = _prepare(study, cells, code=code, study_dir=collector.study_dir)
        left_out |= prepared.refused
    for setting, why in left_out.items():
        say(f"left out: {setting}: {why}")
    collector.leave_out(left_out)
    cells = collector.cells
    if not cells:
        raise UserError(f"study={study.name} has no setting that a run can have")
    if before is not None:
        line = differences(before, collector.found())
        if line:
            say(line)
    _note_others(cells, found, collector)
    missing = [cell for cell in cells if found[cell.slug].state in {State.MISSING, State.RUNNING}]
    finished = sum(found[cell.slug].state is State.FINISHED for cell in cells)
    jobs = jobs_for(cells, gpus=prepared.gpus) if jobs is None else jobs
    say(f"study {study.name} in {collector.study_dir}: {finished} of {len(cells)} runs finished, {jobs} at once")
    collector.write(is_last=not missing)
    stopped = ""
    if missing:
        runner = Runner(cells, jobs=jobs, code=code_version, prepared=prepared, say=say, options=options)
        stopped = _run_missing(runner, missing, found, collector)
    _conclude(collector, stopped=stopped)


def _prepare(study: Study, cells: Sequence[Cell], *, code: CodeVersion, study_dir: Path) -> Prepared:
    say("looking at the settings and the data")
    prepared = prepare(study, cells, code=code, study_dir=study_dir)
    if prepared.refused and study.illegal == "refuse":
        name, why = next(iter(prepared.refused.items()))
        raise UserError(f"setting {name!r}: {why}")
    return prepared


def _note_others(cells: Sequence[Cell], found: dict[str, Status], collector: Collector) -> None:
    """Say of directories with runs of other settings that they are not counted."""
    for cell in cells:
        status = found[cell.slug]
        if status.state is State.OTHER:
            why = f"{cell.run_dir} holds a run with {status.why}: give another run_dir, or take it away"
            collector.failed[cell.title] = why
            say(f"not counted: {cell.title}: {why}")


def _run_missing(runner: Runner, missing: Sequence[Cell], found: Mapping[str, Status], collector: Collector) -> str:
    """Run what is missing; give the name of the signal that stopped it, if one did."""
    seconds: dict[str, list[float]] = {}
    for cell in runner.cells:
        status = found[cell.slug]
        value = finite_number(status.results.get("seconds"))
        if value is not None and read_record(cell).in_one_go:
            seconds.setdefault(cell.setting.name, []).append(value)

    def after() -> None:
        collector.failed |= {cell.title: why for cell, why in runner.outcome.failed}
        try:
            collector.write(is_last=False)
        except RunError as error:  # the runs go on; at the end it is tried again
            say(f"warning: {error}")

    finished = sum(status.state is State.FINISHED for status in found.values())
    outcome = runner.run(missing, finished=finished, seconds=seconds, after=after)
    collector.write(is_last=True)
    return outcome.stopped_by


def _conclude(collector: Collector, *, stopped: str) -> None:
    """Show the tables, and end with a status that is not 0 where a run is not finished."""
    found = collector.found()
    console = terminal()
    for table in result_tables(found, is_brief=True):
        console.print(on_terminal(table), highlight=False)
    for line in verdict_lines(found):
        say(line)
    for note in found.notes:
        say(f"careful: {note}")
    say(f"written to {collector.study_dir}: {', '.join(FILES)}")
    count = f"{len(found.findings)} of {len(found.cells)} runs"
    if stopped:
        raise StoppedError(f"stopped by {stopped}, {count} are finished: the same command goes on")
    for title, why in collector.failed.items():
        sys.stderr.write(f"failed: {title}: {printable(why)}\n")
    if collector.failed:
        raise RunError(f"{len(collector.failed)} of {len(found.cells)} runs failed: the same command tries them again")


def _check_named(words: list[str]) -> None:
    """Refuse a command line that names no study, or take any where only help is asked for."""
    if any(word.startswith("study=") for word in words):
        return
    if not {"--help", "-h", "--hydra-help", "--version"} & set(words):
        names = sorted(path.stem for path in (config_dir() / "study").glob("*.yaml") if path.stem != "base")
        raise UserError(f"no study is given: give study=NAME, one of {', '.join(names)}")
    words.append("study=smoke")


@steady_output()
def main() -> None:
    """Start the command."""
    before = sys.argv
    with one_line_errors():
        own, given = parted(before[1:])
        _check_named(own)
    command = shown_study([*own, *given])
    sys.argv = [*before[:1], *own]
    try:
        run_app(lambda config: _study(config, given, command), "study")
    finally:
        sys.argv = before


if __name__ == "__main__":
    main()
