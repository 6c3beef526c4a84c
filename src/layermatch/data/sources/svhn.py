"""SVHN, format 2 (cropped digits), from MATLAB files."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torchvision import datasets

from layermatch.data.images import ArrayImages, ConcatImages
from layermatch.data.sources.base import ImageSet, SourceData, check_label_range
from layermatch.data.sources.published import Download, PublishedSource
from layermatch.data.wording import one_line
from layermatch.errors import UserError, check_bool

__all__ = ["SVHN"]


@dataclass(frozen=True, kw_only=True)
class SVHN(PublishedSource):
    """SVHN, house numbers: 32x32 RGB in 10 classes; 73,257 training, 531,131 extra, 26,032 test images.

    Origin: Netzer et al. 2011, ufldl.stanford.edu/housenumbers; for non-commercial use. Read into memory (1.8
    GB with the extra part, 220 MB without).

    Labels are drawn from the training and extra images together, as FixMatch (Sohn et al. 2020) and TorchSSL
    do.

    Args:
        root: The folder that holds ``train_32x32.mat``, ``test_32x32.mat`` and ``extra_32x32.mat``.
        download: Whether to fetch missing files into ``root``; files that are there are never replaced.
        verify: Whether every file must have its published MD5 sum. Without, a stand-in of the same format
            passes.
        extra: Whether the pool holds the extra (easier) images too.

    Raises:
        UserError: A value is not legal; from :meth:`load`, files are missing or not what they should be.

    Example:
        >>> SVHN(root="no/such/folder", extra=False).load()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        layermatch.errors.UserError: SVHN: root='no/such/folder' is not a folder: ...
    """

    extra: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bool("extra", self.extra)

    def load(self) -> SourceData:
        """Read the MATLAB files (decompressing the extra part takes a while)."""
        splits = ("train", "test", "extra") if self.extra else ("train", "test")
        root = self.provide("SVHN", tuple(_svhn_download(split) for split in splits))
        parts = {split: _read_mat(root / datasets.SVHN.split_list[split][1]) for split in splits}
        pool = _join(parts["train"], parts["extra"]) if self.extra else parts["train"]
        return SourceData(
            classes=tuple("0123456789"),
            labelled=pool,
            unlabelled=None,
            test=parts["test"],
        )


def _svhn_download(split: str) -> Download:
    url, filename, md5 = datasets.SVHN.split_list[split]
    return Download(url, filename, md5, "", {filename: md5})


def _join(first: ImageSet, second: ImageSet) -> ImageSet:
    labels = np.concatenate([first.labels, second.labels])
    return ImageSet(images=ConcatImages([first.images, second.images]), labels=labels)


def _read_mat(path: Path) -> ImageSet:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    # All the ways in which reading a damaged file can fail.
    mat_errors = (
        MatReadError,
        MemoryError,
        NotImplementedError,
        LookupError,
        OSError,
        TypeError,
        ValueError,
        zlib.error,
    )
    try:
        content = loadmat(path)
        pixels, labels = content["X"], content["y"].ravel()
    except mat_errors as error:
        reason = one_line(error)
        raise UserError(f"SVHN: {path} cannot be read ({reason}): give a MATLAB file with X and y") from error
    are_whole = pixels.dtype == np.uint8 and labels.dtype.kind in "iu"
    if not are_whole or pixels.shape != (32, 32, 3, len(labels)):
        raise UserError(
            f"SVHN: {path} has X {pixels.shape} {pixels.dtype} and {len(labels)} labels: "
            "give X (32, 32, 3, N) uint8 and N whole numbers"
        )
    check_label_range(f"SVHN: {path}", labels, low=1, high=10)
    # MATLAB stores the first axis fastest, so the transpose is one plane after another, column by column,
    # with no copy. Label 10 is the digit 0.
    return ImageSet(images=ArrayImages(pixels.T, layout="NCWH"), labels=labels.astype(np.int64) % 10)
