"""Results of studies in the pages: their figures beside docs/evidence.md, and its tables.

    python benchmarks/evidence.py runs/studies/digits10 runs/studies/layers

copies what the studies found to ``docs/evidence/NAME.json`` (without paths of this machine), draws the figure of a
study that has one beside it, and writes the tables of docs/evidence.md again, between the marks of each study. What
stands around the marks is written by hand and stays. Without a directory it writes the tables of what is there.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.study_figures import FIGURES

from layermatch.cli import config_dir
from layermatch.files import replace_text
from layermatch.metrics import ACCURACY_ACCEPTED, MASK_RATE
from layermatch.report.compare import Comparison, compare
from layermatch.report.tables import Table, markdown, markdown_text
from layermatch.runs.quantities import duration, percent, points
from layermatch.study.code_version import CodeVersion
from layermatch.study.design import METRICS
from layermatch.study.formats import json_text, rows_of_plain
from layermatch.study.rows import LEVEL, Row
from layermatch.study.tables import BESIDE_NOTE, NONE, code_text, tables_of

PAGE = Path(__file__).parents[1] / "docs" / "evidence.md"
FOLDER = "evidence"

#: The algorithm that learns from no unlabelled image, which every other should beat.
LABELS_ALONE = "supervised"

#: The studies with a line for each method: by itself and with LayerMatch's rule.
FAMILIES = ("family", "family_40")

BEGINS, ENDS = "<!-- The study {} begins. -->", "<!-- The study {} ends. -->"
MARKS = re.compile(r"<!-- The study (\w+) begins\. -->\n.*?<!-- The study \1 ends\. -->", re.DOTALL)

#: Folders of a machine in front of a name; the name stays. A share of something has a letter before its slash.
FOLDERS = re.compile(r"""(?<![\w.):/])(?:/[^\s/:,;()'"]+)+/(?=[^\s/])|(?<![\w.):/])~/""")


# ------------------------------------------------------------------------------------------------------------- copying


def published(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a ``study.json`` without what is of one machine: where its files are.

    Args:
        content: The content of the file.

    Example:
        >>> published({"command": "x data.root=/home/me/pictures", "cells": [{"run_dir": "/tmp/a", "seed": 0}]})
        {'command': 'x data.root=pictures', 'cells': [{'seed': 0}]}
    """
    cells = [{key: value for key, value in cell.items() if key != "run_dir"} for cell in content["cells"]]
    found: dict[str, Any] = _without_folders({**content, "cells": cells})
    return found


def _without_folders(value: Any) -> Any:
    if isinstance(value, str):
        return FOLDERS.sub("", value)
    if isinstance(value, Mapping):
        return {_without_folders(key): _without_folders(each) for key, each in value.items()}
    return [_without_folders(each) for each in value] if isinstance(value, list) else value


def publish(study_dir: Path, folder: Path) -> str:
    """Copy what a study found, and draw its figure where it has one.

    Args:
        study_dir: The directory of the study.
        folder: The folder that the copy goes to.

    Returns:
        The name of the study.

    Raises:
        SystemExit: There is no study, or none of its runs is finished.
    """
    try:
        content = json.loads((study_dir / "study.json").read_text(encoding="utf-8"))
        name, finished = content["study"], content["finished"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SystemExit(f"{study_dir} holds no study.json of a study: {error}") from error
    if not finished:
        raise SystemExit(f"{study_dir}: no run of the study is finished")
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(folder / f"{name}.json", json_text(published(content)))
    if name in FIGURES:
        FIGURES[name](content).savefig(folder / f"{name}.png", dpi=100)
    return str(name)


# ---------------------------------------------------------------------------------------------------------------- page


def page_of(text: str, folder: Path) -> str:
    """Return the page with the tables of the studies that there are.

    Args:
        text: The page as it is.
        folder: The results of the studies, ``NAME.json``.
    """
    return MARKS.sub(lambda found: block_of(found[1], folder), text)


def names_in(text: str) -> list[str]:
    """Return the studies that a page has a place for."""
    return MARKS.findall(text)


def block_of(name: str, folder: Path) -> str:
    """Return what the page says of a study, with its marks.

    Args:
        name: The name of the study.
        folder: The results of the studies.
    """
    path = folder / f"{name}.json"
    if path.is_file():
        parts = parts_of(json.loads(path.read_text(encoding="utf-8")), has_figure=(folder / f"{name}.png").is_file())
    else:
        parts = [f"Not run yet: `{command_of(name)}`."]
    return "\n\n".join([BEGINS.format(name), *parts, ENDS.format(name)])


def command_of(name: str) -> str:
    """Return the command of a study of conf/study."""
    asked = yaml.safe_load((config_dir() / "study" / f"{name}.yaml").read_text(encoding="utf-8"))
    needs_root = any("fashion_mnist" in word or "cifar" in word or "stl10" in word for word in asked.get("common", []))
    return f"python -m layermatch.study study={name}{' data.root=DIR' if needs_root else ''}"


def parts_of(content: Mapping[str, Any], *, has_figure: bool) -> list[str]:
    """Return the paragraphs of a study: its command, figure and tables, and what these are the tables of.

    Args:
        content: The published content of ``study.json``.
        has_figure: Whether there is a figure beside it.
    """
    name, metric, rows = content["study"], METRICS[content["metric"]], rows_of_plain(content)
    parts = [code_text(content["command"])]
    if has_figure:
        parts.append(f"![{markdown_text(content['title'])}]({FOLDER}/{name}.png)")
    parts += [f"**{markdown_text(line)}**" for line in content.get("verdicts", ())]
    if name in FAMILIES:
        tables = [family_table(each, labels) for labels, each in rows.items()]
    else:
        # The page says it once, at its top.
        tables = [
            replace(table, note="") if table.note == BESIDE_NOTE else table for table in tables_of(rows, metric=metric)
        ]
    parts += [markdown(table) for table in tables if table.rows]
    parts.append("\n".join(f"- {markdown_text(line)}" for line in facts_of(content)))
    return parts


def facts_of(content: Mapping[str, Any]) -> list[str]:
    """Return what the tables are the tables of, in lines: runs, seeds, machine, code, data and the rule."""
    seeds = sorted({cell["seed"] for cell in content["cells"]})
    codes = dict.fromkeys(str(CodeVersion.of_plain(code)) for cell in content["cells"] for code in cell["code"])
    versions = content.get("versions", {})
    made_with = [f"{each} {', '.join(versions[each])}" for each in ("torch", "lightning") if each in versions]
    facts = [
        f"Runs: {content['finished']} of {content['runs']}, seeds {', '.join(map(str, seeds))}; every run is in "
        f"docs/{FOLDER}/{content['study']}.json.",
        f"Machine: {'; '.join(content.get('machines', ())) or 'not noted'}.",
        f"Code: {'; '.join(codes) or 'not noted'}{''.join(f', {each}' for each in made_with)}.",
        f"Data: {', '.join(content['data']) or 'not noted'}. Settings: {content['fingerprint']}. "
        f"Written: {content['written']}.",
        f"Selection: {content['rule']}",
    ]
    facts += [f"Left out: {setting}: {why}" for setting, why in content["left_out"].items()]
    facts += [f"Failed: {title}: {why}" for title, why in content["failed"].items()]
    return facts + [f"Careful: {note}" for note in content["notes"]]


def family_table(rows: Sequence[Row], labels: int | None) -> Table:
    """Return a line for each method: by itself, against labels alone, and with LayerMatch's rule.

    Args:
        rows: The rows of one of :data:`FAMILIES` at a number of labels.
        labels: The number of labels.
    """
    with_rule = {row.reference: row for row in rows if row.reference}
    labels_alone = next((row for row in rows if row.setting == LABELS_ALONE), None)
    lines = []
    for row in rows:
        if row.reference:
            continue
        other = with_rule.get(row.setting)
        lines.append(
            (
                row.setting,
                _share(row),
                *_difference(_against(row, labels_alone)),
                _share(other),
                *_difference(None if other is None else other.comparison),
                *(_beside(each, metric) for metric in (MASK_RATE, ACCURACY_ACCEPTED) for each in (row, other)),
                *(_time(each) for each in (row, other)),
            )
        )
    header = (
        "Method", "Its own rule", "Against labels alone", "95 % interval", "LayerMatch's", "Difference",
        "95 % interval", "Count", "... LayerMatch's", "Right", "... LayerMatch's", "Processor", "... LayerMatch's",
    )  # fmt: skip
    where = "" if labels is None else f", {labels} labels"
    return Table(
        f"Every method{where}",
        header,
        tuple(lines),
        f"Mean ± standard deviation over seeds; differences are paired by seed, in points: of its own rule to "
        f"{LABELS_ALONE}, and of LayerMatch's to its own. Count: pseudo-labels that count (mask rate); Right: how many "
        "of those are right; both of the last steps. Processor: mean time of a run.",
    )


def _against(row: Row, other: Row | None) -> Comparison | None:
    if other is None or row is other:
        return None
    return compare(row.by_draw, other.by_draw, level=LEVEL)


def _difference(found: Comparison | None) -> tuple[str, str]:
    if found is None:
        return (NONE, NONE)
    return points(found.difference), NONE if found.interval is None else " to ".join(map(points, found.interval))


def _share(row: Row | None) -> str:
    if row is None or row.summary is None:
        return NONE
    spread = "" if row.summary.std is None else f" ± {100 * row.summary.std:.1f}"
    return f"{percent(row.summary.mean)}{spread}"


def _beside(row: Row | None, metric: Any) -> str:
    summary = None if row is None else row.figures.get(metric)
    return NONE if summary is None else percent(summary.mean)


def _time(row: Row | None) -> str:
    return NONE if row is None or row.processor is None else duration(row.processor.mean)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("studies", nargs="*", type=Path, metavar="RUN_DIR", help="directories of studies")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page; results go to the folder evidence beside it")
    given = parser.parse_args(arguments)
    text = given.page.read_text(encoding="utf-8")
    folder = given.page.parent / FOLDER
    for study_dir in given.studies:
        name = publish(study_dir, folder)
        if name not in names_in(text):
            marks = f"{BEGINS.format(name)}\n{ENDS.format(name)}"
            text = f"{text.rstrip()}\n\n## {name}\n\n{marks}\n"
            sys.stderr.write(f"{name} had no place in {given.page.name}: it got one at the end, with no words\n")
    replace_text(given.page, page_of(text, folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
