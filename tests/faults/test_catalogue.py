"""The page "What can go wrong" says what the tests show, and ``make faults`` runs those tests."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from tests.faults.page import PAGE, ROOT, read_catalogue, render


def functions_of(path: Path) -> set[str]:
    """The test functions of a file, those of its classes as ``Class::function``."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return {name for name in found if name.rpartition("::")[2].startswith("test_")}


def test_the_page_is_what_the_catalogue_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(read_catalogue()), "run python -m tests.faults.page"


def test_every_test_of_the_catalogue_exists() -> None:
    missing = []
    for fault in read_catalogue():
        for name in fault.tests:
            file, _, function = name.partition("::")
            if not (ROOT / file).is_file() or function not in functions_of(ROOT / file):
                missing.append(f"{fault.topic}: {name}")
    assert not missing


def test_no_fault_is_listed_twice() -> None:
    said = [fault.what for fault in read_catalogue()]
    assert sorted(set(said)) == sorted(said)


@pytest.mark.parametrize(
    "text",
    [
        'title = "x"\n[[fault]]\nwhat = "a"\nthen = "b"\ntests = ["c::d"]\n',
        '[[fault]]\nwhat = "a"\nthen = "b"\n',
        '[[fault]]\nwhat = "a"\nthen = "b"\ntests = []\n',
        '[[fault]]\nwhat = "a"\nthen = "b"\ntests = ["c.py"]\n',
        '[[fault]]\nwhat = "a"\nthen = ""\ntests = ["c::d"]\n',
        '[[fault]]\nwhat = "a"\nthen = "b"\ntodo = "c"\ntests = ["c::d"]\n',
        '[[fault]]\nwhat = "a"\n',
        "no toml",
    ],
)
def test_a_catalogue_of_another_form_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "odd.toml").write_text(text)
    with pytest.raises(ValueError, match=r"odd.toml|Expected"):
        read_catalogue(tmp_path)


def pytest_in(folder: Path, *arguments: str) -> str:
    """What pytest prints, with the tables of this project as a plugin."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "tests.tables", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(
        command, cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def test_make_faults_runs_what_the_catalogue_names_and_shows_it(tmp_path: Path) -> None:
    assert "--faults" in (ROOT / "Makefile").read_text().partition("\nfaults:")[2].partition("\n\n")[0]
    (tmp_path / "tests/faults/catalogue").mkdir(parents=True)
    (tmp_path / "tests/faults/catalogue/odd.toml").write_text(
        '[[fault]]\nwhat = "One."\nthen = "x"\n'
        'tests = ["tests/test_a.py::test_named", "tests/test_a.py::test_broken"]\n'
        '[[fault]]\nwhat = "Two."\nthen = "x"\ntests = ["tests/test_a.py::test_skipped"]\n'
        '[[fault]]\nwhat = "Three."\nthen = "x"\ntests = ["tests/test_a.py::test_gone"]\n'
    )
    (tmp_path / "tests/faults/test_here.py").write_text("def test_of_the_folder(): pass\n")
    (tmp_path / "tests/test_a.py").write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('x', [1, 2])\ndef test_named(x): pass\n"
        "def test_broken(): assert False\n"
        "def test_other(): assert False, 'it is not named'\n"
        "@pytest.mark.skip\ndef test_skipped(): pass\n"
    )
    text = pytest_in(tmp_path, "--faults", "--rootdir=.", "tests")
    assert "1 failed, 3 passed, 1 skipped, 1 deselected" in text
    table = text.partition(" what can go wrong ")[2].splitlines()[1:5]
    assert [line.split("  ")[0] for line in table] == ["what", "One.", "Two.", "Three."]
    assert [line.split()[-2:] for line in table[1:]] == [["3", "2"], ["0", "0"], ["0", "0"]]
