"""Random access to image files, decoded each time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from layermatch.data.decoding import ImageFileError, decode_image
from layermatch.data.images import check_channels, check_indices
from layermatch.data.wording import gone_text, printable
from layermatch.errors import RunError, check_number

__all__ = ["FileImages"]


class FileImages:
    """Images decoded from files on read, as :func:`~layermatch.data.decoding.decode_image` says.

    Where nothing has to be converted (8-bit RGB or grey, upright, opaque), an image is what torchvision's
    ``Resize(size, BICUBIC)`` and ``CenterCrop(size)`` give.

    NOTE: torchvision's ``ImageFolder`` shows camera images as they are stored, and transparent pixels in the colour
    that happens to be beneath; here both look as they do to a person.

    Args:
        paths: One file for each image.
        size: The height and width in pixels, at least 1.
        channels: 1 or 3.
        are_checked: Whether every file was decoded before, so that one which cannot be has changed since.

    Raises:
        UserError: ``size`` or ``channels`` is illegal; from :meth:`read`, a file is no readable image.
        RunError: A checked file cannot be read any more (from :meth:`read`).

    Example:
        >>> FileImages(["cat.png", "dog.jpg"], size=32).shape
        (3, 32, 32)
    """

    def __init__(self, paths: Sequence[str | Path], *, size: int, channels: int = 3, are_checked: bool = False) -> None:
        check_number("image_size", size, low=1, integer=True)
        check_channels("channels", channels)
        self._paths = tuple(str(path) for path in paths)
        self._size = size
        self._channels = channels
        self._are_checked = are_checked

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def paths(self) -> tuple[str, ...]:
        """The file of each image."""
        return self._paths

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of every image."""
        return self._channels, self._size, self._size

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Decode the images ``indices`` ``(n,)``, see :meth:`~layermatch.data.images.Images.read`."""
        batch, errors = self.read_or_explain(indices)
        for error in errors:
            if self._are_checked:
                raise RunError(gone_text(f"the image {printable(error.path)}", error.reason)) from error
            raise error
        return batch

    def read_or_explain(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.uint8], list[ImageFileError]]:
        """Decode images, those that can be.

        Args:
            indices: ``(n,)``, as for :meth:`read`.

        Returns:
            ``(n, C, H, W)``, black where a file is no readable image; and what is wrong with such files.
        """
        check_indices(indices, len(self))
        batch = np.zeros((len(indices), *self.shape), np.uint8)
        errors = []
        for row, index in enumerate(indices):
            try:
                batch[row] = decode_image(self._paths[index], size=self._size, channels=self._channels)
            except ImageFileError as error:
                errors.append(error)
        return batch, errors

    def checked(self) -> FileImages:
        """Return the same images, for a reader who knows that every file was decoded before."""
        return FileImages(self._paths, size=self._size, channels=self._channels, are_checked=True)
