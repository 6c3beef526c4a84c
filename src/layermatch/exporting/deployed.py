"""A trained network with all that is done to pixels before it and to logits after it, as one module."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from layermatch.predictor import Predictor

__all__ = ["Deployed"]


class Deployed(nn.Module):
    r"""What is exported: uint8 pixels in, class probabilities and features out.

    .. math:: p = \mathrm{softmax}(f((x - 255 \mu) / (255 \sigma)) / T)

    The mean :math:`\mu` and the deviation :math:`\sigma` of each channel and the temperature :math:`T` are those of
    the predictor, so that whoever loads the file needs nothing but images of the right shape. The network computes in
    float32 on the CPU, whatever it was trained on.

    Args:
        predictor: The predictor, whose network is copied.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.network = copy.deepcopy(predictor.network).float().cpu().to(memory_format=torch.contiguous_format).eval()
        self.temperature = predictor.temperature
        self._outputs = predictor.outputs
        self.register_buffer("shift", torch.tensor(predictor.mean).mul(255)[:, None, None])
        self.register_buffer("scale", torch.tensor(predictor.std).mul(255)[:, None, None])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Predict.

        Args:
            images: ``(N, C, H, W)`` uint8.

        Returns:
            Probabilities ``(N, K)`` and features ``(N, D)``, float32.
        """
        out = self._outputs(self.network, (images.to(self.shift.dtype) - self.shift) / self.scale)
        return (out.logits / self.temperature).softmax(dim=1), out.features
