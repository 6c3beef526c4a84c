"""One HTML page that shows pictures by class and confidence, and needs no other file."""

from __future__ import annotations

import base64
import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from layermatch.data.decoding import ImageFileError, decode_image
from layermatch.data.wording import name_text
from layermatch.files import replacing
from layermatch.prediction.job import Job
from layermatch.prediction.results import Result
from layermatch.text import printable

__all__ = ["Gallery"]

#: Height and width of a picture in pixels, and the quality of its JPEG: about 3 kB.
_SIDE, _QUALITY = 96, 80

#: Pictures of a page at most, so that it stays below about 8 MB.
_MOST = 2000


@dataclass(frozen=True, order=True)
class _Shown:
    """A picture; ordered by confidence, and then by its place in the list."""

    confidence: float
    place: int
    path: str = field(compare=False)
    prediction: str = field(compare=False)


@dataclass
class _Group:
    """The pictures of a class: how many, and the least and the most confident of them."""

    count: int = 0
    total: float = 0.0
    lowest: list[tuple[float, int, _Shown]] = field(default_factory=list)
    highest: list[tuple[float, int, _Shown]] = field(default_factory=list)

    def add(self, shown: _Shown, most: int) -> None:
        self.count += 1
        self.total += shown.confidence
        few = most // 2
        _keep(self.lowest, (-shown.confidence, -shown.place, shown), few)
        _keep(self.highest, (shown.confidence, shown.place, shown), most - few)

    @property
    def pictures(self) -> list[_Shown]:
        """Each once, the least confident first."""
        return sorted({shown.place: shown for *_, shown in (*self.lowest, *self.highest)}.values())


def _keep(heap: list[tuple[float, int, _Shown]], item: tuple[float, int, _Shown], most: int) -> None:
    if len(heap) < most:
        heapq.heappush(heap, item)
    elif most:
        heapq.heappushpop(heap, item)


class Gallery:
    """Keeps the least and the most confident pictures of each class, and draws the page at the end.

    Args:
        path: The path of the page.
        root: The folder that the pictures' paths are relative to.
        class_names: The names of the classes.
        per_class: The most pictures of a class; fewer where 2,000 in all would be too few.
        title: What the page is of.
    """

    def __init__(self, path: Path, *, root: Path, class_names: Sequence[str], per_class: int, title: str) -> None:
        self._path = path
        self._root = root
        self._title = title
        self._most = max(1, min(per_class, _MOST // (len(class_names) + 1)))
        self._groups: dict[str, _Group] = {"": _Group(), **{name: _Group() for name in class_names}}
        self._place = 0

    def add(self, result: Result) -> None:
        """Look at a result, unless the image could not be read or was put aside."""
        if not result.is_sorted:
            return
        self._place += 1
        shown = _Shown(result.confidences[0], self._place, result.record.path, result.classes[0])
        self._groups.setdefault(result.label, _Group()).add(shown, self._most)

    def close(self, job: Job) -> None:
        """Write the page."""
        environment = Environment(
            loader=PackageLoader("layermatch.prediction"), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        page = environment.get_template("gallery.html").render(
            title=printable(self._title),
            groups=list(self._drawn_groups()),
            per_class=self._most,
            count=self._place,
            side=_SIDE,
        )
        with replacing(self._path, check=lambda _: job.take(self._path)) as unfinished:
            unfinished.write_text(page, encoding="utf-8", errors="backslashreplace", newline="")

    def _drawn_groups(self) -> Iterator[dict[str, object]]:
        """Yield each class that has pictures; where classes are more than a page has room for, the last show none."""
        room = _MOST
        for name, group in self._groups.items():
            if not group.count:
                continue
            pictures = group.pictures[:room]
            room -= len(pictures)
            yield {
                "title": printable(name_text(name)) if name else "without a label",
                "count": group.count,
                "mean": group.total / group.count,
                "pictures": [self._drawn(shown, named=shown.prediction != name) for shown in pictures],
            }

    def _drawn(self, shown: _Shown, *, named: bool) -> dict[str, object]:
        prediction = printable(name_text(shown.prediction)) if named else ""
        path = printable(name_text(shown.path))
        return {
            "confidence": shown.confidence,
            "path": path,
            "prediction": prediction,
            "image": self._image(shown.path),
        }

    def _image(self, path: str) -> str:
        try:
            pixels = decode_image(str(self._root / path), size=_SIDE, channels=3)
        except ImageFileError:  # it was there before
            return ""
        content = BytesIO()
        Image.fromarray(pixels.transpose(1, 2, 0).copy()).save(content, "JPEG", quality=_QUALITY)
        return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"

    def drop(self) -> None:
        """Leave nothing behind: nothing was written yet."""
