"""ABC: a second head that learns from as many images of every class, and is the one that is evaluated."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from layermatch.data.batch import Views
from layermatch.errors import UserError, check_number
from layermatch.functional import (
    annealed_rates,
    balancing_rates,
    confidence_mask,
    hard_pseudo_labels,
    probabilities,
    pseudo_label_loss,
)
from layermatch.layerwise import LayerwiseRule
from layermatch.methods.pseudo_labelling import BatchOutputs, PseudoLabelling
from layermatch.networks import CLASSIFIER, EXTRACTOR, Network, Output, linear_head
from layermatch.parts import LABELS, PSEUDO_LABELS, Losses, Problem, Step, Term
from layermatch.policies import Policy

__all__ = ["AuxiliaryBalancedClassifier"]

#: The auxiliary balanced classifier.
BALANCED = "balanced_classifier"


class AuxiliaryBalancedClassifier(PseudoLabelling):
    r"""FixMatch, or any of its family, and an auxiliary balanced classifier on the same features.

    .. math::
        L &= L_{back} + L_{cls} + \lambda_u L_{con} \\
        L_{cls} &= \frac{1}{B} \sum_i M(y_i) \, H(y_i, V f(w(x_i)) + c), \qquad M(k) \sim \mathrm{Bernoulli}(\rho_k),
        \quad \rho_k = \min_j n_j / n_k \\
        L_{con} &= \frac{1}{N} \sum_u \sum_{a = 1}^{2} \mathbf{1}[\max q_u \ge \tau] \, M_t(\hat q_u) \,
        H(q_u, V f(s_a(u)) + c), \qquad M_t(k) \sim \mathrm{Bernoulli}(1 - t (1 - \rho_k))

    with :math:`q = \mathrm{softmax}(V f(w(u)) + c)` without a gradient, :math:`\hat q` its most probable class, t the
    share of the run that is done, and n the labelled images of each class. ``L_back`` is the loss of the family: its
    pseudo-labels come from the classifier, and a layer-wise rule says what they reach. Both losses of the auxiliary
    head reach the extractor. The auxiliary head is the one that is evaluated.

    Source: ABC (Lee et al. 2021, arXiv 2110.10368, section 3), and the authors' code.

    NOTE: In the authors' code the backbone learns from both strong views too; here, as in FixMatch, from the first.
    NOTE: The authors' rates fall once in 500 of their 250,000 steps; here with every step.
    NOTE: USB has hard labels in the place of the soft target, one strong view, and rates that fall once an epoch.

    Args:
        policy: The policy that makes pseudo-labels for the classifier.
        rule: The rule that routes the classifier's losses; its ``lambda_u`` weighs ``L_con`` as well.
        balanced_threshold: ``tau`` of the auxiliary head's own pseudo-labels, in ``(0, 1]``.
        **options: Those of :class:`~layermatch.methods.PseudoLabelling`.

    Raises:
        UserError: A value is not legal, or ``skip_masked`` is asked for.

    Example:
        >>> from layermatch.layerwise import Uniform
        >>> from layermatch.policies import FixedThreshold
        >>> AuxiliaryBalancedClassifier(policy=FixedThreshold(threshold=0.95), rule=Uniform()).heads_sent
        ('classifier', 'balanced_classifier')
    """

    views: ClassVar[Views] = Views(unlabelled={"weak": "weak", "strong": "strong", "strong_2": "strong"})

    rates: Tensor

    def __init__(
        self, *, policy: Policy, rule: LayerwiseRule, balanced_threshold: float = 0.95, **options: Any
    ) -> None:
        super().__init__(policy=policy, rule=rule, **options)
        check_number("balanced_threshold", balanced_threshold, low=0, high=1, low_open=True)
        if self.skip_masked:
            raise UserError("skip_masked=true is not legal with ABC: its second head has pseudo-labels of its own")
        self.balanced_threshold = balanced_threshold

    @property
    def heads_sent(self) -> tuple[str, ...]:
        """The classifier and the auxiliary one."""
        return (CLASSIFIER, BALANCED)

    def heads(self, problem: Problem) -> dict[str, nn.Module]:
        """Return the rule's heads and the auxiliary classifier; see :class:`Method`."""
        return super().heads(problem) | {BALANCED: linear_head(problem.num_features, problem.num_classes)}

    def prepare(self, network: Network, problem: Problem) -> None:
        """Make the state, and the rates of the classes; see :class:`Method`."""
        super().prepare(network, problem)
        counts = torch.tensor(problem.label_counts or (1,) * problem.num_classes)
        self.register_buffer("rates", balancing_rates(counts).to(network.classifier.weight.device), persistent=False)

    def more_losses(self, seen: BatchOutputs, step: Step) -> Losses:
        """Return the losses of the auxiliary head; see the class."""
        label = seen.batch.labelled.label
        step.must_be_finite("weak_views_balanced", seen.weak.heads[BALANCED])
        target = probabilities(seen.weak.heads[BALANCED])
        hard, confidence = hard_pseudo_labels(target)
        kept = torch.bernoulli(annealed_rates(self.rates, step.progress)[hard])
        weight = confidence_mask(confidence, self.balanced_threshold) * kept
        consistency = [
            pseudo_label_loss(seen.views[view].heads[BALANCED], target, weight) for view in ("strong", "strong_2")
        ]
        supervised = pseudo_label_loss(
            seen.views["labelled"].heads[BALANCED], label, torch.bernoulli(self.rates[label])
        )
        reaches = frozenset({EXTRACTOR, BALANCED})
        return Losses(
            supervised_balanced=Term(supervised, LABELS, reaches),
            consistency_balanced=Term(
                consistency[0] + consistency[1], PSEUDO_LABELS, reaches, weight=self.rule.lambda_u
            ),
        )

    def outputs(self, network: Network, images: Tensor) -> Output:
        """Return the features, and logits of the auxiliary head; see :class:`Method`."""
        out: Output = network(images, heads=(BALANCED,))
        return Output(out.features, {CLASSIFIER: out.heads[BALANCED]})

    @property
    def evaluated_head(self) -> str | None:
        """The auxiliary head; see :class:`Method`."""
        return BALANCED if type(self).outputs is AuxiliaryBalancedClassifier.outputs else None
