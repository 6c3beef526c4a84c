"""Projection heads, and the embeddings that they give."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from layermatch.networks import Output

__all__ = ["PROJECTION", "embeddings_of", "projection_head"]

#: The head whose output is the embedding; a group of parameters of its own.
PROJECTION = "projection"


def projection_head(num_features: int, width: int, *, slope: float) -> nn.Module:
    """Return two linear layers with a rectifier between them.

    Args:
        num_features: D, the width of the features and of the hidden layer.
        width: The width of the embedding.
        slope: The rectifier's slope below 0; 0 is ReLU.
    """
    return nn.Sequential(nn.Linear(num_features, num_features), nn.LeakyReLU(slope), nn.Linear(num_features, width))


def embeddings_of(out: Output) -> Tensor:
    """Return the embeddings of a view, scaled to length 1, ``(N, width)``.

    Args:
        out: What the network gave for the view, its projection too.
    """
    return F.normalize(out.heads[PROJECTION], dim=1)
