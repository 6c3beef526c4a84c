"""What the site's hooks do. That the site itself is whole is seen by `make docs`, which fails on what is missing."""

from __future__ import annotations

import doctest
import logging
import pkgutil
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace

import griffe
import pytest
import yaml

import layermatch
from layermatch.runs import layout

ROOT = Path(__file__).parents[2]
HOOKS = ROOT / "docs" / "hooks"
NAMES = sorted(path.stem for path in HOOKS.glob("*.py"))

MODULE = r'''
"""Of :class:`Shape`, :class:`ValueError`, :class:`pathlib.Path` and :func:`_hidden`."""

__all__ = ["CORNERS", "SIDES", "Shape", "Square"]

#: How many a :class:`Square`
#: has.
SIDES = 4
CORNERS = 4


class Shape:
    """A shape."""

    def area(self):
        r"""Its size.

        .. math::
            a &= b \\
            c &= d

        Returns:
            ``{1: 2}``: never less than 0, in :math:`m^2`.

        Example:
            >>> 1
        """


class Square(Shape):
    """See :meth:`area`, :meth:`Shape.area`, :class:`~shapes.Shape`, :data:`SIDES` and :data:`CORNERS`."""


def _hidden():
    """Of nobody's :meth:`perimeter`."""
'''


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(str(HOOKS))
    return import_module


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_of_its_docstrings(name: str, hook: Callable[[str], ModuleType]) -> None:
    assert doctest.testmod(hook(name)).failed == 0


def test_each_hook_is_used() -> None:
    settings = (ROOT / "mkdocs.yml").read_text()
    assert [name for name in NAMES if f"- docs/hooks/{name}.py" not in settings] == []


def test_the_reference_has_every_module(hook: Callable[[str], ModuleType]) -> None:
    found = {module.name for module in pkgutil.walk_packages(layermatch.__path__, "layermatch.")}
    public = {name for name in found if not any(part.startswith("_") for part in name.split("."))}
    assert set(hook("api").modules()) == public | {"layermatch"}


@pytest.fixture
def shapes(tmp_path: Path, hook: Callable[[str], ModuleType], caplog: pytest.LogCaptureFixture) -> griffe.Module:
    (tmp_path / "shapes.py").write_text(MODULE)
    caplog.set_level(logging.WARNING)
    extensions = griffe.Extensions(hook("roles").Docstrings())
    found = griffe.load("shapes", search_paths=[tmp_path], extensions=extensions)
    assert isinstance(found, griffe.Module)
    return found


def text_of(found: griffe.Object | griffe.Alias) -> str:
    assert found.docstring
    return found.docstring.value


def test_roles_become_links_where_there_is_a_place_to_go(shapes: griffe.Module) -> None:
    assert text_of(shapes) == "Of [`Shape`][shapes.Shape], `ValueError`, `pathlib.Path` and `_hidden`."
    areas = "[`area`][shapes.Shape.area], [`Shape.area`][shapes.Shape.area]"
    linked = f"See {areas}, [`Shape`][shapes.Shape], [`SIDES`][shapes.SIDES] and `CORNERS`."
    assert text_of(shapes["Square"]) == linked
    assert text_of(shapes["SIDES"]) == "How many a [`Square`][shapes.Square]\nhas."


def test_a_role_that_names_nothing_is_warned_of(shapes: griffe.Module, caplog: pytest.LogCaptureFixture) -> None:
    (warning,) = (record.getMessage() for record in caplog.get_records("setup"))
    assert "shapes._hidden" in warning
    assert ":meth:`perimeter`" in warning


def test_equations_returns_and_examples_are_what_the_reader_of_docstrings_knows(shapes: griffe.Module) -> None:
    docstring = shapes["Shape.area"].docstring
    assert "$$\na &= b \\\\\nc &= d\n$$" in docstring.value
    sections = docstring.parse("google", returns_named_value=False, warnings=False)
    assert [section.kind.value for section in sections] == ["text", "returns", "examples"]
    (returned,) = sections[1].value
    assert returned.description == "<code>{1&#58; 2}</code>&#58; never less than 0, in $m^2$."


def test_equations_of_two_lines_are_a_table(hook: Callable[[str], ModuleType]) -> None:
    drawn = hook("equations").mathml(r"a &= b \\ c &= d", block=True)
    assert drawn.count("<mtr>") == 2
    assert "&<" not in drawn


def test_an_equation_that_is_not_understood_is_warned_of(
    hook: Callable[[str], ModuleType], caplog: pytest.LogCaptureFixture
) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="a.md"))
    output = r'<p><span class="arithmatex">\(a \lt \nothing\)</span></p>'
    drawn = hook("equations").on_page_content(output, page, None, None)
    assert drawn.startswith("<p><math")
    assert ["a.md" in message and r"\nothing" in message for message in caplog.messages] == [True]


def test_the_navigation_has_every_page_and_readme_links_to_each() -> None:
    """Only the pages of notebooks are reached by a page of their own."""
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    entries = [entry for section in settings["nav"] for part in section.values() for entry in part]
    listed = set(re.findall(r"[\w./-]+\.md", str(entries)))
    assert pages <= listed
    readme = (ROOT / "README.md").read_text()
    assert [page for page in sorted(pages) if f"](docs/{page}" not in readme] == []


def test_every_link_names_what_lies_in_the_repository(hook: Callable[[str], ModuleType]) -> None:
    """So it works where the pages are read as files, and the site's hook turns it into a page."""
    files = hook("files")
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    links = [
        (page, files.in_repository(page, target))
        for page in [*pages, *files.MADE_OF]
        for target in files.targets((ROOT / files.MADE_OF.get(page, f"docs/{page}")).read_text(encoding="utf-8"))
    ]
    assert len(links) > 50
    assert [(page, target) for page, target in links if not (ROOT / target).exists()] == []


def test_the_first_page_has_every_file_of_a_run() -> None:
    table = (ROOT / "docs" / "first-run.md").read_text(encoding="utf-8")
    names = [name if "." in name else f"{name}/" for name in layout.OUTPUTS]
    assert [name for name in names if f"`{name}`" not in table] == []


def test_readme_is_two_screens() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 100
