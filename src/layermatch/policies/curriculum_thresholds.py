"""FlexMatch's policy: a threshold for each class, by how well it is learnt."""

from __future__ import annotations

from torch import Tensor

from layermatch.errors import check_bool, check_choice, check_number
from layermatch.functional import (
    CURRICULUM_MAPPINGS,
    confidence_mask,
    curriculum_mapping,
    hard_pseudo_labels,
    learning_status,
)
from layermatch.parts import LatestLabels, Problem
from layermatch.policies.base import Policy, Predictions, PseudoLabels

__all__ = ["CurriculumThresholds"]


class CurriculumThresholds(Policy):
    r"""Hard labels where the confidence reaches the threshold of their class.

    .. math:: \hat y = \arg\max p, \qquad m = \mathbf{1}[\max p \ge \tau \, M(\beta_{\hat y})]

    The status :math:`\beta_c` of a class counts the unlabelled images whose latest confident prediction (at least
    :math:`\tau`) was that class, see :func:`~layermatch.functional.learning_status`. A batch meets the status before
    it. The counts move by the images of a step alone: no step looks at the whole pool.

    Memory: 8 bytes per unlabelled image. Under DDP every rank holds the whole table and sees every prediction.

    Source: FlexMatch (Zhang et al. 2021, section 3, "Curriculum Pseudo Labeling").

    NOTE: The paper writes > where all published codes, and we, have >=. While one class, or no prediction, fills the
    whole pool, TorchSSL and USB leave the status as it was; here it is that of the formula.

    Args:
        threshold: ``tau``, in ``(0, 1]``.
        mapping: ``M``: ``convex`` (the paper's), ``linear``, ``concave`` or ``low_limit``, see
            :func:`~layermatch.functional.curriculum_mapping`.
        warmup: Whether images without a confident prediction yet keep all thresholds low.

    Raises:
        UserError: A value is not legal.

    Example:
        >>> import torch
        >>> policy = CurriculumThresholds(threshold=0.9)
        >>> policy.prepare(Problem(2, 8, 4, 10, (3, 32, 32), 100))
        >>> policy(Predictions(torch.tensor([[0.97, 0.03], [0.5, 0.5]]), torch.tensor([3, 7]))).weight
        tensor([1., 1.])
    """

    def __init__(self, *, threshold: float = 0.95, mapping: str = "convex", warmup: bool = True) -> None:
        super().__init__()
        check_number("threshold", threshold, low=0, high=1, low_open=True)
        check_choice("mapping", mapping, CURRICULUM_MAPPINGS)
        check_bool("warmup", warmup)
        self.threshold = threshold
        self.mapping = mapping
        self.warmup = warmup

    def prepare(self, problem: Problem) -> None:
        """Start without predictions; see :class:`Policy`."""
        self.said = LatestLabels(num_classes=problem.num_classes, pool=problem.num_unlabelled)

    def thresholds(self) -> Tensor:
        """Return the threshold of every class."""
        return self.threshold * curriculum_mapping(learning_status(self.said.counts, warmup=self.warmup), self.mapping)

    def forward(self, predictions: Predictions) -> PseudoLabels:
        """Return the pseudo-labels of a batch; see :class:`Policy`."""
        label, confidence = hard_pseudo_labels(predictions.probs_weak)
        mask = confidence_mask(confidence, self.thresholds().to(confidence.dtype)[label])
        self.said.see(predictions.indices, label, confidence >= self.threshold)
        return PseudoLabels(label, mask, label, confidence)
