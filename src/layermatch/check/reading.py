"""The parts of a data set as they are, also where a run would refuse them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from layermatch.data.file_images import FileImages
from layermatch.data.sources import Folder, ImageSet, Manifest, Source, SourceData
from layermatch.data.sources.base import shorten, unknown_labels
from layermatch.data.sources.class_names import class_folders
from layermatch.data.sources.files import FOLDER, LOOSE, Unused, find_images, unused_beside, unused_text
from layermatch.data.sources.folder import LAYOUTS, find_parts
from layermatch.data.sources.listing import check_root_folder
from layermatch.data.wording import look_alikes_text, name_text, printable
from layermatch.errors import UserError
from layermatch.paths import expand

__all__ = ["Content", "read_content"]


@dataclass(frozen=True, eq=False)
class Content:
    """What lies in a data set.

    Attributes:
        classes: The names of all classes, of whatever part.
        parts: The parts by name, ``"labelled"`` first; labels are -1 where they are unknown.
        names: The name of each image, part by part: its file relative to the root, or ``part:number``.
        refusals: Why a run would refuse the data set.
        notes: What a run would say of it.
    """

    classes: tuple[str, ...]
    parts: Mapping[str, ImageSet]
    names: Mapping[str, tuple[str, ...]]
    refusals: tuple[str, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)


def read_content(source: Source) -> Content:
    """List a data set; no image is decoded.

    Args:
        source: The source, as a run has it.

    Raises:
        UserError: There is no such data set, or, but for folders of pictures, it is not as it should be.
    """
    try:
        content = _of_source_data(source.load())
    except UserError as error:
        if not isinstance(source, Folder):
            raise
        return _of_folders(source, str(error))
    if not isinstance(source, Manifest):
        return content
    notes = {kind: text for kind, text in content.notes.items() if kind != "class names"}  # here they are a problem
    return Content(content.classes, content.parts, content.names, notes={**notes, **_beside(source, content)})


def _of_source_data(data: SourceData) -> Content:
    parts = data.parts()
    names = {
        part: data.image_ids.get(part) or tuple(data.image_id(part, row) for row in range(len(images)))
        for part, images in parts.items()
    }
    return Content(data.classes, parts, names, notes=data.notes)


def _beside(source: Manifest, content: Content) -> dict[str, str]:
    """Return the image files below the root that the table does not name, or names and does not use."""
    root = Path(source.root if source.root is not None else expand("manifest", source.manifest, "a file").parent)
    used = {name for names in content.names.values() for name in names}
    others = [name for name in find_images(root.expanduser()).images if name not in used]
    if not others:
        return {}
    shown = shorten([printable(name) for name in others], 3)
    return {"files not used": f"{len(others):,} image files below {printable(str(root))}: {shown}"}


def _of_folders(source: Folder, refusal: str) -> Content:
    """Read folders of classes that a run refuses, as far as they can be read.

    Raises:
        UserError: There are no such folders.
    """
    root = check_root_folder(source.root, LAYOUTS)
    parts = find_parts(root)
    folders = {name: class_folders(root / folder) for name, folder in parts.items() if name != "unlabelled"}
    classes = sorted({name for of_part in folders.values() for name in of_part})
    if not classes:  # there is nothing to look at
        raise UserError(refusal)
    listed: dict[str, tuple[list[str], list[int]]] = {}
    unused = list(unused_beside(root, list(parts.values()), files_are=LOOSE))
    for name, folder in parts.items():
        if name == "unlabelled":
            paths = _images_in(root, folder, unused)
            listed[name] = (paths, unknown_labels(len(paths)).tolist())
            continue
        paths, labels = [], []
        for class_name, class_folder in folders[name].items():
            found = _images_in(root, f"{folder}/{class_folder}", unused)
            paths += found
            labels += [classes.index(class_name)] * len(found)
        unused += [
            one.below(folder)
            for one in unused_beside(root / folder, list(folders[name].values()), files_are=LOOSE)
            if one.kind != FOLDER
        ]
        listed[name] = (paths, labels)
    sets = {
        name: ImageSet(FileImages([f"{root}/{path}" for path in paths], size=32), np.array(labels, np.int64))
        for name, (paths, labels) in listed.items()
    }
    refusals = [refusal, *_differences(parts, folders)]
    return Content(
        tuple(name_text(name) for name in classes),
        sets,
        {name: tuple(paths) for name, (paths, _) in listed.items()},
        refusals=tuple(refusals if len(refusals) == 1 else refusals[1:]),
        notes={"not used": unused_text(unused)} if unused else {},
    )


def _images_in(root: Path, folder: str, unused: list[Unused]) -> list[str]:
    found = find_images(root / folder)
    unused += [one.below(folder) for one in found.unused]
    return [f"{folder}/{name}" for name in found.images]


def _differences(parts: Mapping[str, str], folders: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return which classes each evaluated part has and the labelled one has not, and the other way round."""
    first = set(folders["labelled"])
    texts = []
    for name in folders:
        other = set(folders[name])
        only = {parts["labelled"]: first - other, parts[name]: other - first}
        for folder, names in only.items():
            if names:
                texts.append(f"only {folder}/ has the classes {shorten(sorted(map(printable, names)))}")
        texts += look_alikes_text(first - other, other - first)
    return texts
