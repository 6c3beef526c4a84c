"""Measure the seconds of training until the accuracy stays above a target, and write them as JSON."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch

from layermatch.arguments import OneLineParser
from layermatch.bench.accuracy_cases import (
    ALGORITHMS,
    CONVENTIONAL_ALGORITHM,
    LEFT_OUT,
    PUT_IN,
    RECIPES,
    SETTINGS,
    Case,
    check_names,
    variants_of,
)
from layermatch.bench.accuracy_runs import Curve, compose_settings, measure_conventional, measure_ours
from layermatch.bench.own_process import OwnProcess
from layermatch.bench.report import machine
from layermatch.console import Reporter, table
from layermatch.errors import UserError, check_number
from layermatch.files import replace_text
from layermatch.paths import argument_path
from layermatch.runs.identity import shared_by_seeds
from layermatch.settings import Settings
from layermatch.study.code_version import code_version

__all__ = [
    "ACCURACY_FORMAT",
    "GOALS",
    "accuracy",
    "cells",
    "counted_runs",
    "goals_in_words",
    "read_accuracy",
    "rows_of",
]

#: The mark of a file of this measurement, so that nothing else is overwritten, and it by nothing else.
ACCURACY_FORMAT = "layermatch accuracy 1"

#: What the fast recipe aims at: how many times less time than these recipes take.
GOALS = {"published": 5, "conventional": 20}

#: Evaluations of a run, where nobody says how often.
EVALUATIONS = 30

#: A shortened run, to see that everything works: some seconds on two CPU cores.
QUICK = ("trainer.max_steps=6", "data.batch_size=4", "data.mu=2", "data.num_val=50", "model=wrn_small")
QUICK_EVERY = 2

DESCRIPTION = """Measure the seconds of training until the accuracy of the averaged weights on the validation images
stays at a target or above it: until the first evaluation after which it is never below the target again in the run.
The time of evaluations does not count. Every run that is finished is in the JSON file at once; the same command goes on
with those that are missing."""

#: What a run is called and where its data lie makes no other measurement.
_SAYS_WHERE = ("name", "data.root")


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python -m layermatch.bench accuracy", description=DESCRIPTION, allow_abbrev=False)
    add = parser.add_argument
    add("--setting", choices=tuple(SETTINGS), default="digits", help="the data set (%(default)s)")
    add("--root", help="the folder of the data set, as data.root")
    add("--labels", type=int, nargs="+", help="numbers of labelled images; default: those of the setting")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    add("--recipes", nargs="*", choices=RECIPES, default=list(RECIPES), help="default: all three")
    add("--algorithms", nargs="+", choices=ALGORITHMS, default=list(ALGORITHMS), help="default: both")
    add("--targets", type=float, nargs="+", help="accuracies, above 0 and at most 1; default: those of the setting")
    add("--leave-out", nargs="+", default=[], metavar="PART", help=f"each, or some of {', '.join(LEFT_OUT)}")
    add("--put-in", nargs="+", default=[], metavar="PART", help=f"each, or some of {', '.join(PUT_IN)}")
    add("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings, in every recipe")
    add("--steps", type=int, help="optimizer steps of every run; default: those of its recipe")
    add("--eval-every", type=int, help=f"optimizer steps between evaluations; default: {EVALUATIONS} in a run")
    add("--quick", action="store_true", help="runs of a few steps, to see that it works")
    add("--show", action="store_true", help="measure nothing: the table of what the JSON file has")
    add("--json", type=argument_path, default=Path("accuracy.json"), help="where the result goes (%(default)s)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is one")
    add("--threads", type=int, help="of torch on the CPU; default: torch's own choice")
    return parser


def accuracy(arguments: Sequence[str], reporter: Reporter, device_of: Any) -> None:
    """Measure what is missing, print and write.

    Args:
        arguments: The arguments behind ``accuracy``.
        reporter: The reporter that prints.
        device_of: Gives the device for the value of ``--device``.

    Raises:
        UserError: An argument is not legal. Nothing has been measured then.
    """
    given = _parser().parse_args(arguments)
    command = _command(given)
    _check(given)
    kept = read_accuracy(given.json)
    if not given.show:
        device = device_of(given.device)
        if given.threads is not None:
            torch.set_num_threads(given.threads)
        numbers = given.labels or SETTINGS[given.setting].labels
        cases = [case for labels in numbers for case in _cases(given, labels, device)]
        noted = {"command": command, "quick": given.quick}
        _measure(cases, kept, given.json, device=device, noted=noted, reporter=reporter)
    _show(kept, reporter, targets=given.targets)
    reporter.show(f"{'read from' if given.show else 'written to'} {given.json}")


def _command(given: Any) -> str:
    """Return what was asked for, without the places of this machine."""
    usual = vars(_parser().parse_args([]))
    words = ["python", "-m", "layermatch.bench", "accuracy"]
    for name, value in vars(given).items():
        if name == "json" or value == usual[name]:
            continue
        words.append(f"--{name.replace('_', '-')}")
        if name == "root":
            words.append("DIR")
        elif value is not True:
            words += map(str, value if isinstance(value, list) else [value])
    return shlex.join("data.root=DIR" if word.startswith("data.root=") else word for word in words)


def _check(given: Any) -> None:
    for name, low in (("threads", 1), ("steps", 1), ("eval_every", 1)):
        if getattr(given, name) is not None:
            check_number(f"--{name.replace('_', '-')}", getattr(given, name), low=low, integer=True)
    for target in given.targets or ():
        check_number("--targets", target, low=0, low_open=True, high=1)
    for labels in given.labels or ():
        check_number("--labels", labels, low=1, integer=True)
    for seed in given.seeds:
        check_number("--seeds", seed, low=0, high=2**32 - 1, integer=True)
    given.leave_out = check_names("--leave-out", given.leave_out, LEFT_OUT)
    given.put_in = check_names("--put-in", given.put_in, PUT_IN)
    if given.show and not given.json.exists():
        raise UserError(f"--show: there is no {given.json}: measure first, or give --json FILE")


def _cases(given: Any, labels: int, device: torch.device) -> Iterator[Case]:
    """Give every run of some number of labels: seed after seed, so that a change of the load meets all variants."""
    more = [f"data.num_labels={labels}", f"trainer.accelerator={'gpu' if device.type == 'cuda' else 'cpu'}"]
    more += [f"data.root={given.root}"] if given.root is not None else []
    more += QUICK if given.quick else ()
    more += given.set
    more += [f"trainer.max_steps={given.steps}"] if given.steps else []
    variants = variants_of(
        given.setting, recipes=given.recipes, left_out=given.leave_out, put_in=given.put_in, more=more,
        is_cut=not given.quick,
    )  # fmt: skip
    for seed in given.seeds:
        for recipe, change, overrides in variants:
            of_recipe = [CONVENTIONAL_ALGORITHM] if recipe == "conventional" else given.algorithms
            for algorithm in dict.fromkeys(of_recipe):
                whole = (*overrides, f"algorithm={algorithm}", f"seed={seed}")
                every = given.eval_every or (QUICK_EVERY if given.quick else _evenly(whole))
                yield Case(given.setting, labels, recipe, algorithm, seed, change, (*whole, f"eval_every={every}"))


def _evenly(overrides: tuple[str, ...]) -> int:
    return max(1, Settings.parse(compose_settings(overrides)).trainer.max_steps // EVALUATIONS)


def _measure(
    cases: Sequence[Case],
    kept: dict[str, Any],
    path: Path,
    *,
    device: torch.device,
    noted: Mapping[str, Any],
    reporter: Reporter,
) -> None:
    """Make the runs that are missing, each in a process of its own but for short ones, and write each at once."""
    about = machine(device=device)
    for case in cases:
        Settings.parse(compose_settings(case.overrides))  # a mistake is found before hours of measuring
    for number, case in enumerate(cases, start=1):
        measurement = _fingerprint(case, about)
        key = f"{case.name}, {measurement}"
        if key in kept["runs"]:
            reporter.show(f"{number} of {len(cases)}, {case.name}: there already")
            continue
        reporter.show(f"{number} of {len(cases)}, {case.name} ...")
        load = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
        measure = measure_conventional if case.recipe == "conventional" else measure_ours
        code = str(code_version())
        if noted["quick"]:
            curve = measure(case.overrides, device)
        else:
            with OwnProcess() as other:
                curve = other.call(measure, case.overrides, device)
        kept["runs"][key] = {
            **asdict(case), "overrides": list(case.overrides), "variant": case.variant, "measurement": measurement,
            "load at start": load, **noted, "code": code, "machine": about,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"), **curve,
        }  # fmt: skip
        replace_text(path, json.dumps(kept, indent=1) + "\n")


def _fingerprint(case: Case, about: Mapping[str, Any]) -> str:
    """Return ten digits that are the same for all seeds of a measurement on one machine with the same libraries."""
    shared = shared_by_seeds(compose_settings(case.overrides))
    counted = {key: value for key, value in shared.items() if key not in _SAYS_WHERE}
    known = [about[name] for name in ("processor", "gpu", "threads", "versions")]
    return hashlib.sha256(json.dumps([counted, known], sort_keys=True).encode()).hexdigest()[:10]


def read_accuracy(path: Path) -> dict[str, Any]:
    """Return what a file of this measurement holds; an empty one where there is none.

    Args:
        path: The path of the file.

    Raises:
        UserError: The path cannot be written, or something else is there.
    """
    if path.is_dir():
        raise UserError(f"--json {path} is a folder: give a file name")
    if not path.parent.is_dir():
        raise UserError(f"--json {path}: there is no folder {path.parent}: give a file in a folder that exists")
    if not path.exists():
        return {"format": ACCURACY_FORMAT, "runs": {}}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict) or content.get("format") != ACCURACY_FORMAT or "runs" not in content:
        raise UserError(f"--json {path} exists and is no result of bench accuracy: give another name")
    return content


def rows_of(content: Mapping[str, Any], *, targets: Sequence[float] | None = None) -> list[dict[str, Any]]:
    """Return a row for each data set, variant and target: the medians over the seeds.

    Where a variant was measured with several settings, or on several machines, the one that was measured last counts.

    Args:
        content: What :func:`read_accuracy` gives.
        targets: The accuracies; None takes those of each setting.

    Returns:
        Rows with ``setting``, ``labels``, ``target``, ``variant``, ``runs``, ``reached`` (how many runs stay at the
        target), and over all runs the medians ``seconds``, ``processor_seconds`` and ``steps``, which are None where
        the middle run does not reach it; ``lowest`` and ``highest`` seconds of those that do; ``test_accuracy``, the
        median at the end; ``seeds``; and ``times_as_fast`` as each of :data:`GOALS`, None where one has no seconds: as
        the published recipe with the same algorithm, and as the conventional code, which has one.
    """
    rows: list[dict[str, Any]] = []
    for (setting, labels, variant), runs in counted_runs(content).items():
        for target in targets or SETTINGS[setting].targets:
            about = {"setting": setting, "labels": labels, "target": target, "variant": variant}
            rows.append(about | _over(runs, target))
    seconds = {(*_place(row), row["variant"]): row["seconds"] for row in rows}
    for row in rows:
        algorithm = row["variant"].partition(",")[0].split()[1]
        others = {"published": f"published {algorithm}", "conventional": f"conventional {CONVENTIONAL_ALGORITHM}"}
        theirs = {recipe: seconds.get((*_place(row), other)) for recipe, other in others.items()}
        row["times_as_fast"] = {
            recipe: each / row["seconds"] if each and row["seconds"] else None for recipe, each in theirs.items()
        }
    return sorted(rows, key=_place)


def counted_runs(content: Mapping[str, Any]) -> dict[tuple[str, int, str], list[Mapping[str, Any]]]:
    """Return the runs that count, by data set, number of labels and variant; see :func:`rows_of`.

    Args:
        content: What :func:`read_accuracy` gives.
    """
    groups: dict[tuple[str, int, str], list[Mapping[str, Any]]] = {}
    for run in content["runs"].values():
        groups.setdefault((run["setting"], run["labels"], run["variant"]), []).append(run)
    for key, runs in groups.items():
        last = max(runs, key=lambda run: run["finished"])["measurement"]
        groups[key] = [run for run in runs if run["measurement"] == last]
    return groups


def _place(row: Mapping[str, Any]) -> tuple[str, int, float]:
    return row["setting"], row["labels"], row["target"]


def _over(runs: Sequence[Mapping[str, Any]], target: float) -> dict[str, Any]:
    """Return the medians over runs of one variant."""
    reached = []
    for run in runs:
        number = Curve(accuracy=run["accuracy"]).reached(target)
        names = ("seconds", "processor_seconds", "steps")
        reached.append(tuple(run[name][number] if number is not None else math.inf for name in names))
    medians = [median(values) for values in zip(*reached, strict=True)]
    seconds = [each[0] for each in reached if each[0] < math.inf]
    tested = [run["test_accuracy"] for run in runs if run["test_accuracy"] is not None]
    return {
        "runs": len(runs),
        "seeds": sorted(run["seed"] for run in runs),
        "reached": len(seconds),
        **{
            name: value if value < math.inf else None
            for name, value in zip(("seconds", "processor_seconds", "steps"), medians, strict=True)
        },
        "lowest": min(seconds, default=None),
        "highest": max(seconds, default=None),
        "test_accuracy": median(tested) if tested else None,
    }


def _show(content: Mapping[str, Any], reporter: Reporter, *, targets: Sequence[float] | None) -> None:
    rows = rows_of(content, targets=targets)
    header = ("recipe", "s", "lowest", "highest", "processor s", "steps", "reached", *(f"x {other}" for other in GOALS),
              "test %")  # fmt: skip
    for place in dict.fromkeys(map(_place, rows)):
        setting, labels, target = place
        title = f"{setting}, {labels} labels: until validation accuracy stays at {100 * target:g} %"
        reporter.show(table(title, [cells(row) for row in rows if _place(row) == place], header=header))
    reporter.show(goals_in_words())


def goals_in_words() -> str:
    """Return what the fast recipe aims at, as a sentence."""
    return f"Goals of the fast recipe: at least {' and '.join(f'{goal} x {other}' for other, goal in GOALS.items())}."


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells of a row of a table; ``never`` where the middle run does not stay at the target.

    Args:
        row: A row of :func:`rows_of`.
    """
    seconds = (_number(row[name]) for name in ("seconds", "lowest", "highest", "processor_seconds"))
    first, *others = seconds
    return (
        row["variant"], "never" if row["seconds"] is None else first, *others, _number(row["steps"], digits=0),
        f"{row['reached']} of {row['runs']}", *(_number(row["times_as_fast"][recipe]) for recipe in GOALS),
        "-" if row["test_accuracy"] is None else f"{100 * row['test_accuracy']:.1f}",
    )  # fmt: skip


def _number(value: float | None, *, digits: int = 1) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
