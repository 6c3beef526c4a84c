from __future__ import annotations

import hashlib

import numpy as np
from sklearn.datasets import load_digits

from layermatch.data.sources import Digits


def test_digits_are_scikit_learns_scaled_to_bytes() -> None:
    data = Digits().load()
    assert data.test is not None
    parts = (data.labelled, data.test)
    pixels = np.concatenate([part.images.read(np.arange(len(part))) for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    raw = load_digits()
    # Each of scikit-learn's images is there exactly once: compared as a sorted table of pixels and label.
    ours = np.column_stack([pixels.reshape(1797, 64), labels])
    theirs = np.column_stack([[[round(v * 255 / 16) for v in row] for row in raw.data], raw.target])
    np.testing.assert_array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert data.classes == tuple("0123456789")
    assert data.labelled.images.shape == (1, 8, 8)


def test_the_test_set_has_every_class_in_proportion() -> None:
    data = Digits().load()
    assert data.test is not None
    counts = np.bincount(data.test.labels)
    shares = np.bincount(np.concatenate([data.labelled.labels, data.test.labels])) * 360 / 1797
    assert counts.sum() == 360
    assert (np.abs(counts - shares) < 1).all()


def test_the_test_set_is_the_same_for_ever() -> None:
    # Recorded once. A change here makes all earlier results on digits incomparable.
    data = Digits().load()
    assert data.test is not None
    pixels = data.test.images.read(np.arange(360))
    assert hashlib.sha256(pixels.tobytes() + data.test.labels.tobytes()).hexdigest()[:16] == "3bdf875d499afd25"
