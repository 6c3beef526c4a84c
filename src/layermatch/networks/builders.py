"""The networks of the protocol by name: functions from options to a :class:`~layermatch.networks.Network`."""

from __future__ import annotations

from functools import partial

from torch import nn
from torchvision.models import resnet50 as torchvision_resnet50

from layermatch.errors import check_number
from layermatch.networks.network import Network
from layermatch.networks.wide_resnet import WideResNet

__all__ = ["resnet50", "wide_resnet", "wrn_28_2", "wrn_28_8", "wrn_37_2", "wrn_small"]


def wide_resnet(
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    depth: int = 28,
    width: int = 2,
    num_groups: int = 3,
    first_stride: int = 1,
    batch_norm_eps: float = 1e-3,
    batch_norm_eps_blocks: float | None = None,
    batch_norm_momentum: float = 1e-3,
    leaky_slope: float = 0.1,
    base_width: int = 16,
    conv_bias: bool = False,
    transition_activation: bool = True,
) -> Network:
    """Return any wide residual network with its classifier.

    Source: FixMatch (Sohn et al. 2020), TorchSSL and USB; where they differ, see
    :class:`~layermatch.networks.WideResNet`.

    Args:
        num_classes: K, at least 2; None leaves the classifier to the training module.
        in_channels: Channels C of the images, at least 1.
        depth: ``num_groups * (2 n + 1) + 1`` with n at least 1: 10, 16, 22, 28, ... for three groups.
        width: Widening factor, at least 1.
        num_groups: Groups of residual blocks, at least 1.
        first_stride: Stride of the first group, 1 or 2.
        batch_norm_eps: Epsilon of every BatchNorm, above 0.
        batch_norm_eps_blocks: Epsilon of those inside residual blocks where it differs, else ``None``.
        batch_norm_momentum: Weight of the newest batch in the running statistics, above 0, at most 1.
        leaky_slope: Slope of LeakyReLU for negative input, at least 0, below 1.
        base_width: Channels of the stem, at least 1.
        conv_bias: Whether convolutions other than the stem have a bias.
        transition_activation: Whether the first block of each later group activates its input.

    Returns:
        A new network with random weights; D = ``base_width * width * 2**(num_groups - 1)``.

    Raises:
        UserError: An argument is out of its range.

    Example:
        >>> network = wide_resnet(num_classes=10, depth=10, width=1)
        >>> network.num_features, sum(parameter.numel() for parameter in network.parameters())
        (64, 77866)
    """
    extractor = WideResNet(
        depth=depth,
        width=width,
        num_groups=num_groups,
        in_channels=in_channels,
        first_stride=first_stride,
        batch_norm_eps=batch_norm_eps,
        batch_norm_eps_blocks=batch_norm_eps_blocks,
        batch_norm_momentum=batch_norm_momentum,
        leaky_slope=leaky_slope,
        base_width=base_width,
        conv_bias=conv_bias,
        transition_activation=transition_activation,
    )
    return Network(extractor, num_features=extractor.num_features, num_classes=num_classes)


# A named wide residual network is `wide_resnet` with other defaults: every option above can still be given.

wrn_28_2 = partial(wide_resnet, depth=28, width=2)
"""CIFAR-10 and SVHN: 1.47 million parameters, 128 features."""

wrn_28_8 = partial(wide_resnet, depth=28, width=8)
"""CIFAR-100 (USB uses ``wrn_28_2`` there): 23.4 million parameters, 512 features."""

wrn_37_2 = partial(wide_resnet, depth=37, width=2, num_groups=4, first_stride=2)
"""STL-10: four blocks in each of four groups, 5.93 million parameters, 256 features."""

wrn_small = partial(wide_resnet, depth=10, width=1, batch_norm_momentum=0.01)
"""Ours, for 8x8 to 32x32 images on a CPU: 78 thousand parameters, 64 features.

Its BatchNorm statistics average about 100 forward passes, as its runs may be a few hundred steps long.
"""


def resnet50(
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    batch_norm_eps: float = 1e-5,
    batch_norm_momentum: float = 0.1,
) -> Network:
    """Make a ResNet-50 for ImageNet and its subsets: torchvision's, with the classifier taken off; D = 2048.

    Source: TorchSSL and USB, whose ResNet-50 is torchvision's too. Weights are random, never downloaded.

    Args:
        num_classes: K, at least 2; None leaves the classifier to the training module.
        in_channels: Channels C of the images, at least 1; with other than 3 the 7x7 stem is a new
            convolution, drawn as torchvision draws it (Kaiming normal over fan-out).
        batch_norm_eps: Epsilon of every BatchNorm, above 0.
        batch_norm_momentum: Weight of the newest batch in the running statistics, above 0, at most 1.

    Returns:
        A new network with random weights.

    Raises:
        UserError: An argument is out of its range.

    Example:
        >>> network = resnet50(num_classes=100)
        >>> network.num_features, sum(parameter.numel() for parameter in network.parameters())
        (2048, 23712932)
    """
    check_number("in_channels", in_channels, low=1, integer=True)
    check_number("batch_norm_eps", batch_norm_eps, low=0, low_open=True)
    check_number("batch_norm_momentum", batch_norm_momentum, low=0, low_open=True, high=1)
    norm_layer = partial(nn.BatchNorm2d, eps=batch_norm_eps, momentum=batch_norm_momentum)
    extractor = torchvision_resnet50(weights=None, norm_layer=norm_layer)
    num_features = extractor.fc.in_features
    extractor.fc = nn.Identity()
    if in_channels != extractor.conv1.in_channels:
        stem = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        extractor.conv1 = stem
    return Network(extractor, num_features=num_features, num_classes=num_classes)
