"""The reference: one page for each module of the package, so that none can be missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from roles import Docstrings, has_a_place

SOURCE = Path(__file__).parents[2] / "src"
PACKAGE = "layermatch"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Append the reference to the navigation: the package's own modules, then each room.

    Args:
        config: The site's settings.
    """
    names = modules()
    rooms = [name for name in names if name != PACKAGE and (SOURCE / name.replace(".", "/")).is_dir()]
    alone = [name for name in names if name not in rooms and name.count(".") <= 1]
    section: list[dict[str, Any]] = [{PACKAGE: [{_short(name): page_of(name)} for name in alone]}]
    for room in (room for room in rooms if room.count(".") == 1):
        inside = [room, *(name for name in names if name.startswith(f"{room}."))]
        section.append({_short(room): [{name.removeprefix(f"{PACKAGE}."): page_of(name)} for name in inside]})
    config.nav = [*(config.nav or []), {"Reference": section}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the reference.

    Args:
        files: The files of the site until now.
        config: The site's settings.
    """
    package = griffe.load(PACKAGE, search_paths=[SOURCE], extensions=griffe.Extensions(Docstrings()))
    for name in modules():
        module = package if name == PACKAGE else package[name.removeprefix(f"{PACKAGE}.")]
        files.append(File.generated(config, page_of(name), content=_page(module)))
    return files


def modules() -> list[str]:
    """Return the names of all modules that are not private, packages before what is in them.

    Example:
        >>> modules()[0]
        'layermatch'
    """
    paths = (path.relative_to(SOURCE).with_suffix("") for path in (SOURCE / PACKAGE).rglob("*.py"))
    names = {path.parts[:-1] if path.name == "__init__" else path.parts for path in paths}
    return sorted(".".join(parts) for parts in names if not any(part.startswith("_") for part in parts))


def page_of(name: str) -> str:
    """Return the path of a module's page, from ``docs/``.

    Args:
        name: The module's full name.

    Example:
        >>> page_of("layermatch.data.steps")
        'api/layermatch.data.steps.md'
    """
    return f"api/{name}.md"


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _page(module: Any) -> str:
    lines = ["---", f"title: {module.path}", "---", "", f"::: {module.path}", ""]
    if module.is_init_module:
        lines += ["    options:", "      members: false", "", *_exports(module)]
    return "\n".join(lines)


def _exports(module: Any) -> list[str]:
    """Write what a package gives of its modules, each with a link to where it is described, then these modules."""
    given = [(name, module.members[name]) for name in module.exports or () if name in module.members]
    objects = [(name, _target(found)) for name, found in given if found.is_alias]
    inside = [(found.path, found) for found in module.modules.values() if found.path in modules()]
    tables = (("Names", objects), ("Modules", sorted(inside)))
    return [line for title, rows in tables if rows for line in _table(title, rows)]


def _target(alias: Any) -> Any:
    """Find what an imported name is; None where griffe does not see it, such as one of two values assigned together."""
    try:
        return alias.final_target
    except griffe.AliasResolutionError:
        return None


def _table(title: str, rows: list[tuple[str, Any]]) -> list[str]:
    head = ["", f"## {title}", "", "| name | what it is |", "| --- | --- |"]
    return head + [f"| {_name(name, found)} | {_first_line(found)} |" for name, found in rows]


def _name(name: str, found: Any) -> str:
    return f"[`{name}`][{found.path}]" if found is not None and has_a_place(found) else f"`{name}`"


def _first_line(found: Any) -> str:
    return found.docstring.value.partition("\n")[0].replace("|", "\\|") if found is not None and found.docstring else ""
