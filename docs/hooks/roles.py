"""Docstrings for Markdown: references as Sphinx has them become links, and equations become what Markdown knows."""

from __future__ import annotations

import builtins
import html
import re
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import griffe

_ROLE = re.compile(r":(?P<role>class|func|meth|mod|attr|data|exc):`(?P<short>~?)(?P<name>[\w.]+)`")
_INLINE_MATH = re.compile(r":math:`(?P<tex>[^`]+)`")
_BLOCK_MATH = re.compile(r"^(?P<indent> *)\.\. math::(?P<first>.*)\n(?P<rest>(?:(?P=indent) +\S.*\n)*)", re.MULTILINE)
_EXAMPLE = re.compile(r"^(?P<indent> *)Example:$", re.MULTILINE)
_RETURNS = re.compile(r"^(?P<indent> *)(?:Returns|Yields):\n(?:(?P=indent) +\S.*\n)+", re.MULTILINE)
_COLON = re.compile(r"(``.*?``)|: ")

logger = griffe.get_logger("layermatch.docs")


class Docstrings(griffe.Extension):
    """Rewrites the docstrings of a package once it is loaded."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:  # noqa: ARG002 -- griffe gives more
        """Rewrite every docstring of the package.

        Args:
            pkg: The package.
            **kwargs: What griffe gives beside it.
        """
        objects = list(_objects(pkg))
        for found in objects:
            if found.is_attribute and not found.docstring:
                found.docstring = _comment_above(found)
        for found in objects:
            if found.docstring:
                found.docstring.value = _linked(_readable(found.docstring.value), found)


def _objects(found: Any) -> Iterator[Any]:
    yield found
    for member in found.members.values():
        if not member.is_alias:
            yield from _objects(member)


def _comment_above(found: Any) -> griffe.Docstring | None:
    """Return what the lines that begin with ``#:`` say of the value below them."""
    lines: list[str] = []
    above = found.lines_collection[found.filepath][: found.lineno - 1]
    for line in reversed(above):
        if not line.lstrip().startswith("#:"):
            break
        lines.insert(0, line.lstrip().removeprefix("#:").strip())
    return griffe.Docstring("\n".join(lines), lineno=found.lineno, parent=found) if lines else None


def _readable(text: str) -> str:
    r"""Write equations between dollars, and examples under the title that griffe knows.

    Example:
        >>> _readable("With :math:`x`:\n\n.. math:: a\n    = b\n\nExample:\n    >>> 1")
        'With $x$:\n\n$$\na\n= b\n$$\n\nExamples:\n    >>> 1'
    """
    text = _EXAMPLE.sub(r"\g<indent>Examples:", text) + "\n"
    text = _BLOCK_MATH.sub(_block, _RETURNS.sub(_without_colons, text))
    return _INLINE_MATH.sub(r"$\g<tex>$", text)[:-1]


def _without_colons(match: re.Match[str]) -> str:
    """Write what is returned, without the colons that griffe takes for a type's end: types are in the signature."""
    return _COLON.sub(_colon, match[0])


def _colon(match: re.Match[str]) -> str:
    code = match[1]
    if code is None:
        return "&#58; "
    return f"<code>{html.escape(code[2:-2])}</code>".replace(": ", "&#58; ") if ": " in code else code


def _block(match: re.Match[str]) -> str:
    lines = [line.strip() for line in (match["first"], *match["rest"].splitlines()) if line.strip()]
    return "".join(f"{match['indent']}{line}\n" for line in ("$$", *lines, "$$"))


def _linked(text: str, where: Any) -> str:
    def link(match: re.Match[str]) -> str:
        name = match["name"]
        shown = name.rpartition(".")[2] if match["short"] else name
        target = _find(name, where)
        if target is None and not _is_elsewhere(name):
            logger.warning("%s: nothing is named %s", where.path, match[0])
        return f"[`{shown}`][{target.path}]" if target is not None and has_a_place(target) else f"`{shown}`"

    return _ROLE.sub(link, text)


def _find(name: str, where: Any) -> Any:
    """Find what a docstring means by a name: of its own class or module, of what surrounds it, or of the package."""
    scope = where
    while scope is not None:
        found = _member(scope, name)
        if found is not None:
            return found
        scope = scope.parent
    package, _, rest = name.partition(".")
    return _member(where.package, rest) if package == where.package.name else None


def _member(scope: Any, name: str) -> Any:
    for part in name.split("."):
        members = scope.all_members if scope.is_class or scope.is_module else {}
        if part not in members:
            return None
        scope = members[part]
        try:
            scope = scope.final_target if scope.is_alias else scope
        except griffe.AliasResolutionError:
            return None
    return scope


def _is_elsewhere(name: str) -> bool:
    """Return whether it is Python's, or of another package, whose reference is not here."""
    package, dot, _ = name.partition(".")
    return hasattr(builtins, name) or bool(dot and find_spec(package))


def has_a_place(found: Any) -> bool:
    """Return whether the reference describes a thing: it says what it is, and it and all around it are public.

    Args:
        found: The thing, as griffe has it.
    """
    if not (found.is_module or found.docstring):
        return False
    while found.parent is not None:
        if not found.is_public:
            return False
        found = found.parent
    return True
