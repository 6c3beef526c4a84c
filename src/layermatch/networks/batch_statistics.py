"""Normalise some images by the batch statistics of others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from layermatch.errors import UserError

__all__ = ["BatchStatistics"]


class BatchStatistics:
    r"""The statistics of one forward pass, kept for images that are sent through the network after it.

    BatchNorm in training mode normalises a batch by the batch's own mean and (biased) variance:

    .. math:: y = \gamma \, \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta

    Within :meth:`taken` a pass in training mode works as always, running statistics included, and its
    :math:`\mu, \sigma^2` are kept for each BatchNorm. Within :meth:`applied` other images are normalised by these; they
    change no statistic. Source: ours. It costs no pass over the activations: with a momentum of 1 the running
    statistics are the batch's own. BatchNorms in evaluation mode are left alone.

    Args:
        network: The network whose BatchNorms, of any dimension and synchronised ones too, are looked after. It gets a
            hook for each, so make one object a network.

    Raises:
        UserError: A BatchNorm keeps no running statistics.

    Example:
        >>> network = nn.Sequential(nn.BatchNorm1d(1))
        >>> statistics = BatchStatistics(network)
        >>> with statistics.taken():
        ...     _ = network(torch.tensor([[1.0], [3.0]]))  # mean 2, variance 1
        >>> with statistics.applied():
        ...     network(torch.tensor([[4.0]])).round(decimals=3).tolist()
        [[2.0]]
    """

    def __init__(self, network: nn.Module) -> None:
        norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        if any(norm.running_mean is None for norm in norms):
            raise UserError("a BatchNorm has track_running_stats=False: its statistics cannot be shared")
        self._all = [_Statistics(norm) for norm in norms]
        #: The statistics of the BatchNorms that took part in the last pass of :meth:`taken`.
        self._taken: list[_Statistics] = []

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Keep the statistics of the one training-mode pass that is made within."""
        self._taken = [each for each in self._all if each.norm.training]
        for each in self._taken:
            each.begin()
        try:
            yield
        finally:
            for each in self._taken:
                each.end()

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Normalise what is sent through the network within by the statistics that were taken last."""
        for each in self._taken:
            each.norm.eval()
            each.swap(each.kept)
        try:
            yield
        finally:
            for each in self._taken:
                each.norm.train()
                each.swap(each.running)


class _Statistics:
    """Running statistics of one BatchNorm, and beside them those of one batch.

    The three pairs of tensors stay the same objects, as compiled networks want it. A graph holds on to the pair that
    its forward wrote to, so neither the running nor the kept pair may be that one.
    """

    def __init__(self, norm: Any) -> None:
        self.norm = norm
        self.momentum: float | None = None
        #: Values that a statistic was taken over, images x positions; each rank's own unless synchronised. 0 where the
        #: BatchNorm took no part in the pass.
        self.count = 0
        self.running = self.written = self.kept = (norm.running_mean, norm.running_var)
        norm.register_forward_pre_hook(self._see)

    def _see(self, norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        is_synchronised = isinstance(norm, nn.SyncBatchNorm) and torch.distributed.is_initialized()
        ranks = torch.distributed.get_world_size() if is_synchronised else 1
        self.count = args[0].numel() // args[0].shape[1] * ranks

    def swap(self, pair: tuple[Tensor, Tensor]) -> None:
        """Let the BatchNorm have another pair as its running statistics."""
        self.norm.running_mean, self.norm.running_var = pair

    def begin(self) -> None:
        """Let the next pass write its own statistics, which is what a momentum of 1 does."""
        self.running = (self.norm.running_mean, self.norm.running_var)
        if self.written[0] is self.kept[0] or self.written[0].device != self.running[0].device:
            mean, variance = self.running
            self.written = (torch.empty_like(mean), torch.empty_like(variance))
            self.kept = (torch.empty_like(mean), torch.empty_like(variance))
        self.count = 0
        for tensor in self.written:
            tensor.zero_()  # 0 times what is left of a pass that was not finite would not be 0
        self.momentum, self.norm.momentum = self.norm.momentum, 1.0
        self.swap(self.written)

    @torch.no_grad()
    def end(self) -> None:
        """Keep what was written, and move the running statistics as torch would have.

        A BatchNorm that took no part in the pass has written nothing: it keeps its running statistics, and other images
        are normalised by these.
        """
        self.norm.momentum = self.momentum
        self.swap(self.running)
        if not self.count:
            for kept, running in zip(self.kept, self.running, strict=True):
                kept.copy_(running)
            return
        # As in torch, no momentum means the plain average over all passes.
        factor = 1 / max(int(self.norm.num_batches_tracked), 1) if self.momentum is None else self.momentum
        for old, new in zip(self.running, self.written, strict=True):
            old.lerp_(new, factor)
        mean, variance = self.kept
        mean.copy_(self.written[0])
        # Running variances are unbiased, the one that normalises is not.
        torch.mul(self.written[1], (self.count - 1) / self.count, out=variance)
