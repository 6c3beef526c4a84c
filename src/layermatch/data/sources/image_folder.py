"""A data set of image files with a training and a test (or validation) folder."""

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

__all__ = ["ImageFolder"]


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """Image files in ``train/<class>/`` and ``test/<class>/``, or ``val/<class>/`` without ``test/``.

    The layout of torchvision's ``ImageFolder``, once per part; sizes, origin and licence are the user's own.
    Classes are sorted by name. Sub-folders of a class belong to it; names that start with a dot are left out.
    What is an image is seen by its content, and what is not used is in the ``notes``. Files are decoded when they are
    read, as :class:`~layermatch.data.file_images.FileImages` says. Without a test
    folder ``test`` is ``None``.

    Args:
        root: The folder that holds ``train/``.
        image_size: The height and width in pixels that images are resized and cropped to.
        channels: 1 (grey) or 3 (RGB).

    Raises:
        UserError: A value is not legal; from :meth:`load`, folders are missing, empty or have different
            classes.

    Example:
        >>> ImageFolder(root="no/such/folder", image_size=64).load()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        layermatch.errors.UserError: root='no/such/folder' is not a folder: ...
    """

    root: str | Path
    image_size: int
    channels: int = 3

    def __post_init__(self) -> None:
        check_folder_settings(self.root, self.image_size, self.channels)

    def load(self) -> SourceData:
        """List the files; none is opened."""
        root = check_root_folder(self.root, "train/<class>/ and test/<class>/ or val/<class>/")
        parts = {"labelled": "train"}
        tests = [name for name in ("test", "val") if (root / name).is_dir()]
        if tests:
            parts["test"] = tests[0]
            check_same_classes(root, "train", tests[0])
        classes = list_classes(root, "train")
        return load_folders(root, parts, classes, image_size=self.image_size, channels=self.channels)
