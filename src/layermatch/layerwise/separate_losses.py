"""LayerMatch: the extractor and the classifier learn from separate losses."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from layermatch.distributed import all_reduce_mean_
from layermatch.errors import UserError, check_bool, check_choice
from layermatch.functional import gradient_gap, supervised_loss
from layermatch.layerwise.avg_clustering import READINGS, make_avg_clustering
from layermatch.layerwise.gradient_rule import AgreeingGradients
from layermatch.layerwise.routing import loss_of, routed_logits
from layermatch.layerwise.rule import LayerwiseRule
from layermatch.metrics import GRADIENT_GAP, LOSS_GAP
from layermatch.networks import CLASSIFIER, EXTRACTOR, Network, Output, linear_float32, linear_head
from layermatch.parts import LABELS, PSEUDO_LABELS, Losses, Problem, Term
from layermatch.policies import PseudoLabels

__all__ = ["SeparateLosses"]

#: The second head, which learns from pseudo-labels.
PSEUDO_CLASSIFIER = "pseudo_classifier"

GRAD_RELU = ("block", "conflict", "off")
HEADS = ("clean", "pseudo")


class SeparateLosses(LayerwiseRule):
    r"""Grad-ReLU for the classifier; for the extractor, Avg-Clustering where a reading is chosen.

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
        lambda_u: Weight of the pseudo-label loss, at least 0.
        grad_relu: ``block`` keeps pseudo-label gradients out of the classifier (LayerMatch); ``off`` lets them in
            (FixMatch); ``conflict`` (ours, for study) lets in the components whose sign agrees with the supervised
            gradient, and costs a second backward pass.
        avg_clustering: ``none``, ``ema_centroids``, ``ema_classifier``, ``ema_outputs`` or ``ema_teacher``. None of
            the four gained anything that could be seen over Grad-ReLU alone (docs/avg_clustering.md).
        weight: ``a``, in ``[0, 1]``; None is 0.5. Avg-Clustering's share of the extractor's pseudo-label loss; with
            ``ema_outputs``, the average's share of the probabilities that pseudo-labels are made from.
        decay: The decay of the centres, in ``[0, 1)``; None is the reading's own default.
        temperature: The temperature of ``ema_centroids``, above 0; None is 0.1. The other readings have none.
        decoupled: Ours, for study: a second linear head learns from labels and pseudo-labels as in FixMatch and
            sends its gradient to the extractor, beside the terms above; pseudo-labels come from the first. The nearest
            published relative is DPC (openreview ivaIwRZvTT, by its abstract): there a head that labels alone teach
            makes the pseudo-labels, and another classifier learns from them.
        evaluate_head: The head that is evaluated with ``decoupled``: ``clean`` (None is this) or ``pseudo``.

    Raises:
        UserError: A value is not legal, or an option is given where it has no effect.

    Example:
        >>> rule = SeparateLosses(grad_relu="block", avg_clustering="ema_classifier", weight=0.5, decay=0.99)
        >>> rule.avg_clustering.weight
        0.5
    """

    def __init__(
        self,
        *,
        lambda_u: float = 1.0,
        grad_relu: str = "block",
        avg_clustering: str = "none",
        weight: float | None = None,
        decay: float | None = None,
        temperature: float | None = None,
        decoupled: bool = False,
        evaluate_head: str | None = None,
    ) -> None:
        super().__init__(lambda_u=lambda_u)
        check_choice("grad_relu", grad_relu, GRAD_RELU)
        check_choice("avg_clustering", avg_clustering, tuple(READINGS))
        check_bool("decoupled", decoupled)
        if evaluate_head is not None:
            check_choice("evaluate_head", evaluate_head, HEADS)
            if not decoupled:
                raise UserError(f"evaluate_head={evaluate_head} needs decoupled=true")
        self.grad_relu = grad_relu
        self.reading = avg_clustering
        self.avg_clustering = make_avg_clustering(avg_clustering, weight=weight, decay=decay, temperature=temperature)
        self.decoupled = decoupled
        self.gradient_rule = AgreeingGradients(CLASSIFIER) if grad_relu == "conflict" else None
        self.evaluate_head = evaluate_head or "clean"

    def heads(self, problem: Problem) -> dict[str, nn.Module]:
        """Return the heads beside the classifier: the second one with ``decoupled``, none otherwise."""
        return {PSEUDO_CLASSIFIER: linear_head(problem.num_features, problem.num_classes)} if self.decoupled else {}

    def prepare(self, network: Network, problem: Problem) -> None:
        """Make the centres; see :class:`LayerwiseRule`."""
        self.avg_clustering.prepare(network, problem)

    @property
    def needs_teacher(self) -> bool:
        """Whether pseudo-labels come from the averaged network."""
        return self.avg_clustering.needs_teacher

    def average_outputs(self, probs_weak: Tensor, indices: Tensor) -> Tensor:
        """Return the probabilities that pseudo-labels are made from; see :class:`LayerwiseRule`."""
        return self.avg_clustering.average_outputs(probs_weak, indices)

    def observe(self, features_weak: Tensor, pseudo_labels: PseudoLabels) -> None:
        """Let the centres see confident weak features; see :class:`LayerwiseRule`."""
        self.avg_clustering.observe(features_weak, pseudo_labels)

    def forward(
        self, network: Network, labelled: Output, strong: Output, *, label: Tensor, pseudo_labels: PseudoLabels
    ) -> Losses:
        """Return the losses of one batch; see the class."""
        head, share, weight = network.classifier, self.avg_clustering.weight, self.lambda_u
        to_extractor = loss_of(routed_logits(head, strong.features, reaches_head=False), pseudo_labels)
        losses = Losses(
            # Not None, which is all groups: a second head learns nothing of the first one's loss.
            supervised=Term(supervised_loss(labelled.logits, label), LABELS, frozenset({EXTRACTOR, CLASSIFIER})),
            pseudo=Term(to_extractor, PSEUDO_LABELS, frozenset({EXTRACTOR}), (1 - share) * weight),
        )
        if not self.blocks:
            to_classifier = loss_of(routed_logits(head, strong.features.detach()), pseudo_labels)
            losses["pseudo_classifier"] = Term(to_classifier, PSEUDO_LABELS, frozenset({CLASSIFIER}), weight)
        if share:
            loss = self.avg_clustering.loss(strong.features, pseudo_labels)
            losses["avg_clustering"] = Term(loss, PSEUDO_LABELS, frozenset({EXTRACTOR}), share * weight)
        if self.decoupled:
            losses |= self._pseudo_head_losses(network, labelled, strong, label=label, pseudo_labels=pseudo_labels)
        return losses

    def _pseudo_head_losses(
        self, network: Network, labelled: Output, strong: Output, *, label: Tensor, pseudo_labels: PseudoLabels
    ) -> Losses:
        head = cast("nn.Linear", network.heads[PSEUDO_CLASSIFIER])
        reached = frozenset({EXTRACTOR, PSEUDO_CLASSIFIER})
        loss = loss_of(routed_logits(head, strong.features), pseudo_labels)
        return Losses(
            supervised_pseudo_head=Term(
                supervised_loss(routed_logits(head, labelled.features), label), LABELS, reached
            ),
            pseudo_pseudo_head=Term(loss, PSEUDO_LABELS, reached, self.lambda_u),
        )

    @property
    def blocks(self) -> bool:
        """Whether Grad-ReLU keeps pseudo-label gradients out of the classifier by a stop-gradient."""
        return self.grad_relu == "block"

    @property
    def reached(self) -> frozenset[str]:
        """The extractor; and the classifier, where Grad-ReLU does not keep pseudo-labels out of it."""
        return frozenset({EXTRACTOR} if self.blocks else {EXTRACTOR, CLASSIFIER})

    @property
    def own_losses(self) -> str | None:
        """Avg-Clustering or the second head, where there is one; see :class:`LayerwiseRule`."""
        if self.decoupled:
            return "decoupled=true"
        return None if self.reading == "none" else f"avg_clustering={self.reading}"

    def diagnose(self, losses: Losses, strong: Output) -> dict[str, tuple[Tensor, Tensor]]:
        r"""Return how far Avg-Clustering's loss is from the pseudo-label loss that it stands beside.

        ``avg_clustering/loss_gap`` is :math:`|L_{ac} - L_u| / L_u`, and ``avg_clustering/gradient_gap`` is
        :math:`\|\nabla_z L_{ac} - \nabla_z L_u\| / \|\nabla_z L_u\|`, with :math:`z` the strong views' features.
        Where both are near 0, Avg-Clustering changes nothing. Source: ours.

        Args:
            losses: The losses of one batch, with their graph, which is kept.
            strong: The outputs that the pseudo-label losses are of.

        Returns:
            Numerators and denominators, of the batches of all ranks; none without such a loss, and no gap of gradients
            where the extractor is frozen.
        """
        if "avg_clustering" not in losses:
            return {}
        loss, reference = losses["avg_clustering"].value, losses["pseudo"].value
        gaps = {LOSS_GAP.name: ((loss - reference).detach().abs(), reference.detach())}
        if strong.features.requires_grad:  # a frozen extractor's have no gradient
            gap, length = all_reduce_mean_(torch.stack(gradient_gap(loss, reference, strong.features))).sqrt()
            gaps[GRADIENT_GAP.name] = (gap, length)
        return gaps

    def centres(self, network: Network) -> Tensor:
        """Return the centres of Avg-Clustering; see :class:`LayerwiseRule`."""
        return self.avg_clustering.centres(network)

    def evaluation_logits(self, network: Network, features: Tensor) -> Tensor:
        """Return the logits of the head that is evaluated."""
        head = cast("nn.Linear", network.heads[self.evaluated_head])
        return linear_float32(features, head.weight, head.bias)

    @property
    def evaluated_head(self) -> str:
        """The head whose logits are evaluated; see :class:`LayerwiseRule`."""
        is_second = self.decoupled and self.evaluate_head == "pseudo"
        return PSEUDO_CLASSIFIER if is_second else CLASSIFIER
