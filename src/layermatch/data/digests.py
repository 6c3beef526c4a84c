"""A digest for each image, by which images that are byte-identical are found without comparing all pairs."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from layermatch.data.images import ArrayImages, Images, chunks_of, replace_leaves

__all__ = ["Digests", "image_digests"]

_BYTES = 8


def image_digests(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return a number for each image that tells its pixels from all others.

    Two images of one shape have the same number if they are byte-identical. Two others among a million have it with a
    probability of 3e-8.

    Args:
        images: ``(n, C, H, W)``.

    Returns:
        ``(n,)``, 64 bits of BLAKE2b.

    Example:
        >>> images = np.zeros((3, 1, 2, 2), np.uint8)
        >>> images[1] = 255
        >>> digests = image_digests(images)
        >>> bool(digests[0] == digests[2]), bool(digests[0] == digests[1])
        (True, False)
    """
    if not len(images):
        return np.empty(0, np.uint64)
    rows = np.ascontiguousarray(images).reshape(len(images), -1)
    content = b"".join(hashlib.blake2b(row.data, digest_size=_BYTES).digest() for row in rows)
    return np.frombuffer(content, np.uint64).copy()  # which may be written to


class Digests:
    """The digests of a data set's images, each computed once, however often and in whatever order it is asked for.

    Example:
        >>> stored = ArrayImages(np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1))
        >>> digests = Digests()
        >>> bool((digests.of(stored) == image_digests(stored.read(np.arange(3)))).all())
        True
    """

    def __init__(self) -> None:
        # With the images themselves, so that no others get their id.
        self._known: dict[int, tuple[Images, NDArray[np.uint64]]] = {}

    def note(self, images: Images, digests: NDArray[np.uint64]) -> None:
        """Keep what is known of a set that is neither a part of another one nor several together.

        Args:
            images: ``N`` images.
            digests: ``(N,)``, as :func:`image_digests` gives them.
        """
        self._known[id(images)] = images, digests

    def of(self, images: Images) -> NDArray[np.uint64]:
        """Return the digests of all images of a set, in their order; what is not known yet is read.

        Args:
            images: ``N`` images.

        Returns:
            ``(N,)``.
        """
        # A part of the images, or several sets together, is the same part of their digests.
        digests = replace_leaves(images, self._as_images).read(np.arange(len(images)))
        return digests.reshape(len(images), _BYTES).view(np.uint64)[:, 0]

    def _as_images(self, images: Images) -> ArrayImages:
        if id(images) not in self._known:
            found = [image_digests(images.read(rows)) for rows in chunks_of(images)]
            self.note(images, np.concatenate(found) if found else np.empty(0, np.uint64))
        digests = np.ascontiguousarray(self._known[id(images)][1])
        return ArrayImages(digests.view(np.uint8).reshape(-1, _BYTES, 1, 1))
