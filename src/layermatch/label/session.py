"""All that one server knows: pictures, labels, proposals and training, as the page asks for them."""

from __future__ import annotations

import secrets
import threading
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layermatch.data.decoding import ImageFileError
from layermatch.data.manifest import IGNORED
from layermatch.label.examine import Task
from layermatch.label.examiner import Examiner
from layermatch.label.labels import Given, Labels, LabelsError
from layermatch.label.pictures import Pictures
from layermatch.label.proposals import confident, doubted, shown, thoughts, typical, uncertain
from layermatch.label.thumbnails import SIDES, Thumbnails
from layermatch.label.training import Training
from layermatch.text import printable

__all__ = ["KEYS", "ORDERS", "Session"]

#: The keys of classes, in their order. The letters that are not here do something else.
KEYS = "1234567890abcdefghijklmnopqrtvwyz"

#: How pictures are proposed.
ORDERS = ("typical", "uncertain", "random")

#: Pictures that a line names.
_NAMED = 3

Bool = NDArray[np.bool_]


class Session:
    """One server's pictures and what is done with them. Every method may be called from several threads.

    Args:
        pictures: The pictures.
        labels: Their labels.
        thumbnails: Small copies of them.
        training: The runs beside the manifest.
        task: What is looked at for proposals; its checkpoint is the first model, None for pixels.
    """

    def __init__(
        self, *, pictures: Pictures, labels: Labels, thumbnails: Thumbnails, training: Training, task: Task
    ) -> None:
        self.pictures, self.labels, self.thumbnails, self.training = pictures, labels, thumbnails, training
        #: Another one at each start: numbers of pictures mean nothing to a server that started again.
        self.name = secrets.token_hex(8)
        self.examiner = Examiner()
        self._task = task
        self._lock = threading.Lock()
        self._order = np.random.default_rng(task.seed).permutation(len(pictures.paths))
        self._thoughts: tuple[int, NDArray[np.int32], NDArray[np.float32]] = (-1, *thoughts(None, 0))
        self.examiner.start(task)

    def close(self) -> None:
        """End the processes of this server; a training is asked to stop."""
        self.examiner.close()
        self.training.stop()

    # ---------------------------------------------------------------------------------------------------------- asking

    def state(self) -> dict[str, Any]:
        """Return what the page shows beside pictures."""
        self._use_newest_model()
        notice = ""
        try:
            self.labels.look()
        except LabelsError as error:
            notice = str(error)
        classes, splits = self.labels.counts()
        names = self.labels.classes
        return {
            "session": self.name,
            "root": printable(self.pictures.root.name or str(self.pictures.root)),
            "manifest": printable(self.labels.manifest.name),
            "revision": self.labels.revision,
            "notice": notice or self.labels.notice,
            "pictures": len(self.pictures.paths),
            "left_out": dict(self.pictures.left_out),
            "labelled": sum(classes.values()),
            "ignored": splits[IGNORED],
            "classes": [
                {"name": name, "key": KEYS[place] if place < len(KEYS) else "", "count": classes[name]}
                for place, name in enumerate(names)
            ],
            "proposals": self._proposals(),
            "training": self.training.status(),
        }

    def _proposals(self) -> dict[str, Any]:
        found = self.examiner.found
        return {
            "version": self.examiner.version,
            "is_ready": found is not None,
            "is_working": self.examiner.is_working,
            "looked": self.examiner.looked,
            "known": 0 if found is None else len(found.numbers),
            "problem": self.examiner.problem,
            "classes": [] if found is None else list(found.classes),
            "model": self._model_name(self.examiner.source),
            "next_model": self._model_name(self._task.ckpt_path),
        }

    def _model_name(self, ckpt_path: str | None) -> str:
        """Return a checkpoint in words: its run and its file; empty for pixels."""
        return "" if ckpt_path is None else printable("/".join(Path(ckpt_path).parts[-3::2]))

    def _use_newest_model(self) -> None:
        """Look at the pictures with the model of a training that has ended."""
        with self._lock:
            if not self.training.has_ended():
                return
            newest = self.training.checkpoint()
            if newest is not None and str(newest) != self._task.ckpt_path:
                self._task = replace(self._task, ckpt_path=str(newest))
                self.examiner.start(self._task)

    def items(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """Return what is said and thought of some pictures.

        Args:
            numbers: The numbers of the pictures.
        """
        guess, confidence = self._thought()
        found = self.examiner.found
        made = []
        for number in numbers:
            path = self.pictures.paths[number]
            given = self.labels.given(path)
            item: dict[str, Any] = {"id": number, "path": printable(path), "label": given.label, "split": given.split}
            if found is not None and guess[number] >= 0:
                item |= {"guess": found.classes[guess[number]], "confidence": shown(confidence[number])}
            made.append(item)
        return made

    def _thought(self) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        version = self.examiner.version
        if self._thoughts[0] != version:
            self._thoughts = (version, *thoughts(self.examiner.found, len(self.pictures.paths)))
        return self._thoughts[1:]

    # --------------------------------------------------------------------------------------------------------- viewing

    def view(self, kind: str, asked: dict[str, str]) -> dict[str, Any]:
        """Return the pictures of a view.

        Args:
            kind: ``next`` (proposals), ``all``, ``guesses`` (what the model takes for a class) or ``doubts``.
            asked: What else was asked for, as text.

        Returns:
            ``ids``: their numbers in order; ``said``: where they come from, for people.

        Raises:
            LabelsError: There is no such view.
        """
        views: dict[str, Callable[[dict[str, str]], tuple[Any, str]]] = {
            "next": self._next, "all": self._all, "guesses": self._guesses, "doubts": self._doubts,
        }  # fmt: skip
        if kind not in views:
            raise LabelsError(f"there is no view {kind!r}")
        ids, said = views[kind](asked)
        return {"ids": [int(number) for number in ids], "said": said}

    def _next(self, asked: dict[str, str]) -> tuple[Any, str]:
        found, order = self.examiner.found, asked.get("order", "")
        count = _number(asked.get("count", "200"), high=10_000)
        labelled, ignored = self._said()
        is_open = ~(labelled | ignored)
        if order == "random":
            return self._order[is_open[self._order]][: int(count)], "drawn by chance from all pictures without a label"
        if order not in ORDERS:
            raise LabelsError(f"there is no order {order!r}")
        if found is None:
            return [], "the first pictures are being looked at"
        if order == "uncertain" and not found.classes:
            return [], "only a model can be uncertain: train one first"
        where = self._where(len(found.numbers))
        if order == "uncertain":
            return uncertain(found, is_open)[: int(count)], f"those between two classes first, {where}"
        ids = typical(found, is_open, labelled)[: int(count)]
        return ids, f"the most typical of each group of alike pictures first, {where}"

    def _where(self, known: int) -> str:
        total, model = len(self.pictures.paths), self._model_name(self.examiner.source)
        sample = f"of {known:,} of {total:,} pictures" if known < total else f"of all {total:,} pictures"
        by = f"by the model {model}" if model else "by simple features (small pixels), as there is no model yet"
        return f"{sample}, {by}"

    def _all(self, asked: dict[str, str]) -> tuple[Any, str]:
        show, name = asked.get("show", "all"), asked.get("class", "")
        given = self.labels.all_given()
        tests: dict[str, Callable[[Given], bool]] = {
            "all": lambda _: True,
            "unlabelled": lambda each: not each.label and each.split != IGNORED,
            "labelled": lambda each: bool(each.label) and each.split != IGNORED,
            "ignored": lambda each: each.split == IGNORED,
            "class": lambda each: each.label == name and each.split != IGNORED,
        }
        if show not in tests:
            raise LabelsError(f"there is no part {show!r}")
        return [number for number, each in enumerate(given) if tests[show](each)], "in the order of their names"

    def _guesses(self, asked: dict[str, str]) -> tuple[Any, str]:
        found, least = self.examiner.found, _number(asked.get("least", "0"), high=1)
        if found is None or not found.classes:
            return [], "there is no model yet"
        labelled, ignored = self._said()
        ids = confident(found, ~(labelled | ignored), asked.get("class", ""), least)
        return ids, f"pictures without a label, the surest first, {self._where(len(found.numbers))}"

    def _doubts(self, asked: dict[str, str]) -> tuple[Any, str]:
        found, below = self.examiner.found, _number(asked.get("below", "0.5"), high=1)
        if found is None or not found.classes:
            return [], "there is no model yet"
        labels = ["" if each.split == IGNORED else each.label for each in self.labels.all_given()]
        ids = doubted(found, labels, below)
        return ids, f"the least probable label first, {self._where(len(found.numbers))}"

    def _said(self) -> tuple[Bool, Bool]:
        """Return which pictures have a label, and which are of no class."""
        given = self.labels.all_given()
        ignored = np.fromiter((each.split == IGNORED for each in given), np.bool_, len(given))
        labelled = np.fromiter((bool(each.label) for each in given), np.bool_, len(given)) & ~ignored
        return labelled, ignored

    # -------------------------------------------------------------------------------------------------------- answering

    def answer(
        self,
        window: str,
        numbers: Sequence[int],
        *,
        label: str,
        is_ignored: bool = False,
        seen: Sequence[Given] | None = None,
    ) -> list[int]:
        """Take an answer.

        Args:
            window: The window that it was given in.
            numbers: The numbers of the pictures.
            label: The name of the class, which must be known; empty takes a label away.
            is_ignored: Whether they are of no class; ``label`` is empty then.
            seen: What the window showed of each; None answers for those without a label alone.

        Returns:
            The pictures that were left as they are, as another window has said something else of them.

        Raises:
            LabelsError: The answer was not taken; a label of a picture that cannot be read never is.
        """
        if label and (is_ignored or label not in self.labels.classes):
            raise LabelsError(f"there is no class {printable(label)}: add it first")
        if label:
            self._check_readable(numbers, is_for_open=seen is None)
        paths = [self.pictures.paths[number] for number in numbers]
        now = [self.labels.given(path) for path in paths]
        if seen is None:
            is_open = [not each.label and each.split != IGNORED for each in now]
            paths = [path for path, is_meant in zip(paths, is_open, strict=True) if is_meant]
            seen = [each for each, is_meant in zip(now, is_open, strict=True) if is_meant]
        given = {path: Given("", IGNORED) if is_ignored else Given(label, self.labels.split_of(path)) for path in paths}
        left = set(self.labels.answer(window, given, seen=dict(zip(paths, seen, strict=True))))
        return [number for number in numbers if self.pictures.paths[number] in left]

    def undo(self, window: str) -> tuple[str, list[int]]:
        """Take back the last answer of a window.

        Args:
            window: The window.

        Returns:
            The answer in words, empty where there is none left; and the numbers of its pictures.
        """
        step = self.labels.undo(window)
        if step is None:
            return "", []
        paths = set(step.after)
        if len(paths) == 1:
            return step.said, [_place(self.pictures.paths, next(iter(paths)))]
        return step.said, [number for number, path in enumerate(self.pictures.paths) if path in paths]

    def train(self, max_steps: int | None) -> None:
        """Start training on the labels as they are now, without the pictures that were seen to be unreadable."""
        self.labels.look()
        found = self.examiner.found
        looked = self._order[: self.examiner.looked_of_found]
        suspects = set(looked.tolist()).difference(() if found is None else found.numbers.tolist())
        broken = {self.pictures.paths[number]: why for number, why in self._unreadable(sorted(suspects)).items()}
        rows = self.labels.rows()
        left_out = {row.path: broken[row.path] for row in rows if row.path in broken and row.split != IGNORED}
        self.training.start(
            [row for row in rows if row.path not in left_out], max_steps=max_steps, left_out=left_out_text(left_out)
        )

    # --------------------------------------------------------------------------------------------------------- readable

    def _check_readable(self, numbers: Sequence[int], *, is_for_open: bool) -> None:
        """Refuse a label of what cannot be read: a run would refuse to start because of it.

        Raises:
            LabelsError: A picture cannot be read.
        """
        found = self.examiner.found
        is_known = np.zeros(len(self.pictures.paths), np.bool_)
        if found is not None:  # these were read, and a bulk answer need not decode them again
            is_known[found.numbers] = True
        given = self.labels.given
        asked = [
            number for number in numbers
            if not is_known[number] and not (is_for_open and given(self.pictures.paths[number]) != Given())
        ]  # fmt: skip
        broken = self._unreadable(asked)
        if broken:
            first = next(iter(broken))
            more = f", and {len(broken) - 1:,} more cannot" if len(broken) > 1 else ""
            raise LabelsError(
                f"{printable(self.pictures.paths[first])} cannot be read: {broken[first]}{more}: no label is taken"
            )

    def _unreadable(self, numbers: Sequence[int]) -> dict[int, str]:
        """Return why each of some pictures cannot be read, of those that cannot; the small copies are kept."""
        broken = {}
        for number in numbers:
            file = self.pictures.file_of(number)
            try:
                if file is None:
                    broken[number] = "it leads out of the folder"
                else:
                    self.thumbnails.get(file, SIDES[0])
            except ImageFileError as error:
                broken[number] = error.reason
        return broken


def left_out_text(left_out: Mapping[str, str]) -> str:
    """Return which pictures are left out of a training, and why; empty where there are none.

    Args:
        left_out: The reason by the path of the picture.

    Example:
        >>> left_out_text({"a.png": "it is empty"})
        'left out, as it cannot be read: a.png (it is empty)'
    """
    if not left_out:
        return ""
    named = [f"{printable(path)} ({reason})" for path, reason in left_out.items()]
    more = f" and {len(named) - _NAMED:,} more" if len(named) > _NAMED else ""
    what = "it" if len(named) == 1 else "they"
    return f"left out, as {what} cannot be read: {', '.join(named[:_NAMED])}{more}"


def _place(paths: Sequence[str], path: str) -> int:
    """Return the place of a path among sorted ones."""
    return bisect_left(paths, path)


def _number(text: str, *, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= high:
        raise LabelsError(f"{text!r} is not legal: give a number from 0 to {high:g}")
    return value
