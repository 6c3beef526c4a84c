"""FineSSL: margins against the bias of a pretrained network, and confidence from a head that does not share it."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from layermatch.data.batch import Batch, Views
from layermatch.distributed import all_reduce_mean_
from layermatch.errors import UserError, check_number
from layermatch.functional import (
    balanced_margins,
    confidence_mask,
    hard_pseudo_labels,
    learning_status,
    probabilities,
    pseudo_label_loss,
    smoothed_loss_of_accepted,
    supervised_loss,
    with_margin,
)
from layermatch.layerwise import LayerwiseRule
from layermatch.methods.base import RoutedMethod, unlabelled_of
from layermatch.methods.passes import together
from layermatch.methods.pseudo_labelling import record_quality
from layermatch.networks import CLASSIFIER, EXTRACTOR, Network, linear_float32, linear_head
from layermatch.parts import LABELS, PSEUDO_LABELS, LatestLabels, Losses, Problem, Step, Term
from layermatch.policies import PseudoLabels

__all__ = ["FineSSL"]

#: The head that says how sure to be, on features that it does not teach.
AUXILIARY = "auxiliary"

#: The views that learn from pseudo-labels.
STRONG = ("strong", "strong_2")


class FineSSL(RoutedMethod):
    r"""Pseudo-labels of the main head, weighed by the confidence of another one, with a margin for each class.

    .. math::
        L &= H(y, h(f_l) + \delta_y) + H(y, g(\bar f_l)) + \lambda_u L_u + L_g, \qquad \bar f = \mathrm{sg}(f) \\
        L_u &= \frac{1}{2 N} \sum_{u, a} c_u \mathbf{1}[c_u \ge \tau_{min}] \,
        H(\hat y_u, h(f_{s_a(u)}) + \delta_{\hat y_u}), \qquad c_u = \max \mathrm{softmax}(g(\bar f_{w(u)})) \\
        L_g &= \frac{\sum_{u, a} m_u H_s(\hat y_u, g(\bar f_{s_a(u)}))}{2 \sum_u m_u}, \qquad
        m_u = \mathbf{1}[\max \mathrm{softmax}(h(f_{w(u)})) \ge \tau]

    with :math:`\hat y` the most probable class of the main head h on the weak view, ``H_s`` cross-entropy with smoothed
    labels, and two strong views. The margin of a class is added to the logits of all others: it is larger for classes
    that fewer images of the pool were lately said to be with confidence, see
    :func:`~layermatch.functional.balanced_margins`. The auxiliary head g starts as a copy of h, teaches the extractor
    nothing, and has no part in evaluation.

    Source: "Erasing the Bias: Fine-Tuning Foundation Models for Semi-Supervised Learning" (Gan and Wei, ICML 2024,
    arXiv 2405.11756), and the authors' code (Gank0078/FineSSL). They tune prompts in CLIP's ViT-B/16 with heads that
    start from texts; here the network is whatever ``model`` says, and the heads start as its classifier does.

    NOTE: The authors count the classes anew in each epoch of 500 steps (``period``).

    NOTE: While one class, or no prediction, fills the whole pool, the authors' code leaves the counts as they were;
    here they are those of the formula.

    NOTE: ``L_g`` is over the images of all processes; each of accumulated batches divides by the number of its own.

    Args:
        rule: The rule that routes ``L_u``, and its weight ``lambda_u`` (the authors: 1 for CIFAR-10, 3 for CIFAR-100).
        margin: alpha, the scale of the margins, at least 0.
        threshold: tau, the confidence of the main head that the auxiliary one asks for, in ``(0, 1]``.
        min_threshold: ``tau_min``, in ``[0, 1]``.
        count_threshold: The confidence of the main head with which an image counts for its class, in ``(0, 1]``.
        smoothing: The share of a smoothed label that other classes have, in ``[0, 1)``.
        period: The steps after which the images of each class are counted anew, at least 1.

    Raises:
        UserError: A value is not legal, or the rule has losses of its own.

    Example:
        >>> from layermatch.layerwise import Uniform
        >>> dict(FineSSL(rule=Uniform()).views.unlabelled)
        {'weak': 'weak', 'strong': 'strong', 'strong_2': 'strong'}
    """

    views: ClassVar[Views] = Views(unlabelled={"weak": "weak", "strong": "strong", "strong_2": "strong"})

    def __init__(
        self,
        *,
        rule: LayerwiseRule,
        margin: float = 8.0,
        threshold: float = 0.7,
        min_threshold: float = 0.0,
        count_threshold: float = 0.7,
        smoothing: float = 0.5,
        period: int = 500,
    ) -> None:
        super().__init__(rule=rule)
        check_number("margin", margin, low=0)
        check_number("threshold", threshold, low=0, high=1, low_open=True)
        check_number("min_threshold", min_threshold, low=0, high=1)
        check_number("count_threshold", count_threshold, low=0, high=1, low_open=True)
        check_number("smoothing", smoothing, low=0, high=1, high_open=True)
        check_number("period", period, low=1, integer=True)
        self.margin = margin
        self.threshold = threshold
        self.min_threshold = min_threshold
        self.count_threshold = count_threshold
        self.smoothing = smoothing
        self.period = period

    def heads(self, problem: Problem) -> dict[str, nn.Module]:
        """Return the auxiliary head."""
        return {AUXILIARY: linear_head(problem.num_features, problem.num_classes)}

    def prepare(self, network: Network, problem: Problem) -> None:
        """Start the auxiliary head, and the counts; see :class:`~layermatch.methods.Method`.

        Raises:
            UserError: ``smoothing`` would give another class as much of a target as its own.
        """
        classes = problem.num_classes
        if self.smoothing >= 1 - 1 / classes:
            raise UserError(
                f"smoothing={self.smoothing} is not legal with {classes} classes, whose own would have no more than "
                f"the others: give a number below {1 - 1 / classes:.3g}"
            )
        network.heads[AUXILIARY].load_state_dict(network.classifier.state_dict())
        self.latest = LatestLabels(num_classes=problem.num_classes, pool=problem.num_unlabelled, period=self.period).to(
            network.classifier.weight.device
        )

    def losses(self, batch: Batch, step: Step) -> Losses:
        """Return the losses of one batch; see the class."""
        network, label, unlabelled = step.network, batch.labelled.label, unlabelled_of(batch)
        out = together(network, {"labelled": batch.labelled.views["weak"], **unlabelled.views})
        sure = {view: auxiliary(network, each.features) for view, each in out.items()}
        margins = self.margins()
        pseudo_labels, mask = self.make_pseudo_labels(out["weak"].logits, sure["weak"], batch, step)
        target, weight = pseudo_labels.label, pseudo_labels.weight
        strong = [
            pseudo_label_loss(with_margin(self.rule.route(network, out[view]).logits, target, margins), target, weight)
            for view in STRONG
        ]
        share = all_reduce_mean_(mask.to(sure["weak"].dtype).mean())
        told = [
            smoothed_loss_of_accepted(sure[view], target, mask, smoothing=self.smoothing, share=share)
            for view in STRONG
        ]
        own = frozenset({AUXILIARY})
        return Losses(
            supervised=Term(
                supervised_loss(with_margin(out["labelled"].logits, label, margins), label),
                LABELS,
                frozenset({EXTRACTOR, CLASSIFIER}),
            ),
            supervised_auxiliary=Term(supervised_loss(sure["labelled"], label), LABELS, own),
            pseudo=Term((strong[0] + strong[1]) / 2, PSEUDO_LABELS, self.rule.reached, self.rule.lambda_u),
            pseudo_auxiliary=Term((told[0] + told[1]) / 2, PSEUDO_LABELS, own),
        )

    @torch.no_grad()
    def make_pseudo_labels(self, logits: Tensor, sure: Tensor, batch: Batch, step: Step) -> tuple[PseudoLabels, Tensor]:
        """Return the targets of the main head, weighed by the other's confidence, and what that one learns from.

        Args:
            logits: The main head's of the weak views, ``(N, K)``.
            sure: The auxiliary head's.
            batch: The batch.
            step: The step that it belongs to.
        """
        unlabelled = unlabelled_of(batch)
        step.must_be_finite("weak_views", logits)
        probs = probabilities(logits.detach())
        target, of_main = hard_pseudo_labels(probs)
        _, confidence = hard_pseudo_labels(probabilities(sure.detach()))
        weight = confidence * confidence_mask(confidence, self.min_threshold)
        self.latest.see(unlabelled.indices, target, of_main >= self.count_threshold)
        pseudo_labels = PseudoLabels(target, weight, target, confidence)
        record_quality(pseudo_labels, probs, unlabelled.hidden_label, step=step)
        return pseudo_labels, confidence_mask(of_main, self.threshold)

    def margins(self) -> Tensor:
        """Return the margin of each class as the counts stand, ``(K,)`` float64."""
        return balanced_margins(learning_status(self.latest.counts, warmup=False), scale=self.margin)


def auxiliary(network: Network, features: Tensor) -> Tensor:
    """Return the logits of the auxiliary head, whose losses do not reach the features.

    Args:
        network: The network with the head.
        features: ``(N, D)``.
    """
    head = network.get_submodule(AUXILIARY)
    return linear_float32(features.detach(), head.get_parameter("weight"), head.get_parameter("bias"))
