"""FlexMatch's policy: a threshold for each class, by how well it is learnt."""

from __future__ import annotations

import torch
from torch import Tensor

from layermatch.distributed import all_gather_rows
from layermatch.errors import check_bool, check_choice, check_number
from layermatch.functional import (
    CURRICULUM_MAPPINGS,
    confidence_mask,
    curriculum_mapping,
    hard_pseudo_labels,
    last_of_each,
    learning_status,
)
from layermatch.parts import Problem, Step
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
        >>> policy = CurriculumThresholds(threshold=0.9)
        >>> policy.prepare(Problem(2, 8, 4, 10, (3, 32, 32), 100))
        >>> policy(Predictions(torch.tensor([[0.97, 0.03], [0.5, 0.5]]), torch.tensor([3, 7]))).weight
        tensor([1., 1.])
    """

    latest: Tensor
    counts: Tensor

    def __init__(self, *, threshold: float = 0.95, mapping: str = "convex", warmup: bool = True) -> None:
        super().__init__()
        check_number("threshold", threshold, low=0, high=1, low_open=True)
        check_choice("mapping", mapping, CURRICULUM_MAPPINGS)
        check_bool("warmup", warmup)
        self.threshold = threshold
        self.mapping = mapping
        self.warmup = warmup
        #: For each batch of the step, of all ranks: the images, and their classes where the network is sure.
        self._seen: list[Tensor] = []

    def prepare(self, problem: Problem) -> None:
        """Start without predictions; the class after the last one stands for that."""
        self.num_classes, pool = problem.num_classes, problem.num_unlabelled
        self.register_buffer("latest", torch.full((pool,), self.num_classes))
        self.register_buffer("counts", torch.tensor([0] * self.num_classes + [pool]))

    def thresholds(self) -> Tensor:
        """Return the threshold of every class."""
        return self.threshold * curriculum_mapping(learning_status(self.counts, warmup=self.warmup), self.mapping)

    def forward(self, predictions: Predictions) -> PseudoLabels:
        """Return the pseudo-labels of a batch; see :class:`Policy`."""
        label, confidence = hard_pseudo_labels(predictions.probs_weak)
        mask = confidence_mask(confidence, self.thresholds().to(confidence.dtype)[label])
        sure = torch.where(confidence >= self.threshold, label, self.num_classes)
        self._seen.append(all_gather_rows(torch.stack([predictions.indices, sure], dim=1)))
        return PseudoLabels(label, mask, label, confidence)

    def after_step(self, step: Step) -> None:  # noqa: ARG002 -- see StepState
        """Note what the network was sure of, and move the counts by what is new."""
        seen = torch.cat(self._seen)
        seen = seen[seen[:, 1] < self.num_classes]
        indices, label = seen[last_of_each(seen[:, 0])].unbind(dim=1)
        size = self.num_classes + 1
        self.counts += label.bincount(minlength=size) - self.latest[indices].bincount(minlength=size)
        self.latest[indices] = label
        self.discard_step()

    def discard_step(self) -> None:
        """Forget the predictions of the step."""
        self._seen = []
