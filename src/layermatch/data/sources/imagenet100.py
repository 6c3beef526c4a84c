"""A 100-class subset of ImageNet (ILSVRC 2012)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from layermatch.data.sources.base import SourceData, shorten
from layermatch.data.sources.listing import check_folder_settings, check_root_folder, load_folders
from layermatch.data.wording import one_line
from layermatch.errors import UserError
from layermatch.paths import check_path, expand, is_file

__all__ = ["ImageNet100"]

_NUM_CLASSES = 100
_CLASS_LIST = "a class list is a text file with one WordNet id (such as n01440764) a line, 100 in all"
_WORDNET_ID = re.compile(r"n\d{8}")


@dataclass(frozen=True, kw_only=True)
class ImageNet100:
    """ImageNet-100: 100 of ImageNet's classes, about 127,000 training and 5,000 validation images.

    Origin: Russakovsky et al. 2015 (ILSVRC 2012), image-net.org; for non-commercial research, after
    registration, so nothing is downloaded here. There is no one ImageNet-100: papers differ in their lists of
    classes, hence ``class_list``. The validation images are the test set.

    Args:
        root: The folder that holds ``train/<WordNet id>/`` and ``val/<WordNet id>/``. Other class folders are
            left out.
        class_list: A text file with one WordNet id a line, 100 in all; relative to the working directory or
            to ``root``. Classes are sorted by their ids, whatever the order of the file.
        image_size: The height and width in pixels that images are resized and cropped to.

    Raises:
        UserError: A value is not legal; from :meth:`load`, the list is no such list, or a class or its images
            are missing.

    Example:
        >>> ImageNet100(root="no/such/folder", class_list="classes.txt").load()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        layermatch.errors.UserError: root='no/such/folder' is not a folder: ...
    """

    root: str | Path
    class_list: str | Path
    image_size: int = 224

    def __post_init__(self) -> None:
        check_folder_settings(self.root, self.image_size, 3)
        check_path("class_list", self.class_list, f"a file: {_CLASS_LIST}")

    def load(self) -> SourceData:
        """Read the list of classes and list the files; none is opened."""
        root = check_root_folder(self.root, "train/<WordNet id>/ and val/<WordNet id>/")
        classes = _read_class_list(root, expand("class_list", self.class_list, "a file"))
        _check_class_folders(root, classes)
        parts = {"labelled": "train", "test": "val"}
        return load_folders(root, parts, classes, image_size=self.image_size, channels=3, names_others=False)


def _read_class_list(root: Path, path: Path) -> tuple[str, ...]:
    found = [place for place in (path, root / path) if is_file(place)]
    if not found:
        raise UserError(f"class_list={str(path)!r} is not a file, nor is {root / path}: {_CLASS_LIST}")
    try:
        lines = found[0].read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = one_line(error)
        raise UserError(f"class_list={str(path)!r} cannot be read: {reason}; {_CLASS_LIST}") from error
    names = [line.strip() for line in lines if line.strip()]
    wrong = [name for name in names if not _WORDNET_ID.fullmatch(name)]
    if wrong:
        raise UserError(f"class_list={str(path)!r} has the line {wrong[0][:60]!r}: {_CLASS_LIST}")
    if len(names) != _NUM_CLASSES or len(set(names)) != _NUM_CLASSES:
        raise UserError(
            f"class_list={str(path)!r} has {len(names)} lines, {len(set(names))} of them different: {_CLASS_LIST}"
        )
    return tuple(sorted(names))


def _check_class_folders(root: Path, classes: tuple[str, ...]) -> None:
    for part in ("train", "val"):
        missing = [name for name in classes if not (root / part / name).is_dir()]
        if missing:
            raise UserError(
                f"{root / part} has no folder for {len(missing)} of the {_NUM_CLASSES} classes: "
                f"{shorten(missing)}; "
                f"give one folder of images for each WordNet id of the class list ({_CLASS_LIST})"
            )
