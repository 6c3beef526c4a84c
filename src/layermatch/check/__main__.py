"""``python -m layermatch.check data=folder data.root=DIR``: look at a data set before it is trained on."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from layermatch.check.advice import Asked
from layermatch.check.findings import Inspection, inspect
from layermatch.check.looking import hash_function, look_at
from layermatch.check.page import GENERATOR, render
from layermatch.check.reading import read_content
from layermatch.cli import plain, run_app
from layermatch.components import check_keys
from layermatch.console import Reporter, table
from layermatch.data.cache_place import check_cache_dir
from layermatch.data.wording import printable
from layermatch.errors import UserError, check_number
from layermatch.files import replace_text
from layermatch.paths import expand, is_folder
from layermatch.quiet import quiet_libraries
from layermatch.settings import DataSettings, parse_plugins

__all__ = ["check", "main"]

#: The exit status where there are problems.
PROBLEMS = 1

#: The keys of conf/check.yaml.
_KEYS = ("data", "output", "distance", "pictures", "plugins")
#: The bits that hashes may differ in: beyond, most pictures are like some other.
_MOST_BITS = 15
_MARK_WITHIN = 2000
#: The classes that the terminal names.
_CLASSES_SHOWN = 12


def check(settings: Mapping[str, Any]) -> Inspection:
    """Look at a data set, and write the page and the JSON file.

    Args:
        settings: The composed configuration of ``conf/check.yaml``.

    Returns:
        What was found.

    Raises:
        UserError: A setting is not legal, or there is no such data set.
    """
    check_keys("", settings, _KEYS)
    for name in _KEYS:
        if name not in settings:
            raise UserError(f"{name} is missing: give {name}=VALUE; ~{name} takes it away")
    check_number("distance", settings["distance"], low=0, high=_MOST_BITS, integer=True)
    check_number("pictures", settings["pictures"], low=1, high=100, integer=True)
    page = _output(settings["output"])
    data = DataSettings.parse(_section(settings["data"]), parse_plugins(settings["plugins"]))
    num_workers = data.num_workers
    hash_function()
    with data.named_in_errors():
        if num_workers is not None:
            check_number("num_workers", num_workers, low=0, integer=True)
        check_cache_dir(data.module.get("cache_dir"))
        content = read_content(data.source.make())
        looks = {
            part: look_at(images.images, what=f"looking at {part} images", num_workers=num_workers)
            for part, images in content.parts.items()
        }
    found = inspect(content, looks, distance=settings["distance"], asked=Asked.of(data.module))
    _write(page, render(found, title=_title(data), pictures=settings["pictures"]))
    _write(page.with_suffix(".json"), json.dumps({"made_by": GENERATOR, **found.plain()}, indent=1) + "\n")
    return found


def _section(data: object) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise UserError(f"data={data!r} is not legal: choose one of the files of conf/data")
    return data


def _title(data: DataSettings) -> str:
    given = data.source.options
    place = given.get("manifest") or given.get("root")
    return str(place) if place else str(given.get("_target_", "")).rpartition(".")[2]


def _output(given: object) -> Path:
    """Return the page, of a name that ends with .html; a file that is there must be one of ours."""
    page = expand("output", given, "the page, such as check.html")
    if page.suffix.lower() not in {".html", ".htm"}:
        raise UserError(f"output={page} is no HTML page: give a name that ends with .html")
    if not is_folder(page.parent):
        raise UserError(f"output={page}: there is no folder {page.parent}: give a file in a folder that exists")
    for path in (page, page.with_suffix(".json")):
        if path.exists() and not _is_ours(path):
            raise UserError(f"output={page}: {path} exists and is no check: give another name")
    return page


def _is_ours(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return GENERATOR in file.read(_MARK_WITHIN)
    except OSError:  # a folder, among others
        return False


def _write(path: Path, text: str) -> None:
    try:
        replace_text(path, text)
    except OSError as error:
        raise UserError(f"output: cannot write {path}: {error.strerror or error}") from error


# ------------------------------------------------------------------------------------------------------------ terminal


def _show(found: Inspection, reporter: Reporter, *, page: str, seconds: float) -> None:
    parts = list(found.counts)
    names = list(found.content.classes)
    rows = [(name, *(f"{found.counts[part][number]:,}" for part in parts)) for number, name in enumerate(names)]
    if len(rows) > _CLASSES_SHOWN:
        rows = [*rows[:_CLASSES_SHOWN], (f"and {len(rows) - _CLASSES_SHOWN} more", *("" for _ in parts))]
    rows.append(("all", *(f"{sum(found.counts[part]):,}" for part in parts)))
    reporter.show(table("Images", rows, header=("class", *parts)))
    for one in found.findings:
        line = f"{one.kind}: {one.text}" + (f" ({one.examples[0]})" if one.examples else "")
        (reporter.warn if one.is_problem else reporter.show)(printable(line))
    for sentence in found.advice:
        reporter.show(sentence)
    count = len(found.problems)
    said = f"{count} problem{'s' * (count > 1)} found" if count else "no problem found"
    reporter.show(f"{said} in {seconds:.0f} s: {page} shows all of it, and a JSON file beside it has the numbers")


def _check(config: DictConfig) -> None:
    settings = plain(config)
    started = time.monotonic()
    with quiet_libraries():
        found = check(settings)
    _show(found, Reporter(), page=str(settings["output"]), seconds=time.monotonic() - started)
    if found.problems:
        sys.exit(PROBLEMS)


def main() -> None:
    """Run the command: status 0 where all is well, 1 where problems were found, 2 at a mistake."""
    run_app(_check, "check")


if __name__ == "__main__":
    main()
