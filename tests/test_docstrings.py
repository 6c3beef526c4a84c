"""Docstrings are sentences: a function's begins with a verb, and nothing as if it went on from the name before it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "layermatch"

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

#: A section, and whether its entries begin with a name and a colon.
SECTIONS = {"Args:": True, "Attributes:": True, "Raises:": True, "Returns:": False, "Yields:": False}

#: The name of an argument, or the names of exceptions, before what is said of them.
NAMED = re.compile(r"\*{0,2}[\w.]+(?:, [\w.]+)*:(?: +(?P<text>.*))?")

#: "in-memory" is no preposition; "See :func:`x`." is a sentence, and "At least two names." is what it describes.
FRAGMENT = re.compile(
    r"(?!(?-i:See|At (?:least|most) [\w`]+ [a-z]))"
    r"(?:of|where|whose|whom|likewise|from|for|by|in|to|as|at|on|that|see|with)(?![\w-])",
    re.IGNORECASE,
)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def docstrings(source: str) -> Iterator[tuple[int, int, list[str]]]:
    """The first line, the margin and the lines of every docstring of a module."""
    lines = source.split("\n")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            found = node.body[0]
            yield found.lineno, found.col_offset, lines[found.lineno - 1 : found.end_lineno]


def sections(source: str) -> list[tuple[bool, list[tuple[int, str]]]]:
    """Whether the entries of a section are named, and its lines that are not empty, with their numbers."""
    found = []
    for first, margin, lines in docstrings(source):
        section: list[tuple[int, str]] = []
        for number, line in enumerate(lines[1:], first + 1):
            if line.strip() and _indent(line) <= margin:
                section = []
                if line.strip() in SECTIONS:
                    found.append((SECTIONS[line.strip()], section))
            elif line.strip():
                section.append((number, line))
    return found


def entries(source: str) -> Iterator[tuple[int, str]]:
    """The line and the text of every entry of a module's docstrings, as far as its first line goes."""
    for is_named, section in sections(source):
        is_waiting = not is_named
        for number, line in section:
            if is_waiting:  # the text begins in the line below the name or the section's title
                is_waiting = False
                yield number, line.strip()
            elif is_named and _indent(line) == _indent(section[0][1]) and (match := NAMED.fullmatch(line.strip())):
                is_waiting = not match["text"]
                if match["text"]:
                    yield number, match["text"]


def fragments(source: str) -> list[tuple[int, str]]:
    """The line and the text of every entry that leans on the name before it."""
    return sorted((number, text) for number, text in entries(source) if FRAGMENT.match(text))


def test_no_entry_leans_on_the_name_of_what_it_describes() -> None:
    modules = sorted(PACKAGE.rglob("*.py"))
    found = [
        f"{path.relative_to(PACKAGE.parent)}:{number}: {text}"
        for path in modules
        for number, text in fragments(path.read_text(encoding="utf-8"))
    ]
    assert not found, "say what it is, as in 'run_dir: The directory of the run.':\n" + "\n".join(found)
    assert sum(1 for path in modules for _ in entries(path.read_text(encoding="utf-8"))) > 1000


#: Words that begin the name of a thing, and no sentence.
NO_VERB = re.compile(
    r"(?:the|an?|what|whether|how|which|why|each|every|all|one|two|both|any|some|its|those|number|names|entry|none)\b",
    re.IGNORECASE,
)


def is_attribute(node: ast.AST) -> bool:
    """Whether a function is a property, which is described as the thing that it is."""
    return any("property" in ast.unparse(decorator) for decorator in getattr(node, "decorator_list", ()))


def no_sentences(source: str) -> list[tuple[int, str]]:
    """The line and the text of every docstring that is no sentence by its first word."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, DOCUMENTED) or not (text := ast.get_docstring(node)):
            continue
        first = text.partition("\n")[0]
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not is_attribute(node)
        if FRAGMENT.match(first) or (is_function and NO_VERB.match(first)):
            found.append((node.body[0].lineno, first))
    return sorted(found)


def test_a_docstring_begins_as_a_sentence() -> None:
    modules = sorted(PACKAGE.rglob("*.py"))
    found = [
        f"{path.relative_to(PACKAGE.parent)}:{number}: {text}"
        for path in modules
        for number, text in no_sentences(path.read_text(encoding="utf-8"))
    ]
    assert not found, "say what it does, as in 'Return the directory of the run.':\n" + "\n".join(found)


def test_a_docstring_ends_its_first_line() -> None:
    modules = sorted(PACKAGE.rglob("*.py"))
    firsts = [
        (path, ast.get_docstring(node).partition("\n\n")[0])
        for path in modules
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node)
    ]
    assert [first for first in firsts if not first[1].endswith((".", "::", ":", "?"))] == []
    assert len(firsts) > 1500


NO_SENTENCES = '''"""Where it is."""


class Box:
    """A box."""

    @property
    def side(self):
        """The side."""

    @cached_property
    def other(self):
        """Of the other."""

    def open(self):
        """The lid."""

    def close(self):
        r"""Close it.

        The lid.
        """

    async def turn(self):
        """Whether it turns."""
'''


def test_what_is_no_sentence_is_found() -> None:
    assert no_sentences(NO_SENTENCES) == [
        (1, "Where it is."), (13, "Of the other."), (16, "The lid."), (25, "Whether it turns."),
    ]  # fmt: skip


MODULE = '''"""A module.

Attributes:
    size: whose sides are equal.
"""


class Box:
    """A box.

    Args:
        run_dir: {0}
        **options: A mapping,
            of names to values.

    Attributes:
        side: {0}
    """

    async def open(self, x: int) -> int:
        r"""Open the box.

        For each of them: in this order.

        Args:
            x:
                {0}

        Returns:
            {0}

        Raises:
            KeyError, errors.UserError: {0}

        Example:
            >>> x: "of no account"
            of: this
        """
'''


@pytest.mark.parametrize(
    "text",
    [
        "of the run.",
        "Of the run.",
        "where to.",
        "whose it is.",
        "whom it waits for.",
        "likewise",
        "from :func:`read`.",
        "for people.",
        "by name.",
        "in ``[0, 1)``.",
        "to train.",
        "as read.",
        "at least 1.",
        "At least 1, or none.",
        "on the left axis.",
        "that trained them.",
        "see :class:`Box`.",
        "with untrusted text.",
    ],
)
def test_a_fragment_is_found_in_every_section(text: str) -> None:
    source = MODULE.replace("{0}", text)
    places = [number for number, line in enumerate(source.splitlines(), 1) if text in line]
    assert len(places) == 5
    assert fragments(source) == [(4, "whose sides are equal."), *((number, text) for number in places)]


@pytest.mark.parametrize(
    "text",
    [
        "The directory of the run.",
        "See :class:`Box`.",
        "At least two names.",
        "In-place changes are kept.",
        "Format of the file.",
        "``of``, and what it stands for.",
        "Ten, in a row.",
        "Whether it is on.",
    ],
)
def test_a_phrase_that_stands_by_itself_is_none(text: str) -> None:
    assert fragments(MODULE.replace("{0}", text)) == [(4, "whose sides are equal.")]
