"""DASO: pseudo-labels by class prototypes, blended with those of the classifier, and features aligned to them."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from layermatch.data.batch import Batch
from layermatch.errors import check_number
from layermatch.functional import blend, blending_weights, probabilities, prototype_logits, pseudo_label_loss
from layermatch.layerwise import LayerwiseRule
from layermatch.methods.passes import without_gradient
from layermatch.methods.pseudo_labelling import BatchOutputs, PseudoLabelling
from layermatch.networks import CLASSIFIER, EXTRACTOR, Network, Output
from layermatch.parts import PSEUDO_LABELS, ClassQueue, Losses, PeriodicShares, Problem, Step, Term
from layermatch.policies import Policy, Predictions, PseudoLabels

__all__ = ["DASO"]


class DASO(PseudoLabelling):
    r"""FixMatch, or any of its family, with pseudo-labels that prototypes have part in.

    1. A queue for each class has the last L features of labelled images, by the averaged network; its mean is the
       prototype ``c_k``.
    2. .. math:: q = \mathrm{softmax}(\cos(f(w(u)), c) / T), \qquad p' = (1 - \upsilon_{\hat y}) p +
           \upsilon_{\hat y} q, \qquad \upsilon_k = (m_k / \max_j m_j)^{1 / T_{dist}}

       with :math:`\hat y = \arg\max p`, and m how often each class was the pseudo-label in the last full period. The
       policy makes pseudo-labels of ``p'``.
    3. .. math:: L = L_{back} + \lambda_{align} \frac{1}{N} \sum_u H\left(q_u, \cos(f(s(u)), c) / T\right)

    In the first part of the run there are neither blend nor alignment. The alignment reaches the extractor alone.

    Source: DASO (Oh et al. 2022, arXiv 2106.05682, section 3), and the authors' code, which this follows in what the
    paper leaves open: the queue has the features of this step in it, and m is counted over all images of a period.

    NOTE: The prototypes' features are those of the averaged network in evaluation mode, by its running statistics. The
    authors' code and USB have it in training mode, by the statistics of the labelled batch, and the authors' average
    warms up (``algorithm.ema_warmup=true`` does that here).

    Args:
        policy: The policy that makes pseudo-labels.
        rule: The rule that routes their losses.
        queue: L, at least 1.
        temperature: T, above 0.
        distribution_temperature: ``T_dist``, above 0; the authors give 1.5 to CIFAR-10 where the pool has the tail of
            the labels, and 0.3 where it has not.
        align_weight: ``lambda_align``, at least 0.
        warmup: The share of the run without blend and alignment, in ``[0, 1]``; 5,000 of 250,000 steps in the paper.
        period: The steps after which m is counted anew, at least 1.
        **options: Those of :class:`~layermatch.methods.PseudoLabelling`.

    Raises:
        UserError: A value is not legal, or ``skip_masked`` is asked for.

    Example:
        >>> from layermatch.layerwise import Uniform
        >>> from layermatch.policies import FixedThreshold
        >>> DASO(policy=FixedThreshold(threshold=0.95), rule=Uniform()).queue_length
        256
    """

    needs_masked: ClassVar[bool] = True

    def __init__(
        self,
        *,
        policy: Policy,
        rule: LayerwiseRule,
        queue: int = 256,
        temperature: float = 0.05,
        distribution_temperature: float = 1.5,
        align_weight: float = 1.0,
        warmup: float = 0.02,
        period: int = 100,
        **options: Any,
    ) -> None:
        super().__init__(policy=policy, rule=rule, **options)
        check_number("queue", queue, low=1, integer=True)
        check_number("temperature", temperature, low=0, low_open=True)
        check_number("distribution_temperature", distribution_temperature, low=0, low_open=True)
        check_number("align_weight", align_weight, low=0)
        check_number("warmup", warmup, low=0, high=1)
        check_number("period", period, low=1, integer=True)
        self.queue_length = queue
        self.temperature = temperature
        self.distribution_temperature = distribution_temperature
        self.align_weight = align_weight
        self.warmup = warmup
        self.period = period
        #: Whether the step is past the warm-up.
        self._blends = False

    def prepare(self, network: Network, problem: Problem) -> None:
        """Make the queues, the shares of the classes, and the state of policy and rule; see :class:`Method`."""
        super().prepare(network, problem)
        device = network.classifier.weight.device
        self.queue = ClassQueue(
            num_classes=problem.num_classes, num_features=problem.num_features, length=self.queue_length
        ).to(device)
        self.shares = PeriodicShares(num_classes=problem.num_classes, period=self.period).to(device)

    def make_pseudo_labels(
        self, weak: Output, labelled: Output | None, batch: Batch, step: Step
    ) -> tuple[PseudoLabels, Predictions]:
        """Make targets and mask from the blended probabilities; see :class:`~layermatch.methods.PseudoLabelling`."""
        features = without_gradient(step.average, batch.labelled.views["weak"], heads=()).features
        self.queue.see(features, batch.labelled.label)
        self._blends = step.progress >= self.warmup
        pseudo_labels, predictions = super().make_pseudo_labels(self.blended(weak), labelled, batch, step)
        self.shares.see(pseudo_labels.label)
        return pseudo_labels, predictions

    def blended(self, weak: Output) -> Output:
        """Return the same features, with logits whose softmax are the blended probabilities.

        Args:
            weak: What the network gave for the weak views, without gradient.
        """
        if not self._blends:
            return weak
        probs = probabilities(weak.logits)
        weights = blending_weights(self.shares.value, temperature=self.distribution_temperature)
        blended = blend(probs, self.semantic(weak), weights)
        # Not -inf, which would pass for an output that is no number.
        logits = blended.clamp(min=torch.finfo(blended.dtype).tiny).log()
        return Output(weak.features, {**weak.heads, CLASSIFIER: logits})

    @torch.no_grad()
    def semantic(self, weak: Output) -> Tensor:
        """Return the pseudo-labels by the prototypes, ``(N, K)``."""
        return probabilities(prototype_logits(weak.features, self.queue.prototypes, temperature=self.temperature))

    @torch.no_grad()
    def teach(self, weak: Tensor, average: Network) -> Tensor:
        """Return the logits of the averaged network, blended as the live one's are."""
        return self.blended(average(weak)).logits

    def more_losses(self, seen: BatchOutputs, step: Step) -> Losses:  # noqa: ARG002 -- see PseudoLabelling
        """Return the alignment of the strong views' features; see the class."""
        if not self._blends:
            return Losses()
        strong = seen.views["strong"].features
        logits = prototype_logits(strong, self.queue.prototypes, temperature=self.temperature)
        loss = pseudo_label_loss(logits, self.semantic(seen.weak), torch.ones(len(strong), device=strong.device))
        return Losses(alignment=Term(loss, PSEUDO_LABELS, frozenset({EXTRACTOR}), weight=self.align_weight))
