"""Any policy, on probabilities whose distribution of classes is aligned."""

from __future__ import annotations

from torch import Tensor

from layermatch.errors import UserError, check_choice, check_number
from layermatch.networks import Output
from layermatch.parts import DistributionAlignment, Losses, Problem
from layermatch.parts.distribution_alignment import TARGETS
from layermatch.policies.base import Policy, Predictions, PseudoLabels

__all__ = ["Aligned", "aligned"]


class Aligned(Policy):
    r"""A policy that sees aligned probabilities in place of the model's own.

    .. math:: \tilde p = \mathrm{Normalise}\left(p \, t / a\right), \qquad (\hat y, m) = \mathrm{policy}(\tilde p)

    Source: ReMixMatch (Berthelot et al. 2020, section 3.1) and FixMatch (Sohn et al. 2020), to which it can be added.
    See :class:`~layermatch.parts.DistributionAlignment`.

    Args:
        policy: The policy that makes pseudo-labels of the aligned probabilities.
        alignment: The alignment, with its averages.

    Example:
        >>> import torch
        >>> from layermatch.policies import FixedThreshold
        >>> policy = Aligned(policy=FixedThreshold(threshold=0.9), alignment=DistributionAlignment(target="uniform"))
        >>> policy.prepare(Problem(2, 8, 4, 10, (3, 32, 32), 100))
        >>> policy(Predictions(torch.tensor([[0.8, 0.2], [0.6, 0.4]]), torch.tensor([0, 1]))).target
        tensor([0, 1])
    """

    def __init__(self, *, policy: Policy, alignment: DistributionAlignment) -> None:
        super().__init__()
        self.policy = policy
        self.alignment = alignment

    @property
    def needs_labelled(self) -> bool:  # type: ignore[override]
        """Whether the policy or the target reads the labelled images' predictions."""
        return self.policy.needs_labelled or self.alignment.needs_labelled

    @property
    def needs_teacher(self) -> bool:  # type: ignore[override]
        """Whether the policy's probabilities are those of the averaged network."""
        return self.policy.needs_teacher

    @property
    def needs_masked(self) -> bool:  # type: ignore[override]
        """Whether the policy learns from masked strong views too."""
        return self.policy.needs_masked

    def prepare(self, problem: Problem) -> None:
        """Make the state of the policy and the averages; see :class:`Policy`."""
        self.policy.prepare(problem)
        self.alignment.prepare(problem)

    def thresholds(self) -> Tensor | None:
        """Return the thresholds of the policy; see :class:`Policy`."""
        return self.policy.thresholds()

    def forward(self, predictions: Predictions) -> PseudoLabels:
        """Return the pseudo-labels of a batch; see :class:`Policy`."""
        self.alignment.see(predictions.probs_weak, predictions.probs_labelled)
        pseudo_labels: PseudoLabels = self.policy(self._aligned(predictions))
        return pseudo_labels

    def losses(self, strong: Output, pseudo_labels: PseudoLabels, predictions: Predictions) -> Losses:
        """Return the losses of the policy, which sees the same aligned probabilities again; see :class:`Policy`."""
        return self.policy.losses(strong, pseudo_labels, self._aligned(predictions))

    def _aligned(self, predictions: Predictions) -> Predictions:
        return predictions._replace(probs_weak=self.alignment(predictions.probs_weak))


def aligned(
    policy: Policy, *, alignment: str = "none", alignment_decay: float | None = None, alignment_queue: int | None = None
) -> Policy:
    """Return a policy behind the alignment that its settings ask for.

    Args:
        policy: The policy.
        alignment: The target, see :class:`~layermatch.parts.DistributionAlignment`, or ``none``.
        alignment_decay: The decay of running means, in ``[0, 1)``; None is 0.999.
        alignment_queue: The steps whose mean is the model's average, at least 1; None is a running mean.

    Returns:
        The policy itself with ``none``.

    Raises:
        UserError: A value is not legal, or an option is given where it has no effect.

    Example:
        >>> from layermatch.policies import FixedThreshold
        >>> type(aligned(FixedThreshold(), alignment="uniform", alignment_queue=32)).__name__
        'Aligned'
    """
    check_choice("alignment", alignment, ("none", *TARGETS))
    given = {"alignment_decay": alignment_decay, "alignment_queue": alignment_queue}
    if alignment_decay is not None:
        check_number("alignment_decay", alignment_decay, low=0, high=1, high_open=True)
    if alignment_queue is not None:
        check_number("alignment_queue", alignment_queue, low=1, integer=True)
    for name, value in given.items():
        if alignment == "none" and value is not None:
            raise UserError(f"{name}={value} has no effect with alignment=none: give null")
    if alignment_decay is not None and alignment_queue is not None and alignment != "predictions":
        raise UserError(
            f"alignment_decay={alignment_decay} has no effect with alignment_queue={alignment_queue}, which has none: "
            "give null"
        )
    if alignment == "none":
        return policy
    alignment_part = DistributionAlignment(target=alignment, decay=alignment_decay, queue=alignment_queue)
    return Aligned(policy=policy, alignment=alignment_part)
