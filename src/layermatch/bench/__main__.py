"""Measure how fast data, augmentation and a training step are on this machine, and write the figures as JSON."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from layermatch.arguments import OneLineParser
from layermatch.bench import augment, data, features, policies, step
from layermatch.bench.accuracy import accuracy
from layermatch.bench.report import Section, check_json_path, machine, show, write_json
from layermatch.console import Reporter
from layermatch.errors import UserError, check_number
from layermatch.freed_memory import keep_freed_memory
from layermatch.output import steady_output
from layermatch.paths import argument_path

__all__ = ["main"]

SUBJECTS = ("augment", "step", "policies", "data")


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python -m layermatch.bench", description=__doc__, allow_abbrev=False)
    subject = "what to measure; all but features (of timm) and accuracy, which has options of its own: accuracy --help"
    parser.add_argument("subject", choices=(*SUBJECTS, "all", "features", "accuracy"), help=subject)
    parser.add_argument("--quick", action="store_true", help="within a minute on two CPU cores; smaller batch")
    parser.add_argument(
        "--json", type=argument_path, default=Path("bench.json"), help="where the result goes (%(default)s)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is one")
    parser.add_argument("--case", help="of step: one network alone, WRN-28-2 or, on a GPU, WRN-37-2")
    parser.add_argument("--rounds", type=int, help="of step: blocks of each variant; default: 3, on a GPU --quick 1")
    parser.add_argument("--threads", type=int, help="of torch on the CPU; default: torch's own choice")
    return parser


def _choose_device(name: str) -> torch.device:
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise UserError("--device cuda, but this machine has no CUDA GPU: choose auto or cpu")
    return torch.device("cuda" if there and name != "cpu" else "cpu")


def measure(
    subject: str, *, device: torch.device, quick: bool, case: str | None = None, rounds: int | None = None
) -> Section:
    """Measure one subject.

    Args:
        subject: ``augment``, ``step``, ``policies``, ``data`` or ``features``.
        device: The device that computes.
        quick: Whether the short form is measured.
        case: The network that ``step`` is measured with; None takes all that the device has.
        rounds: The blocks of each variant of ``step``; None takes the form's.
    """
    if subject == "augment":
        return augment.measure(device=device, quick=quick)
    if subject == "step":
        effort = step.choose_effort(device, quick=quick)
        effort = effort if rounds is None else replace(effort, rounds=rounds)
        return step.measure(device=device, cases=step.choose_cases(device, case), effort=effort)
    if subject == "policies":
        return policies.measure(device=device, quick=quick)
    if subject == "features":
        return features.measure(device=device, quick=quick)
    return data.measure(device=device, quick=quick)


def bench(arguments: Sequence[str] | None, reporter: Reporter) -> None:
    """Measure, print and write.

    Args:
        arguments: The arguments of the command line; None takes the process's.
        reporter: The reporter that prints.

    Raises:
        UserError: An argument is not legal. Nothing has been measured then.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words[:1] == ["accuracy"]:
        accuracy(words[1:], reporter, _choose_device)
        return
    given = _parser().parse_args(words)
    if given.subject == "accuracy":
        raise UserError("accuracy has options of its own: give them behind it, bench accuracy --quick")
    device = _choose_device(given.device)
    if given.threads is not None:
        check_number("--threads", given.threads, low=1, integer=True)
        torch.set_num_threads(given.threads)
    if given.rounds is not None:
        check_number("--rounds", given.rounds, low=1, integer=True)
    if given.case is not None:
        step.choose_cases(device, given.case)
    check_json_path(given.json)
    about = machine(device=device)
    sections: list[Section] = []
    for subject in SUBJECTS if given.subject == "all" else (given.subject,):
        reporter.show(f"measuring {subject} ...")
        sections.append(measure(subject, device=device, quick=given.quick, case=given.case, rounds=given.rounds))
        # After each, so that a long measurement that is cut short leaves what it has.
        write_json(given.json, sections, about=about, quick=given.quick)
    show(sections, about=about, reporter=reporter)
    reporter.show(f"written to {given.json}")


@steady_output()
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; a mistake of the user is one line on standard error and status 2.

    Args:
        arguments: The arguments of the command line; None takes the process's.
    """
    keep_freed_memory()  # as a run does; PIL's pipeline profits as well
    try:
        bench(arguments, Reporter())
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.status)


if __name__ == "__main__":
    main()
