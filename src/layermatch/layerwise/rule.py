"""What every layer-wise rule gives and takes, and the uniform rule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from layermatch.errors import UserError, check_number
from layermatch.functional import pseudo_label_loss, scale_for, supervised_loss
from layermatch.models import Network, linear_float32
from layermatch.pseudo_labels import PseudoLabels

__all__ = ["ForwardPass", "LayerLosses", "LayerwiseRule", "Uniform"]


class ForwardPass(NamedTuple):
    """What the network gave for one batch.

    Attributes:
        features_labelled: ``(B, D)``, with gradient.
        logits_labelled: ``(B, K)``, with gradient.
        features_strong: ``(N, D)``, with gradient.
    """

    features_labelled: Tensor
    logits_labelled: Tensor
    features_strong: Tensor


class LayerLosses(NamedTuple):
    r"""The losses of the two layer groups, routed by stop-gradients so that one backward serves both.

    The extractor learns from ``features`` = ``supervised + pseudo_features``, the classifier from ``classifier`` =
    ``supervised + pseudo_classifier``. ``pseudo_features`` sends no gradient to the classifier and
    ``pseudo_classifier`` none to the extractor, so the gradient of :attr:`total` is each group's own.

    Attributes:
        supervised: scalar, gradient to both groups.
        pseudo_features: scalar, gradient to the extractor only.
        pseudo_classifier: scalar, gradient to the classifier(s) only.
        parts: the terms that the losses are made of, for the log.
        features_strong: ``(N, D)``, what the pseudo-label losses are of, where a rule wants them compared.
    """

    supervised: Tensor
    pseudo_features: Tensor
    pseudo_classifier: Tensor
    parts: dict[str, Tensor]
    features_strong: Tensor | None = None

    @property
    def features(self) -> Tensor:
        """The extractor's loss."""
        return self.supervised + self.pseudo_features

    @property
    def classifier(self) -> Tensor:
        """The classifier's loss."""
        return self.supervised + self.pseudo_classifier

    @property
    def pseudo(self) -> Tensor:
        """What the pseudo-labels add, for both groups."""
        return self.pseudo_features + self.pseudo_classifier

    @property
    def total(self) -> Tensor:
        """What to call backward on. Its value means nothing; its gradient is each group's own."""
        return self.supervised + self.pseudo


