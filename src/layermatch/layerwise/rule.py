"""What every layer-wise rule gives and takes, and the uniform rule."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from layermatch.errors import UserError, check_number
from layermatch.functional import supervised_loss
from layermatch.layerwise.gradient_rule import GradientRule
from layermatch.layerwise.routing import loss_of, routed_logits
from layermatch.networks import CLASSIFIER, EXTRACTOR, Network, Output, linear_float32
from layermatch.parts import LABELS, PSEUDO_LABELS, Losses, Problem, StepState, Term
from layermatch.policies import PseudoLabels

__all__ = ["LayerwiseRule", "Uniform"]


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
        """Return the heads that the rule needs beside the classifier, by name."""
        return {}

    def prepare(self, network: Network, problem: Problem) -> None:
        """Make the state for this network and problem. This is called once, before training."""

    @property
    def needs_teacher(self) -> bool:
        """Whether pseudo-labels come from the averaged network's outputs instead of the live one's."""
        return False

    def average_outputs(self, probs_weak: Tensor, indices: Tensor) -> Tensor:  # noqa: ARG002 -- see EmaOutputs
        """Return the probabilities that pseudo-labels are made from; here, those of this step."""
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
        """Return the losses of one batch.

        Args:
            network: Gives the heads.
            labelled: What the network gave for ``B`` labelled images, with gradient.
            strong: What it gave for the strong views of ``N`` unlabelled ones, with gradient.
            label: ``(B,)`` int64, the labels of the labelled images.
            pseudo_labels: The pseudo-labels of the ``N`` unlabelled images.
        """

    @property
    def reached(self) -> frozenset[str]:
        """The parameter groups that a loss of :meth:`route` reaches."""
        return frozenset({EXTRACTOR, CLASSIFIER})

    @property
    def own_losses(self) -> str | None:
        """What the rule does beside routing, in words; None where it routes and no more.

        A method whose targets are not pseudo-labels of single images can be routed, but has nothing that centres or a
        second head could learn from.
        """
        return None

    def route(self, network: Network, out: Output) -> Output:
        """Return the outputs as a loss of pseudo-labels may have them: it reaches what the rule lets it reach.

        Args:
            network: Gives the classifier.
            out: What the network gave for views of ``N`` unlabelled images, with gradient.

        Returns:
            The same features and heads, with the logits ``(N, K)`` of a classifier that is detached where the rule
            keeps pseudo-labels out of it.
        """
        logits = routed_logits(network.classifier, out.features, reaches_head=CLASSIFIER in self.reached)
        return Output(out.features, {**out.heads, CLASSIFIER: logits})

    def check_routes_only(self, method: str) -> None:
        """Refuse to serve a method whose losses of unlabelled images are its own.

        Args:
            method: The name of the method.

        Raises:
            UserError: The rule has losses of its own.
        """
        if self.own_losses is not None:
            raise UserError(
                f"{self.own_losses} is not legal with {method}, whose losses of unlabelled images are its own: choose "
                "layerwise=uniform, layerwise=grad_relu, or layerwise=layermatch without a reading"
            )

    def diagnose(self, losses: Losses, strong: Output) -> dict[str, tuple[Tensor, Tensor]]:  # noqa: ARG002
        """Return the ratios for the log that need gradients of their own; by default none.

        Args:
            losses: The losses of one batch, with their graph, which is kept.
            strong: The outputs that the pseudo-label losses are of.
        """
        return {}

    def centres(self, network: Network) -> Tensor:
        """Return the cluster centres whose movement is logged, ``(K, D)``: here the classifier's rows."""
        return network.classifier.weight

    def evaluation_logits(self, network: Network, features: Tensor) -> Tensor:
        """Return the logits ``(N, K)`` of the head that is evaluated."""
        return linear_float32(features, network.classifier.weight, network.classifier.bias)

    @property
    def evaluated_head(self) -> str | None:
        """The head whose logits are evaluated; None where a rule computes them in a way of its own."""
        return CLASSIFIER if type(self).evaluation_logits is LayerwiseRule.evaluation_logits else None


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
        """Return the losses of one batch; see :class:`LayerwiseRule`."""
        loss = loss_of(routed_logits(network.classifier, strong.features), pseudo_labels)
        return Losses(
            supervised=Term(supervised_loss(labelled.logits, label), LABELS),
            pseudo=Term(loss, PSEUDO_LABELS, frozenset({EXTRACTOR, CLASSIFIER}), self.lambda_u),
        )
