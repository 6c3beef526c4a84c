"""The image files below a folder, by their content, and what else lies there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from torchvision.datasets.folder import IMG_EXTENSIONS

from layermatch.data.decoding import is_image
from layermatch.data.system_folders import SYSTEM_FOLDERS
from layermatch.data.wording import printable
from layermatch.errors import UserError

__all__ = [
    "Found",
    "Unused",
    "find_images",
    "is_no_class",
    "list_entries",
    "unused_beside",
    "unused_text",
    "walk_images",
]

#: What is an image file without a look into it: if it is none, the user meant it to be one, and hears of it.
_ENDINGS = (*IMG_EXTENSIONS, ".gif", ".jfif", ".jpe", ".avif", ".jp2")
#: How macOS calls what it keeps of a file elsewhere.
_APPLE_DOUBLE = "._"
#: What is not used, by why. Other kinds are endings.
NO_ENDING, HIDDEN, LOOSE, FOLDER, SYSTEM = "without an ending", "hidden", "outside a class", "folder", "system folder"
#: Runs that are trained from the labelling page lie beside its table, by the same name: their figures are no pictures.
RUNS, _RUNS_OF, _TABLE = "runs of the labelling page", ".runs", ".csv"
#: Endings of files that are read where an extra is installed, and its package.
_HEIF = ((".heic", ".heif"), "pillow_heif")
#: How many kinds and how many files are spelt out.
_KINDS, _NAMED = 6, 3


class Unused(NamedTuple):
    """A file or a folder that lies where images are looked for, and is not used.

    Attributes:
        path: The path relative to where was looked, with ``/``; of a folder it ends so.
        kind: Its ending, or why it is not used.
    """

    path: str
    kind: str

    def below(self, folder: str) -> Unused:
        """Return the same, relative to the folder that ``folder`` is in."""
        return Unused(f"{folder}/{self.path}", self.kind)


@dataclass
class Found:
    """What is below a folder.

    Attributes:
        images: The paths relative to the folder, with ``/``, sorted by name.
        unused: Everything else, sorted in the same way.
    """

    images: list[str] = field(default_factory=list)
    unused: list[Unused] = field(default_factory=list)


def find_images(folder: Path) -> Found:
    """Return all image files below a folder, and the other files.

    A file is an image if its name says so, or its content: of a file with another name the beginning is read. Names
    that start with a dot and the folders of file servers are left out. Links to folders are followed, except back to
    a folder that they lie in.

    Args:
        folder: The folder in which to look, at any depth.

    Raises:
        UserError: A folder cannot be read.

    Example:
        >>> find_images(Path(__file__).parent).images
        []
    """
    found = Found()
    for one in walk_images(folder):
        if isinstance(one, Unused):
            found.unused.append(one)
        else:
            found.images.append(one)
    return found


def walk_images(folder: Path) -> Iterator[str | Unused]:
    """Yield what :func:`find_images` finds, sorted by path: one folder's names are in memory at a time.

    Args:
        folder: The folder in which to look, at any depth.

    Yields:
        The path of an image relative to the folder, with ``/``; or what is not used.

    Raises:
        UserError: A folder cannot be read.

    Example:
        >>> next(one.path for one in walk_images(Path(__file__).parent) if isinstance(one, Unused))
        '__init__.py'
    """
    try:
        yield from _walk(str(folder), "", _identities_above(folder))
    except OSError as error:
        raise UserError(f"cannot list {error.filename}: {error.strerror}") from error


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _identities_above(folder: Path) -> frozenset[tuple[int, int]]:
    """Return the folders that ``folder`` lies in, by its name and, where links lead to it, by its true place."""
    above = {*folder.absolute().parents, *folder.resolve().parents}
    return frozenset(_identity(place) for place in above if place.exists())


def _walk(folder: str, prefix: str, ancestors: frozenset[tuple[int, int]]) -> Iterator[str | Unused]:
    identity = _identity(Path(folder))
    if identity in ancestors:
        return
    with os.scandir(folder) as found:
        # A folder stands where its files will: paths come out sorted as a whole.
        entries = sorted(found, key=lambda entry: f"{entry.name}/" if entry.is_dir() else entry.name)
    names = {entry.name for entry in entries}
    for entry in entries:
        name = prefix + entry.name
        # scandir knows the kind of everything but links, so a file costs no call to the file system.
        if entry.name.startswith("."):
            yield from _hidden(entry, prefix)
        elif entry.is_dir() and entry.name in SYSTEM_FOLDERS:
            yield Unused(f"{name}/", SYSTEM)
        elif entry.is_dir() and entry.name.endswith(_RUNS_OF) and _table_of(entry.name) in names:
            yield Unused(f"{name}/", RUNS)
        elif entry.is_dir():
            yield from _walk(entry.path, f"{name}/", ancestors | {identity})
        elif _is_named_as_image(entry.name) or is_image(entry.path):
            yield name  # whether it is whole, or a link to nothing, is found when it is decoded
        else:
            yield Unused(name, kind_of(entry.name))


def _table_of(runs: str) -> str:
    return runs.removesuffix(_RUNS_OF) + _TABLE


def _is_named_as_image(name: str) -> bool:
    return name.lower().endswith(_ENDINGS)


def _hidden(entry: os.DirEntry[str], prefix: str) -> Iterator[Unused]:
    """Yield a picture that a user may miss; of what systems hide nobody has to hear."""
    if _is_named_as_image(entry.name) and not entry.name.startswith(_APPLE_DOUBLE) and entry.is_file():
        yield Unused(prefix + entry.name, HIDDEN)


def kind_of(name: str) -> str:
    """Return the ending of a file's name, in lower case.

    Args:
        name: The name of a file.

    Example:
        >>> kind_of("a.HEIC"), kind_of("README")
        ('.heic', 'without an ending')
    """
    return os.path.splitext(name)[1].lower() or NO_ENDING  # noqa: PTH122 -- 100,000 Paths take a second


def list_entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return what is in a folder, without hidden names, sorted.

    Args:
        folder: The folder in which to look.

    Raises:
        UserError: It cannot be read.

    Example:
        >>> "files.py" in [entry.name for entry in list_entries(Path(__file__).parent)]
        True
    """
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"cannot list {folder}: {error.strerror}") from error


