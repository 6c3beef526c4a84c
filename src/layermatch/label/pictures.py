"""The pictures below a folder, found without looking into them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path

from layermatch.data.decoding import image_endings
from layermatch.data.system_folders import SYSTEM_FOLDERS
from layermatch.errors import UserError

__all__ = ["Pictures", "find_pictures"]

#: Why an entry is not shown.
OTHER, HIDDEN, OUTSIDE, NO_TEXT, SYSTEM = (
    "no picture by its ending", "hidden", "a link that leads outside", "a name that is not UTF-8", "a system's folder",
)  # fmt: skip


@dataclass(frozen=True)
class Pictures:
    """The pictures that may be shown.

    Args:
        root: The folder, without links in its path.
        paths: The paths relative to it, with ``/``, sorted. A picture's number is its place here.
        links: Whether links may lead out of the folder.
        left_out: How many entries are not shown, by why.
    """

    root: Path
    paths: tuple[str, ...]
    links: bool = False
    left_out: Mapping[str, int] = field(default_factory=dict)

    def file_of(self, number: int) -> str | None:
        """Return the file of a picture; None where it leads out of the folder by now, and may not.

        Args:
            number: The number of the picture.
        """
        path = os.path.join(self.root, self.paths[number])  # noqa: PTH118 -- asked for at every picture
        return path if self.links or _is_inside(path, str(self.root)) else None


def find_pictures(root: Path, *, links: bool = False, leave_out: Path | None = None) -> Pictures:
    """List the pictures below a folder, by the endings of their names. No file is opened.

    Names that start with a dot, the folders of file servers and the runs of any table that was labelled here are left
    out. Links are followed, except back to a folder that they lie in, and out of ``root`` only where ``links`` says so.

    Args:
        root: The folder in which to look, at any depth.
        links: Whether what links lead to outside ``root`` is shown as well.
        leave_out: A folder below ``root`` that is not looked into.

    Raises:
        UserError: A folder cannot be read.

    Example:
        >>> find_pictures(Path(__file__).parent).paths
        ()
    """
    real = Path(os.path.realpath(root))
    walk = _Walk(str(real), links=links, leave_out=None if leave_out is None else os.path.realpath(leave_out))
    try:
        walk.into(str(real), "", frozenset())
    except OSError as error:
        raise UserError(f"cannot list {error.filename}: {error.strerror}") from error
    return Pictures(real, tuple(sorted(walk.found)), links, dict(walk.left_out))


def _is_inside(path: str, root: str) -> bool:
    true = os.path.realpath(path)
    return true == root or true.startswith(root if root.endswith(os.sep) else root + os.sep)


class _Walk:
    """One look through a tree."""

    def __init__(self, root: str, *, links: bool, leave_out: str | None) -> None:
        self.root, self.links, self.leave_out = root, links, leave_out
        self.endings = image_endings()
        self.found: list[str] = []
        self.left_out: Counter[str] = Counter()

    def into(self, folder: str, prefix: str, ancestors: frozenset[tuple[int, int]]) -> None:
        """Look into a folder; ``ancestors`` are those that it lies in, by device and inode."""
        status = os.stat(folder)  # noqa: PTH116 -- as in the sources' own walk
        identity = (status.st_dev, status.st_ino)
        if identity in ancestors:
            return
        with os.scandir(folder) as found:
            entries = list(found)
        names = {entry.name for entry in entries}
        for entry in entries:
            reason = self._reason(entry)
            if entry.name.startswith(".") and not reason:
                continue  # nobody has to hear of what systems hide
            if reason:
                self.left_out[reason] += 1
            elif entry.is_dir():
                if entry.path != self.leave_out and not _are_runs(entry.name, names):
                    self.into(entry.path, f"{prefix}{entry.name}/", ancestors | {identity})
            elif self._is_picture(entry.name):
                self.found.append(prefix + entry.name)
            else:
                self.left_out[OTHER] += 1

    def _reason(self, entry: os.DirEntry[str]) -> str:
        """Return why an entry is not shown, whatever is in it; empty for the others."""
        if entry.name.startswith("."):
            return HIDDEN if self._is_picture(entry.name) and not entry.name.startswith("._") else ""
        if not _is_text(entry.name):
            return NO_TEXT
        if not self.links and entry.is_symlink() and not _is_inside(entry.path, self.root):
            return OUTSIDE
        return SYSTEM if entry.name in SYSTEM_FOLDERS and entry.is_dir() else ""

    def _is_picture(self, name: str) -> bool:
        return os.path.splitext(name)[1].lower() in self.endings  # noqa: PTH122 -- 100,000 Paths take a second


def _are_runs(name: str, beside: Set[str]) -> bool:
    """Return whether a folder has the runs of a table beside it, whose figures are no pictures: the sources' rule."""
    return name.endswith(".runs") and f"{name.removesuffix('.runs')}.csv" in beside


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
