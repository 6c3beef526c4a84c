"""AdaMatch's equations: logits between two passes, and a threshold of labelled images."""

from __future__ import annotations

from torch import Tensor

__all__ = ["interpolate_logits", "relative_threshold"]


def interpolate_logits(joint: Tensor, alone: Tensor, draws: Tensor) -> Tensor:
    r"""Return a random point between the logits of two passes, for each logit.

    .. math:: z = z' + u \, (z'' - z')

    Source: AdaMatch (Berthelot et al. 2022, random logit interpolation).

    Args:
        joint: ``(B, K)``, z': the logits of a pass with the unlabelled images.
        alone: ``(B, K)``, z'': those of a pass without them, which BatchNorm normalises by the labelled images alone.
        draws: ``(B, K)``, u: random numbers in ``[0, 1)``.

    Returns:
        ``(B, K)``.

    Example:
        >>> import torch
        >>> interpolate_logits(torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.25]]))
        tensor([[0.5000, 1.5000]])
    """
    return joint + (alone - joint) * draws


def relative_threshold(probs_labelled: Tensor, share: float) -> Tensor:
    r"""Return a share of how confident the network is of labelled images.

    .. math:: c_\tau = \tau \, \frac{1}{B} \sum_i \max_k p_{ik}

    Source: AdaMatch (Berthelot et al. 2022, relative confidence threshold).

    Args:
        probs_labelled: ``(B, K)``: the probabilities of the weak views of labelled images.
        share: tau, in ``(0, 1]``.

    Returns:
        A scalar.

    Example:
        >>> import torch
        >>> relative_threshold(torch.tensor([[0.8, 0.2], [0.4, 0.6]]), 0.9)
        tensor(0.6300)
    """
    return share * probs_labelled.amax(dim=-1).mean()
