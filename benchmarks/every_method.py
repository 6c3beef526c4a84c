"""Does every method run, go on where it stopped, and evaluate? Each algorithm of conf/algorithm on digits, on the CPU.

    python benchmarks/every_method.py                                  # 300 steps each
    python benchmarks/every_method.py --only fixmatch,freematch --steps 20 --jobs 2

Each method makes three processes: its run; the same run once more from the checkpoint in the middle, as after a crash
there (``ckpt_path=auto``); and ``layermatch.evaluate`` on the first. The two runs have to end with the same weights,
averages, optimizer and state of the method, to the bit, and the evaluation has to give the accuracy of the run. It
prints a table, and ends with status 1 if a method failed. It measures no method's worth: that takes seeds and more
steps, see ``conf/study/family.yaml``.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from layermatch.checkpoints import read_checkpoint
from layermatch.cli import config_dir
from layermatch.report.tables import Table, markdown
from layermatch.runs.layout import CHECKPOINTS, RESULTS, checkpoint_name
from layermatch.runs.quantities import duration, percent
from layermatch.runs.reading import read_results

#: They make one step, and so have no middle to go on from.
SOLVED_IN_ONE_STEP = frozenset({"linear_probe"})

#: What a checkpoint holds of the training itself: the rest is settings, versions and times.
TRAINING = ("state_dict", "optimizer_states", "lines", "guard", "evaluations", "global_step")

#: What ``layermatch.evaluate`` prints of averaged and live weights.
EVALUATED = re.compile(r"(EMA|live) weights\W+([\d.]+%)")


@dataclass(frozen=True)
class Found:
    """What became of a method.

    Args:
        method: The name of its file in conf/algorithm.
        steps: The optimizer steps of its run.
        accuracy: The test accuracy of the averaged weights.
        is_resumed: Whether the run that went on ended as the one that did not stop; None where it has no middle.
        is_evaluated: Whether an evaluation gave the accuracy of the run.
        seconds: What the run took.
        error: Why a process failed; empty where none did.
    """

    method: str
    steps: int
    accuracy: float | None = None
    is_resumed: bool | None = False
    is_evaluated: bool = False
    seconds: float | None = None
    error: str = ""

    @property
    def is_good(self) -> bool:
        """Whether all of it is as it should be."""
        return self.is_evaluated and self.is_resumed is not False and not self.error


class FailedError(Exception):
    """A process ended with a status other than 0."""


def methods() -> list[str]:
    """Return the names of all files of conf/algorithm that are a choice."""
    return sorted(path.stem for path in (config_dir() / "algorithm").glob("*.yaml") if path.stem != "base")


def examine(method: str, folder: Path, *, steps: int, options: Sequence[str] = ()) -> Found:
    """Run a method, let it go on from its middle, and evaluate it.

    Args:
        method: The name of its file in conf/algorithm.
        folder: An empty directory.
        steps: The optimizer steps of a run, an even number; a method that is solved in one step makes one.
        options: Settings of the runs, as on the command line of ``layermatch.run``.
    """
    has_middle = method not in SOLVED_IN_ONE_STEP
    steps = steps if has_middle else 1
    given = (f"algorithm={method}", f"trainer.max_steps={steps}", *options)
    whole, found = folder / "whole", Found(method, steps, is_resumed=False if has_middle else None)
    try:
        start("run", f"run_dir={whole}", f"checkpoint.every_n_steps={max(1, steps // 2)}", *given)
        results = read_results(whole / RESULTS)
        found = replace(found, accuracy=results["test"]["accuracy_ema"], seconds=results["seconds"])
        if has_middle:
            found = replace(found, is_resumed=goes_on(whole, folder / "resumed", given, steps=steps))
        return replace(found, is_evaluated=is_evaluation_of(results, start("evaluate", f"ckpt_path={whole}")))
    except FailedError as error:
        return replace(found, error=str(error))


def start(command: str, *words: str) -> str:
    """Run a command of the package in a process of its own, on one thread; return what it prints.

    Raises:
        FailedError: It ended with a status other than 0.
    """
    if command == "run":
        words = ("experiment=digits", "trainer=cpu", *words)
    process = subprocess.run(  # noqa: S603 -- this package's own modules
        [sys.executable, "-m", f"layermatch.{command}", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        lines = process.stderr.strip().splitlines() or ["it said nothing"]
        raise FailedError(f"layermatch.{command} ended with status {process.returncode}: {lines[-1]}")
    return process.stdout


def goes_on(whole: Path, resumed: Path, given: Sequence[str], *, steps: int) -> bool:
    """Return whether a run that goes on from the middle of another ends as that did.

    Args:
        whole: The directory of the run that did not stop.
        resumed: The directory of the one that goes on; it is made, with the checkpoint of the middle alone.
        given: The settings of both.
        steps: The optimizer steps of the whole run.

    Raises:
        FailedError: It ended with a status other than 0.
    """
    (resumed / CHECKPOINTS).mkdir(parents=True)
    shutil.copy(whole / CHECKPOINTS / checkpoint_name(steps // 2), resumed / CHECKPOINTS)
    start("run", f"run_dir={resumed}", f"checkpoint.every_n_steps={steps // 2}", "ckpt_path=auto", *given)
    one, two = (read_checkpoint(run_dir / CHECKPOINTS / checkpoint_name(steps)) for run_dir in (whole, resumed))
    return all(is_same(one[key], two[key]) for key in TRAINING)


def is_same(one: object, two: object) -> bool:
    """Return whether two contents of checkpoints are the same to the bit."""
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(is_same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(two, list | tuple):
        return len(one) == len(two) and all(map(is_same, one, two))
    return one == two


def is_evaluation_of(results: Mapping[str, Any], printed: str) -> bool:
    """Return whether ``layermatch.evaluate`` printed the accuracies of a run, as far as it shows them.

    Args:
        results: The content of the run's ``results.json``.
        printed: What the command printed.
    """
    of_run = {"EMA": results["test"]["accuracy_ema"], "live": results["test"]["accuracy"]}
    return dict(EVALUATED.findall(printed)) == {weights: f"{share:.4%}" for weights, share in of_run.items()}


def table_of(found: Sequence[Found]) -> Table:
    """Return a line for each method."""
    answers = {True: "yes", False: "NO", None: "solved in one step"}
    lines = tuple(
        (
            each.method,
            str(each.steps),
            "" if each.accuracy is None else percent(each.accuracy),
            answers[each.is_resumed],
            answers[each.is_evaluated],
            "" if each.seconds is None else duration(each.seconds),
        )
        for each in found
    )
    header = ("Method", "Steps", "Test accuracy", "Resumed to the bit", "Evaluation gives the same", "The run")
    note = "; ".join(f"{each.method}: {each.error}" for each in found if each.error)
    return Table(f"{sum(each.is_good for each in found)} of {len(found)} methods are good", header, lines, note)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="optimizer steps of a run, an even number")
    parser.add_argument("--only", metavar="NAME,...", help="these methods alone")
    parser.add_argument("--jobs", type=int, default=1, help="methods at once, each on one thread")
    parser.add_argument("options", nargs="*", help="settings of every run, as on layermatch.run's command line")
    given = parser.parse_args(arguments)
    chosen = methods() if given.only is None else given.only.split(",")
    unknown = sorted(set(chosen) - set(methods()))
    if unknown:
        parser.error(f"--only {','.join(unknown)}: choose of {', '.join(methods())}")
    if given.steps < 2 or given.steps % 2:
        parser.error(f"--steps {given.steps}: give an even number, at least 2, as a run stops in its middle")
    if given.jobs < 1:
        parser.error(f"--jobs {given.jobs}: give at least 1")

    def one(method: str) -> Found:
        with tempfile.TemporaryDirectory() as folder:
            found = examine(method, Path(folder), steps=given.steps, options=given.options)
        sys.stderr.write(f"{method}: {'good' if found.is_good else 'NOT good'}\n")
        return found

    with ThreadPoolExecutor(given.jobs) as pool:
        found = list(pool.map(one, chosen))
    sys.stdout.write(f"{markdown(table_of(found))}\n")
    return 0 if all(each.is_good for each in found) else 1


if __name__ == "__main__":
    sys.exit(main())
