"""The labels of the pictures: in a manifest that is written at each answer, by one server, and read again if edited."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from layermatch.data.manifest import COLUMNS, IGNORED, SPLITS, Row, csv_writer, is_parquet, read_manifest
from layermatch.data.wording import composed, look_alikes_text, printable
from layermatch.errors import UserError
from layermatch.files import replacing, unfinished_in

__all__ = ["Given", "Labels", "LabelsError", "checked_name", "lock_labels"]

#: What a picture is for when nothing is said.
TRAIN = SPLITS[0]

#: A class has a name of so many characters at most.
MOST_CHARACTERS = 200

#: So many pictures are remembered for undo, over all windows; the oldest answers are forgotten first.
MOST_REMEMBERED = 1_000_000


class LabelsError(Exception):
    """An answer was not taken, and nothing has changed: one line for the page."""


class Given(NamedTuple):
    """What is said of a picture.

    Attributes:
        label: The name of its class; empty where it has none.
        split: What it is for; ``ignored`` where it is of no class.
    """

    label: str = ""
    split: str = TRAIN


class Step(NamedTuple):
    """What one answer changed, so that it can be taken back.

    Attributes:
        said: The answer in words.
        before: What was said of each picture, by its path.
        after: What is said of it since.
        number: Its place among the answers of all windows.
    """

    said: str
    before: Mapping[str, Given]
    after: Mapping[str, Given]
    number: int = 0


class _State(NamedTuple):
    """The size, the time of change and the inode of a file; all 0 where there is none."""

    size: int = 0
    changed: int = 0
    inode: int = 0


@contextmanager
def lock_labels(manifest: Path) -> Iterator[None]:
    """Keep a manifest to this process.

    Args:
        manifest: The path of the manifest, which need not be there yet.

    Raises:
        UserError: Another process labels into it, or its folder cannot be written to.
    """
    path = manifest.with_name(f".{manifest.name}.lock")
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise UserError(
            f"{printable(str(manifest))} is being labelled by another server: use its page, or end it"
        ) from error
    except OSError as error:
        raise UserError(
            f"{printable(str(manifest.parent))} cannot be written to: {error.strerror or error}: give "
            "data.manifest=FILE in a folder that can"
        ) from error
    try:
        for left, name in unfinished_in(manifest.parent):
            if name in {manifest.name, class_file_of(manifest).name}:
                with suppress(OSError):
                    left.unlink()  # of a server that was killed: no other writes these
        yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        lock.release()


def class_file_of(manifest: Path) -> Path:
    """Return the file that holds the order of the classes of a manifest, beside it.

    Args:
        manifest: The path of the manifest.
    """
    return manifest.with_name(f"{manifest.stem}.classes.json")


class Labels:
    """The rows of a manifest, those that it has and one for each other picture.

    Every answer is in the file, and on the disk, when the method that takes it returns. A file that somebody else
    changed is read first, and what it says of other pictures stays. Rows of files that are not shown stay as they are,
    and so do further columns.

    Args:
        manifest: A CSV file; it is made by the first answer.
        paths: The pictures, relative to the root.
        classes: Classes that there are beside those of the labels, in the order of their keys.

    Raises:
        UserError: The manifest is no such table, or is Parquet; a class looks like one that is there.
    """

    def __init__(self, manifest: Path, paths: Sequence[str], *, classes: Sequence[str] = ()) -> None:
        if is_parquet(manifest):
            raise UserError(f"data.manifest={printable(str(manifest))}: labels are written to a CSV file: give one")
        self.manifest = manifest
        self.revision = 0
        #: What happened to the file that the user should know.
        self.notice = ""
        self._paths = paths
        self._lock = threading.RLock()
        self._history: dict[str, list[Step]] = defaultdict(list)
        self._numbers = count()
        self._put_aside: dict[str, str] = {}
        self._classes: list[str] = []
        self._read()
        kept = self._kept_classes()
        self._check_looks(classes, {*kept, *(row.label for row in self._rows if row.label)})
        for name in (*kept, *classes):
            self._know(checked_name(name))
        self._know_all()

    @staticmethod
    def _check_looks(classes: Sequence[str], there: Set[str]) -> None:
        for name in set(map(checked_name, classes)) - there:
            for other in sorted(there):
                if alike := look_alikes_text([name], [other]):
                    raise UserError(f"classes: {alike[0]}: give classes=[..., {printable(other)}]")

    # ------------------------------------------------------------------------------------------------------- reading

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes, in the order in which they came."""
        return tuple(self._classes)

    def given(self, path: str) -> Given:
        """Return what is said of a picture."""
        row = self._rows[self._place[path]]
        return Given(row.label, row.split)

    def split_of(self, path: str) -> str:
        """Return what a picture is for, or was before it was put aside, as far as that was seen; else ``train``."""
        split = self.given(path).split
        return self._put_aside.get(path, TRAIN) if split == IGNORED else split

    def all_given(self) -> list[Given]:
        """Return what is said of each picture, in their order."""
        with self._lock:
            return [self.given(path) for path in self._paths]

    def rows(self) -> list[Row]:
        """Return every row, as the manifest has it or would have it."""
        with self._lock:
            return list(self._rows)

    def counts(self) -> tuple[Counter[str], Counter[str]]:
        """Count the pictures of each class, and those of each split; of ``train``, those without a label."""
        classes: Counter[str] = Counter()
        splits: Counter[str] = Counter()
        with self._lock:
            for given, count in self._tally.items():
                if given.label and given.split != IGNORED:
                    classes[given.label] += count
                else:
                    splits[given.split] += count
        return classes, splits

    def look(self) -> None:
        """Read the manifest again if somebody else changed it.

        Raises:
            LabelsError: It is no manifest any more.
        """
        with self._lock:
            if _state_of(self.manifest) == self._state:
                return
            if not self.manifest.exists():
                if self._state.inode and "is gone" not in self.notice:
                    self._tell(f"{self.manifest.name} is gone: the next answer writes it again, with every label")
                return
            before = {row.path: row for row in self._rows}
            try:
                self._read()
            except UserError as error:
                raise LabelsError(f"{error}: repair it; nothing is written until then") from error
            self._know_all()
            changed = sum(1 for row in self._rows if before.get(row.path, Row(row.path)) != row)
            self._tell(f"{self.manifest.name} was changed outside: {changed:,} rows are others, as it says")

    def _tell(self, notice: str) -> None:
        self.notice = notice
        self.revision += 1

    def _read(self) -> None:
        state = _state_of(self.manifest)
        rows = read_manifest(self.manifest) if os.path.lexists(self.manifest) else []
        there = {row.path for row in rows}
        self._rows = rows + [Row(path) for path in self._paths if path not in there]
        self._place = {row.path: place for place, row in enumerate(self._rows)}
        self._others = list(dict.fromkeys(name for row in rows for name in row.others))
        self._lines: list[str] = []  # made when something is written
        self._tally = Counter(self.all_given())
        self._state = state

    # -------------------------------------------------------------------------------------------------------- writing

    def answer(self, window: str, given: Mapping[str, Given], *, seen: Mapping[str, Given] | None = None) -> list[str]:
        """Take an answer.

        Args:
            window: The window that it was given in, for undo.
            given: What is said of each picture from now on, by its path.
            seen: What the window showed of each picture; one of which something else is said by now is left as it is.

        Returns:
            The pictures that were left as they are.

        Raises:
            LabelsError: Nothing could be written, or the file is no manifest any more.
        """
        with self._lock:
            self.look()
            others = [path for path in given if seen is not None and self.given(path) != seen[path]]
            taken = {path: each for path, each in given.items() if path not in set(others)}
            before = {path: self.given(path) for path in taken}
            changed = {path: each for path, each in taken.items() if each != before[path]}
            if changed:
                self._write(changed)
                said = _in_words(changed)
                self._remember(
                    window, Step(said, {path: before[path] for path in changed}, changed, next(self._numbers))
                )
            return others

    def undo(self, window: str) -> Step | None:
        """Take back the last answer of a window that is not taken back; None where there is none.

        Args:
            window: The window.

        Returns:
            The step, without the pictures that were changed since: they stay as they are.

        Raises:
            LabelsError: Nothing could be written.
        """
        with self._lock:
            self.look()
            if not self._history[window]:
                return None
            step = self._history[window][-1]
            still = {path: each for path, each in step.before.items() if self.given(path) == step.after[path]}
            if still:
                self._write(still)
            self._history[window].pop()
            return Step(step.said, still, step.after)

    def add_class(self, name: str) -> str:
        """Add a class, which has no picture yet.

        Args:
            name: The name; spaces around it go.

        Returns:
            The name as it is written.

        Raises:
            LabelsError: It is no name of a class, there is one of that name or one that looks like it, or it cannot be
                kept.
        """
        with self._lock:
            try:
                name = checked_name(name)
            except UserError as error:
                raise LabelsError(str(error)) from error
            if name in self._classes:
                raise LabelsError(f"there is a class {name} already")
            if alike := look_alikes_text([name], self._classes):
                raise LabelsError(f"{alike[0]}: take the one that is there, or give another name")
            self._keep_classes([*self._classes, name])
            self._know(name)
            self.revision += 1
            return name

    def _remember(self, window: str, step: Step) -> None:
        self._history[window].append(step)
        total = sum(len(each.after) for steps in self._history.values() for each in steps)
        while total > max(MOST_REMEMBERED, len(step.after)):  # the newest answer can be taken back, however large
            oldest = min((steps for steps in self._history.values() if steps), key=lambda steps: steps[0].number)
            total -= len(oldest.pop(0).after)

    def _write(self, changed: Mapping[str, Given]) -> None:
        """Write the file with some rows changed; only then are they changed here."""
        lines = self._all_lines()
        rows = {path: self._with(path, each) for path, each in changed.items()}
        old = {self._place[path]: lines[self._place[path]] for path in rows}
        for path, line in zip(rows, _lines(rows.values(), self._others), strict=True):
            lines[self._place[path]] = line
        try:
            header = _line([*COLUMNS, *self._others])
            self._state = _replace(self.manifest, header + "".join(lines), self._check_unchanged)
        except OSError as error:
            for place, line in old.items():
                lines[place] = line
            reason = error.strerror or str(error)
            raise LabelsError(f"{self.manifest.name} cannot be written: {reason}: nothing has changed") from error
        except BaseException:
            for place, line in old.items():
                lines[place] = line
            raise
        self._tally.subtract(self.given(path) for path in rows)
        self._tally.update(changed.values())
        for path, row in rows.items():
            if row.split == IGNORED:
                self._put_aside[path] = self.split_of(path)
            self._rows[self._place[path]] = row
            if row.label:
                self._know(row.label)
        self.revision += 1
        self.notice = ""

    def _check_unchanged(self) -> None:
        """Look a last time before the file is replaced."""
        now = _state_of(self.manifest)
        if now not in {self._state, _State()}:
            raise LabelsError(f"{self.manifest.name} was changed outside just now: answer once more")

    def _with(self, path: str, given: Given) -> Row:
        return Row(path, given.label, given.split, self._rows[self._place[path]].others)

    def _all_lines(self) -> list[str]:
        if len(self._lines) != len(self._rows):
            self._lines = _lines(self._rows, self._others)
        return self._lines

    # -------------------------------------------------------------------------------------------------------- classes

    def _know(self, name: str) -> None:
        if name not in self._classes:
            self._classes.append(name)

    def _know_all(self) -> None:
        """Append the classes of labels to those that are known, sorted."""
        for name in sorted({row.label for row in self._rows if row.label} - set(self._classes)):
            self._know(name)

    @property
    def _class_file(self) -> Path:
        return class_file_of(self.manifest)

    def _kept_classes(self) -> list[str]:
        try:
            names = json.loads(self._class_file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):  # it is only the order of keys
            return []
        return [name for name in names if isinstance(name, str) and name] if isinstance(names, list) else []

    def _keep_classes(self, names: Sequence[str]) -> None:
        try:
            _replace(self._class_file, json.dumps(list(names), ensure_ascii=False, indent=1) + "\n")
        except OSError as error:
            raise LabelsError(f"{self._class_file.name} cannot be written: {error.strerror or error}") from error


