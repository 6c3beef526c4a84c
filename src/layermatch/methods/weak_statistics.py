"""Trials of one statistic of BatchNorm alone, for study: what ``forward=split`` changes, one thing at a time."""

from __future__ import annotations

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from layermatch.methods.pseudo_labelling import PseudoLabelling
from layermatch.networks import Network, Output

__all__ = ["WeakByAverages", "WeakNotAveraged"]


class WeakNotAveraged(PseudoLabelling):
    """Send weak views alone as with ``forward=split``, but keep them out of the running statistics.

    Weak views are normalised by their own mean and variance, which are then forgotten: the running statistics, by which
    images are normalised after training, see labelled and strong views only. Source: ours, see ``docs/batchnorm.md``.
    Its arguments are those of :class:`~layermatch.methods.PseudoLabelling`.
    """

    def send_weak(self, weak: Tensor, network: Network) -> Output:
        """Return weak views by their own statistics, which move no average."""
        norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 0.0
        try:
            return super().send_weak(weak, network)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum


class WeakByAverages(PseudoLabelling):
    """Send weak views alone as with ``forward=split``, but normalise them as images are after training.

    That is by the running statistics, which they do not move. Source: ours, see ``docs/batchnorm.md``. Its arguments
    are those of :class:`~layermatch.methods.PseudoLabelling`.
    """

    def send_weak(self, weak: Tensor, network: Network) -> Output:
        """Return weak views in evaluation mode."""
        modes = [(module, module.training) for module in network.modules()]
        network.eval()
        try:
            return super().send_weak(weak, network)
        finally:
            for module, mode in modes:  # some may rest in evaluation mode
                module.training = mode
