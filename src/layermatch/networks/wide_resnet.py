"""The wide residual network of the FixMatch protocol, as a feature extractor."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from layermatch.errors import UserError, check_bool, check_number

__all__ = ["WideResNet"]


class WideResNet(nn.Module):
    r"""Pre-activation wide residual network without its classifier: images to pooled features.

    A 3x3 stem, G groups of n residual blocks of two 3x3 convolutions, BatchNorm, LeakyReLU, global average
    pool. Group g (from 0) has ``base_width * width * 2**g`` channels; the first block of each group but the
    first halves height and width. Convolutional layers on the way, the G projections included:

    .. math:: \mathrm{depth} = G (2 n + 1) + 1,

    so depth = 6n+4 for three groups (WRN-28-2) and 8n+5 for four (WRN-37-2).

    Source: Wide Residual Networks (Zagoruyko and Komodakis 2016) as changed by FixMatch (Sohn et al. 2020)
    and its public codes: LeakyReLU 0.1, no dropout, BatchNorm statistics that move slowly, and in the first
    group's first block the shortcut starts after the activation. Convolution weights are Kaiming normal over
    fan-out with gain sqrt(2) (the gain of ReLU, as in all of these codes), and biases zero.

    NOTE: TorchSSL and USB feed the first block of every group after the first with the raw input instead of
    its activation, which leaves one BatchNorm a group that computes but is never used. FixMatch's own code
    uses the activation, as any pre-activation network does, and so do we; ``transition_activation=False`` is
    the other one, without the unused BatchNorm, as DistributedDataParallel refuses parameters that get no
    gradient.

    Args:
        depth: Number of convolutional layers by the formula above, with n at least 1.
        width: Widening factor, at least 1.
        num_groups: G, at least 1.
        in_channels: Channels C of the images, at least 1.
        first_stride: 1, or 2 to halve height and width in the first group too (TorchSSL and USB do
            so on 96x96 images).
        batch_norm_eps: Epsilon of every BatchNorm, above 0. FixMatch and TorchSSL: 1e-3.
        batch_norm_eps_blocks: Epsilon of those inside residual blocks where it differs, else ``None``.
            USB: 1e-5.
        batch_norm_momentum: Weight of the newest batch in the running statistics, above 0, at most 1. All
            codes: 1e-3, an average over about 1,000 forward passes; a run of a few hundred steps needs more.
        leaky_slope: Slope of LeakyReLU for negative input, at least 0, below 1.
        base_width: Channels of the stem, at least 1.
        conv_bias: Whether convolutions other than the stem have a bias. FixMatch and TorchSSL: yes; USB: no.
            A later BatchNorm takes such a constant out again: little changes but the parameter count.
        transition_activation: Whether the first block of each later group activates its input, see the note.

    Raises:
        UserError: An argument is out of its range, or no number of blocks gives ``depth``.

    Example:
        >>> import torch
        >>> extractor = WideResNet(depth=10, width=1)
        >>> extractor(torch.zeros(2, 3, 8, 8)).shape, extractor.num_features
        (torch.Size([2, 64]), 64)
        >>> WideResNet(depth=27)
        Traceback (most recent call last):
        layermatch.errors.UserError: depth=27 is not legal: with 3 block groups give 10, 16, 22, 28, ...
    """

    def __init__(
        self,
        *,
        depth: int = 28,
        width: int = 2,
        num_groups: int = 3,
        in_channels: int = 3,
        first_stride: int = 1,
        batch_norm_eps: float = 1e-3,
        batch_norm_eps_blocks: float | None = None,
        batch_norm_momentum: float = 1e-3,
        leaky_slope: float = 0.1,
        base_width: int = 16,
        conv_bias: bool = False,
        transition_activation: bool = True,
    ) -> None:
        super().__init__()
        check_number("width", width, low=1, integer=True)
        check_number("in_channels", in_channels, low=1, integer=True)
        check_number("first_stride", first_stride, low=1, high=2, integer=True)
        check_number("base_width", base_width, low=1, integer=True)
        check_bool("transition_activation", transition_activation)
        blocks = _blocks_per_group(depth, num_groups)
        last = _LayerOptions(batch_norm_eps, batch_norm_momentum, leaky_slope, conv_bias)
        inner = last
        if batch_norm_eps_blocks is not None:
            check_number("batch_norm_eps_blocks", batch_norm_eps_blocks, low=0, low_open=True)
            inner = replace(last, batch_norm_eps=batch_norm_eps_blocks)

        channels = [base_width * width * 2**group for group in range(num_groups)]
        self.num_features = channels[-1]
        self.stem = nn.Conv2d(in_channels, base_width, kernel_size=3, padding=1)
        self.groups = nn.Sequential()
        for group, (before, after) in enumerate(zip([base_width, *channels], channels, strict=False)):
            first = _ResidualBlock(
                before,
                after,
                options=inner,
                stride=2 if group else first_stride,
                activate_input=transition_activation or group == 0,
                activate_before_residual=group == 0,
            )
            rest = [_ResidualBlock(after, after, options=inner) for _ in range(blocks - 1)]
            self.groups.append(nn.Sequential(first, *rest))
        self.activation = last.activation(self.num_features)
        _initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the pooled features of a batch.

        Args:
            images: Normalised images, shape ``(B, C, H, W)``, floating; 8x8 or larger.

        Returns:
            Features, shape ``(B, num_features)``.
        """
        maps: Tensor = self.activation(self.groups(self.stem(images)))
        return maps.mean(dim=(2, 3))  # (B, D, H', W') -> (B, D)


