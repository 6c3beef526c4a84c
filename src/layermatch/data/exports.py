"""Image classifications as other tools export them: Label Studio, CVAT, FiftyOne.

Written by the tools' own descriptions of their formats: Label Studio 1.x (``JSON``, which are its raw tasks, and
``JSON_MIN``, ``CSV`` and ``TSV``), "CVAT for images 1.1" (tags in ``annotations.xml``, alone or in the ZIP file), and
FiftyOne's ``FiftyOneImageClassificationDataset`` (``labels.json`` beside ``data/``).
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import zipfile
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree as ET

from layermatch.data.decoding import image_endings
from layermatch.data.manifest import Row
from layermatch.data.system_folders import SYSTEM_FOLDERS
from layermatch.data.wording import composed, printable
from layermatch.errors import UserError, check_choice

__all__ = ["FORMATS", "Export", "read_export"]

#: What an export may be, beside ``auto``.
FORMATS = ("label_studio", "cvat", "fiftyone")

#: What Label Studio puts before the name of a file that was uploaded.
_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")
#: Its columns beside the data and the choices.
_OF_LABEL_STUDIO = frozenset({
    "id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement", "annotations_id",
})  # fmt: skip
#: The endings of pictures, listed once.
_endings = cache(image_endings)
_NAMES_OF_SPLITS = {"val": "val", "valid": "val", "validation": "val", "test": "test"}


class _Task(NamedTuple):
    """An image of an export: how it is called there, its labels, and its split."""

    name: str
    labels: tuple[str, ...]
    split: str = "train"


class Export(NamedTuple):
    """What an export comes to.

    Attributes:
        rows: The rows of a manifest, sorted by path.
        disagreements: The images that annotators gave different classes, which are unlabelled now.
    """

    rows: tuple[Row, ...]
    disagreements: int


def read_export(path: Path, *, root: Path, kind: str = "auto", field: str | None = None) -> Export:
    """Read an export of image classifications.

    An image is looked for below ``root`` by the path that the export has, then by its last parts, and then by its name
    alone where only one file is called so; of Label Studio's uploads also without the eight digits before the name.
    Folders of the system, and those whose name begins with a dot, are left out.

    Args:
        path: The exported file; of FiftyOne also its folder.
        root: The folder that the images are below.
        kind: One of :data:`FORMATS`, or ``auto``, which sees it by the content.
        field: The name of the choices to take, where Label Studio's tasks have several; None takes the only ones.

    Raises:
        UserError: The file cannot be read or is no such export, images have several labels or are not there, or it is
            not sure which files they are.

    Example:
        >>> read_export(Path("no/such/export.json"), root=Path("pictures"))
        Traceback (most recent call last):
        layermatch.errors.UserError: cannot read the export no/such/export.json: No such file or directory
    """
    check_choice("format", kind, ("auto", *FORMATS))
    path = path / "labels.json" if path.is_dir() else path
    content = _content(path)
    read = _READERS[_kind_of(path, content) if kind == "auto" else kind]
    try:
        tasks = list(read(content, field))
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, csv.Error) as error:
        if isinstance(error, UserError):
            raise _refusal(path, str(error)) from error
        raise _refusal(
            path, f"it is not as exports are ({type(error).__name__}: {' '.join(str(error).split())})"
        ) from error
    if not tasks:
        raise _refusal(path, "it has no images")
    return _as_rows(path, tasks, root)


def _refusal(path: Path, what: str) -> UserError:
    return UserError(f"the export {printable(str(path))}: {what}")


def _content(path: Path) -> bytes:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as file:
                return file.read("annotations.xml")
        return path.read_bytes()
    except KeyError as error:
        raise _refusal(path, "the ZIP file has no annotations.xml: export as CVAT for images 1.1") from error
    except (OSError, zipfile.BadZipFile) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise UserError(f"cannot read the export {printable(str(path))}: {reason}") from error


def _kind_of(path: Path, content: bytes) -> str:
    begin = content.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if begin == b"<":
        return "cvat"
    if begin == b"{":
        return "fiftyone"
    if begin == b"[" or path.suffix.lower() in {".csv", ".tsv"}:
        return "label_studio"
    raise _refusal(path, f"its format is not seen: give format={', format='.join(FORMATS)}")


def _json(content: bytes) -> Any:
    try:
        return json.loads(content.decode("utf-8-sig"))
    except ValueError as error:
        raise UserError(f"it is no JSON: {error}") from error


# -------------------------------------------------------------------------------------------------------- Label Studio


def _label_studio(content: bytes, field: str | None) -> Iterator[_Task]:
    text = content.decode("utf-8-sig")
    if text.lstrip()[:1] not in {"[", "{"}:
        separator = "\t" if "\t" in text.partition("\n")[0] else ","
        yield from _minimal(list(csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)), field)
        return
    tasks = _json(content)
    if not isinstance(tasks, list):
        raise UserError("Label Studio's exports are lists of tasks, and this is none")
    if any("annotations" in task for task in tasks):
        yield from _raw(tasks, field)
    else:
        yield from _minimal(tasks, field)


def _raw(tasks: Sequence[Mapping[str, Any]], field: str | None) -> Iterator[_Task]:
    """Read raw tasks: ``data``, and ``annotations`` whose ``result`` has ``choices``."""
    controls = {result["from_name"] for task in tasks for result in _results(task)}
    control = _only_field(controls, field)
    for task in tasks:
        judged = _annotations(task)
        trusted = [annotation for annotation in judged if annotation.get("ground_truth")] or judged
        answers = dict.fromkeys(filter(None, (_of_control(annotation, control) for annotation in trusted)))
        # Several answers are several tasks of one image, as they are in the other formats.
        for labels in answers or [()]:
            yield _Task(_image_of(task["data"]), labels)


def _of_control(annotation: Mapping[str, Any], control: str | None) -> tuple[str, ...]:
    results = [result for result in annotation["result"] if result["from_name"] == control]
    return tuple(choice for result in results for choice in result["value"]["choices"])


def _annotations(task: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [each for each in task.get("annotations", []) if not each.get("was_cancelled")]


def _results(task: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for annotation in _annotations(task):
        yield from (result for result in annotation["result"] if result.get("type") == "choices")


def _only_field(fields: Iterable[str], given: str | None) -> str | None:
    fields = sorted(fields)
    if given is not None and given not in fields:
        raise UserError(f"field={given} is none of its choices: choose one of {', '.join(fields) or '(none)'}")
    if given is None and len(fields) > 1:
        raise UserError(f"its tasks have several choices: give field={' or field='.join(fields)}")
    return given or (fields[0] if fields else None)


def _minimal(tasks: Sequence[Mapping[str, Any]], field: str | None) -> Iterator[_Task]:
    """Read JSON_MIN and CSV: an item for each annotation, with the data and the choices beside each other."""
    if not tasks:
        return
    names = dict.fromkeys(name for task in tasks for name in task)
    images = [name for name in names if _are_addresses([task.get(name) for task in tasks])]
    if not images:
        raise UserError("none of its columns has the addresses of images")
    others = {name for name in names if name not in _OF_LABEL_STUDIO and name not in images}
    if not others:
        raise UserError("none of its columns has choices")
    control = _only_field(others, field)
    for task in tasks:
        yield _Task(_path_of(str(task[images[0]])), _choices(task.get(control or "")))


def _choices(value: object) -> tuple[str, ...]:
    if isinstance(value, str) and value.startswith('{"choices"'):
        value = json.loads(value)
    if isinstance(value, Mapping):
        return tuple(str(choice) for choice in value["choices"])
    return (str(value),) if value not in {None, ""} else ()


def _image_of(data: Mapping[str, Any]) -> str:
    for value in data.values():
        if _is_address(value):
            return _path_of(str(value))
    raise UserError("one of its tasks has no address of an image")


def _are_addresses(values: Sequence[object]) -> bool:
    """Say whether a column has the addresses of images, in each row that has anything: a class may look like one."""
    given = [value for value in values if value is not None and value != ""]
    return bool(given) and all(map(_is_address, given))


def _is_address(value: object) -> bool:
    if not isinstance(value, str):
        return False
    return value.startswith("/data/") or "://" in value or os.path.splitext(value.lower())[1] in _endings()  # noqa: PTH122


def _path_of(address: str) -> str:
    """Return the path in an address: of a local file, of one that was uploaded, or of a bucket."""
    parts = urlsplit(address)
    inside = parse_qs(parts.query).get("d")
    path = inside[0] if inside and parts.path.startswith("/data/local-files") else unquote(parts.path)
    return path.strip("/")


# ---------------------------------------------------------------------------------------------------------------- CVAT


def _cvat(content: bytes, field: str | None) -> Iterator[_Task]:
    _no_field(field)
    try:
        # Python's expat refuses entities that grow without end.
        annotations = ET.fromstring(content)  # noqa: S314
    except ET.ParseError as error:
        raise UserError(f"it is no XML: {error}") from error
    if annotations.tag != "annotations" or annotations.find("track") is not None:
        raise UserError("it is not of images: export as CVAT for images 1.1")
    for image in annotations.iter("image"):
        labels = tuple(tag.attrib["label"] for tag in image.iter("tag"))
        split = _NAMES_OF_SPLITS.get(image.attrib.get("subset", "").lower(), "train")
        yield _Task(image.attrib["name"], labels, split)


def _no_field(field: str | None) -> None:
    if field is not None:
        raise UserError(f"field={field} is of Label Studio's exports: give field=null")


# ------------------------------------------------------------------------------------------------------------ FiftyOne


def _fiftyone(content: bytes, field: str | None) -> Iterator[_Task]:
    _no_field(field)
    data = _json(content)
    classes = data.get("classes")
    for name, target in data["labels"].items():
        yield _Task(name, _targets(target, classes))


def _targets(target: Any, classes: Sequence[str] | None) -> tuple[str, ...]:
    if target is None:
        return ()
    if isinstance(target, list):
        return tuple(label for each in target for label in _targets(each, classes))
    if isinstance(target, Mapping):
        return _targets(target["label"], classes)
    return (classes[target] if classes is not None and isinstance(target, int) else str(target),)


_READERS: Mapping[str, Callable[[bytes, str | None], Iterable[_Task]]] = {
    "label_studio": _label_studio,
    "cvat": _cvat,
    "fiftyone": _fiftyone,
}


# -------------------------------------------------------------------------------------------------------------- images


def _as_rows(path: Path, tasks: Sequence[_Task], root: Path) -> Export:
    several = [task for task in tasks if len(task.labels) > 1]
    if several:
        raise _refusal(
            path,
            f"{len(several):,} images have several classes, the first is {printable(several[0].name)}: here each image "
            "has one",
        )
    files = _files_of(path, dict.fromkeys(task.name for task in tasks), root)
    answers: dict[str, set[str]] = defaultdict(set)
    splits: dict[str, str] = {}
    for task in tasks:
        file = files[task.name]
        answers[file] |= {composed(label.strip()) for label in task.labels}
        splits[file] = task.split
    rows = [Row(file, "" if len(names) != 1 else next(iter(names)), splits[file]) for file, names in answers.items()]
    disagreements = sum(len(names) > 1 for names in answers.values())
    return Export(tuple(sorted(rows, key=lambda row: row.path)), disagreements)


def _files_of(path: Path, names: Collection[str], root: Path) -> dict[str, str]:
    """Return the file of each name in an export; refuse an export with names that are not those of one file each."""
    find = _Finder(root)
    found = {name: find(name) for name in names}
    gone = [name for name, files in found.items() if not files]
    if gone:
        raise _refusal(
            path,
            f"{len(gone):,} of its {len(names):,} images are not found below {printable(str(root))}, the first is "
            f"{printable(gone[0])}: give root=DIR, the folder that they are in",
        )
    unsure = [name for name, files in found.items() if len(files) > 1]
    if unsure:
        files = " and ".join(map(printable, found[unsure[0]][:2]))
        raise _refusal(
            path,
            f"{len(unsure):,} of its {len(names):,} images may be one or another file, the first is "
            f"{printable(unsure[0])}: several files are called so, {files}",
        )
    name_of: dict[str, str] = {}
    for name, (file, *_) in found.items():
        other = name_of.setdefault(file, name)
        if other != name:
            raise _refusal(
                path,
                f"{printable(other)} and {printable(name)} are two images in it, and one file below "
                f"{printable(str(root))}, {printable(file)}: give root=DIR, the folder that both are in",
            )
    return {name: files[0] for name, files in found.items()}


class _Finder:
    """Finds the file below a folder that an export means.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self._files: set[str] = set()
        #: Name -> the files that have it.
        self._named: dict[str, list[str]] = defaultdict(list)
        #: Path and name without its ending -> the files that are called so.
        self._called: dict[str, list[str]] = defaultdict(list)
        for folder, below, names in os.walk(root):
            below[:] = sorted(name for name in below if not name.startswith(".") and name not in SYSTEM_FOLDERS)
            for name in sorted(names):
                self._add(os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/"))  # noqa: PTH118

    def _add(self, file: str) -> None:
        self._files.add(file)
        self._named[file.rpartition("/")[2]].append(file)
        stem = os.path.splitext(file)[0]  # noqa: PTH122
        for called in {stem, stem.rpartition("/")[2], stem.removeprefix("data/")}:
            self._called[called].append(file)

    def __call__(self, name: str) -> Sequence[str]:
        """Return the file relative to the folder; none where there is none, and all where nobody knows which."""
        parts = name.replace("\\", "/").strip("/").split("/")
        last = _UPLOAD_PREFIX.sub("", parts[-1])
        candidates = ["/".join([*parts[start:-1], end]) for end in (parts[-1], last) for start in range(len(parts))]
        for candidate in candidates:
            # A name alone says which file of the folder itself it is only where the export has no more of the path.
            if candidate in self._files and ("/" in candidate or len(parts) == 1):
                return [candidate]
        for called in candidates:
            found = self._named.get(called) or self._called.get(called)
            if found:
                return found
        return []
