"""Docstrings are sentences: a function's begins with a verb, and nothing as if it went on from the name before it."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path for folder in ("src/layermatch", "docs/hooks", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

#: A section, and whether its entries begin with a name and a colon.
SECTIONS = {"Args:": True, "Attributes:": True, "Raises:": True, "Returns:": False, "Yields:": False}

#: The name of an argument, or the names of exceptions, before what is said of them.
NAMED = re.compile(r"\*{0,2}[\w.]+(?:, [\w.]+)*:(?: +(?P<text>.*))?")

#: "in-memory" is no preposition; "See :func:`x`." is a sentence, and "At least two names." is what it describes.
FRAGMENT = re.compile(
    r"(?!(?-i:See|At (?:least|most) [\w`]+ [a-z]))"
    r"(?:of|where|whose|whom|likewise|from|for|by|in|to|as|at|on|that|see|with)(?![\w-])"
    r"|(?:.*, |None )(?:likewise|as there)\.?$",
    re.IGNORECASE,
)

#: What begins in lower case and is no sentence: a dtype with its shape, or a symbol of an equation.
CODE = re.compile(
    r"(?:u?int\d+|float|bool)(?: \(|, )"
    r"|(?:[a-z]|alpha|beta|delta|gamma|lambda|rho|sigma|tau)(?:,| /| =)"
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


def in_lower_case(source: str) -> list[tuple[int, str]]:
    """The line and the text of every entry that begins in lower case, and is neither code nor a symbol."""
    return sorted((number, text) for number, text in entries(source) if text[0].islower() and not CODE.match(text))


def found_in_files(find: Callable[[str], list[tuple[int, str]]]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: {text}"
        for path in FILES
        for number, text in find(path.read_text(encoding="utf-8"))
    ]


def test_no_entry_leans_on_the_name_of_what_it_describes() -> None:
    found = found_in_files(fragments)
    assert not found, "say what it is, as in 'run_dir: The directory of the run.':\n" + "\n".join(found)
    assert sum(1 for path in FILES for _ in entries(path.read_text(encoding="utf-8"))) > 1000


def test_every_entry_begins_with_a_capital() -> None:
    found = found_in_files(in_lower_case)
    assert not found, "begin with a capital, as in 'run_dir: The directory of the run.':\n" + "\n".join(found)


#: Words that begin the name of a thing, and no sentence.
NO_VERB = re.compile(
    r"(?:the|an?|what|whether|when|how|which|why|each|every|everything|all|no|one|two|three|sixteen|both|any|some|its"
    r"|those|number|entry|none|absolute|grey|growth|labelled|memory|raw|training)\b"
    r"|(?!Nothing|Lightning)[a-z]+[^\Ws]s\b"  # things, or what it "returns"
    r"|(?-i:[A-Z]{2}|`)",  # a format, or code
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
    found = found_in_files(no_sentences)
    assert not found, "say what it does, as in 'Return the directory of the run.':\n" + "\n".join(found)


def test_a_docstring_ends_its_first_line() -> None:
    firsts = [
        (path, ast.get_docstring(node).partition("\n\n")[0])
        for path in FILES
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


@pytest.mark.parametrize(
    ("text", "is_sentence"),
    [
        ("Grey levels, (N, 1, H, W).", False),
        ("Training images that are evaluated as well.", False),
        ("Files that bear their name.", False),
        ("Everything, for programs.", False),
        ("When all will have ended.", False),
        ("Numbers of pictures.", False),
        ("No features where it cannot be read.", False),
        ("Labelled pictures.", False),
        ("Raw tasks: ``data``.", False),
        ("JSON_MIN and CSV: an item.", False),
        ("Sixteen digits.", False),
        ("``(x / 255 - mean) / std``.", False),
        ("Adds the pages.", False),
        ("Add the pages.", True),
        ("Pass it on.", True),
        ("Label images.", True),
    ],
)
def test_a_function_does_something(text: str, is_sentence: bool) -> None:
    assert no_sentences(f'def found():\n    """{text}"""\n') == ([] if is_sentence else [(2, text)])


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
        "int64 (N,), the columns of each box, likewise.",
        "rho, as there.",
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


@pytest.mark.parametrize("text", ["the directory of the run.", "a class.", "float of at least 0.", "holds it."])
def test_an_entry_in_lower_case_is_found(text: str) -> None:
    assert len(in_lower_case(MODULE.replace("{0}", text))) == 6


@pytest.mark.parametrize(
    "text",
    ["t, the share of the run.", "tau, above 0.", "alpha / r, or s.", "z = f(x).", "float (N,).", "int32, of all."],
)
def test_code_and_symbols_stay_as_they_are(text: str) -> None:
    assert in_lower_case(MODULE.replace("{0}", text)) == [(4, "whose sides are equal.")]
