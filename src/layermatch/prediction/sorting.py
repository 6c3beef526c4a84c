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

from layermatch.data.wording import name_text, printable
from layermatch.errors import RunError, UserError
from layermatch.paths import is_folder
from layermatch.prediction.job import Job, work_folder
from layermatch.prediction.results import Result

__all__ = ["UNCERTAIN", "FolderNames", "SortedPictures", "check_folder"]

#: The folder of pictures without a label.
UNCERTAIN = "_uncertain"

#: The journal of what is in its folder already, in the folder of the work.
_JOURNAL = "sorted.txt"

#: A line of it says where the next picture is put, or, with this word, that it is there.
_DONE = "done"

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


def _read_journal(path: Path) -> tuple[int, Path | None]:
    """Return how many pictures are in their places, and where the next one was being put."""
    if not path.exists():
        return 0, None
    text = path.read_text(encoding="ascii")
    if text and not text.endswith("\n"):  # the disk was full: what follows begins a line
        with path.open("a", encoding="ascii") as journal:
            journal.write("\n")
    lines = text.splitlines()
    begun = json.loads(lines[-1]) if text.endswith('"\n') else None
    return lines.count(_DONE), None if begun is None else Path(begun)


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
    begun, ours = journal.exists(), _noted(journal)
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


def _noted(journal: Path) -> set[str]:
    """Return every place that a journal names."""
    if not journal.exists():
        return set()
    with journal.open(encoding="ascii") as lines:  # of a line that was cut off nothing was made
        return {json.loads(line) for line in lines if line.startswith('"') and line.endswith('"\n')}


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

    A journal in the folder of the work says how many are there: after a kill the next one follows.

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
        self._behind, self._begun = _read_journal(journal)
        self._journal = journal.open("a", encoding="ascii")
        self.count = 0

    def add(self, result: Result) -> None:
        """Copy or link a picture, unless it could not be read.

        Raises:
            RunError: It is gone by now.
            UserError: This system makes no links.
        """
        if result.reason:
            return
        self.count += 1
        if self.count <= self._behind:
            return
        source = self._root / result.record.path
        folder = self._folder / self._names.of(result.label)
        folder.mkdir(parents=True, exist_ok=True)
        self._put(source, folder)
        self._note(_DONE)
        self._begun = None

    def _note(self, line: str) -> None:
        self._journal.write(f"{line}\n")
        self._journal.flush()

    def _put(self, source: Path, folder: Path) -> None:
        if self._begun is not None and self._is_there(source, self._begun):
            return  # the last one before a kill came to its place
        number = self._next.get(folder / source.name, 1)
        while True:
            target = folder / (source.name if number == 1 else f"{source.stem} ({number}){source.suffix}")
            number += 1
            if not os.path.lexists(target) and self._make(source, target):
                if number > 2:  # only of names that are there more than once
                    self._next[folder / source.name] = number
                return

    def _is_there(self, source: Path, target: Path) -> bool:
        if self._links:
            return target.is_symlink() and target.readlink() == source
        return target.is_file() and not target.is_symlink() and filecmp.cmp(source, target, shallow=False)

    def _make(self, source: Path, target: Path) -> bool:
        """Make a copy or a link; False where something of that name has come meanwhile."""
        self._note(json.dumps(str(target)))
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
