"""The size that images are brought to, where nobody says one."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import numpy as np

from layermatch.data.decoding import ImageFileError, size_of_picture
from layermatch.errors import UserError

__all__ = ["LARGEST", "choose_size"]

#: The largest size that is chosen. A step takes as much longer as an image has more pixels, and one of 96x96 has nine
#: times as many as the 32x32 that most networks here were made for.
LARGEST = 96
#: The least: networks halve the size several times.
_SMALLEST = 8
#: Sizes are whole multiples of this, so that they can be halved twice.
_STEP = 4
#: The most files whose sizes are looked at, evenly spaced.
_LOOKED_AT = 1000


def choose_size(paths: Sequence[str]) -> tuple[int, str]:
    """The height and the width that images are brought to, by what most of them have.

    It is the median of their short sides, as these are resized and the rest is cut off, rounded to a multiple of four
    and no more than :data:`LARGEST`. The choice is ours.

    Args:
        paths: The image files, at least one; of more than 1,000 as many, evenly spaced, are looked at. Of those that
            are no image nothing is said here: the pass over all files names them.

    Returns:
        The size, and the reason in words.

    Raises:
        UserError: None of the files can be read.

    Example:
        >>> choose_size(["no/such/file.png"])  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        layermatch.errors.UserError: data.image_size=null: none of the 1 files looked at is an image: give ...
    """
    rows = np.unique(np.linspace(0, len(paths) - 1, min(len(paths), _LOOKED_AT)).astype(np.int64))
    sides = [side for side in (_short_side(paths[row]) for row in rows.tolist()) if side]
    if not sides:
        raise UserError(
            f"data.image_size=null: none of the {len(rows):,} files looked at is an image: give data.image_size=32"
        )
    middle = median(sides)
    size = max(_SMALLEST, _STEP * round(middle / _STEP))
    of_files = f"the median short side of {len(sides):,} files is {middle:g}"
    if size > LARGEST:
        return LARGEST, f"{LARGEST}, as {of_files} and more is slow: data.image_size=N gives another"
    return size, f"{size}, as {of_files}: data.image_size=N gives another"


def _short_side(path: str) -> int:
    """The short side of a picture in pixels; 0 where it is none."""
    try:
        return min(size_of_picture(path))
    except ImageFileError:
        return 0
