"""``docs/what-can-go-wrong.md``, made from the list of faults that the tests repeat.

``python -m tests.faults.page`` writes the page; ``make faults`` runs the tests that the list names.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CATALOGUE", "PAGE", "Fault", "read_catalogue", "render"]

ROOT = Path(__file__).parents[2]
CATALOGUE = ROOT / "tests" / "faults" / "catalogue"
PAGE = ROOT / "docs" / "what-can-go-wrong.md"

HEAD = """\
# What can go wrong

What folders, shells, terminals, disks and clusters do to a run, what the run does then, and what is left for you to
do. Each is repeated by the tests that are named with it; `make faults` runs them all and prints what became of each.

<!-- Made from tests/faults/catalogue by `python -m tests.faults.page`: change it there. -->
"""


@dataclass(frozen=True)
class Fault:
    """Something that can happen to a run.

    Attributes:
        topic: what it is about, after its file.
        what: the user meets.
        then: what the run does.
        tests: that repeat it, as ``file::function``.
        do: what the user has to do; empty where there is nothing.
    """

    topic: str
    what: str
    then: str
    tests: tuple[str, ...]
    do: str = ""


def read_catalogue(folder: Path = CATALOGUE) -> list[Fault]:
    """Every fault, file by file in the order of their names.

    Args:
        folder: of the TOML files.

    Raises:
        ValueError: a file is no TOML, or a fault in it has not the form that is described in its message.
    """
    return [fault for path in sorted(folder.glob("*.toml")) for fault in _read(path)]


def _read(path: Path) -> list[Fault]:
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    if list(content) != ["fault"] or not isinstance(content["fault"], list):
        raise ValueError(f"{path.name}: give one or more [[fault]], and nothing beside them")
    topic = path.stem.replace("_", " ").capitalize()
    return [_fault(topic, entry, f"{path.name}, fault {number}") for number, entry in enumerate(content["fault"], 1)]


def _fault(topic: str, entry: dict[str, object], place: str) -> Fault:
    texts = {key: entry.get(key) for key in ("what", "then", *(("do",) if "do" in entry else ()))}
    tests = entry.get("tests")
    whole = all(isinstance(text, str) and text.strip() and "\n" not in text.strip() for text in texts.values())
    named = isinstance(tests, list) and tests and all(isinstance(name, str) and "::" in name for name in tests)
    if not whole or not named or set(entry) - {"what", "then", "do", "tests"}:
        raise ValueError(f"{place}: give what, then and perhaps do, one line of text each, and tests as FILE::FUNCTION")
    return Fault(topic, tests=tuple(tests), **{key: str(text).strip() for key, text in texts.items()})


def render(faults: Sequence[Fault]) -> str:
    """The page: a section for each topic.

    Args:
        faults: as :func:`read_catalogue` gives them.
    """
    items: dict[str, str] = {}
    for fault in faults:
        items[fault.topic] = items.get(fault.topic, "") + _item(fault)
    return HEAD + "".join(f"\n## {topic}\n\n{text}" for topic, text in items.items())


def _item(fault: Fault) -> str:
    todo = f"  \n  To do: {fault.do}" if fault.do else ""
    tests = ", ".join(_link(name) for name in fault.tests)
    return f"- **{fault.what}** {fault.then}{todo}  \n  Shown by {tests}.\n"


def _link(test: str) -> str:
    file, _, name = test.partition("::")
    return f"[`{name.rpartition('::')[2]}`](../{file})"


if __name__ == "__main__":
    PAGE.write_text(render(read_catalogue()), encoding="utf-8")
