"""What every layer-wise rule gives and takes, and the uniform rule."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from layermatch.errors import check_number
from layermatch.functional import pseudo_label_loss, supervised_loss
from layermatch.layerwise.gradient_rule import GradientRule
from layermatch.networks import CLASSIFIER, EXTRACTOR, Network, Output, linear_float32
from layermatch.parts import LABELS, PSEUDO_LABELS, Losses, Problem, PseudoLabels, StepState, Term

__all__ = ["LayerwiseRule", "Uniform", "routed_logits"]


class LayerwiseRule(StepState, ABC):
    """Decides which layers learn from which loss.

    Args:
        lambda_u: The weight of the pseudo-label loss, at least 0.

    Raises:
        UserError: A value is out of range.
    """

    #: The rule that takes gradients apart where stop-gradients cannot do it; None is one backward pass.
    gradient_rule: GradientRule | None = None

    def __init__(self, *, lambda_u: float = 1.0) -> None:
        super().__init__()
        check_number("lambda_u", lambda_u, low=0)
        self.lambda_u = lambda_u

    def heads(self, problem: Problem) -> dict[str, nn.Module]:  # noqa: ARG002 -- see SeparateLosses
        """The heads that the rule needs beside the classifier, by name."""
        return {}

    def prepare(self, network: Network, problem: Problem) -> None:
        """Make the state for this network and problem. This is called once, before training."""

    @property
    def needs_teacher(self) -> bool:
        """Whether pseudo-labels come from the averaged network's outputs instead of the live one's."""
        return False

    def average_outputs(self, probs_weak: Tensor, indices: Tensor) -> Tensor:  # noqa: ARG002 -- see EmaOutputs
        """The probabilities that pseudo-labels are made from; here, those of this step."""
        return probs_weak

    def observe(self, features_weak: Tensor, pseudo_labels: PseudoLabels) -> None:
        """See the weak views of one batch; by default they are not looked at.

        Args:
            features_weak: ``(N, D)``, without gradient.
            pseudo_labels: The pseudo-labels of the ``N`` images.
        """

    @abstractmethod
    def forward(
        self, network: Network, labelled: Output, strong: Output, *, label: Tensor, pseudo_labels: PseudoLabels
    ) -> Losses:
        """The losses of one batch.

        Args:
            network: Gives the heads.
            labelled: What the network gave for ``B`` labelled images, with gradient.
            strong: What it gave for the strong views of ``N`` unlabelled ones, with gradient.
            label: ``(B,)`` int64, the labels of the labelled images.
            pseudo_labels: The pseudo-labels of the ``N`` unlabelled images.
        """

    def route(self, network: Network, strong: Output) -> Output:
        """The strong views' outputs as a policy's own loss may have them: it reaches what the rule lets it reach."""
        return Output(strong.features, {CLASSIFIER: routed_logits(network.classifier, strong.features)})

    def diagnose(self, losses: Losses, strong: Output) -> dict[str, tuple[Tensor, Tensor]]:  # noqa: ARG002
        """Ratios for the log that need gradients of their own; by default none.

        Args:
            losses: The losses of one batch, with their graph, which is kept.
            strong: The outputs that the pseudo-label losses are of.
        """
        return {}

    def centres(self, network: Network) -> Tensor:
        """The cluster centres whose movement is logged, ``(K, D)``: here the classifier's rows."""
        return network.classifier.weight

    def evaluation_logits(self, network: Network, features: Tensor) -> Tensor:
        """Logits ``(N, K)`` of the head that is evaluated."""
        return linear_float32(features, network.classifier.weight, network.classifier.bias)


class Uniform(LayerwiseRule):
    r"""Every layer learns from the same loss.

    .. math:: L = L_s + \lambda_u \, \frac{1}{N} \sum_u m_u H(\hat y_u, W z_u + b)

    Source: FixMatch (Sohn et al. 2020, section 2.2).

    Args:
        lambda_u: The weight of the pseudo-label loss, at least 0.

    Example:
        >>> Uniform(lambda_u=1.0).lambda_u
        1.0
    """

    def forward(
        self, network: Network, labelled: Output, strong: Output, *, label: Tensor, pseudo_labels: PseudoLabels
    ) -> Losses:
        """The losses of one batch; see :class:`LayerwiseRule`."""
        logits = routed_logits(network.classifier, strong.features)
        loss = pseudo_label_loss(logits, pseudo_labels.target, pseudo_labels.weight)
        return Losses(
            supervised=Term(supervised_loss(labelled.logits, label), LABELS),
            pseudo=Term(loss, PSEUDO_LABELS, frozenset({EXTRACTOR, CLASSIFIER}), self.lambda_u),
        )


def routed_logits(head: nn.Linear, features: Tensor, *, reaches_head: bool = True) -> Tensor:
    """Logits of a linear head, whose loss reaches the extractor and, where asked for, the head.

    To compute the head anew costs ``N D K`` multiplications, nothing beside the extractor.

    Args:
        head: The head.
        features: ``(N, D)``.
        reaches_head: False detaches the head's parameters.
    """
    weight, bias = (head.weight, head.bias) if reaches_head else (head.weight.detach(), head.bias.detach())
    return linear_float32(features, weight, bias)
