"""SoftMatch's policy: every pseudo-label counts, the less the further its confidence is below the mean."""

from __future__ import annotations

import torch

from layermatch.distributed import all_gather_rows
from layermatch.errors import UserError, check_choice, check_number
from layermatch.functional import hard_pseudo_labels, truncated_gaussian
from layermatch.parts import DistributionAlignment, Problem, RunningMean
from layermatch.parts.distribution_alignment import STARTS
from layermatch.policies.base import Policy, Predictions, PseudoLabels

__all__ = ["GaussianWeight"]

TARGETS = ("uniform", "predictions", "none")
STATISTICS = ("aligned", "unaligned")


class GaussianWeight(Policy):
    r"""Hard labels, weighted by a Gaussian that is truncated at the mean confidence.

    .. math:: \lambda_u = \exp\left(-\frac{\min(\max \tilde p_u - \mu, 0)^2}{2 \sigma^2}\right), \qquad
        \hat y_u = \arg\max p_u, \qquad \tilde p_u = \mathrm{Normalise}\left(p_u \, t / \bar p\right)

    with :math:`\mu` and :math:`\sigma^2` running means of the confidences' mean and unbiased variance, which start at
    ``1 / K`` and 1 and move before the weights of the same step. Aligned probabilities make the weight alone, never the
    label. Source: SoftMatch (Chen et al. 2023, section 3).

    NOTE: Both public codes divide the paper's variance by 4: give ``n_sigma=2`` for theirs. TorchSSL aligns to the
    labelled images' predictions (``weight_target=predictions``, ``weight_start=uniform``), and takes mean and variance
    of confidences that are not aligned (``statistics=unaligned``); the default is USB's reading of the paper.

    Args:
        decay: The decay of all averages, in ``[0, 1)``.
        n_sigma: The standard deviation is divided by it; above 0.
        weight_target: The distribution that probabilities are aligned to for the weight: ``uniform``, ``predictions``
            (the running mean of labelled images' predictions) or ``none``.
        weight_start: What the model's average prediction starts at, ``first`` (batch) or ``uniform``; None is
            ``first``.
        statistics: Whether mean and variance are those of ``aligned`` or ``unaligned`` confidences; None is
            ``aligned``.

    Raises:
        UserError: A value is not legal, or an option is given where it has no effect.

    Example:
        >>> policy = GaussianWeight(decay=0.5)
        >>> policy.prepare(Problem(2, 8, 4, 10, (3, 32, 32), 100))
        >>> probs = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.55, 0.45], [0.45, 0.55]])
        >>> policy(Predictions(probs, torch.arange(4))).weight
        tensor([1.0000, 1.0000, 0.9963, 0.9963])
    """

    def __init__(
        self,
        *,
        decay: float = 0.999,
        n_sigma: float = 1.0,
        weight_target: str = "uniform",
        weight_start: str | None = None,
        statistics: str | None = None,
    ) -> None:
        super().__init__()
        check_number("decay", decay, low=0, high=1, high_open=True)
        check_number("n_sigma", n_sigma, low=0, low_open=True)
        check_choice("weight_target", weight_target, TARGETS)
        for name, value, legal in (("weight_start", weight_start, STARTS), ("statistics", statistics, STATISTICS)):
            if value is not None:
                check_choice(name, value, legal)
                if weight_target == "none":
                    raise UserError(f"{name}={value} has no effect with weight_target=none: give null")
        self.decay, self.n_sigma, self.is_of_aligned = decay, n_sigma, statistics != "unaligned"
        self.alignment: DistributionAlignment | None = None
        if weight_target != "none":
            self.alignment = DistributionAlignment(target=weight_target, decay=decay, start=weight_start or "first")

    @property
    def needs_labelled(self) -> bool:  # type: ignore[override]
        """Whether the alignment's target is made of the labelled images' predictions."""
        return self.alignment is not None and self.alignment.needs_labelled

    def prepare(self, problem: Problem) -> None:
        """Start the averages; see :class:`Policy`."""
        self.mean = RunningMean(torch.tensor(1 / problem.num_classes), decay=self.decay)
        self.variance = RunningMean(torch.tensor(1.0), decay=self.decay)
        if self.alignment is not None:
            self.alignment.prepare(problem)

    def forward(self, predictions: Predictions) -> PseudoLabels:
        """Return the pseudo-labels of a batch; see :class:`Policy`."""
        label, confidence = hard_pseudo_labels(predictions.probs_weak)
        aligned = confidence
        if self.alignment is not None:
            self.alignment.see(predictions.probs_weak, predictions.probs_labelled)
            aligned = self.alignment(predictions.probs_weak).amax(dim=1)
        # The variance is that of the whole batch, so all ranks' confidences are gathered.
        seen = all_gather_rows(aligned if self.is_of_aligned else confidence)
        self.mean.see(seen.mean())
        self.variance.see(seen.var(correction=min(1, len(seen) - 1)))  # one image varies by nothing
        variance = self.variance.moved / self.n_sigma**2
        return PseudoLabels(label, truncated_gaussian(aligned, self.mean.moved, variance), label, confidence)
