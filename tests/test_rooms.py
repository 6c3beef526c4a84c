"""The rooms of the house: imports go down, and nothing imports what is built of it."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import layermatch

ROOT = Path(layermatch.__file__).parent


def modules_of(root: Path) -> dict[str, Path]:
    """Every module of a package, by its name."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = (root.name, *path.relative_to(root).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, modules: Mapping[str, Path]) -> Iterator[str]:
    """The modules of the package that a file imports, within functions and for types as well."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules else node.module for name in below]
        yield from (name for name in names if name in modules)


def room_of(module: str) -> str:
    """The folder of a module below the package; a file there is a room of its own."""
    return ".".join(module.split(".")[:2])


def circle_of(graph: Mapping[str, set[str]]) -> list[str]:
    """The names of a circle; none where there is none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_no_module_imports_what_is_built_of_it() -> None:
    modules = modules_of(ROOT)
    assert len(modules) > 300
    graph = {name: set(imported(path, modules)) - {name} for name, path in modules.items()}
    assert circle_of(graph) == []


def test_no_room_imports_what_is_built_of_it() -> None:
    modules = modules_of(ROOT)
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        rooms = {room_of(each) for each in imported(path, modules)} - {room_of(name), "layermatch"}
        graph.setdefault(room_of(name), set()).update(rooms)
    del graph["layermatch"]  # its names for users, of all rooms
    assert circle_of(graph) == []


@pytest.mark.parametrize("line", ["from house import b", "import house.b", "def f():\n    from house.b import x"])
def test_a_circle_is_found(line: str, tmp_path: Path) -> None:
    house = tmp_path / "house"
    house.mkdir()
    for name, text in (("__init__", ""), ("a", line), ("b", "from house.a import f")):
        (house / f"{name}.py").write_text(text)
    modules = modules_of(house)
    graph = {name: set(imported(path, modules)) - {name} for name, path in modules.items()}
    assert set(circle_of(graph)) == {"house.a", "house.b"}