def is_no_class(name: str) -> bool:
    """Return whether a folder beside class folders is one that a system made for itself.

    Args:
        name: The name of the folder.

    Example:
        >>> is_no_class("@eaDir"), is_no_class("cat")
        (True, False)
    """
    return name in SYSTEM_FOLDERS


def unused_beside(folder: Path, used: Sequence[str], *, files_are: str = "") -> list[Unused]:
    """Return what lies in a folder beside the folders that are read.

    Args:
        folder: The folder of a part, or the root.
        used: The names of the folders that are read.
        files_are: Why files there are not used; empty says what they are.

    Raises:
        UserError: The folder cannot be read.

    Example:
        >>> [unused.path for unused in unused_beside(Path(__file__).parent.parent, ["sources"])][:2]
        ['__init__.py', 'batch.py']
    """
    names = set(used)
    beside = [entry for entry in list_entries(folder) if entry.name not in names]
    return [_beside(entry, files_are) for entry in beside]


def _beside(entry: os.DirEntry[str], files_are: str) -> Unused:
    if entry.is_dir():
        return Unused(f"{entry.name}/", SYSTEM if entry.name in SYSTEM_FOLDERS else FOLDER)
    is_picture = _is_named_as_image(entry.name) or is_image(entry.path)
    return Unused(entry.name, files_are if files_are and is_picture else kind_of(entry.name))


def unused_text(unused: Sequence[Unused]) -> str:
    """Return how many there are of each kind, and the first of them.

    Args:
        unused: The files that are not used, at least one.

    Example:
        >>> unused_text([Unused("train/ant/a.heic", ".heic"), Unused("val/", "folder")])
        '.heic (1), folder (1): train/ant/a.heic, val/'
    """
    counts = Counter(one.kind for one in unused).most_common()
    kinds = [f"{printable(kind)} ({count:,})" for kind, count in counts[:_KINDS]]
    if len(counts) > _KINDS:
        kinds.append(f"other kinds ({sum(count for _, count in counts[_KINDS:]):,})")
    named = [printable(one.path) for one in _first_of_each(unused)]
    more = f" and {len(unused) - len(named):,} more" if len(unused) > len(named) else ""
    is_helped = any(kind in _HEIF[0] for kind, _ in counts) and find_spec(_HEIF[1]) is None
    hint = "; pip install 'layermatch[heif]' reads HEIC" if is_helped else ""
    return f"{', '.join(kinds)}: {', '.join(named)}{more}{hint}"


def _first_of_each(unused: Sequence[Unused]) -> list[Unused]:
    """Return the first of each kind, and then those that follow, up to the number that is named."""
    first = {one.kind: one for one in reversed(unused)}
    order = sorted(unused, key=lambda one: first[one.kind] is not one)
    return order[:_NAMED]
