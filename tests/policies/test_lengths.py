"""A policy reads beside its equations: its file is short."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

import pytest

from layermatch import policies

#: The lines of code of a policy's file, beside its imports.
MOST_LINES = 60

FILES = [path for path in sorted(Path(policies.__file__).parent.glob("*.py")) if path.name != "__init__.py"]

#: Tokens that are no code.
BLANK = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING,
    tokenize.ENDMARKER,
}  # fmt: skip


def lines_of_code(source: str) -> set[int]:
    """The numbers of the lines that are no comments, no docstrings, no imports and not blank."""
    tokens = [token for token in tokenize.tokenize(io.BytesIO(source.encode()).readline) if token.type not in BLANK]
    lines = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(ast.parse(source)):
        is_text = (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        )
        if is_text or isinstance(node, ast.Import | ast.ImportFrom):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


SOURCE = '''"""One

two."""
import io
from os import (
    sep,
)

# Three.
x = """
four"""

def f():
    """Five."""
'''


def test_lines_are_counted() -> None:
    assert lines_of_code(SOURCE) == {10, 11, 13}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_policy_is_short(path: Path) -> None:
    assert 0 < len(lines_of_code(path.read_text())) <= MOST_LINES


def test_every_policy_is_in_one_of_these_files() -> None:
    modules = {getattr(policies, name).__module__ for name in policies.__all__}
    assert modules <= {f"layermatch.policies.{path.stem}" for path in FILES}
    assert len(FILES) >= 16
