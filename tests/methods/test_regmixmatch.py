"""RegMixMatch against its box, image by image in numpy, with the draws that it made."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests import given
from torch import Tensor, nn

from layermatch.data.batch import Batch
from layermatch.errors import UserError
from layermatch.functional import resize_box
from layermatch.layerwise import LayerwiseRule, SeparateLosses, Uniform
from layermatch.methods import PseudoLabelling, RegMixMatch
from layermatch.networks import Network
from layermatch.parts import Losses
from layermatch.policies import FixedThreshold, SelfAdaptiveThreshold

SIDE, CLASSES = 6, 3


def pictures(count: int, seed: int) -> Tensor:
    return torch.randn(count, 1, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def batch_of(num: int = 24) -> Batch:
    views = {"weak": pictures(num, 1), "strong": pictures(num, 2)}
    return given.batch_of(pictures(6, 3), torch.arange(6) % CLASSES, views)


def network() -> Network:
    torch.manual_seed(0)
    extractor = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 5), nn.Tanh())
    made = Network(extractor, num_features=5, num_classes=CLASSES).double()
    with torch.no_grad():
        made.classifier.weight *= 4  # some are sure
    return made


class Noting(RegMixMatch):
    """Notes what it drew."""

    def draw(self, alpha: float) -> float:
        self.drawn = [*getattr(self, "drawn", []), (alpha, super().draw(alpha))]
        return self.drawn[-1][1]


def method_of(
    *, rule: LayerwiseRule | None = None, num_labelled: int = 6, policy: Any = None, **options: Any
) -> Noting:
    method = Noting(policy=policy or FixedThreshold(threshold=0.8), rule=rule or Uniform(), **options)
    net = network()
    method.prepare(net, given.problem_of(CLASSES, 5, num_labelled=num_labelled, image_shape=(1, SIDE, SIDE)))
    return method


def losses_of(method: RegMixMatch, batch: Batch, net: Network, seed: int = 0) -> Losses:
    torch.manual_seed(seed)
    return method.losses(batch, given.step_of(net))


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def paste(image: np.ndarray, other: np.ndarray, box: tuple[int, ...]) -> tuple[np.ndarray, float]:
    """ResizeMix of two images, and the share of the first one."""
    top, bottom, left, right = box
    crop = int(0.9 * SIDE)
    margin, out, own = (SIDE - crop) // 2, image.copy(), SIDE * SIDE
    for r in range(top, bottom):
        for c in range(left, right):
            source = (r - top) * crop // (bottom - top), (c - left) * crop // (right - left)
            out[0, r, c] = other[0, margin + source[0], margin + source[1]]
            own -= 1
    return out, own / SIDE**2


def predict(net: Network, image: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return softmax(net(torch.from_numpy(image)[None]).logits[0].numpy())


def restated(net: Network, batch: Batch, *, threshold: float, seed: int, with_labelled: bool) -> tuple[float, float]:
    """Both losses, one image at a time; torch's draws in the order of the method."""
    torch.manual_seed(seed)
    weak, strong = (batch.unlabelled.views[name].numpy() for name in ("weak", "strong"))
    probs = np.stack([predict(net, image) for image in weak])
    sure = [i for i in range(len(weak)) if probs[i].max() >= threshold]
    unsure = [i for i in range(len(weak)) if i not in sure]
    labelled = [
        (x, np.eye(CLASSES)[y]) for x, y in zip(batch.labelled.views["weak"].numpy(), batch.labelled.label, strict=True)
    ]
    confident = [(strong[i], np.eye(CLASSES)[probs[i].argmax()]) for i in sure]

    def draw_box(alpha: float) -> tuple[int, ...]:
        scale = 0.1 + 0.7 * float(torch.distributions.Beta(alpha, alpha).sample()) ** 0.5
        centre = int(torch.randint(SIDE, ())), int(torch.randint(SIDE, ()))
        return tuple(resize_box(height=SIDE, width=SIDE, scale=scale, centre=centre))

    mixed = labelled + confident if with_labelled else confident
    order = torch.randperm(len(mixed)).tolist()
    box, first = draw_box(1.0), 0.0
    for (image, target), partner in zip(mixed, order, strict=True):
        picture, own = paste(image, mixed[partner][0], box)
        wanted = own * target + (1 - own) * mixed[partner][1]
        first -= (wanted * np.log(predict(net, picture))).sum() / len(weak)

    draws = torch.rand(len(unsure)).tolist()
    by_class = float(torch.rand(())) < 0.5
    box, second = draw_box(16.0), 0.0
    for i, drawn in zip(unsure, draws, strict=True):
        others = [o for o in labelled + confident if not by_class or o[1].argmax() == probs[i].argmax()]
        picture, wanted = strong[i], probs[i]
        if others:
            other, label = others[int(drawn * len(others))]
            picture, own = paste(strong[i], other, box)
            wanted = own * probs[i] + (1 - own) * label
        second += probs[i].max() ** 3 * ((predict(net, picture) - wanted) ** 2).mean() / len(unsure)
    return first, second


@pytest.mark.parametrize("seed", range(6))  # of both kinds of steps, and of several boxes
@pytest.mark.parametrize(("threshold", "with_labelled"), [(0.9, None), (0.7, True), (0.9, False)])
def test_the_box_of_the_paper_image_by_image(seed: int, threshold: float, with_labelled: bool | None) -> None:
    net, batch = network(), batch_of()
    method = method_of(mix_threshold=threshold, mix_labelled=with_labelled, lambda_mix=0.5, lambda_cam=2.0)
    losses = losses_of(method, batch, net, seed)
    first, second = restated(net, batch, threshold=threshold, seed=seed, with_labelled=bool(with_labelled))
    assert first > 0
    assert second > 0
    assert losses["mixed"].value.item() == pytest.approx(first, rel=1e-9)
    assert losses["mixed_by_class"].value.item() == pytest.approx(second, rel=1e-9)
    assert (losses["mixed"].weight, losses["mixed_by_class"].weight) == (0.5, 2.0)
    assert [alpha for alpha, _ in method.drawn] == [1.0, 16.0]


