"""The images to predict: below a folder, in a manifest, in a list of files, or one."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from layermatch.data.manifest import is_parquet, read_manifest
from layermatch.data.sources.files import Unused, walk_images
from layermatch.data.wording import printable
from layermatch.errors import UserError
from layermatch.paths import is_file, is_folder

__all__ = ["Entry", "Listing", "list_input"]

#: Why a file is not used whose name a table could not hold.
NO_TEXT = "a name that is not UTF-8"

#: What a list of files is called.
LISTS = (".txt", ".lst")


@dataclass(frozen=True)
class Entry:
    """One image.

    Args:
        path: The file relative to the root, with ``/``; absolute where a list says so and it is not below the root.
        label: The class that a manifest says; empty where nothing does.
        split: What a manifest says that the image is for; ``train``, which is a manifest's default, elsewhere.
    """

    path: str
    label: str = ""
    split: str = "train"


@dataclass(frozen=True)
class Listing:
    """The images in their order; nothing is opened yet.

    Args:
        root: The folder that paths are relative to.
        entries: The images, and what lies between them and is not used. It can be gone through once.
        is_table: Whether a manifest or a list names them, so that ``root`` may be another one than is meant.
    """

    root: Path
    entries: Iterator[Entry | Unused]
    is_table: bool = False


def list_input(given: Path, root: Path | None) -> Listing:
    """Return what the settings ``input`` and ``root`` mean.

    Args:
        given: A folder (all images below it, sorted by path), a manifest (``.csv``, ``.parquet``), a list of files
            (``.txt``, a path a line) or an image.
        root: The folder that paths are relative to; None is the folder itself, that of the manifest or of the image,
            and for a list the working directory. A list may also name files below it as the working directory sees
            them. An image is as the working directory sees it, and stays absolute where it is not below ``root``.

    Raises:
        UserError: There is no such thing, or a folder is not below ``root``; while it is gone through, a manifest or a
            list cannot be read.

    Example:
        >>> [entry.path for entry in list_input(Path("no/such"), None).entries]
        Traceback (most recent call last):
        layermatch.errors.UserError: input=no/such: there is no such file or folder
    """
    if root is not None and not is_folder(root):
        raise UserError(f"root={printable(str(root))} is not a folder: give the folder that paths are relative to")
    if is_folder(given):
        return _below(given, root)
    if not is_file(given):
        raise UserError(f"input={printable(str(given))}: there is no such file or folder")
    if given.suffix.lower() == ".csv" or is_parquet(given):
        rows = (Entry(row.path, row.label, row.split) for row in read_manifest(given))
        return Listing(root or given.parent, _with_text(rows), is_table=True)
    if given.suffix.lower() in LISTS:
        return Listing(root or Path(), _with_text(_of_list(given, root or Path())), is_table=True)
    place = root or given.parent
    return Listing(place, _with_text([Entry(_relative(str(given.absolute()), place))]))


def _below(folder: Path, root: Path | None) -> Listing:
    if root is None:
        return Listing(folder, _named(folder, ""))
    prefix = os.path.relpath(folder.resolve(), root.resolve()).replace(os.sep, "/")
    if prefix == ".." or prefix.startswith("../"):
        raise UserError(f"input={folder} is not below root={root}: give a folder that it is in, or root=null")
    return Listing(root, _named(folder, "" if prefix == "." else f"{prefix}/"))


def _named(folder: Path, prefix: str) -> Iterator[Entry | Unused]:
    for one in walk_images(folder):
        if isinstance(one, Unused):
            yield one._replace(path=prefix + one.path)
        else:
            yield from _with_text([Entry(prefix + one)])


def _with_text(entries: Iterable[Entry]) -> Iterator[Entry | Unused]:
    """Leave out files whose names the output, a text in UTF-8, cannot say."""
    for entry in entries:
        try:
            entry.path.encode("utf-8")
        except UnicodeEncodeError:
            yield Unused(entry.path, NO_TEXT)
        else:
            yield entry


def _of_list(file: Path, root: Path) -> Iterator[Entry]:
    """Yield each file that a list names, in the place where it is named first."""
    seen: set[str] = set()
    try:
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as lines:
            for line in lines:
                named = line.rstrip("\r\n")
                path = _relative(named, root) if named.strip() else ""
                if path and path not in seen:
                    seen.add(path)
                    yield Entry(path)
    except OSError as error:
        raise UserError(f"input={printable(str(file))} cannot be read: {error.strerror or error}") from error


def _relative(path: str, root: Path) -> str:
    """Return a path relative to the root, where it is below it."""
    if not os.path.isabs(path) and root == Path():  # noqa: PTH117 -- one for each image
        return os.path.normpath(path).replace(os.sep, "/")
    if not os.path.isabs(path):  # noqa: PTH117
        # Relative to the root, which is what a list is; or else to the working directory, where the file is there.
        is_of_root = is_file(root / path) or not is_file(Path(path))
        inside = ".." if is_of_root else os.path.relpath(path, root)
        return posixpath.normpath((path if inside.startswith("..") else inside).replace(os.sep, "/"))
    inside = os.path.relpath(path, root.absolute()).replace(os.sep, "/")
    return os.path.normpath(path) if inside == ".." or inside.startswith("../") else inside
