"""AdaMatch's policy: aligned pseudo-labels, and a threshold that follows the confidence in labelled images."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from layermatch.distributed import all_reduce_mean_
from layermatch.errors import UserError, check_number
from layermatch.functional import confidence_mask, hard_pseudo_labels, relative_threshold
from layermatch.parts import DistributionAlignment, Problem
from layermatch.policies.base import Policy, Predictions, PseudoLabels

__all__ = ["RelativeThreshold"]

#: What the authors' code and USB add to both sides of the quotient.
EPSILON = 1e-6


class RelativeThreshold(Policy):
    r"""Hard labels of aligned probabilities, where these reach a share of the mean confidence in labelled images.

    .. math:: \tilde p_u = \mathrm{Normalise}\left(p_u \, \frac{\mathrm{E}[p_x]}{\mathrm{E}[p_u]}\right), \qquad
        m_u = \mathbf{1}\left[\max \tilde p_u \ge \tau \, \frac{1}{B} \sum_i \max p_{x_i}\right]

    The mean of labelled images' predictions is a running one that starts at ``1 / K``; that of unlabelled ones is the
    mean of the last steps, which start at ``1 / K`` too. The confidence in labelled images is that of the batch.
    Source: AdaMatch (Berthelot et al. 2022) and its authors' code; :class:`~layermatch.methods.AdaMatch` adds what else
    they have.

    NOTE: USB has 0.95 in place of 0.9, and a running mean that starts at the first batch in place of the queue
    (``queue=null``). With ``algorithm=fixmatch`` the rest is USB's too: neither strong labelled views, nor
    interpolation, nor a ramp.

    Args:
        threshold: ``tau``, in ``(0, 1]``.
        decay: The decay of running means, in ``[0, 1)``.
        queue: The steps whose mean is that of unlabelled images, at least 1; None is a running mean.

    Raises:
        UserError: A value is out of range.

    Example:
        >>> import torch
        >>> policy = RelativeThreshold(threshold=0.9)
        >>> policy.prepare(Problem(2, 8, 4, 10, (3, 32, 32), 100))
        >>> labelled = torch.tensor([[0.9, 0.1], [0.3, 0.7]])
        >>> policy(Predictions(torch.tensor([[0.9, 0.1], [0.6, 0.4]]), torch.tensor([0, 1]), labelled)).weight
        tensor([1., 0.])
    """

    needs_labelled: ClassVar[bool] = True

    def __init__(self, *, threshold: float = 0.9, decay: float = 0.999, queue: int | None = 128) -> None:
        super().__init__()
        check_number("threshold", threshold, low=0, high=1, low_open=True)
        self.threshold = threshold
        self.alignment = DistributionAlignment(
            target="predictions",
            decay=decay,
            queue=queue,
            start="first" if queue is None else "uniform",
            epsilon=EPSILON,
        )
        self._last: Tensor | None = None

    def prepare(self, problem: Problem) -> None:
        """Start the averages; see :class:`Policy`."""
        self.num_classes = problem.num_classes
        self.alignment.prepare(problem)

    def thresholds(self) -> Tensor | None:
        """Return the threshold of the last batch, which is the same for every class; None before the first one."""
        return None if self._last is None else self._last.expand(self.num_classes)

    def forward(self, predictions: Predictions) -> PseudoLabels:
        """Return the pseudo-labels of a batch; see :class:`Policy`."""
        labelled = predictions.probs_labelled
        if labelled is None:
            raise UserError("a relative threshold needs the predictions of labelled images, and the batch has none")
        self.alignment.see(predictions.probs_weak, labelled)
        label, confidence = hard_pseudo_labels(self.alignment(predictions.probs_weak))
        self._last = all_reduce_mean_(relative_threshold(labelled, self.threshold))
        return PseudoLabels(label, confidence_mask(confidence, self._last), label, confidence)
