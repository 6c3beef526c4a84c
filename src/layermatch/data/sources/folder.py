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

__all__ = ["LAYOUTS", "Folder", "find_parts"]

#: The folders that a data set may have.
LAYOUTS = (
    "either train/<class>/ or labeled/<class>/ and unlabeled/ (and, in both, an optional val/<class>/ and "
    "test/<class>/)"
)

#: Folders of images that nothing is learnt from, and the parts that they are.
_EVALUATED = {"val": "validation", "test": "test"}


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A user's own image files, in one of two layouts; sizes, origin and licence are the user's own.

    - ``train/<class>/``: every image has a label; the run draws the labels that it may see.
    - ``labeled/<class>/`` and ``unlabeled/`` (any tree of images): few images have a label.

    Both may have a ``val/<class>/`` and a ``test/<class>/`` with the same classes; other folders are not read.
    Classes are sorted by name. Sub-folders of a class belong to it; names that start with a dot are left out. What is
    an image is seen by its content, and what is not used is in the ``notes``. Files are decoded when they are read, as
    :class:`~layermatch.data.file_images.FileImages` says.

    Args:
        root: The folder that holds ``train/`` or ``labeled/``.
        image_size: The height and width in pixels that images are resized and cropped to; None chooses them by the
            sizes of the training images, see :func:`~layermatch.data.sources.image_size.choose_size`.
        channels: 1 (grey) or 3 (RGB).

    Raises:
        UserError: A value is not legal; from :meth:`load`, the folder has neither layout (or both), folders
            are empty or have different classes.

    Example:
        >>> Folder(root="no/such/folder").load()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        layermatch.errors.UserError: data.root='no/such/folder' is not a folder: ...
    """

    root: str | Path
    image_size: int | None = 32
    channels: int = 3

    def __post_init__(self) -> None:
        check_folder_settings(self.root, self.image_size, self.channels, may_choose=True)

    def load(self) -> SourceData:
        """List the files; none is opened."""
        root = check_root_folder(self.root, LAYOUTS)
        parts = find_parts(root)
        classes = list_classes(root, parts["labelled"])
        for name in _EVALUATED.values():
            if name in parts:
                check_same_classes(root, parts["labelled"], parts[name])
        return load_folders(root, parts, classes, image_size=self.image_size, channels=self.channels)


def find_parts(root: Path) -> dict[str, str]:
    """The folder of each part of a data set.

    Args:
        root: The folder that holds ``train/`` or ``labeled/``.

    Returns:
        The name of the folder by the name of the part, ``"labelled"`` first.

    Raises:
        UserError: The folder has neither layout, or both.

    Example:
        >>> find_parts(Path("no/such/folder"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        layermatch.errors.UserError: data.root='no/such/folder' holds neither train/ nor labeled/ and unlabeled/: ...
    """
    there = {name for name in ("train", "labeled", "unlabeled", *_EVALUATED) if (root / name).is_dir()}
    evaluated = {part: folder for folder, part in _EVALUATED.items() if folder in there}
    if there - set(_EVALUATED) == {"train"}:
        return {"labelled": "train"} | evaluated
    if there - set(_EVALUATED) == {"labeled", "unlabeled"}:
        return {"labelled": "labeled", "unlabelled": "unlabeled"} | evaluated
    found = ", ".join(f"{name}/" for name in sorted(there)) or "neither train/ nor labeled/ and unlabeled/"
    raise UserError(f"data.root={str(root)!r} holds {found}: give a folder that holds {LAYOUTS}")
