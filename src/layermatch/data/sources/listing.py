"""Finding the image files below a folder, and the class folders among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layermatch.data.file_images import FileImages
from layermatch.data.images import check_channels
from layermatch.data.sources.base import ImageSet, SourceData, shorten, unknown_labels
from layermatch.data.sources.class_names import class_folders, forms_text
from layermatch.data.sources.files import FOLDER, LOOSE, Unused, find_images, unused_beside, unused_text
from layermatch.data.sources.image_size import choose_size
from layermatch.data.wording import look_alikes_text
from layermatch.errors import UserError, check_number
from layermatch.paths import check_path, expand, is_folder

__all__ = [
    "Listing",
    "check_folder_settings",
    "check_root_folder",
    "check_same_classes",
    "list_classes",
    "list_labelled",
    "list_unlabelled",
    "load_folders",
    "of_listings",
]


@dataclass(frozen=True, eq=False)
class Listing:
    """Image files and their labels; nothing is opened yet.

    Args:
        paths: ``N`` files relative to the root, with ``/``.
        labels: ``(N,)`` int64, -1 where unknown.
        unused: What lies there and is no image, or where no image is looked for.

    Example:
        >>> listing = Listing(("train/cat/1.png", "train/dog/1.png"), np.array([0, 1]))
        >>> listing.image_set(Path("data"), image_size=32, channels=3).images.shape
        (3, 32, 32)
    """

    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    unused: tuple[Unused, ...] = ()

    def image_set(self, root: Path, *, image_size: int, channels: int) -> ImageSet:
        """Return the images, decoded to ``(channels, image_size, image_size)`` when they are read."""
        files = [f"{root}/{path}" for path in self.paths]
        return ImageSet(images=FileImages(files, size=image_size, channels=channels), labels=self.labels)


def check_folder_settings(root: object, image_size: object, channels: object, *, may_choose: bool = False) -> None:
    """Refuse settings that no source of image files can have.

    Args:
        root: What was given as ``root``: a path.
        image_size: What was given as ``image_size``: pixels, at least 1.
        channels: What was given as ``channels``: 1 or 3.
        may_choose: Whether ``image_size`` may be None, for a source that chooses one.

    Raises:
        UserError: One of them is not legal.

    Example:
        >>> check_folder_settings("data", 32, 3)
    """
    check_path("root", root, "a folder")
    if image_size is not None or not may_choose:
        check_number("image_size", image_size, low=1, integer=True)
    check_channels("channels", channels)


def check_root_folder(root: str | Path, expected: str) -> Path:
    """Refuse a root that is not a folder on disk.

    Args:
        root: What was given as ``root``; ``~`` is the home folder.
        expected: What the folder should hold, for the message.

    Returns:
        The root.

    Raises:
        UserError: There is no such folder.

    Example:
        >>> check_root_folder("no/such/folder", "train/")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        layermatch.errors.UserError: root='no/such/folder' is not a folder: ...
    """
    path = expand("root", root, "a folder")
    if not is_folder(path):
        raise UserError(f"root={str(root)!r} is not a folder: give a folder that holds {expected}")
    return path


def list_classes(root: Path, part: str) -> tuple[str, ...]:
    """Return the classes of a part, sorted by name; see :func:`~layermatch.data.sources.class_names.class_folders`.

    Args:
        root: The data set's folder.
        part: The folder of the part, such as ``"train"``.

    Returns:
        At least two names.

    Raises:
        UserError: There is no class folder, or only one, or two with one name.

    Example:
        >>> list_classes(Path(__file__).parent, ".")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        layermatch.errors.UserError: ...: give a folder of images for each of at least 2 classes
    """
    folder = root / part
    classes = list(class_folders(folder))
    if len(classes) < 2:
        found = f"one class folder ({classes[0]})" if classes else "no class folders"
        raise UserError(f"{folder} has {found}: give a folder of images for each of at least 2 classes")
    return tuple(classes)


def list_labelled(root: Path, part: str, classes: Sequence[str]) -> Listing:
    """Return the images of every class of a part.

    Args:
        root: The data set's folder.
        part: The folder of the part, such as ``"train"``.
        classes: The class folders to read, in the order of their labels.

    Returns:
        The files of class 0, then of class 1, and so on; each class sorted by name.

    Raises:
        UserError: There are no images, or a class has none.

    Example:
        >>> list_labelled(Path("no/such/folder"), "train", ["cat"])  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        layermatch.errors.UserError: cannot list no/such/folder/train: ...
    """
    folders = class_folders(root / part)
    names = [folders.get(name, name) for name in classes]
    found = [find_images(root / part / name) for name in names]
    unused = [one.below(f"{part}/{name}") for name, below in zip(names, found, strict=True) for one in below.unused]
    empty = [name for name, below in zip(classes, found, strict=True) if not below.images]
    if empty:
        what = "no images" if len(empty) == len(classes) else f"no images for the classes {shorten(empty)}"
        raise UserError(f"{root / part} has {what}: give every class at least one image file {_legal(unused)}")
    # Other folders are those of classes that are not asked for.
    beside = unused_beside(root / part, names, files_are=LOOSE)
    unused += [one.below(part) for one in beside if one.kind != FOLDER]
    paths = tuple(f"{part}/{name}/{file}" for name, below in zip(names, found, strict=True) for file in below.images)
    counts = [len(below.images) for below in found]
    return Listing(paths, np.repeat(np.arange(len(classes)), counts), tuple(unused))


def _legal(unused: Sequence[Unused]) -> str:
    """Return what an image file may be, and what was found instead."""
    instead = f"; not used there: {unused_text(unused)}" if unused else ""
    return f"(.jpg, .png, .webp or another format that is read, whatever it is called){instead}"


def list_unlabelled(root: Path, part: str) -> Listing:
    """Return all images of a part without labels.

    Args:
        root: The data set's folder.
        part: The folder of the part, such as ``"unlabeled"``; any tree.

    Returns:
        The files sorted by name; every label is -1.

    Raises:
        UserError: There are no images.

    Example:
        >>> list_unlabelled(Path("no/such/folder"), "unlabeled")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        layermatch.errors.UserError: cannot list no/such/folder/unlabeled: ...
    """
    found = find_images(root / part)
    unused = tuple(one.below(part) for one in found.unused)
    if not found.images:
        raise UserError(f"{root / part} has no images: give at least one image file {_legal(unused)}")
    return Listing(tuple(f"{part}/{file}" for file in found.images), unknown_labels(len(found.images)), unused)


def check_same_classes(root: Path, part: str, other: str) -> None:
    """Refuse two parts, such as labelled images and test set, with different class folders.

    Args:
        root: The data set's folder.
        part: The folder of one part, such as ``"train"``.
        other: The folder of the other, such as ``"test"``.

    Raises:
        UserError: The class folders differ, or a part has fewer than two.

    Example:
        >>> check_same_classes(Path("no/such/folder"), "train", "test")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        layermatch.errors.UserError: cannot list no/such/folder/train: ...
    """
    classes = {name: set(list_classes(root, name)) for name in (part, other)}
    only = {part: classes[part] - classes[other], other: classes[other] - classes[part]}
    differences = [f"only {name}/ has {shorten(sorted(names))}" for name, names in only.items() if names]
    if differences:
        differences += look_alikes_text(only[part], only[other])
        raise UserError(f"the class folders of {part}/ and {other}/ in {root} differ: {'; '.join(differences)}")


def load_folders(
    root: Path,
    parts: Mapping[str, str],
    classes: Sequence[str],
    *,
    image_size: int | None,
    channels: int,
    names_others: bool = True,
) -> SourceData:
    """List the image files of a data set.

    Args:
        root: The data set's folder.
        parts: The places of its parts: the folder of ``"labelled"`` and, where there are any, of ``"unlabelled"``,
            ``"validation"`` and ``"test"``.
        classes: The class folders to read in labelled and test parts, in the order of their labels.
        image_size: The height and width in pixels that images are decoded to; None chooses them by the files, see
            :func:`~layermatch.data.sources.image_size.choose_size`.
        channels: 1 or 3.
        names_others: Whether what lies beside the parts is told to the user.

    Returns:
        The data set, with the files' names relative to ``root`` as ``image_ids``, and notes of what is not used.

    Raises:
        UserError: A part or a class has no images, or cannot be listed.

    Example:
        >>> load_folders(  # doctest: +ELLIPSIS
        ...     Path("no/such/folder"), {"labelled": "train"}, ["cat", "dog"], image_size=32, channels=3
        ... )
        Traceback (most recent call last):
        layermatch.errors.UserError: cannot list no/such/folder/train: ...
    """
    listings = {
        name: list_unlabelled(root, part) if name == "unlabelled" else list_labelled(root, part, classes)
        for name, part in parts.items()
    }
    notes = _notes(root, parts, listings, names_others=names_others)
    return of_listings(root, listings, classes, image_size=image_size, channels=channels, notes=notes)


def of_listings(
    root: Path,
    listings: Mapping[str, Listing],
    classes: Sequence[str],
    *,
    image_size: int | None,
    channels: int,
    notes: Mapping[str, str],
    are_labels_in_names: bool = True,
) -> SourceData:
    """Return the data set of files that are listed.

    Args:
        root: The data set's folder.
        listings: The files of each part.
        classes: The names of the classes.
        image_size: See :func:`load_folders`.
        channels: 1 or 3.
        notes: What the user should know.
        are_labels_in_names: See :class:`~layermatch.data.sources.base.SourceData`.

    Raises:
        UserError: The size is to be chosen, and no file can be read.

    Example:
        >>> listing = Listing(("train/cat/1.png", "train/dog/1.png"), np.array([0, 1]))
        >>> of_listings(Path("x"), {"labelled": listing}, ["cat", "dog"], image_size=8, channels=3, notes={}).image_ids
        {'labelled': ('train/cat/1.png', 'train/dog/1.png')}
    """
    measured: dict[str, Any] = {}
    if image_size is None:
        training = [*listings["labelled"].paths, *(listings["unlabelled"].paths if "unlabelled" in listings else ())]
        image_size, reason = choose_size([f"{root}/{path}" for path in training])
        measured, notes = {"image_size": image_size}, {"image size": reason, **notes}
    sets = {name: found.image_set(root, image_size=image_size, channels=channels) for name, found in listings.items()}
    return SourceData(
        classes=tuple(classes),
        labelled=sets["labelled"],
        unlabelled=sets.get("unlabelled"),
        validation=sets.get("validation"),
        test=sets.get("test"),
        image_ids={name: found.paths for name, found in listings.items()},
        notes=notes,
        measured=measured,
        are_labels_in_names=are_labels_in_names,
    )


def _notes(
    root: Path, parts: Mapping[str, str], listings: Mapping[str, Listing], *, names_others: bool
) -> dict[str, str]:
    unused = [one for listing in listings.values() for one in listing.unused]
    if names_others:
        unused += unused_beside(root, list(parts.values()), files_are=LOOSE)
    notes = {"not used": unused_text(unused)} if unused else {}
    forms = forms_text({part: class_folders(root / part) for name, part in parts.items() if name != "unlabelled"})
    return notes | ({"class names": forms} if forms else {})
