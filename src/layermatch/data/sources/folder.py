"""A user's own images in folders, with or without a separate folder of unlabelled ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from layermatch.data.sources.base import SourceData
from layermatch.data.sources.listing import (
    check_folder_settings,
    check_root_folder,
    check_same_classes,
    list_classes,
    load_folders,
)
from layermatch.errors import UserError

__all__ = ["Folder"]

_LAYOUTS = "either train/<class>/ or labeled/<class>/ and unlabeled/ (and, in both, an optional test/<class>/)"


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A user's own image files, in one of two layouts; sizes, origin and licence are the user's own.

    - ``train/<class>/``: every image has a label; the run draws the labels that it may see.
    - ``labeled/<class>/`` and ``unlabeled/`` (any tree of images): few images have a label.

    Both may have a ``test/<class>/`` with the same classes; other folders are not read. Classes are sorted by
    name. Sub-folders of a class belong to it; names that start with a dot are left out. What is an image is
    seen by its content, and what is not used is in the ``notes``. Files are decoded when they are read, as
    :class:`~layermatch.data.file_images.FileImages` says.

    Args:
        root: The folder that holds ``train/`` or ``labeled/``.
        image_size: The height and width in pixels that images are resized and cropped to.
        channels: 1 (grey) or 3 (RGB).

    Raises:
        UserError: A value is not legal; from :meth:`load`, the folder has neither layout (or both), folders
            are empty or have different classes.

    Example:
        >>> Folder(root="no/such/folder").load()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        layermatch.errors.UserError: root='no/such/folder' is not a folder: ...
    """

    root: str | Path
    image_size: int = 32
    channels: int = 3

    def __post_init__(self) -> None:
        check_folder_settings(self.root, self.image_size, self.channels)

    def load(self) -> SourceData:
        """List the files; none is opened."""
        root = check_root_folder(self.root, _LAYOUTS)
        parts = _find_parts(root)
        classes = list_classes(root, parts["labelled"])
        if "test" in parts:
            check_same_classes(root, parts["labelled"], parts["test"])
        return load_folders(root, parts, classes, image_size=self.image_size, channels=self.channels)


def _find_parts(root: Path) -> dict[str, str]:
    there = {name for name in ("train", "labeled", "unlabeled", "test") if (root / name).is_dir()}
    test = {"test": "test"} if "test" in there else {}
    if there - {"test"} == {"train"}:
        return {"labelled": "train"} | test
    if there - {"test"} == {"labeled", "unlabeled"}:
        return {"labelled": "labeled", "unlabelled": "unlabeled"} | test
    found = ", ".join(f"{name}/" for name in sorted(there)) or "neither train/ nor labeled/ and unlabeled/"
    raise UserError(f"root={str(root)!r} holds {found}: give a folder that holds {_LAYOUTS}")
