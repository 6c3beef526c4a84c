"""CoMatch's equations: labels smoothed by a memory bank, and embeddings that agree with a graph of pseudo-labels."""

from __future__ import annotations

import torch
from torch import Tensor

from layermatch.functional.product import product_float32

__all__ = ["graph_contrast_loss", "memory_smoothed", "pseudo_label_graph", "scaled_similarities"]

#: What CoMatch's code adds within the logarithm.
_EPSILON = 1e-7


def scaled_similarities(first: Tensor, second: Tensor, *, temperature: float) -> Tensor:
    r"""Return the inner products of all pairs of rows, divided by a temperature, never in less than float32.

    .. math:: s_{ij} = a_i \cdot b_j / T

    Under autocast too: a temperature of 0.1 makes an error of bf16's 0.4 percent a relative error of 4 percent in the
    exponential. Source: CoMatch (Li et al. 2021, eq. 4) and SimMatch (Zheng et al. 2022, eq. 4).

    Args:
        first: ``(N, D)``, any float dtype.
        second: ``(M, D)``, any float dtype.
        temperature: ``T``, above 0.

    Returns:
        ``(N, M)``, float32 or float64.

    Example:
        >>> import torch
        >>> scaled_similarities(torch.eye(2), torch.eye(2), temperature=0.5)
        tensor([[2., 0.],
                [0., 2.]])
    """
    return product_float32(first, second.T) / temperature


def memory_smoothed(
    probs: Tensor, keys: Tensor, bank_keys: Tensor, bank_probs: Tensor, *, alpha: float, temperature: float
) -> Tensor:
    r"""Mix class probabilities with those of the images in a bank whose embeddings are similar.

    .. math:: q_i = \alpha p_i + (1 - \alpha) \sum_m a_{im} \, p^b_m, \qquad
        a_{im} = \frac{\exp(k_i \cdot k^b_m / T)}{\sum_{m'} \exp(k_i \cdot k^b_{m'} / T)}

    Source: CoMatch (Li et al. 2021, eqs. 3 and 4).

    Args:
        probs: ``(N, K)`` float probabilities p.
        keys: ``(N, D)`` float embeddings of length 1.
        bank_keys: ``(M, D)`` float embeddings of the bank.
        bank_probs: ``(M, K)`` float probabilities of the bank. An empty row, of zeros, takes its part of the weight.
        alpha: The share of an image's own probabilities, in ``[0, 1]``.
        temperature: ``T``, above 0.

    Returns:
        ``(N, K)`` float.

    Example:
        >>> import torch
        >>> eye = torch.eye(2)
        >>> memory_smoothed(eye[:1], eye[:1], eye[1:], eye[1:], alpha=0.9, temperature=0.2)
        tensor([[0.9000, 0.1000]])
    """
    weights = scaled_similarities(keys, bank_keys, temperature=temperature).softmax(dim=1)
    return alpha * probs + (1 - alpha) * scaled_similarities(weights, bank_probs.T, temperature=1.0)


def pseudo_label_graph(probs: Tensor, *, threshold: float) -> Tensor:
    r"""Return which images of a batch are taken for the same class, as weights that sum to 1 for each image.

    .. math:: W_{ij} = \begin{cases} 1 & i = j \\ q_i \cdot q_j & i \ne j, \; q_i \cdot q_j \ge \tau \\ 0 & \text{else}
        \end{cases}, \qquad \hat W_{ij} = W_{ij} / \sum_j W_{ij}

    Source: CoMatch (Li et al. 2021, eqs. 6 and 9).

    Args:
        probs: ``(N, K)`` float probabilities q.
        threshold: ``tau``, in ``[0, 1]``: the similarity that an edge needs.

    Returns:
        ``(N, N)`` float, without a gradient.

    Example:
        >>> import torch
        >>> pseudo_label_graph(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), threshold=0.8)
        tensor([[0.5000, 0.5000, 0.0000],
                [0.5000, 0.5000, 0.0000],
                [0.0000, 0.0000, 1.0000]])
    """
    probs = probs.detach()
    graph = scaled_similarities(probs, probs, temperature=1.0).fill_diagonal_(1)
    graph = graph * (graph >= threshold)
    return graph / graph.sum(dim=1, keepdim=True)


def graph_contrast_loss(first: Tensor, second: Tensor, graph: Tensor, *, temperature: float) -> Tensor:
    r"""Return the cross-entropy between the graph of pseudo-labels and that of embeddings of two strong views.

    .. math:: L_c = -\frac{1}{N} \sum_{i, j} \hat W_{ij} \log(s_{ij} + 10^{-7}), \qquad
        s_{ij} = \frac{\exp(k_i \cdot k'_j / T)}{\sum_{j'} \exp(k_i \cdot k'_{j'} / T)}

    Source: CoMatch (Li et al. 2021, eqs. 7 and 8).

    NOTE: The addend within the logarithm is of the authors' code; the paper has none.

    Args:
        first: ``(N, D)`` float embeddings k of length 1; the gradient goes here and to ``second``.
        second: ``(N, D)`` float embeddings k' of length 1, of the other view of the same images.
        graph: ``(N, N)`` float, whose rows sum to 1; see :func:`pseudo_label_graph`.
        temperature: ``T``, above 0.

    Returns:
        A scalar; 0 with a gradient of 0 when ``N`` is 0.

    Example:
        >>> import torch
        >>> eye = torch.eye(2)
        >>> graph_contrast_loss(eye, eye, eye, temperature=1.0)
        tensor(0.3133)
    """
    similar = scaled_similarities(first, second, temperature=temperature).softmax(dim=1)
    return -(graph * torch.log(similar + _EPSILON)).sum() / max(len(first), 1)