@dataclass(frozen=True)
class _LayerOptions:
    """What the layers of a network have in common."""

    batch_norm_eps: float
    batch_norm_momentum: float
    leaky_slope: float
    conv_bias: bool

    def __post_init__(self) -> None:
        check_number("batch_norm_eps", self.batch_norm_eps, low=0, low_open=True)
        check_number("batch_norm_momentum", self.batch_norm_momentum, low=0, low_open=True, high=1)
        check_number("leaky_slope", self.leaky_slope, low=0, high=1, high_open=True)
        check_bool("conv_bias", self.conv_bias)

    def activation(self, channels: int) -> nn.Sequential:
        """Apply BatchNorm and LeakyReLU, in place: only it reads the BatchNorm's output, one map less to keep."""
        norm = nn.BatchNorm2d(channels, eps=self.batch_norm_eps, momentum=self.batch_norm_momentum)
        return nn.Sequential(norm, nn.LeakyReLU(self.leaky_slope, inplace=True))


class _ResidualBlock(nn.Module):
    """Two activated 3x3 convolutions beside a shortcut, which is a 1x1 projection where the shape changes."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        options: _LayerOptions,
        stride: int = 1,
        activate_input: bool = True,
        activate_before_residual: bool = False,
    ) -> None:
        super().__init__()
        bias = options.conv_bias
        self.activate_before_residual = activate_before_residual
        self.activation1 = options.activation(in_channels) if activate_input else nn.Identity()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=bias)
        self.activation2 = options.activation(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=bias)
        same_shape = in_channels == out_channels and stride == 1
        self.shortcut = (
            nn.Identity() if same_shape else nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=bias)
        )

    def forward(self, maps: Tensor) -> Tensor:
        activated = self.activation1(maps)
        residual: Tensor = self.conv2(self.activation2(self.conv1(activated)))
        shortcut: Tensor = self.shortcut(activated if self.activate_before_residual else maps)
        return shortcut + residual


def _blocks_per_group(depth: int, num_groups: int) -> int:
    """Return the n of depth = G (2 n + 1) + 1."""
    check_number("num_groups", num_groups, low=1, integer=True)
    check_number("depth", depth, low=1, integer=True)
    blocks, left_over = divmod(depth - 1 - num_groups, 2 * num_groups)
    if left_over or blocks < 1:
        legal = ", ".join(str(num_groups * (2 * n + 1) + 1) for n in range(1, 5))
        raise UserError(f"depth={depth} is not legal: with {num_groups} block groups give {legal}, ...")
    return blocks


def _initialise(extractor: nn.Module) -> None:
    """Draw Kaiming-normal convolutions with zero bias; BatchNorm already starts as the identity."""
    for module in extractor.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