def test_both_kinds_of_steps_are_among_the_seeds() -> None:
    kinds = set()
    for seed in range(6):
        torch.manual_seed(seed)
        method, batch = method_of(mix_threshold=1.0), batch_of()
        probs = torch.full((24, CLASSES), 1 / CLASSES, dtype=torch.float64)
        labelled, confident, uncertain = method.parted(batch, probs)
        torch.manual_seed(seed)
        mixed = method.mixed_by_class(uncertain, labelled.and_more(confident))
        kinds.add(bool((mixed.target.argmax(dim=1) == 0).all()))  # class 0 is the most probable of each
    assert kinds == {True, False}


@pytest.mark.parametrize("threshold", [1e-9, 1.0])
def test_all_confident_and_none(threshold: float) -> None:
    net, batch = network(), batch_of()
    losses = losses_of(method_of(mix_threshold=threshold), batch, net)
    assert losses.total.isfinite()
    empty, other = ("mixed_by_class", "mixed") if threshold < 1 else ("mixed", "mixed_by_class")
    assert losses[empty].value == 0
    assert losses[other].value > 0
    losses.total.backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())


def test_a_class_that_nobody_has_leaves_an_image_as_it_is() -> None:
    method, batch = method_of(mix_threshold=1.0), batch_of()
    batch = batch._replace(labelled=batch.labelled._replace(label=torch.ones(6, dtype=torch.int64)))
    probs = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1]]).double().repeat(12, 1)
    labelled, confident, uncertain = method.parted(batch, probs)
    seed = next(s for s in range(20) if drawn_by_class(s, 24))
    torch.manual_seed(seed)
    mixed = method.mixed_by_class(uncertain, labelled.and_more(confident))
    assert torch.equal(mixed.pixels[::2], uncertain.pixels[::2])
    assert torch.equal(mixed.target[::2], uncertain.target[::2])
    assert not torch.equal(mixed.pixels[1::2], uncertain.pixels[1::2])
    assert (mixed.target[1::2, 1] > uncertain.target[1::2, 1]).all()
    torch.testing.assert_close(mixed.target.sum(dim=1), torch.ones(24).double())


def drawn_by_class(seed: int, count: int) -> bool:
    torch.manual_seed(seed)
    torch.rand(count)
    return float(torch.rand(())) < 0.5


@pytest.mark.parametrize(("num_labelled", "wanted"), [(299, False), (300, True)])
def test_labelled_images_are_mixed_from_a_hundred_a_class(num_labelled: int, wanted: bool) -> None:
    net, batch = network(), batch_of()
    found = losses_of(method_of(mix_threshold=0.9, num_labelled=num_labelled), batch, net)
    said = losses_of(method_of(mix_threshold=0.9, mix_labelled=wanted), batch, net)
    assert torch.equal(found["mixed"].value, said["mixed"].value)


def test_without_mixtures_it_is_the_policy_alone() -> None:
    net, batch = network(), batch_of()
    found = losses_of(method_of(lambda_mix=0.0, lambda_cam=0.0), batch, net)
    plain = PseudoLabelling(policy=FixedThreshold(threshold=0.8), rule=Uniform())
    expected = plain.losses(batch, given.step_of(net))
    assert found.keys() == expected.keys()
    assert torch.equal(found.total, expected.total)


def test_images_of_the_batch_are_not_changed() -> None:
    batch = batch_of()
    before = [view.clone() for view in (*batch.labelled.views.values(), *batch.unlabelled.views.values())]
    losses_of(method_of(mix_threshold=0.8), batch, network())
    after = [*batch.labelled.views.values(), *batch.unlabelled.views.values()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("forward", ["joint", "split", "shared"])
def test_under_grad_relu_the_classifier_gets_the_gradient_of_the_labels_alone(forward: str) -> None:
    net, batch = network(), batch_of()
    rule = SeparateLosses(avg_clustering="none")
    losses = losses_of(method_of(rule=rule, forward=forward, mix_threshold=0.8), batch, net)
    for name in ("mixed", "mixed_by_class"):
        assert losses[name].value > 0
        assert losses[name].reaches == {"extractor"}
    given.check_classifier_learns_from_labels(net, losses)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mix_threshold": 0}, "mix_threshold=0"),
        ({"mix_threshold": 1.1}, "mix_threshold=1.1"),
        ({"lambda_mix": -1}, "lambda_mix=-1"),
        ({"lambda_cam": -1}, "lambda_cam=-1"),
        ({"mix_alpha": 0}, "mix_alpha=0"),
        ({"cam_alpha": 0}, "cam_alpha=0"),
        ({"mix_labelled": "yes"}, "mix_labelled='yes'"),
        ({"forward": "split", "skip_masked": True}, "skip_masked=true is not legal with RegMixMatch"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        RegMixMatch(policy=SelfAdaptiveThreshold(), rule=Uniform(), **options)


@pytest.mark.parametrize(
    ("weights", "setting"), [((1, 1), "lambda_mix"), ((0, 1), "lambda_cam"), ((1, 0), "lambda_mix"), ((0, 0), "")]
)
def test_it_says_which_setting_changes_images(weights: tuple[float, float], setting: str) -> None:
    assert method_of(lambda_mix=weights[0], lambda_cam=weights[1]).changes_images == setting
