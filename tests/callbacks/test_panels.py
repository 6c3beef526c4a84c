"""The panel shows what the last step was really taught, and leaves no trace in training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from layermatch.callbacks.panels import NUM_PAIRS, Panels
from layermatch.dashboards import About, Dashboard
from layermatch.dashboards.pictures import Pairs, class_accuracies, per_class_bars, views_panel
from layermatch.data import SemiSupervisedData, Views
from layermatch.policies import PseudoLabels
from layermatch.training import SemiSupervisedModule


class Album(Dashboard):
    """A dashboard that keeps what it is shown."""

    def __init__(self) -> None:
        self.pictures: list[tuple[str, NDArray[np.uint8], int]] = []

    def begin(self, about: About) -> None: ...

    def show_picture(self, name: str, pixels: NDArray[np.uint8], *, step: int, caption: str = "") -> None:
        self.pictures.append((name, pixels, step))

    def show_results(self, results: Mapping[str, Any]) -> None: ...

    def close(self, *, failed: bool) -> None: ...


class Watched(Panels):
    """Keeps the pairs that are drawn as well."""

    drawn: Pairs

    def _pairs(self, seen: Any) -> Pairs:
        self.drawn = super()._pairs(seen)
        return self.drawn


def panels_for(data: SemiSupervisedData, album: Album) -> Watched:
    return Watched([album], classes=data.classes, mean=data.mean, std=data.std)


def test_the_panel_shows_the_step_before_the_evaluation(
    make_data: Callable[..., SemiSupervisedData],
    make_algorithm: Callable[..., SemiSupervisedModule],
    train: Callable[..., Any],
    tmp_path: Path,
) -> None:
    data, album = make_data(batch_size=4, mu=5), Album()
    algorithm, panels = make_algorithm(data, threshold=0.15), panels_for(data, album)
    given: list[PseudoLabels] = []
    algorithm.method.policy.register_forward_hook(lambda _module, _given, output: given.append(output))
    train(algorithm, data, tmp_path, max_steps=6, eval_every=3, callbacks=[panels])

    assert [(name, step) for name, _, step in album.pictures] == [
        ("panels/pseudo_labels", 3), ("panels/pseudo_labels", 6)
    ]  # fmt: skip
    raw = data.training_steps()[5].unlabelled  # the sixth
    assert raw is not None
    for kind, views, draws in (("weak", panels.drawn.weak, 0), ("strong", panels.drawn.strong, 1)):
        expected = data.kinds[kind](raw.images, raw.draws[draws])[:NUM_PAIRS].permute(0, 2, 3, 1).numpy()
        assert np.abs(views.astype(int) - expected).max() == 0
    np.testing.assert_array_equal(panels.drawn.truth, raw.label[:NUM_PAIRS])
    np.testing.assert_array_equal(panels.drawn.label, given[5].label[:NUM_PAIRS])
    np.testing.assert_allclose(panels.drawn.confidence, given[5].confidence[:NUM_PAIRS], rtol=1e-6)
    np.testing.assert_array_equal(panels.drawn.weight, given[5].weight[:NUM_PAIRS])
    assert len(panels.drawn.label) == NUM_PAIRS  # of 20


def test_training_is_the_same_to_the_bit(
    make_data: Callable[..., SemiSupervisedData],
    make_algorithm: Callable[..., SemiSupervisedModule],
    train: Callable[..., Any],
    tmp_path: Path,
) -> None:
    states = []
    for watched in (False, True):
        data = make_data()
        algorithm = make_algorithm(data)
        callbacks = [panels_for(data, Album())] if watched else []
        train(algorithm, data, tmp_path / str(watched), max_steps=4, eval_every=2, callbacks=callbacks)
        states.append((algorithm.state_dict(), torch.get_rng_state()))
    (plain, plain_rng), (seen, seen_rng) = states
    assert plain.keys() == seen.keys()
    assert all(torch.equal(plain[name], seen[name]) for name in plain)
    assert torch.equal(plain_rng, seen_rng)


def test_without_pseudo_labels_there_is_nothing_to_show(
    make_data: Callable[..., SemiSupervisedData],
    make_supervised: Callable[..., SemiSupervisedModule],
    train: Callable[..., Any],
    tmp_path: Path,
) -> None:
    data, album = make_data(views=Views()), Album()
    train(make_supervised(data), data, tmp_path, max_steps=2, eval_every=1, callbacks=[panels_for(data, album)])
    assert album.pictures == []


# ------------------------------------------------------------------------------------------------------------- drawing


def pairs(count: int, *, channels: int, side: int) -> Pairs:
    generator = np.random.default_rng(0)
    shape = (count, side, side, channels)
    weak, strong = (generator.integers(0, 256, shape, dtype=np.uint8) for _ in range(2))
    numbers = np.arange(count)
    return Pairs(weak, strong, numbers % 3, np.linspace(0.3, 1, count), numbers % 2.0, (numbers % 4) - 1)


@pytest.mark.parametrize(("count", "channels", "side"), [(1, 1, 8), (5, 3, 32), (16, 3, 96)])
def test_any_number_and_kind_of_image_can_be_drawn(count: int, channels: int, side: int) -> None:
    names = ("airplane", "a very long name of a class", "n01443537")
    pixels = views_panel(pairs(count, channels=channels, side=side), names, title="Step 3\nof 7")
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
    assert pixels.shape[1] > pixels.shape[0]
    colours = {tuple(colour) for colour in pixels.reshape(-1, 3)[::7].tolist()}
    assert len(colours) > 20  # images, not a white page


def test_class_accuracies_are_drawn_for_few_and_for_many_classes() -> None:
    for number in (2, 10, 100):
        confusion = np.eye(number, dtype=int) * 3 + np.eye(number, k=1, dtype=int)
        assert class_accuracies(confusion.tolist())[-1] == 1
        pixels = per_class_bars(confusion.tolist(), [f"class {index}" for index in range(number)])
        assert pixels.shape[0] > 150
    assert class_accuracies([[0, 0], [1, 1]]) == [0, 0.5]  # a class without images is no division by zero
