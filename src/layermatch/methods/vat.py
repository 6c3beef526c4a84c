"""Virtual adversarial training: predictions stay as they are where a small change would move them most."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from layermatch.data.batch import Batch, Views
from layermatch.errors import UserError, check_number
from layermatch.functional import (
    divergence,
    fisher_product,
    linear_ramp,
    prediction_entropy,
    probabilities,
    supervised_loss,
    unit_directions,
)
from layermatch.layerwise import LayerwiseRule
from layermatch.methods.base import RoutedMethod, unlabelled_of
from layermatch.methods.passes import keep_running_statistics, without_gradient
from layermatch.networks import Network
from layermatch.parts import LABELS, PSEUDO_LABELS, Losses, Step, Term

__all__ = ["VAT"]


class VAT(RoutedMethod):
    r"""Images moved where their prediction changes most are to be predicted as before.

    .. math:: L = L_s + \lambda_u \, r(t) \, \frac{1}{N} \sum_u \mathrm{KL}\left(p(u) \,\|\, p(u + \epsilon d_u)\right)
        + w_e \, \frac{1}{N} \sum_u H(p(u)), \qquad p(u) = \mathrm{softmax}(f(u; \theta))

    with p(u) constant in the divergence, and the direction by the power method: from a random ``d`` of length 1,

    .. math:: d \leftarrow \overline{H d} \approx
        \overline{\nabla_v \mathrm{KL}(p(u) \,\|\, p(u + v))}\Big|_{v = \xi d},

    H the Hessian of the divergence at 0, and the bar division by the length. Source: VAT (Miyato et al. 2018, algorithm
    1; the last term is its VAT+EntMin). Its unlabelled batch is as large as the labelled one (``data.mu=1``).

    The random directions are those of (seed, batch, rank). The running statistics of BatchNorm are those of labelled
    images: no pass of unlabelled ones moves them. All of these passes are in full precision, whatever
    ``trainer.precision``, and normalised by the statistics of the unlabelled batch, so that p(u) and p(u + v) differ by
    v alone.

    NOTE: The length of a direction is exact. USB and TorchSSL add 1e-16 to a norm that is about as small.

    NOTE: The paper and all codes take the finite difference with ``xi=1e-6``. In float32 such a difference of two
    predictions is mostly rounding error, and so are the directions (tests/methods/test_vat.py compares them with those
    of float64). Unless ``xi`` is given, H itself is multiplied, by two products with the Jacobian of the logits: that
    is the limit of small xi, and loses nothing to rounding. It costs two more backward passes for each iteration. torch
    cannot differentiate its synchronised BatchNorm twice: with ``trainer.sync_batchnorm=true`` give ``xi=0.001``.

    Args:
        rule: The rule that routes both losses of unlabelled images, ``lambda_u`` the weight of the divergence (the
            paper: 1; TorchSSL: 0.3); see :class:`~layermatch.methods.RoutedMethod`.
        epsilon: The length of the change, in units of normalised pixels, above 0 (TorchSSL: 6).
        xi: The length of the step of the finite difference, above 0. None multiplies by H itself.
        power_iterations: The iterations of the power method, at least 1.
        entropy_weight: ``w_e``, at least 0; 0 is VAT without the entropy (the paper's VAT+EntMin: 1; TorchSSL: 0.06).
        ramp: The share of the run in which the weight grows from 0, in ``[0, 1]``; 0 is no ramp, as in the paper
            (TorchSSL: 0.4).

    Raises:
        UserError: A value is out of range, or ``xi`` is None and BatchNorm synchronised.

    Example:
        >>> from layermatch.layerwise import Uniform
        >>> VAT(rule=Uniform(), epsilon=6.0).views.unlabelled
        {'weak': 'weak'}
    """

    views: ClassVar[Views] = Views(unlabelled={"weak": "weak"})

    def __init__(
        self,
        *,
        rule: LayerwiseRule,
        epsilon: float = 6.0,
        xi: float | None = None,
        power_iterations: int = 1,
        entropy_weight: float = 0.0,
        ramp: float = 0.0,
    ) -> None:
        super().__init__(rule=rule)
        check_number("epsilon", epsilon, low=0, low_open=True)
        if xi is not None:
            check_number("xi", xi, low=0, low_open=True)
        check_number("power_iterations", power_iterations, low=1, integer=True)
        check_number("entropy_weight", entropy_weight, low=0)
        check_number("ramp", ramp, low=0, high=1)
        self.epsilon = epsilon
        self.xi = xi
        self.power_iterations = power_iterations
        self.entropy_weight = entropy_weight
        self.ramp = ramp

    def losses(self, batch: Batch, step: Step) -> Losses:
        """Return the losses of one batch; see the class."""
        labelled, images = batch.labelled, unlabelled_of(batch).views["weak"]
        logits_labelled = step.network(labelled.views["weak"]).logits
        losses = Losses(supervised=Term(supervised_loss(logits_labelled, labelled.label), LABELS))
        with keep_running_statistics(step.network), full_precision(images, exact=self.xi is not None):
            clean = step.network(images) if self.entropy_weight else without_gradient(step.network, images)
            target = probabilities(clean.logits)
            direction = self.direction(step.network, images, target)
            moved = step.network(images + self.epsilon * direction)
            loss = divergence(self.rule.route(step.network, moved).logits, target)
        weight = self.rule.lambda_u * linear_ramp(step.progress, length=self.ramp)
        losses["adversarial"] = Term(loss, PSEUDO_LABELS, self.rule.reached, weight=weight)
        if self.entropy_weight:
            undecided = prediction_entropy(self.rule.route(step.network, clean).logits).mean()
            losses["entropy"] = Term(undecided, PSEUDO_LABELS, self.rule.reached, weight=self.entropy_weight)
        return losses

    def direction(self, network: Network, images: Tensor, target: Tensor) -> Tensor:
        """Return the direction in which the prediction of each image changes most, of length 1.

        Args:
            network: The live network.
            images: ``(N, C, H, W)``, normalised.
            target: ``(N, K)``, its predictions of them.

        Returns:
            ``(N, C, H, W)``, without gradient.
        """
        direction = unit_directions(self.start(images))
        for _ in range(self.power_iterations):
            if self.xi is None:
                product = hessian_product(network, images, target, direction)
            else:
                product = divergence_gradient(network, images, target, self.xi * direction)
            direction = unit_directions(product)
        return direction

    def start(self, images: Tensor) -> Tensor:
        """Return the random vectors that the power method starts from.

        Args:
            images: ``(N, C, H, W)``.
        """
        return torch.randn_like(images)


@contextmanager
def full_precision(images: Tensor, *, exact: bool) -> Iterator[None]:
    """Compute in the precision of the weights within, where a run otherwise computes in bf16.

    Args:
        images: They say on which kind of device.
        exact: Whether graphics cards round nothing to TF32, as they do in convolutions by themselves: its 10 bits are
            fewer than a small change of the images needs.
    """
    kinds: list[Any] = [torch.backends.cudnn.conv, torch.backends.cuda.matmul] if exact else []  # type: ignore[attr-defined]
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "ieee"
        with torch.autocast(images.device.type, enabled=False):
            yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


@torch.enable_grad()
def divergence_gradient(network: Network, images: Tensor, target: Tensor, change: Tensor) -> Tensor:
    """Return the gradient of the divergence with respect to a change of the images; the network gets none.

    Args:
        network: The network.
        images: ``(N, C, H, W)``.
        target: ``(N, K)``, its predictions of the unchanged images.
        change: ``(N, C, H, W)``, what is added.
    """
    change = change.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(divergence(network(images + change).logits, target), change)
    return gradient


@torch.enable_grad()
def hessian_product(network: Network, images: Tensor, target: Tensor, direction: Tensor) -> Tensor:
    r"""Return the Hessian of the divergence at the images themselves, times a direction: :math:`J^\top F J d`.

    J is the Jacobian of the logits, whose product with d is the derivative of :math:`J^\top v` with respect to v.

    Args:
        network: The network.
        images: ``(N, C, H, W)``.
        target: ``(N, K)``, its predictions of them.
        direction: ``(N, C, H, W)``.

    Raises:
        UserError: A layer cannot be differentiated twice.
    """
    if (
        dist.is_available()
        and dist.is_initialized()
        and any(isinstance(m, nn.SyncBatchNorm) for m in network.modules())
    ):
        raise UserError("xi=null is not legal with trainer.sync_batchnorm=true: give xi=0.001")
    images = images.detach().requires_grad_()
    # Not the call: what torch.compile made of the network cannot be differentiated twice.
    logits = network.forward(images).logits
    vector = torch.zeros_like(logits, requires_grad=True)
    (pulled_back,) = torch.autograd.grad(logits, images, vector, create_graph=True)
    (pushed_forward,) = torch.autograd.grad(pulled_back, vector, direction, retain_graph=True)
    (product,) = torch.autograd.grad(logits, images, fisher_product(target, pushed_forward))
    return product
