"""The files of a study: what it found, written again after every run, each whole at any time."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from filelock import FileLock

from layermatch.errors import RunError, UserError
from layermatch.files import replace_text
from layermatch.report.groups import choose_baseline, group_runs
from layermatch.report.page import Answer, render_html
from layermatch.report.runs import Run, read_run
from layermatch.runs.layout import METRICS, SPLIT, outputs_in
from layermatch.runs.metrics_file import Curve, MetricsFile
from layermatch.runs.reading import UNREADABLE, read_results
from layermatch.study.code_version import CodeVersion, code_version
from layermatch.study.design import Cell, Study, drawn_by, fingerprint_of, labels_name
from layermatch.study.formats import as_csv, as_json
from layermatch.study.records import State, look, read_record
from layermatch.study.rows import Finding, Found
from layermatch.study.tables import as_markdown, result_tables, verdict_lines
from layermatch.text import printable

__all__ = ["FILES", "Collector", "check_study_dir", "differences"]

#: The tables in three forms, and the page of all runs.
MARKDOWN, TABLE, DATA, PAGE = FILES = ("study.md", "study.csv", "study.json", "study.html")

#: To make the page may take this share of the time of a study; it is always made at the end.
SHARE_OF_PAGE = 0.05

#: What of a split two runs of a seed have alike.
OF_SPLIT = ("labelled", "validation", "unlabelled", "contents", "names")


def check_study_dir(study_dir: Path, study: Study) -> dict[str, Any] | None:
    """Return what the study wrote before; None where it wrote nothing.

    Args:
        study_dir: The directory of the study.
        study: The study.

    Raises:
        UserError: The directory holds a run, another study, or files that no study wrote.
    """
    if outputs_in(study_dir):
        raise UserError(f"run_dir={study_dir} holds a run ({', '.join(outputs_in(study_dir))}): give another run_dir")
    there = [name for name in FILES if (study_dir / name).exists()]
    if not there:
        return None
    try:
        before = read_results(study_dir / DATA)
    except UNREADABLE:
        before = {}
    if "study" not in before:
        raise UserError(
            f"run_dir={study_dir} holds files that no study wrote ({', '.join(there)}): give another run_dir"
        )
    if before["study"] != study.name:
        raise UserError(f"run_dir={study_dir} holds study={printable(before['study'])}: give another run_dir")
    return before


def differences(before: Mapping[str, Any], found: Found) -> str:
    """Return what a study asks otherwise than when its files were written; empty where it asks the same.

    Args:
        before: The content of ``study.json``.
        found: What the study knows now.

    Returns:
        One line.
    """
    if before.get("fingerprint") == found.fingerprint:
        return ""
    was, now = before.get("asked"), json.loads(json.dumps(found.study.plain()))
    names = [name for name in now if not isinstance(was, dict) or was.get(name) != now[name]]
    shown = [
        f"{name} {_brief(was.get(name) if isinstance(was, dict) else None)}, now {_brief(now[name])}" for name in names
    ]
    what = "; ".join(shown) or "files of conf that the runs are composed of"
    return printable(f"the tables that are there were of other settings ({before.get('fingerprint')}): {what}")


def _brief(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _twins(findings: Sequence[Finding]) -> list[str]:
    """Say of images that are held out and learnt from at once, as the pool has them a second time."""
    counts = [finding.results.get("leaks") for finding in findings]
    numbers = [_count(leaks, "unlabelled") + _count(leaks, "labelled") for leaks in counts]
    runs = sum(number > 0 for number in numbers)
    if not runs:
        return []
    return [
        f"in {runs} of {len(findings)} runs the unlabelled pool has up to {max(numbers)} images that are "
        "byte-identical to held-out ones: data.leaks=remove takes them out"
    ]


def _count(leaks: object, group: str) -> int:
    counts = leaks.get(group) if isinstance(leaks, Mapping) else None
    number = counts.get("validation") if isinstance(counts, Mapping) else None
    return number if isinstance(number, int) else 0


class Collector:
    """Reads what is finished and writes the tables.

    Args:
        study: The study.
        cells: All its runs.
        left_out: The settings that are left out, with the reason.
        command: The command of the study, for people.
        study_dir: The directory of the study.
    """

    def __init__(
        self, study: Study, cells: Sequence[Cell], *, left_out: Mapping[str, str], command: str, study_dir: Path
    ) -> None:
        self.study, self.cells, self.left_out, self.command, self.study_dir = study, cells, left_out, command, study_dir
        #: The code as it is now.
        self.code = code_version()
        self.failed: dict[str, str] = {}
        self._findings: dict[str, Finding] = {}
        self._splits: dict[str, str] = {}
        self._runs: dict[str, Run] = {}
        self._page_made, self._page_took = 0.0, 0.0

    def leave_out(self, left_out: Mapping[str, str]) -> None:
        """Leave out settings and their runs.

        Args:
            left_out: All the settings that are left out, with the reason.
        """
        self.left_out = left_out
        self.cells = [cell for cell in self.cells if cell.setting.name not in left_out]

    def found(self) -> Found:
        """Return all that is known now."""
        for cell in self.cells:
            known = self._findings.get(cell.slug)
            if known is None:
                self._read(cell)
            elif known.processor is None:  # a run writes its results before its process ends, which is noted then
                self._findings[cell.slug] = replace(known, processor=read_record(cell).processor)
        findings = [self._findings[cell.slug] for cell in self.cells if cell.slug in self._findings]
        data = dict.fromkeys(digest for finding in findings for digest in finding.data)
        found = Found(
            study=self.study,
            cells=self.cells,
            findings=findings,
            left_out=self.left_out,
            failed=self.failed,
            notes=(),
            code=self.code,
            command=self.command,
            data=tuple(data),
            written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        )
        return Found(**{**vars(found), "notes": tuple(self._notes(found))})

    def _read(self, cell: Cell) -> None:
        status = look(cell)
        if status.state is not State.FINISHED:
            return
        record = read_record(cell)
        codes = tuple(CodeVersion.of_plain(code) for code in record.code)
        self._findings[cell.slug] = Finding(
            cell,
            status.results,
            codes,
            record.data,
            record.in_one_go,
            record.machine,
            record.processor,
            self._curves(cell),
        )
        self.failed.pop(cell.title, None)
        problem = self._keep_split(cell)
        if problem:
            self._splits[cell.slug] = problem

    def _curves(self, cell: Cell) -> dict[str, Curve]:
        """Return the curves of a run that the study keeps; those that the run has."""
        if not self.study.curves:
            return {}
        file = MetricsFile(cell.run_dir / METRICS)
        with suppress(*UNREADABLE):  # there is none with logger=none
            file.poll()
        return {
            name: curve
            for name, curve in file.curves.items()
            if any(fnmatchcase(name, wanted) for wanted in self.study.curves)
        }

    # ---------------------------------------------------------------------------------------------------------- notes

    def _notes(self, found: Found) -> list[str]:
        notes = list(self._splits.values())
        sources = Counter(finding.code[-1].sources if finding.code else "" for finding in found.findings)
        if len(sources) > 1 or any(len(finding.code) > 1 for finding in found.findings):
            made = Counter(" and then ".join(map(str, finding.code)) or "unknown code" for finding in found.findings)
            notes.append("the runs are not of one code: " + "; ".join(f"{n} by {code}" for code, n in made.items()))
        elif found.findings and self.code.sources not in sources:
            notes.append(f"the runs are of other code than there is now, {self.code}")
        per_source: dict[str, Counter[str]] = {}
        for finding in found.findings:
            source = fingerprint_of(finding.cell.raw["data"].get("source"))
            per_source.setdefault(source, Counter())[" and then ".join(finding.data) or "unknown data"] += 1
        for counts in per_source.values():
            if len(counts) > 1:
                shown = ", ".join(f"{count} of {digest}" for digest, count in counts.items())
                notes += [f"the runs are not of one data set: {shown}"]
        if self.study.folds is not None:
            notes += _twins(found.findings)
        return notes

    def _keep_split(self, cell: Cell) -> str:
        """Keep the split of a seed for the record; a line where a run of the same seed had another one."""
        try:
            split = read_results(cell.run_dir / SPLIT)
        except UNREADABLE:
            return ""
        number = labels_name(cell.raw["data"].get("num_labels"))
        path = self.study_dir / "splits" / f"{number}_{cell.repetition}_{drawn_by(cell.raw['data'])}.json"
        try:
            kept = read_results(path)
        except UNREADABLE:
            with suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                replace_text(path, json.dumps(split) + "\n")
            return ""
        if any(kept.get(name) != split.get(name) for name in OF_SPLIT):
            return f"{cell.title} had other images than the other runs of its seed ({path.name})"
        return ""

    # ---------------------------------------------------------------------------------------------------------- files

    def write(self, *, is_last: bool) -> Found:
        """Write the tables; and the page, at the end or where it takes little of the time.

        Args:
            is_last: Whether nothing is written after it.

        Raises:
            RunError: A file cannot be written.
        """
        found = self.found()
        lock = FileLock(self.study_dir / ".locks" / "tables.lock", thread_local=False)
        try:
            Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
            with lock:
                # The one that says whose files these are comes first.
                replace_text(self.study_dir / DATA, as_json(found))
                replace_text(self.study_dir / MARKDOWN, as_markdown(found))
                replace_text(self.study_dir / TABLE, as_csv(found))
                self._write_page(found, is_last=is_last)
        except OSError as error:
            raise RunError(f"the tables cannot be written to {self.study_dir}: {error.strerror or error}") from error
        return found

    def _write_page(self, found: Found, *, is_last: bool) -> None:
        if not self._findings:
            return
        started = time.monotonic()
        if not is_last and started - self._page_made < self._page_took / SHARE_OF_PAGE:
            return
        replace_text(self.study_dir / PAGE, self._page(found))
        self._page_made = time.monotonic()
        self._page_took = self._page_made - started

    def _page(self, found: Found) -> str:
        for slug, finding in self._findings.items():
            if slug not in self._runs:
                self._runs[slug] = read_run(finding.cell.run_dir)
        runs = [self._runs[cell.slug] for cell in self.cells if cell.slug in self._runs]
        groups = group_runs(runs)
        names: dict[str, str] = {}
        for cell in self.cells:
            run = self._runs.get(cell.slug)
            if run is not None:
                labels = "" if len(self.study.num_labels) == 1 else f", {cell.num_labels} labels"
                names.setdefault(run.fingerprint, f"{cell.setting.name}{labels}")
        taken: Counter[str] = Counter()
        for group in groups:
            name = names.get(group.example.fingerprint, group.name)
            taken[name] += 1  # runs of a setting are two groups where its data or the files of conf have changed
            group.name = name if taken[name] == 1 else f"{name} ({taken[name]})"
        wanted = self.study.reference if isinstance(self.study.reference, str) else None
        baseline = choose_baseline(
            groups, wanted if any(group.name == wanted and group.runs for group in groups) else None
        )
        answer = Answer(
            title=self.study.title, verdicts=verdict_lines(found), notes=found.notes, tables=result_tables(found)
        )
        return render_html(runs, groups, baseline, written=datetime.now().astimezone(), answer=answer)