class LayerwiseRule(nn.Module, ABC):
    r"""Decides which layers learn from which loss.

    Args:
        lambda_u: weight of the pseudo-label loss, at least 0.
        gradient_scale: ours, for study: ``{parameter-name pattern: scale in [0, 1]}`` multiplies the pseudo-label
            gradient of the matching parameters (see :func:`~layermatch.functional.scale_for`). LayerMatch's
            Grad-ReLU is ``{classifier: 0}`` on the uniform rule. Anything but an empty mapping costs a second
            backward pass.

    Raises:
        UserError: a value is out of range.
    """

    #: Whether the network needs a second linear head.
    needs_pseudo_head = False

    @property
    def needs_teacher(self) -> bool:
        """Whether pseudo-labels come from the averaged network's outputs instead of the live one's."""
        return False

    def __init__(self, *, lambda_u: float = 1.0, gradient_scale: Mapping[str, float] | None = None) -> None:
        super().__init__()
        check_number("layerwise.lambda_u", lambda_u, low=0)
        self.lambda_u = lambda_u
        if not isinstance(gradient_scale or {}, Mapping):
            raise UserError(f"layerwise.gradient_scale={gradient_scale!r} is not legal: give {{PATTERN: SCALE, ...}}")
        self.gradient_scale = dict(gradient_scale or {})
        for pattern, scale in self.gradient_scale.items():
            check_number(f"layerwise.gradient_scale.{pattern}", scale, low=0, high=1)

    def prepare(self, network: Network, *, num_unlabelled: int) -> None:  # noqa: ARG002 -- for rules with tables
        """Make the state for this network and pool. Called once, before training.

        Args:
            network: the network that will be trained.
            num_unlabelled: images in the unlabelled pool.

        Raises:
            UserError: a pattern of ``gradient_scale`` matches no parameter.
        """
        names = [name for name, _ in network.named_parameters()]
        for pattern in self.gradient_scale:
            # -1 stands for "matched": no legal scale is negative.
            if not any(scale_for(name, {pattern: -1.0}) < 0 for name in names):
                raise UserError(
                    f"layerwise.gradient_scale: {pattern!r} matches no parameter: the network has names like "
                    f"{names[0]}, {names[-1]}"
                )

    @property
    def separates_gradients(self) -> bool:
        """Whether supervised and pseudo-label gradients must be taken apart (two backward passes)."""
        return bool(self.gradient_scale)

    def combine_gradients(self, name: str, grad_supervised: Tensor, grad_pseudo: Tensor) -> Tensor:
        """The gradient of one parameter where :attr:`separates_gradients`.

        Args:
            name: the parameter's name in the network.
            grad_supervised: its gradient of the supervised loss, mean over all ranks.
            grad_pseudo: its gradient of the pseudo-label loss, likewise.
        """
        return grad_supervised + scale_for(name, self.gradient_scale) * grad_pseudo

    def average_outputs(self, probs_weak: Tensor, index: Tensor) -> Tensor:  # noqa: ARG002 -- see EmaOutputs
        """The probabilities that pseudo-labels are made from; here, those of this step."""
        return probs_weak

    def observe(self, features_weak: Tensor, pseudo_labels: PseudoLabels) -> None:
        """See the weak views of one batch; by default they are not looked at.

        Args:
            features_weak: ``(N, D)``, without gradient.
            pseudo_labels: those of the ``N`` images.
        """

    @abstractmethod
    def forward(self, network: Network, views: ForwardPass, label: Tensor, pseudo_labels: PseudoLabels) -> LayerLosses:
        """The losses of one batch.

        Args:
            network: gives the heads.
            views: the network's outputs.
            label: ``(B,)`` int64, labels of the labelled images.
            pseudo_labels: those of the ``N`` unlabelled images.
        """

    def after_step(self, network: Network, *, num_updates: int) -> None:
        """Update the rule's state, after each optimizer step.

        Args:
            network: with the step applied.
            num_updates: optimizer steps made before this one.
        """

    def discard_step(self) -> None:
        """Forget what was observed since the last optimizer step, which is not applied."""

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
        lambda_u: weight of the pseudo-label loss, at least 0.
        gradient_scale: see :class:`LayerwiseRule`.

    Example:
        >>> Uniform(lambda_u=1.0).lambda_u
        1.0
    """

    def forward(self, network: Network, views: ForwardPass, label: Tensor, pseudo_labels: PseudoLabels) -> LayerLosses:
        """The losses of one batch; see :class:`LayerwiseRule`."""
        loss_supervised = supervised_loss(views.logits_labelled, label)
        to_features, to_classifier = head_losses(network.classifier, views.features_strong, pseudo_labels)
        return LayerLosses(
            supervised=loss_supervised,
            pseudo_features=self.lambda_u * to_features,
            pseudo_classifier=self.lambda_u * to_classifier,
            parts={"supervised": loss_supervised, "pseudo": to_features},
        )


def head_losses(head: nn.Linear, features: Tensor, pseudo_labels: PseudoLabels) -> tuple[Tensor, Tensor]:
    """One pseudo-label loss, routed: for the extractor (head detached) and for the head (features detached).

    Both have the same value. Computing the head twice costs ``N D K`` multiplications, nothing beside the extractor.
    """
    target, weight = pseudo_labels.target, pseudo_labels.weight
    to_features = linear_float32(features, head.weight.detach(), head.bias.detach())
    to_classifier = linear_float32(features.detach(), head.weight, head.bias)
    return pseudo_label_loss(to_features, target, weight), pseudo_label_loss(to_classifier, target, weight)


def classifier_loss(head: nn.Linear, features: Tensor, label: Tensor) -> Tensor:
    """Supervised loss of a head that is not the network's first, gradient to both groups."""
    return supervised_loss(linear_float32(features, head.weight, head.bias), label)
