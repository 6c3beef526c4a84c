"""LayerMatch: the extractor and the classifier learn from separate pseudo-label losses."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from layermatch.errors import UserError, check_bool, check_choice
from layermatch.functional import keep_agreeing, scale_for, supervised_loss
from layermatch.layerwise.avg_clustering import READINGS, make_avg_clustering
from layermatch.layerwise.rule import ForwardPass, LayerLosses, LayerwiseRule, classifier_loss, head_losses
from layermatch.models import Network, linear_float32
from layermatch.pseudo_labels import PseudoLabels

__all__ = ["LayerMatch"]

GRAD_RELU = ("block", "conflict", "off")
HEADS = ("clean", "pseudo")


class LayerMatch(LayerwiseRule):
    r"""Grad-ReLU for the classifier, Avg-Clustering for the extractor.

    .. math::
        L_{cls} &= L_s \\
        L_{feat} &= L_s + \lambda_u \left[ (1 - a) \, L_u(\mathrm{sg}(W), \mathrm{sg}(b)) + a \, L_{ac} \right]

    ``L_u(sg(W), sg(b))`` is the pseudo-label loss through a detached classifier: the extractor's gradient is exactly
    FixMatch's, the classifier's exactly the supervised one.

    Source: "LayerMatch: Do Pseudo-labels Benefit All Layers?" (Liang et al., arXiv 2406.14207), abstract, for
    Grad-ReLU.

    NOTE: No code was published, and no source that we could read has the equation of Avg-Clustering; ``L_ac`` and its
    place in the loss are our definition (:mod:`layermatch.layerwise.avg_clustering`).

    Args:
        lambda_u: weight of the pseudo-label loss, at least 0.
        grad_relu: ``block`` keeps pseudo-label gradients out of the classifier (LayerMatch); ``off`` lets them in
            (FixMatch); ``conflict`` (ours, for study) lets in the components whose sign agrees with the supervised
            gradient, and costs a second backward pass.
        avg_clustering: ``ema_classifier``, ``ema_outputs``, ``ema_teacher``, ``ema_centroids`` or ``none``.
        weight: ``a``, in ``[0, 1]``; None is 0.5. Avg-Clustering's share of the extractor's pseudo-label loss; with
            ``ema_outputs``, the average's share of the probabilities that pseudo-labels are made from.
        decay: decay of the centres, in ``[0, 1)``; None is the reading's own default.
        temperature: of ``ema_centroids`` only, above 0; None is 0.1.
        decoupled: ours, for study: a second linear head learns from labels and pseudo-labels as in FixMatch and
            sends its gradient to the extractor, beside the terms above; pseudo-labels come from the first.
        evaluate_head: with ``decoupled``, the head that is evaluated: ``clean`` (None is this) or ``pseudo``.
        gradient_scale: see :class:`LayerwiseRule`.

    Raises:
        UserError: a value is not legal, or an option is given where it has no effect.

    Example:
        >>> rule = LayerMatch(grad_relu="block", avg_clustering="ema_classifier", weight=0.5, decay=0.99)
        >>> rule.avg_clustering.weight
        0.5
    """

    def __init__(
        self,
        *,
        lambda_u: float = 1.0,
        grad_relu: str = "block",
        avg_clustering: str = "ema_classifier",
        weight: float | None = None,
        decay: float | None = None,
        temperature: float | None = None,
        decoupled: bool = False,
        evaluate_head: str | None = None,
        gradient_scale: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(lambda_u=lambda_u, gradient_scale=gradient_scale)
        check_choice("layerwise.grad_relu", grad_relu, GRAD_RELU)
        check_choice("layerwise.avg_clustering", avg_clustering, tuple(READINGS))
        check_bool("layerwise.decoupled", decoupled)
        if evaluate_head is not None:
            check_choice("layerwise.evaluate_head", evaluate_head, HEADS)
            if not decoupled:
                raise UserError(f"layerwise.evaluate_head={evaluate_head} needs layerwise.decoupled=true")
        self.grad_relu = grad_relu
        self.avg_clustering = make_avg_clustering(avg_clustering, weight=weight, decay=decay, temperature=temperature)
        self.needs_pseudo_head = decoupled
        self.evaluate_head = evaluate_head or "clean"

    def prepare(self, network: Network, *, num_unlabelled: int) -> None:
        """Make the centres; see :class:`LayerwiseRule`."""
        super().prepare(network, num_unlabelled=num_unlabelled)
        self.avg_clustering.prepare(network, num_unlabelled=num_unlabelled)

    @property
    def needs_teacher(self) -> bool:
        """Whether pseudo-labels come from the averaged network."""
        return self.avg_clustering.needs_teacher

    def average_outputs(self, probs_weak: Tensor, index: Tensor) -> Tensor:
        """The probabilities that pseudo-labels are made from; see :class:`LayerwiseRule`."""
        return self.avg_clustering.average_outputs(probs_weak, index)

    def observe(self, features_weak: Tensor, pseudo_labels: PseudoLabels) -> None:
        """Let the centres see confident weak features; see :class:`LayerwiseRule`."""
        self.avg_clustering.observe(features_weak, pseudo_labels)

    def forward(self, network: Network, views: ForwardPass, label: Tensor, pseudo_labels: PseudoLabels) -> LayerLosses:
        """The losses of one batch; see the class."""
        loss_supervised = supervised_loss(views.logits_labelled, label)
        to_features, to_classifier = head_losses(network.classifier, views.features_strong, pseudo_labels)
        loss_clustering = self.avg_clustering.loss(views.features_strong, pseudo_labels)

        share = self.avg_clustering.weight
        pseudo_features = (1 - share) * to_features + share * loss_clustering if share else to_features
        pseudo_classifier = torch.zeros_like(to_classifier) if self.grad_relu == "block" else to_classifier
        losses = LayerLosses(
            supervised=loss_supervised,
            pseudo_features=self.lambda_u * pseudo_features,
            pseudo_classifier=self.lambda_u * pseudo_classifier,
            parts={"supervised": loss_supervised, "pseudo": to_features, "avg_clustering": loss_clustering},
            features_strong=views.features_strong if share else None,
        )
        return self._add_pseudo_head(losses, network.pseudo_classifier, views, label, pseudo_labels)

    def _add_pseudo_head(
        self,
        losses: LayerLosses,
        head: nn.Linear | None,
        views: ForwardPass,
        label: Tensor,
        pseudo_labels: PseudoLabels,
    ) -> LayerLosses:
        if head is None:
            return losses
        loss_supervised = classifier_loss(head, views.features_labelled, label)
        to_features, to_classifier = head_losses(head, views.features_strong, pseudo_labels)
        return LayerLosses(
            supervised=losses.supervised + loss_supervised,
            pseudo_features=losses.pseudo_features + self.lambda_u * to_features,
            pseudo_classifier=losses.pseudo_classifier + self.lambda_u * to_classifier,
            parts=losses.parts | {"supervised_pseudo_head": loss_supervised, "pseudo_pseudo_head": to_features},
            features_strong=losses.features_strong,
        )

    @property
    def separates_gradients(self) -> bool:
        """Whether supervised and pseudo-label gradients must be taken apart."""
        return self.grad_relu == "conflict" or super().separates_gradients

    def combine_gradients(self, name: str, grad_supervised: Tensor, grad_pseudo: Tensor) -> Tensor:
        """The gradient of one parameter; see :class:`LayerwiseRule`."""
        if self.grad_relu == "conflict" and name.startswith("classifier."):
            grad_pseudo = keep_agreeing(grad_pseudo, grad_supervised)
        return grad_supervised + scale_for(name, self.gradient_scale) * grad_pseudo

    def discard_step(self) -> None:
        """Forget what was observed since the last optimizer step."""
        self.avg_clustering.discard_step()

    def after_step(self, network: Network, *, num_updates: int) -> None:
        """Move the centres; see :class:`LayerwiseRule`."""
        self.avg_clustering.after_step(network, num_updates=num_updates)

    def centres(self, network: Network) -> Tensor:
        """The centres of Avg-Clustering; see :class:`LayerwiseRule`."""
        return self.avg_clustering.centres(network)

    def evaluation_logits(self, network: Network, features: Tensor) -> Tensor:
        """Logits of the head that is evaluated."""
        head = network.classifier
        if self.evaluate_head == "pseudo" and network.pseudo_classifier is not None:
            head = network.pseudo_classifier
        return linear_float32(features, head.weight, head.bias)
