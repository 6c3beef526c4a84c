"""Pictures in folders of their classes: copies or links, never over anything that is there."""

from __future__ import annotations

import errno
import filecmp
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from layermatch.data.wording import name_text, printable
from layermatch.errors import RunError, UserError
from layermatch.paths import is_folder
from layermatch.prediction.job import Job, work_folder
from layermatch.prediction.results import Result

__all__ = ["UNCERTAIN", "FolderNames", "SortedPictures", "check_folder"]

#: The folder of pictures without a label.
UNCERTAIN = "_uncertain"

#: The journal of what is in its folder already, in the folder of the work. A line says of a picture, by its place in
#: the list, with what label and where it is put; and one with the place alone, that it is there.
_JOURNAL = "sorted.txt"

#: The name that a copy has until it is whole. Not one of :mod:`layermatch.files`: a copy takes no other file's place,
#: and its own name may leave no room for more. One process alone writes to the folder, over what a kill left.
_UNFINISHED = ".layermatch-unfinished"

#: What file systems of one kind or another do not take in a name, and names that Windows keeps for itself.
_ILLEGAL = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)

#: Bytes of a name that every file system takes, with room for a number.
_LONGEST = 200


class FolderNames:
    """Names of folders for names of classes: legal on every system, and different where the classes are.

    Args:
        names: The names of the classes; others may come later.

    Example:
        >>> folders = FolderNames(["cat", "dog/wolf", "dog:wolf", "..", "CAT"])
        >>> [folders.of(name) for name in ("cat", "dog/wolf", "dog:wolf", "..", "CAT", "")]
        ['cat', 'dog_wolf', 'dog_wolf (2)', '_', 'CAT (2)', '_uncertain']
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._taken: set[str] = set()
        self._names: dict[str, str] = {}
        for name in names:
            self.of(name)

    def of(self, name: str) -> str:
        """Return the folder of a class, the same each time.

        Args:
            name: The name of the class; empty is that of pictures without a label.
        """
        if name not in self._names:
            plain = _legal(name) if name else UNCERTAIN
            number, chosen = 1, plain
            while chosen.casefold() in self._taken:
                number += 1
                chosen = f"{plain} ({number})"
            self._taken.add(chosen.casefold())
            self._names[name] = chosen
        return self._names[name]


def _legal(name: str) -> str:
    text = _ILLEGAL.sub("_", name_text(name))
    text = text.encode("utf-8")[:_LONGEST].decode("utf-8", "ignore").rstrip(". ")
    if text.startswith(".") or _RESERVED.fullmatch(text):  # hidden, and read as no class; or not a file's name
        text = f"_{text.lstrip('.')}"
    return text or "_"


class _Noted(NamedTuple):
    """What the journal says of a picture: its label, where it is put, and whether it came there."""

    label: str
    target: Path
    is_done: bool


def _lines_of(journal: Path) -> Iterator[list[Any]]:
    """Yield every whole line of a journal; of one that was cut off nothing was made, or it is looked for.

    Raises:
        UserError: An earlier version wrote it, whose journal said how many pictures were in their places, not which:
            after a file was repaired or changed these were others.
    """
    if not journal.exists():
        return
    with journal.open(encoding="ascii") as lines:
        for line in lines:
            if line.strip() and not line.startswith("["):
                raise UserError(
                    f"{journal} is of an earlier version, and is not gone on with: remove {journal.parent} and "
                    "the pictures that were sorted, or give another output and another folder"
                )
            with suppress(ValueError):
                yield json.loads(line)


def _read_journal(journal: Path) -> dict[int, _Noted]:
    """Return what is known of each picture by its place in the list."""
    noted: dict[int, _Noted] = {}
    for place, *put in _lines_of(journal):
        if put:
            label, target = put
            noted[place] = _Noted(label, Path(target), is_done=False)
        elif place in noted:
            noted[place] = noted[place]._replace(is_done=True)
    return noted


def check_folder(setting: str, folder: Path, *, job: Job, source: Path, targets: Sequence[Path]) -> None:
    """Refuse a folder for pictures, before any work, that is not this job's alone.

    Args:
        setting: The setting that the folder was given as, for errors.
        folder: The folder of the class folders.
        job: The job, whose output this process holds.
        source: The input.
        targets: The files that the job is to write, which may be in the folder.

    Raises:
        UserError: It is a file, it overlaps an input that is a folder, something is in it that this job did not put
            there, or it cannot be made or written to.
    """
    given, advice = f"{setting}={printable(str(folder))}", "give a folder that is not there yet, or is empty"
    if os.path.lexists(folder) and not is_folder(folder):
        raise UserError(f"{given} is a file: {advice}")
    if is_folder(source) and _overlap(folder, source):
        raise UserError(
            f"{given} and input={printable(str(source))} are one folder, or one lies in the other: pictures would be "
            f"predicted twice: give a folder elsewhere"
        )
    there = next(_others(folder, job, targets), None)
    if there is not None:
        raise UserError(f"{given} holds {printable(str(there.relative_to(folder)))} already: {advice}")
    _check_made(folder, given)


def _overlap(one: Path, other: Path) -> bool:
    places = [Path(os.path.realpath(folder)) for folder in (one, other)]
    return places[0].is_relative_to(places[1]) or places[1].is_relative_to(places[0])


def _others(folder: Path, job: Job, targets: Sequence[Path]) -> Iterator[Path]:
    """Yield what is in a folder, but for what a job has put or is going to put there."""
    journal = work_folder(job.output) / _JOURNAL
    begun, ours = journal.exists(), _targets_in(journal)
    own = {path.absolute() for path in (*targets, work_folder(job.output))}
    for place, folders, files in os.walk(folder):
        here = Path(place)
        folders[:] = [name for name in folders if (here / name).absolute() not in own]
        # A folder is made before its first picture is noted.
        foreign = [name for name in folders if not begun or (here / name).is_symlink()]
        for path in (here / name for name in (*foreign, *files)):
            is_half = begun and path.name == _UNFINISHED
            if not is_half and str(path) not in ours and path.absolute() not in own:
                yield path


def _targets_in(journal: Path) -> set[str]:
    """Return every place that a journal names."""
    return {put[1] for _, *put in _lines_of(journal) if put}


def _check_made(folder: Path, given: str) -> None:
    """Make a folder, and take away again what was not there: the first picture makes it."""
    missing = [place for place in (folder, *folder.parents) if not os.path.lexists(place)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise UserError(
            f"{given} cannot be made or written to: {error.strerror or error}: give another folder"
        ) from error
    finally:
        for place in missing:
            with suppress(OSError):
                place.rmdir()


class SortedPictures:
    """Copies or links of the pictures, each in the folder of its label.

    A journal in the folder of the work says which are there: after a kill the others follow, and a picture whose label
    is another one by then leaves its folder.

    Args:
        folder: The folder of the class folders, see :func:`check_folder`.
        job: The job.
        class_names: The names of the classes.
        links: Whether pictures are linked (symbolic links to absolute paths), not copied.
    """

    def __init__(self, folder: Path, *, job: Job, class_names: Sequence[str], links: bool) -> None:
        self._folder = folder
        self._root = job.root.absolute()
        self._links = links
        self._names = FolderNames(class_names)
        self._next: dict[Path, int] = {}
        journal = work_folder(job.output) / _JOURNAL
        self._noted = _read_journal(journal)
        self._journal = journal.open("a", encoding="ascii")
        if self._journal.tell():
            self._journal.write("\n")  # the disk may have been full: what follows begins a line
        self._place = 0

    def add(self, result: Result) -> None:
        """Copy or link a picture, unless it could not be read or was put aside.

        Raises:
            RunError: It is gone by now.
            UserError: This system makes no links.
        """
        self._place += 1
        source = self._root / result.record.path
        folder = self._folder / self._names.of(result.label)  # of each, so that names are numbered as before a kill
        before = self._noted.pop(self._place, None)
        if (before is not None and self._stays(before, source, result)) or not result.is_sorted:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._put(source, folder, result.label)
        self._note(self._place)

    def _stays(self, before: _Noted, source: Path, result: Result) -> bool:
        """Return whether a picture is where it was put before a kill; where it belongs elsewhere, it is taken away."""
        # A copy that may have come to its place just before a kill is ours if it is that of its picture.
        is_ours = before.is_done or self._is_there(source, before.target)
        if not is_ours or not os.path.lexists(before.target):
            return False
        if result.reason or before.label != result.label:
            before.target.unlink()
            return False
        if not before.is_done:
            self._note(self._place)
        return True

    def _note(self, *what: int | str) -> None:
        self._journal.write(json.dumps(what) + "\n")
        self._journal.flush()

    def _put(self, source: Path, folder: Path, label: str) -> None:
        number = self._next.get(folder / source.name, 1)
        while True:
            target = folder / (source.name if number == 1 else f"{source.stem} ({number}){source.suffix}")
            number += 1
            if not os.path.lexists(target) and self._make(source, target, label):
                if number > 2:  # only of names that are there more than once
                    self._next[folder / source.name] = number
                return

    def _is_there(self, source: Path, target: Path) -> bool:
        if self._links:
            return target.is_symlink() and target.readlink() == source
        if not source.is_file() or not target.is_file() or target.is_symlink():
            return False
        return filecmp.cmp(source, target, shallow=False)

    def _make(self, source: Path, target: Path, label: str) -> bool:
        """Make a copy or a link; False where something of that name has come meanwhile."""
        self._note(self._place, label, str(target))
        if self._links:
            try:
                target.symlink_to(source)
            except FileExistsError:
                return False
            except NotImplementedError as error:
                raise UserError("link_to: this system makes no links: give copy_to") from error
            return True
        unfinished = target.with_name(_UNFINISHED)
        if not source.is_file():
            raise RunError(f"{name_text(str(source))} is gone since it was read: put it back, or give no copy_to")
        shutil.copy2(source, unfinished)
        try:
            os.link(unfinished, target)  # which, other than a rename, takes no other file's place
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            if os.path.lexists(target):
                return False
            unfinished.rename(target)
        finally:
            unfinished.unlink(missing_ok=True)
        return True

    def close(self, job: Job) -> None:  # noqa: ARG002 -- what there is has its place
        """Close the journal."""
        self._journal.close()

    def drop(self) -> None:
        """Close the journal; what is in its folder stays there, and is not done again."""
        self._journal.close()
