"""The named networks: parameter counts, shapes, gradients, options."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from layermatch import UserError
from layermatch.networks import Network, linear_head, resnet50, wide_resnet, wrn_28_2, wrn_28_8, wrn_37_2, wrn_small

Builder = Callable[..., Network]


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def wide_resnet_parameters(
    *, blocks: int, groups: int, width: int, num_classes: int, conv_bias: bool, in_channels: int = 3
) -> int:
    """The number by arithmetic, for networks whose every group changes the number of channels."""
    bias = int(conv_bias)
    total = 9 * in_channels * 16 + 16  # stem
    before = 16
    for group in range(groups):
        after = 16 * width * 2**group
        total += (9 * before + bias) * after + (9 * after + bias) * after  # two convolutions
        total += (before + bias) * after  # projection
        total += 2 * before + 2 * after  # two BatchNorms
        total += (blocks - 1) * (2 * (9 * after + bias) * after + 4 * after)
        before = after
    return total + 2 * before + (before + 1) * num_classes  # last BatchNorm, classifier


# Counted on the references' own code: TorchSSL (bias in every convolution) and USB (in the stem only).
@pytest.mark.parametrize(
    ("builder", "groups", "width", "num_classes", "conv_bias", "reference"),
    [
        (wrn_28_2, 3, 2, 10, True, 1_469_642),
        (wrn_28_2, 3, 2, 10, False, 1_467_626),
        (wrn_28_2, 3, 2, 100, False, 1_479_236),
        (wrn_28_8, 3, 8, 100, True, 23_409_092),
        (wrn_28_8, 3, 8, 100, False, 23_401_028),
        (wrn_37_2, 4, 2, 10, True, 5_933_770),
        (wrn_37_2, 4, 2, 10, False, 5_929_450),
    ],
)
def test_parameter_counts_equal_the_references_and_the_arithmetic(
    builder: Builder, groups: int, width: int, num_classes: int, conv_bias: bool, reference: int
) -> None:
    network = builder(num_classes=num_classes, conv_bias=conv_bias)
    arithmetic = wide_resnet_parameters(
        blocks=4, groups=groups, width=width, num_classes=num_classes, conv_bias=conv_bias
    )
    assert count(network) == reference == arithmetic


def test_resnet50_parameter_count() -> None:
    # torchvision documents 25,557,032 for 1,000 classes; each class has 2,048 weights and a bias.
    assert count(resnet50(num_classes=1000)) == 25_557_032
    assert count(resnet50(num_classes=100)) == 25_557_032 - 900 * 2049


def test_a_head_adds_its_parameters() -> None:
    network = wrn_small(num_classes=7)
    network.add_head("pseudo_classifier", linear_head(64, 7))
    assert count(network) - count(wrn_small(num_classes=7)) == 65 * 7


@pytest.mark.parametrize("builder", [wrn_28_2, wrn_28_8, wrn_37_2, wrn_small, resnet50])
def test_without_a_number_of_classes_the_classifier_is_left_out(builder: Builder) -> None:
    network = builder()
    assert network.heads == {}
    images = torch.randn(2, 3, 16, 16)
    assert network(images, heads=()).heads == {}
    torch.manual_seed(3)
    network.add_classifier(5)
    assert network.num_classes == 5
    assert count(network) == count(builder(num_classes=5))
    assert network(images).logits.shape == (2, 5)


def test_a_classifier_that_is_added_later_starts_as_one_that_is_there_from_the_start() -> None:
    torch.manual_seed(3)
    at_once = wrn_small(num_classes=5)
    torch.manual_seed(3)
    later = wrn_small()
    later.add_classifier(5)
    assert list(at_once.state_dict()) == list(later.state_dict())
    assert all(torch.equal(value, later.state_dict()[name]) for name, value in at_once.state_dict().items())


@pytest.mark.parametrize(
    ("builder", "num_features", "sizes"),
    [
        (wrn_28_2, 128, (8, 32)),
        (wrn_28_8, 512, (8,)),
        (wrn_37_2, 256, (8, 32, 96)),
        (wrn_small, 64, (8, 28, 32, 96)),
        (resnet50, 2048, (8, 32, 96)),
    ],
)
def test_output_shapes(builder: Builder, num_features: int, sizes: tuple[int, ...]) -> None:
    network = builder(num_classes=6)
    assert network.num_features == num_features
    for size in sizes:
        with torch.no_grad():
            out = network(torch.randn(2, 3, size, size))
        assert out.features.shape == (2, num_features)
        assert out.logits.shape == (2, 6)
        assert torch.isfinite(out.logits).all()


@pytest.mark.parametrize("in_channels", [1, 3, 4])
@pytest.mark.parametrize("builder", [wrn_small, resnet50])
def test_in_channels(builder: Builder, in_channels: int) -> None:
    network = builder(num_classes=3, in_channels=in_channels)
    assert network(torch.randn(2, in_channels, 16, 16)).logits.shape == (2, 3)


def test_resnet50_stem_of_other_channels_is_drawn_as_torchvisions() -> None:
    deviations = [
        resnet50(num_classes=2, in_channels=channels).extractor.get_parameter("conv1.weight").std().item()
        for channels in (1, 3)
    ]
    expected = (2 / (64 * 7 * 7)) ** 0.5  # Kaiming over fan-out does not depend on the input's channels
    assert deviations == pytest.approx([expected, expected], rel=0.05)


@pytest.mark.parametrize(
    ("builder", "options"),
    [
        (wrn_28_2, {}),
        (wrn_28_2, {"conv_bias": True}),
        (wrn_37_2, {}),
        (wrn_37_2, {"transition_activation": False}),
        (wrn_small, {}),
        (resnet50, {}),
    ],
)
def test_gradients_reach_every_parameter(builder: Builder, options: dict[str, bool]) -> None:
    # In eval mode, as batch statistics would take the gradient of a convolution's bias away.
    network = builder(num_classes=5, **options).eval()
    network.add_head("pseudo_classifier", linear_head(network.num_features, 5))
    out = network(torch.randn(4, 3, 16, 16), heads=("classifier", "pseudo_classifier"))
    labels = torch.tensor([0, 1, 2, 3])
    loss = F.cross_entropy(out.logits, labels) + F.cross_entropy(out.heads["pseudo_classifier"], labels)
    names, parameters = zip(*network.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)  # zeros where unreached
    silent = [name for name, gradient in zip(names, gradients, strict=True) if not gradient.any()]
    assert silent == []


def test_named_networks_are_wide_resnet_with_other_defaults() -> None:
    torch.manual_seed(1)
    named = wrn_37_2(num_classes=4)
    torch.manual_seed(1)
    spelled = wide_resnet(num_classes=4, depth=37, width=2, num_groups=4, first_stride=2)
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(named(images).logits, spelled(images).logits)


def test_wide_resnet_hands_every_option_on() -> None:
    network = wide_resnet(
        num_classes=3,
        in_channels=2,
        depth=7,
        width=3,
        num_groups=2,
        first_stride=2,
        batch_norm_eps=0.2,
        batch_norm_eps_blocks=0.1,
        batch_norm_momentum=0.4,
        leaky_slope=0.3,
        base_width=5,
        conv_bias=True,
        transition_activation=False,
    )
    text = repr(network.extractor)
    convs = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert network.num_features == 5 * 3 * 2
    assert len(convs) == 7
    assert convs[0].in_channels == 2
    assert convs[0].out_channels == 5
    assert all(conv.bias is not None for conv in convs)
    assert convs[1].stride == (2, 2)
    assert text.count("eps=0.1, momentum=0.4") == 3
    assert text.count("eps=0.2, momentum=0.4") == 1
    assert text.count("negative_slope=0.3") == 4


def test_wrn_small_averages_fewer_batches_than_the_references() -> None:
    momenta = {m.momentum for m in wrn_small(num_classes=2).modules() if isinstance(m, nn.BatchNorm2d)}
    assert momenta == {0.01}


def test_resnet50_batch_norm_options_reach_every_layer() -> None:
    network = resnet50(num_classes=2, batch_norm_eps=0.01, batch_norm_momentum=0.02)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 53
    assert {(norm.eps, norm.momentum) for norm in norms} == {(0.01, 0.02)}


@pytest.mark.parametrize(
    ("builder", "options", "message"),
    [
        (wrn_28_2, {"num_classes": 1}, "num_classes=1"),
        (wrn_small, {"num_classes": 2, "depth": 12}, "depth=12"),
        (resnet50, {"num_classes": 2, "in_channels": 0}, "in_channels=0"),
        (resnet50, {"num_classes": 2, "batch_norm_eps": 0}, "batch_norm_eps=0"),
        (resnet50, {"num_classes": 2, "batch_norm_momentum": 2}, "batch_norm_momentum=2"),
    ],
)
def test_illegal_values_are_refused(builder: Builder, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message} is not legal"):
        builder(**options)
