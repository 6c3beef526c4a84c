"""MixMatch: guessed labels, and mixtures of labelled and unlabelled images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from layermatch.data.batch import Batch, Views
from layermatch.errors import check_choice, check_number
from layermatch.functional import (
    larger_part,
    linear_ramp,
    mix,
    probabilities,
    sharpen,
    soft_cross_entropy,
    squared_error_of_probabilities,
)
from layermatch.layerwise import LayerwiseRule
from layermatch.methods.base import RoutedMethod, unlabelled_of
from layermatch.methods.passes import keep_running_statistics, together, without_gradient
from layermatch.networks import Network, Output
from layermatch.parts import LABELS, PSEUDO_LABELS, Losses, Step, Term

__all__ = ["MixMatch", "Mixing"]

COEFFICIENTS = ("sample", "batch")


class Mixing:
    r"""Draws how the images of a batch are mixed in pairs.

    .. math:: \lambda \sim \mathrm{Beta}(\alpha, \alpha), \qquad \lambda' = \max(\lambda, 1 - \lambda)

    The draws are torch's, on the CPU: those of (seed, batch, rank), the same on every kind of device.

    Args:
        alpha: ``alpha``, above 0.
        coefficients: ``sample`` draws a coefficient for each image, ``batch`` one for all.

    Raises:
        UserError: A value is not legal.

    Example:
        >>> coefficients, order = Mixing(alpha=0.75, coefficients="sample").draw(4, device="cpu")
        >>> coefficients.shape, order.shape
        (torch.Size([4]), torch.Size([4]))
    """

    def __init__(self, *, alpha: float, coefficients: str) -> None:
        check_number("alpha", alpha, low=0, low_open=True)
        check_choice("coefficients", coefficients, COEFFICIENTS)
        self.alpha = alpha
        self.coefficients = coefficients

    def draw(self, count: int, *, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Return the coefficients and partners.

        Args:
            count: N, the images that are mixed.
            device: The device of what is returned.

        Returns:
            ``(N,)`` float32 in ``[0.5, 1]``, or ``()`` where all share one; and ``(N,)`` int64, a permutation.
        """
        shape = (count,) if self.coefficients == "sample" else ()
        draws = torch.distributions.Beta(self.alpha, self.alpha).sample(shape)
        order = torch.randperm(count)
        # Without waiting for what a graphics card has still to do.
        return larger_part(draws).to(device, non_blocking=True), order.to(device, non_blocking=True)


def mixed_outputs(
    network: Network, images: Sequence[Tensor], targets: Sequence[Tensor], *, mixing: Mixing
) -> tuple[dict[str, Output], dict[str, Tensor]]:
    """Mix labelled and unlabelled images, and send the mixtures through the network in one pass.

    Args:
        network: The live network.
        images: The labelled images ``(B, C, H, W)``, then views of unlabelled ones.
        targets: The target of each, ``(B, K)`` and so on.
        mixing: Draws coefficients and partners.

    Returns:
        Outputs and mixed targets of the rows of labelled images (``labelled``) and of all other rows (``unlabelled``).
    """
    num_labelled, count = len(images[0]), sum(map(len, images))
    coefficients, order = mixing.draw(count, device=images[0].device)
    mixed_images = mix(torch.cat(list(images)), coefficients, order)
    mixed_targets = mix(torch.cat(list(targets)), coefficients, order)
    rows = {"labelled": slice(None, num_labelled), "unlabelled": slice(num_labelled, None)}
    out = together(network, {name: mixed_images[part] for name, part in rows.items()})
    return out, {name: mixed_targets[part] for name, part in rows.items()}


