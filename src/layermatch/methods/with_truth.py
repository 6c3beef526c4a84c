"""FixMatch and LayerMatch that are measured against the truth, for study: they learn nothing from it."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layermatch.catalogue import COSINE, RATIO, SHARE, Metric, Panel
from layermatch.data.batch import Batch
from layermatch.distributed import all_reduce_mean_
from layermatch.errors import UserError
from layermatch.functional import cosine_similarity, product_float32
from layermatch.methods.base import unlabelled_of
from layermatch.methods.pseudo_labelling import PseudoLabelling
from layermatch.networks import Network, Output
from layermatch.parts import PSEUDO_LABELS, Losses, Step
from layermatch.policies import Predictions, PseudoLabels

__all__ = ["CLASS_WRONG", "TRUTH_COSINE", "WithTruth", "true_loss"]

TRUTH_COSINE = Metric(
    "truth/*/cosine",
    COSINE,
    "Cosine of the pseudo-label gradient with that of the truth, *",
    "whether pseudo-labels pull the layer where the true classes of the same images would: 1 is there, 0 across",
    part="layer",
    panel=Panel("truth", "Cosine with the gradient of the truth"),
)
CLASS_WRONG = Metric(
    "truth/per_class_wrong/*",
    SHARE,
    "Pseudo-labels of the class that count and are wrong",
    "how many of the pseudo-labels of the class that count are wrong, where the truth is known",
    part="class",
    over_interval=RATIO,
    panel=Panel("truth", "Share of wrong ones, by class"),
)


class WithTruth(PseudoLabelling):
    r"""Measure, beside learning, how pseudo-labels differ from the true classes that nobody shows the network.

    With each measurement of ``layers/*`` (every ``algorithm.layer_gradients_every`` steps) it takes, for each layer
    group g,

    .. math:: \cos_g = \frac{\langle \nabla_g L_p, \nabla_g L_t \rangle}{\|\nabla_g L_p\| \, \|\nabla_g L_t\|}

    with :math:`L_p` the loss of pseudo-labels as the rule routes it, and :math:`L_t` the cross-entropy of the same
    strong views with their true classes, masked or not. And at every step it counts, for each class, which share of the
    pseudo-labels that count is wrong: what a network is wrong about and teaches itself is its confirmation bias.
    Source: ours. What is learnt is that of :class:`~layermatch.methods.PseudoLabelling`, to the bit, and so are the
    arguments. It takes two backward passes more for a measurement. Gradient rules that take gradients apart
    (``layerwise.grad_relu=conflict``, ``algorithm.gradient_scale``) come after it, and are not in it.

    Raises:
        UserError: ``skip_masked`` is given: the true gradient is of all strong views.
    """

    metrics: ClassVar[tuple[Metric, ...]] = (TRUTH_COSINE, CLASS_WRONG)

    #: The network and the true classes ``(N,)`` of the last batch; -1 where unknown.
    _seen: tuple[Network, Tensor] | None = None

    def losses(self, batch: Batch, step: Step) -> Losses:
        """Return the losses of one batch; see :class:`~layermatch.methods.PseudoLabelling`."""
        if self.skip_masked:
            raise UserError(
                f"skip_masked=true is not legal with {type(self).__name__}, which measures all strong views"
            )
        self._seen = (step.network, unlabelled_of(batch).hidden_label)
        return super().losses(batch, step)

    def make_pseudo_labels(
        self, weak: Output, labelled: Output | None, batch: Batch, step: Step
    ) -> tuple[PseudoLabels, Predictions]:
        """Return the targets and mask, and count those that are wrong."""
        pseudo_labels, predictions = super().make_pseudo_labels(weak, labelled, batch, step)
        hidden = unlabelled_of(batch).hidden_label
        label = F.one_hot(pseudo_labels.label, predictions.probs_weak.shape[1]).to(pseudo_labels.weight.dtype)
        counted = pseudo_labels.weight * (hidden >= 0)
        wrong = counted * (pseudo_labels.label != hidden)
        step.record({}, {CLASS_WRONG.vector: (product_float32(wrong, label), product_float32(counted, label))})
        return pseudo_labels, predictions

    def diagnose(self, losses: Losses) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the cosine of each layer group beside the rule's ratios; see :class:`Method`."""
        ratios = super().diagnose(losses)
        pseudo = losses.of(PSEUDO_LABELS)
        if self._seen is None or self._strong is None or not pseudo.requires_grad:
            return ratios
        network, hidden = self._seen
        groups = network.layer_groups()
        of_pseudo = _gradients(pseudo, groups)
        of_truth = _gradients(true_loss(self._strong.logits, hidden), groups)
        for group in of_pseudo:
            # Undefined where one of the two is 0, and then left out of the interval's mean.
            cosine = cosine_similarity(of_pseudo[group], of_truth[group])
            ratios[TRUTH_COSINE.of(group)] = (cosine, torch.ones_like(cosine))
        return ratios


def true_loss(logits: Tensor, hidden_label: Tensor) -> Tensor:
    """Return the mean cross-entropy with the true classes, of images whose class is known; 0 where none is.

    Args:
        logits: ``(N, K)`` float, with their graph.
        hidden_label: ``(N,)`` int64, -1 where unknown.

    Example:
        >>> true_loss(torch.zeros(3, 2), torch.tensor([1, -1, 0]))
        tensor(0.6931)
    """
    known = (hidden_label >= 0).to(logits.dtype)
    each = F.cross_entropy(logits, hidden_label.clamp(min=0), reduction="none")
    return (known * each).sum() / known.sum().clamp(min=1)


def _gradients(loss: Tensor, groups: dict[str, list[tuple[str, nn.Parameter]]]) -> dict[str, Tensor]:
    """Return the gradient of a loss for each layer group as one long vector, the mean over all ranks."""
    learnt = {group: [each for _, each in named if each.requires_grad] for group, named in groups.items()}
    learnt = {group: parameters for group, parameters in learnt.items() if parameters}
    every = [each for parameters in learnt.values() for each in parameters]
    found = torch.autograd.grad(loss, every, retain_graph=True, materialize_grads=True)
    flat = all_reduce_mean_(torch.cat([grad.reshape(-1) for grad in found]))
    sizes = [sum(each.numel() for each in parameters) for parameters in learnt.values()]
    return dict(zip(learnt, torch.split(flat, sizes), strict=True))
