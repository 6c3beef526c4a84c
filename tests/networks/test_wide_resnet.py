"""The extractor against an obvious re-statement of it, and its options one by one."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layermatch import UserError
from layermatch.networks import WideResNet

Statistics = Callable[[Tensor, str], tuple[Tensor, Tensor]]


class PlainForward:
    """The network once more, from a state dict, layer by layer and in plain arithmetic."""

    def __init__(self, extractor: WideResNet, *, slope: float, eps_blocks: float, eps_last: float) -> None:
        self.tensors = {**dict(extractor.named_parameters()), **dict(extractor.named_buffers())}
        self.training = extractor.training
        self.slope, self.eps_blocks, self.eps_last = slope, eps_blocks, eps_last

    def conv(self, x: Tensor, name: str, *, stride: int = 1) -> Tensor:
        weight = self.tensors[f"{name}.weight"]
        padding = weight.shape[-1] // 2
        return F.conv2d(x, weight, self.tensors.get(f"{name}.bias"), stride=stride, padding=padding)

    def activate(self, x: Tensor, name: str, eps: float) -> Tensor:
        if self.training:
            mean, variance = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), unbiased=False)
        else:
            mean, variance = self.tensors[f"{name}.0.running_mean"], self.tensors[f"{name}.0.running_var"]
        scale = self.tensors[f"{name}.0.weight"] / torch.sqrt(variance + eps)
        x = (x - mean[:, None, None]) * scale[:, None, None] + self.tensors[f"{name}.0.bias"][:, None, None]
        return torch.where(x > 0, x, self.slope * x)

    def block(self, x: Tensor, name: str, *, group: int, first: bool, stride: int, raw: bool) -> Tensor:
        start = x if raw and first and group > 0 else self.activate(x, f"{name}.activation1", self.eps_blocks)
        hidden = self.conv(start, f"{name}.conv1", stride=stride)
        hidden = self.activate(hidden, f"{name}.activation2", self.eps_blocks)
        hidden = self.conv(hidden, f"{name}.conv2")
        shortcut = start if first and group == 0 else x
        if f"{name}.shortcut.weight" in self.tensors:
            shortcut = self.conv(shortcut, f"{name}.shortcut", stride=stride)
        return shortcut + hidden

    def __call__(self, images: Tensor, *, groups: int, blocks: int, first_stride: int, raw: bool) -> Tensor:
        x = self.conv(images, "stem")
        for group in range(groups):
            for index in range(blocks):
                stride = 1 if index else (2 if group else first_stride)
                x = self.block(x, f"groups.{group}.{index}", group=group, first=index == 0, stride=stride, raw=raw)
        return self.activate(x, "activation", self.eps_last).mean(dim=(2, 3))


def scrambled(extractor: WideResNet) -> WideResNet:
    """Give BatchNorms and biases values that a forgotten or swapped one would show, in float64."""
    extractor.double()
    with torch.no_grad():
        for name, tensor in (*extractor.named_parameters(), *extractor.named_buffers()):
            if tensor.ndim == 1:
                low = 0.5 if name.endswith(("weight", "running_var")) else -0.5
                tensor.uniform_(low, low + 1.0)
    return extractor


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize(
    ("groups", "blocks", "width", "first_stride", "conv_bias"),
    [(3, 1, 2, 1, False), (2, 2, 2, 2, True), (4, 1, 1, 1, True), (1, 2, 1, 2, False), (1, 1, 1, 1, False)],
)
def test_forward_and_gradients_equal_the_plain_restatement(
    groups: int, blocks: int, width: int, first_stride: int, conv_bias: bool, raw: bool, training: bool
) -> None:
    depth = 1 + groups * (2 * blocks + 1)
    extractor = WideResNet(
        depth=depth,
        width=width,
        num_groups=groups,
        first_stride=first_stride,
        base_width=3,
        conv_bias=conv_bias,
        leaky_slope=0.2,
        batch_norm_eps=0.3,  # large, so that a wrong epsilon shows
        batch_norm_eps_blocks=0.05,
        transition_activation=not raw,
    )
    scrambled(extractor).train(training)
    plain = PlainForward(extractor, slope=0.2, eps_blocks=0.05, eps_last=0.3)
    images = torch.randn(5, 3, 9, 9, dtype=torch.float64)
    expected = plain(images, groups=groups, blocks=blocks, first_stride=first_stride, raw=raw)
    features = extractor(images)
    torch.testing.assert_close(features, expected)

    direction = torch.randn_like(features)
    parameters = list(extractor.parameters())
    ours = torch.autograd.grad((features * direction).sum(), parameters)
    theirs = torch.autograd.grad((expected * direction).sum(), parameters)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_transition_activation_changes_the_features_and_drops_one_batch_norm_per_later_group() -> None:
    usual, raw = WideResNet(depth=10), WideResNet(depth=10, transition_activation=False)
    # Groups two and three see 32 and 64 channels: two vectors each that the other form computes and ignores.
    missing = 2 * 32 + 2 * 64
    count = [sum(parameter.numel() for parameter in net.parameters()) for net in (usual, raw)]
    assert count[0] - count[1] == missing
    raw.load_state_dict({key: value for key, value in usual.state_dict().items() if key in raw.state_dict()})
    images = torch.randn(4, 3, 8, 8)
    assert not torch.allclose(usual(images), raw(images), atol=1e-3)


@pytest.mark.parametrize(
    ("groups", "first_stride", "size", "sides"),
    [
        (3, 1, 32, [32, 16, 8]),
        (3, 2, 32, [16, 8, 4]),
        (3, 1, 8, [8, 4, 2]),
        (4, 1, 96, [96, 48, 24, 12]),
        (4, 2, 96, [48, 24, 12, 6]),
        (4, 2, 8, [4, 2, 1, 1]),
        (3, 1, 9, [9, 5, 3]),
    ],
)
def test_strides_give_the_expected_map_sizes(groups: int, first_stride: int, size: int, sides: list[int]) -> None:
    extractor = WideResNet(depth=3 * groups + 1, num_groups=groups, width=1, first_stride=first_stride)
    shapes: list[torch.Size] = []
    for group in extractor.groups:
        group.register_forward_hook(lambda _module, _inputs, output: shapes.append(output.shape))
    features = extractor(torch.randn(2, 3, size, size))
    assert shapes == [torch.Size([2, 16 * 2**g, side, side]) for g, side in enumerate(sides)]
    assert features.shape == (2, extractor.num_features) == (2, 16 * 2 ** (groups - 1))


def test_images_need_not_be_square() -> None:
    assert WideResNet(depth=10, width=1)(torch.randn(2, 3, 8, 20)).shape == (2, 64)


def batch_norms(extractor: nn.Module) -> dict[str, nn.BatchNorm2d]:
    return {name: module for name, module in extractor.named_modules() if isinstance(module, nn.BatchNorm2d)}


def test_batch_norm_options_reach_every_layer() -> None:
    norms = batch_norms(WideResNet(depth=16, width=1, batch_norm_eps=0.02, batch_norm_momentum=0.3))
    assert len(norms) == 3 * 2 * 2 + 1
    assert {(norm.eps, norm.momentum) for norm in norms.values()} == {(0.02, 0.3)}


def test_batch_norm_eps_of_blocks_leaves_the_last_one_alone() -> None:
    norms = batch_norms(WideResNet(depth=16, width=1, batch_norm_eps_blocks=1e-5))
    assert norms.pop("activation.0").eps == 1e-3
    assert {norm.eps for norm in norms.values()} == {1e-5}


def test_batch_norm_defaults_are_the_references() -> None:
    norms = batch_norms(WideResNet(depth=10, width=1))
    assert {(norm.eps, norm.momentum) for norm in norms.values()} == {(1e-3, 1e-3)}


def test_momentum_is_the_weight_of_the_newest_batch() -> None:
    extractor = WideResNet(depth=10, width=1, batch_norm_momentum=0.25)
    images = torch.randn(4, 3, 8, 8) + 1.0
    extractor(images)
    first = batch_norms(extractor)["groups.0.0.activation1.0"]
    torch.testing.assert_close(first.running_mean, 0.25 * extractor.stem(images).mean(dim=(0, 2, 3)))


def test_leaky_slope_reaches_every_activation() -> None:
    extractor = WideResNet(depth=16, width=1, leaky_slope=0.25)
    slopes = [module.negative_slope for module in extractor.modules() if isinstance(module, nn.LeakyReLU)]
    assert slopes == [0.25] * (3 * 2 * 2 + 1)


def test_initial_statistics() -> None:
    extractor = WideResNet(depth=10, width=4, conv_bias=True)
    large = [m for m in extractor.modules() if isinstance(m, nn.Conv2d) and m.weight.numel() > 5000]
    assert len(large) == 8
    for module in large:
        fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
        deviation = module.weight.std().item()
        assert deviation == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)
        assert module.weight.mean().item() == pytest.approx(0.0, abs=0.05 * deviation)
        assert module.weight.abs().max() > 3 * deviation  # normal, not uniform
    for name, parameter in extractor.named_parameters():
        if name.endswith("bias"):
            assert torch.count_nonzero(parameter) == 0, name
        elif parameter.ndim == 1:
            assert torch.all(parameter == 1), name


def test_conv_bias_is_in_the_stem_only_by_default() -> None:
    def with_bias(extractor: nn.Module) -> list[str]:
        modules = extractor.named_modules()
        return [name for name, m in modules if isinstance(m, nn.Conv2d) and m.bias is not None]

    everything = WideResNet(depth=10, conv_bias=True)
    assert with_bias(WideResNet(depth=10)) == ["stem"]
    assert len(with_bias(everything)) == sum(isinstance(m, nn.Conv2d) for m in everything.modules()) == 10


@pytest.mark.parametrize(
    ("depth", "num_groups", "blocks"),
    [(10, 3, 1), (16, 3, 2), (28, 3, 4), (40, 3, 6), (13, 4, 1), (37, 4, 4), (7, 2, 1), (4, 1, 1)],
)
def test_depth_counts_the_convolutions(depth: int, num_groups: int, blocks: int) -> None:
    extractor = WideResNet(depth=depth, num_groups=num_groups, base_width=2)
    assert [len(group) for group in extractor.groups] == [blocks] * num_groups  # type: ignore[arg-type]
    assert sum(isinstance(module, nn.Conv2d) for module in extractor.modules()) == depth


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 27}, "depth=27 is not legal: with 3 block groups give 10, 16, 22, 28, ..."),
        ({"depth": 4}, "depth=4 is not legal: with 3 block groups give 10, 16, 22, 28, ..."),
        (
            {"depth": 28, "num_groups": 4},
            "depth=28 is not legal: with 4 block groups give 13, 21, 29, 37",
        ),
        ({"depth": 28.0}, "depth=28.0 is not legal: give a whole number"),
        ({"width": 0}, "width=0"),
        ({"width": 1.5}, "width=1.5"),
        ({"num_groups": 0}, "num_groups=0"),
        ({"in_channels": 0}, "in_channels=0"),
        ({"first_stride": 3}, "first_stride=3"),
        ({"base_width": 0}, "base_width=0"),
        ({"batch_norm_eps": 0}, "batch_norm_eps=0"),
        ({"batch_norm_eps_blocks": 0.0}, "batch_norm_eps_blocks=0.0"),
        ({"batch_norm_momentum": 0}, "batch_norm_momentum=0"),
        ({"batch_norm_momentum": 1.5}, "batch_norm_momentum=1.5"),
        ({"leaky_slope": 1}, "leaky_slope=1"),
        ({"leaky_slope": -0.1}, "leaky_slope=-0.1"),
        ({"conv_bias": "yes"}, "conv_bias='yes'"),
        ({"transition_activation": None}, "transition_activation=None"),
    ],
)
def test_illegal_values_are_refused_in_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as error:
        WideResNet(**options)  # type: ignore[arg-type]
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