def checked_name(name: object) -> str:
    """Return the name of a class as it is written.

    Args:
        name: What was given.

    Raises:
        UserError: It is no text, is empty or too long, or holds what cannot be seen.

    Example:
        >>> checked_name(" cat ")
        'cat'
    """
    text = composed(name.strip()) if isinstance(name, str) else ""
    if not text or len(text) > MOST_CHARACTERS or not text.isprintable():
        shown = printable(text) if text else repr(name)
        raise UserError(
            f"the class {shown[:60]} is not legal: give a name of 1 to {MOST_CHARACTERS} characters on one line"
        )
    return text


def _in_words(changed: Mapping[str, Given]) -> str:
    kinds = {"no class" if each.split == IGNORED else each.label or "no label" for each in changed.values()}
    what = next(iter(changed)) if len(changed) == 1 else f"{len(changed):,} pictures"
    return f"{what}: {', '.join(sorted(kinds))}"


def _lines(rows: Iterable[Row], others: Sequence[str]) -> list[str]:
    """Return each row as its line of CSV, as :func:`~layermatch.data.manifest.write_manifest` writes it."""
    made: list[str] = []
    csv_writer(made.append).writerows(
        [row.path, row.label, row.split, *(row.others.get(name, "") for name in others)] for row in rows
    )
    return made


def _line(cells: Sequence[str]) -> str:
    made: list[str] = []
    csv_writer(made.append).writerow(cells)
    return made[0]


def _state_of(path: Path) -> _State:
    try:
        status = path.stat()
    except OSError:
        return _State()
    return _State(status.st_size, status.st_mtime_ns, status.st_ino)


def _replace(path: Path, text: str, check: Callable[[], None] = lambda: None) -> _State:
    """Write a file and bring it to the disk, so that it is the old one or the new one at any time.

    Args:
        path: The path of the file; it keeps its permissions.
        text: The new content.
        check: A function that is called at the last moment, and may raise.

    Returns:
        The state of the new file.

    Raises:
        OSError: The file cannot be written. The old one is still there.
    """
    states = []

    def look(unfinished: Path) -> None:
        states.append(_state_of(unfinished))
        check()

    with replacing(path, check=look) as unfinished:
        unfinished.write_bytes(text.encode("utf-8"))
    return states[0]