class MixMatch(RoutedMethod):
    r"""Labelled and unlabelled images are mixed in pairs, the unlabelled ones with a guessed label.

    1. Guess, for both weak views of u alike:
       :math:`q_u = \mathrm{sharpen}\left(\frac{1}{2} \sum_{k=1}^2 \mathrm{softmax}(f(w_k(u); \theta)), T\right)`.
    2. Mix, images and labels alike: :math:`v' = \lambda' v + (1 - \lambda') W_v`, with W all weak views, labelled and
       unlabelled, in random order, :math:`\lambda' = \max(\lambda, 1 - \lambda)` and
       :math:`\lambda \sim \mathrm{Beta}(\alpha, \alpha)`.
    3. Learn, from the mixtures X' that began with a labelled image and the 2 N mixtures U' that did not:

    .. math:: L = \frac{1}{B} \sum_{x', y' \in X'} H(y', f(x'; \theta)) + \lambda_u \, r(t) \, \frac{1}{2 N K}
        \sum_{u', q' \in U'} \left\|q' - \mathrm{softmax}(f(u'; \theta))\right\|_2^2

    with r a linear ramp. Source: MixMatch (Berthelot et al. 2019, algorithm 1). Its unlabelled batch is as large as the
    labelled one (``data.mu=1``).

    The first sum counts as the loss of labels: in each of its mixtures a labelled image has a share of at least a half.
    The rest of its target may be a guessed label, and under Grad-ReLU the classifier learns from that part too; it
    learns nothing from the second sum.

    NOTE: The paper draws a coefficient for each image (``coefficients="sample"``), and so does its authors' code. USB
    and TorchSSL draw one for the whole batch (``batch``).

    NOTE: The codes send the mixtures in parts of B through the network, with labelled and unlabelled rows interleaved,
    so that the running statistics of BatchNorm, which follow the first part, are of both. Here one pass has all
    mixtures: they are normalised together, and the running statistics are of all of them. The guesses leave the running
    statistics as they are; each view is normalised by its own.

    NOTE: Two ranks mix each its own images.

    Args:
        rule: The rule that routes the second sum, ``lambda_u`` its weight (the paper: 75 for CIFAR-10; the codes: 100);
            see :class:`~layermatch.methods.RoutedMethod`.
        alpha: The parameter of the Beta distribution, above 0 (the codes: 0.5).
        temperature: T, above 0.
        coefficients: ``sample`` or ``batch``.
        ramp: The share of the run in which the weight grows from 0, in ``[0, 1]``. The paper has 16,000 steps, 1/64 of
            its run, and the PyTorch codes 0.4. A short run needs more than 1/64: guesses of the first steps are noise.

    Raises:
        UserError: A value is not legal.

    Example:
        >>> from layermatch.layerwise import Uniform
        >>> MixMatch(rule=Uniform(lambda_u=75.0)).mixing.coefficients
        'sample'
    """

    views: ClassVar[Views] = Views(unlabelled={"weak": "weak", "weak_2": "weak"})

    def __init__(
        self,
        *,
        rule: LayerwiseRule,
        alpha: float = 0.75,
        temperature: float = 0.5,
        coefficients: str = "sample",
        ramp: float = 1 / 64,
    ) -> None:
        super().__init__(rule=rule)
        check_number("temperature", temperature, low=0, low_open=True)
        check_number("ramp", ramp, low=0, high=1)
        self.mixing = Mixing(alpha=alpha, coefficients=coefficients)
        self.temperature = temperature
        self.ramp = ramp

    def losses(self, batch: Batch, step: Step) -> Losses:
        """Return the losses of one batch; see the class."""
        labelled, views = batch.labelled, list(unlabelled_of(batch).views.values())
        guess = self.guess(step.network, views)
        label = F.one_hot(labelled.label, step.network.num_classes).to(guess.dtype)
        out, target = mixed_outputs(
            step.network, [labelled.views["weak"], *views], [label, *[guess] * len(views)], mixing=self.mixing
        )
        logits = self.rule.route(step.network, out["unlabelled"]).logits
        loss = squared_error_of_probabilities(logits, target["unlabelled"])
        weight = self.rule.lambda_u * linear_ramp(step.progress, length=self.ramp)
        return Losses(
            supervised=Term(soft_cross_entropy(out["labelled"].logits, target["labelled"]), LABELS),
            consistency=Term(loss, PSEUDO_LABELS, self.rule.reached, weight=weight),
        )

    def guess(self, network: Network, views: Sequence[Tensor]) -> Tensor:
        """Return the guessed labels of unlabelled images.

        Args:
            network: The live network.
            views: The weak views, each ``(N, C, H, W)``.

        Returns:
            ``(N, K)`` probabilities, without gradient.
        """
        with keep_running_statistics(network):
            probs = [probabilities(without_gradient(network, view).logits) for view in views]
        return sharpen(torch.stack(probs).mean(dim=0), self.temperature)
