"""Debiased Self-Training: pseudo-labels teach a head of their own, and the extractor avoids the worst of them."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from layermatch.data.batch import Batch, Views
from layermatch.errors import check_choice, check_number
from layermatch.functional import (
    avoidance_loss,
    hard_pseudo_labels,
    probabilities,
    reversal_factor,
    reverse_gradient,
    supervised_loss,
)
from layermatch.layerwise import LayerwiseRule
from layermatch.layerwise.routing import loss_of
from layermatch.methods.base import RoutedMethod, unlabelled_of
from layermatch.methods.passes import together, without_gradient
from layermatch.methods.pseudo_labelling import record_quality
from layermatch.metrics import THRESHOLDS
from layermatch.networks import CLASSIFIER, EXTRACTOR, Network, Output, linear_head
from layermatch.parts import LABELS, PSEUDO_LABELS, Losses, Problem, Step, Term
from layermatch.policies import Policy, Predictions, PseudoLabels

__all__ = ["DST"]

#: The heads beside the main one, which are dropped after training.
PSEUDO_HEAD, WORST_HEAD = "pseudo_head", "worst_head"

WORST_LABELS = ("given", "predicted")


class DST(RoutedMethod):
    r"""The main head learns from labels alone; two further heads carry the pseudo-labels to the extractor.

    .. math::
        L &= H(y, h(f_l)) + \lambda_u \frac{1}{N} \sum_u m_u H(\hat y_u, h_p(f_s)) + \eta B \\
        B &= \eta' H(y, h_w(R f_l)) + \frac{1}{N} \sum_u -\log(1 - \mathrm{softmax}(h_w(R f_w))_{\hat y_u})

    with the pseudo-labels of the main head ``h`` on the weak view (``f_w``). The worst head ``h_w`` learns to be right
    on labelled images and wrong on unlabelled ones; the gradient is reversed on its way to the extractor (``R``), which
    so avoids features that allow such a head. ``R``'s factor grows from 0. ``h_p`` and ``h_w`` are three layers
    (D, 2D, 2D, K) with dropout, parameter groups of their own, and have no part in evaluation.

    For the main head this is Grad-ReLU, whatever the rule: no loss of pseudo-labels comes near it. But they reach the
    extractor by another head than the one that made them.

    Source: "Debiased Self-Training for Semi-Supervised Learning" (Chen et al., NeurIPS 2022, arXiv 2202.07136), and
    the authors' code (thuml/Transfer-Learning-Library).

    NOTE: The paper has the given labels in the first term of ``B``; the authors' code has the main head's predictions
    for the labelled images (``worst_labels=predicted``).

    NOTE: A later version of the authors' code gives the worst head BatchNorm in place of dropout, and the pseudo head
    one hidden layer; this is the first version. It counts the ramp in steps (300,000 of a million).

    NOTE: To fine-tune, the authors have ``eta=1``, ``eta_prime=2``, ``ramp_steps=1000``, ``hidden_layers=1`` and
    ``width=2048``, thresholds of 0.7 or 0.8, and a tenth of the learning rate for the extractor. They also put a layer
    of 1,024 units with BatchNorm and dropout between extractor and heads, and add a tenth of the loss of strongly
    augmented labelled images; here there is neither.

    Args:
        policy: The policy that makes pseudo-labels. The paper has a fixed threshold, 0.95.
        rule: Gives ``lambda_u``, the weight of the pseudo head's loss, and changes nothing else: ``grad_relu`` says
            what happens, and ``uniform`` is the same.
        eta: The weight of ``B``, at least 0.
        eta_prime: ``eta'``, the weight of its labelled term, at least 0.
        worst_labels: What ``h_w`` must say of labelled images: the ``given`` labels, or those ``predicted`` by the main
            head.
        reversal: The highest factor of the reversed gradient, at least 0.
        ramp: The share of the run in which it gets to 46 percent of that, in ``[0, 1]``; 0 is no ramp.
        dropout: The dropout of both heads, in ``[0, 1)``.
        ramp_steps: The steps in which the factor gets there, at least 1, in the place of ``ramp``; None takes that.
        hidden_layers: The hidden layers of both heads, 1 or 2.
        width: The units of a hidden layer, at least 1; None is twice the width of the features.

    Raises:
        UserError: A value is not legal, or the rule has losses of its own.
    """

    views: ClassVar[Views] = Views(unlabelled={"weak": "weak", "strong": "strong"})

    def __init__(
        self,
        *,
        policy: Policy,
        rule: LayerwiseRule,
        eta: float = 0.1,
        eta_prime: float = 1.0,
        worst_labels: str = "given",
        reversal: float = 0.1,
        ramp: float = 0.3,
        dropout: float = 0.5,
        ramp_steps: int | None = None,
        hidden_layers: int = 2,
        width: int | None = None,
    ) -> None:
        super().__init__(rule=rule)
        check_number("eta", eta, low=0)
        check_number("eta_prime", eta_prime, low=0)
        check_choice("worst_labels", worst_labels, WORST_LABELS)
        check_number("reversal", reversal, low=0)
        check_number("ramp", ramp, low=0, high=1)
        check_number("dropout", dropout, low=0, high=1, high_open=True)
        if ramp_steps is not None:
            check_number("ramp_steps", ramp_steps, low=1, integer=True)
        check_number("hidden_layers", hidden_layers, low=1, high=2, integer=True)
        if width is not None:
            check_number("width", width, low=1, integer=True)
        self.policy = policy
        self.eta = eta
        self.eta_prime = eta_prime
        self.worst_labels = worst_labels
        self.reversal = reversal
        self.ramp = ramp
        self.dropout = dropout
        self.ramp_steps = ramp_steps
        self.hidden_layers = hidden_layers
        self.width = width

    def heads(self, problem: Problem) -> dict[str, nn.Module]:
        """Return the pseudo head and the worst head."""
        sizes = problem.num_features, problem.num_classes
        make = partial(deep_head, *sizes, dropout=self.dropout, hidden_layers=self.hidden_layers, width=self.width)
        return {PSEUDO_HEAD: make(), WORST_HEAD: make()}

    def prepare(self, network: Network, problem: Problem) -> None:  # noqa: ARG002 -- see Method
        """Make the state of the policy; see :class:`~layermatch.methods.Method`."""
        self.policy.prepare(problem)

    def losses(self, batch: Batch, step: Step) -> Losses:
        """Return the losses of one batch; see the class."""
        unlabelled, label = unlabelled_of(batch), batch.labelled.label
        views = {"labelled": batch.labelled.views["weak"], **unlabelled.views}
        out = together(step.network, views)
        pseudo_labels, predictions = self.make_pseudo_labels(out, batch, step)
        strong = out["strong"].features
        logits = step.network.through_head(PSEUDO_HEAD, strong)
        reaches = frozenset({EXTRACTOR, PSEUDO_HEAD})
        own = self.policy.losses(Output(strong, {CLASSIFIER: logits}), pseudo_labels, predictions)
        return Losses(
            {
                "supervised": Term(
                    supervised_loss(out["labelled"].logits, label), LABELS, frozenset({EXTRACTOR, CLASSIFIER})
                ),
                "pseudo": Term(loss_of(logits, pseudo_labels), PSEUDO_LABELS, reaches, self.rule.lambda_u),
                **{name: term._replace(reaches=reaches) for name, term in own.items()},
                **self.worst_case(out, label, pseudo_labels, step),
            }
        )

    def make_pseudo_labels(self, out: dict[str, Output], batch: Batch, step: Step) -> tuple[PseudoLabels, Predictions]:
        """Return the targets and mask from the main head on the weak views."""
        unlabelled, logits = unlabelled_of(batch), out["weak"].logits
        if self.policy.needs_teacher:
            logits = without_gradient(step.average, unlabelled.views["weak"]).logits
        step.must_be_finite("weak_views", logits)
        predictions = Predictions(
            probs_weak=probabilities(logits),
            indices=unlabelled.indices,
            probs_labelled=probabilities(out["labelled"].logits),
            label=batch.labelled.label,
        )
        pseudo_labels: PseudoLabels = self.policy(predictions)
        record_quality(pseudo_labels, predictions.probs_weak, unlabelled.hidden_label, step=step)
        return pseudo_labels, predictions

    def worst_case(self, out: dict[str, Output], label: Tensor, pseudo_labels: PseudoLabels, step: Step) -> Losses:
        """Compute ``B``, whose gradient for the extractor is reversed; see the class."""
        length = self.ramp if self.ramp_steps is None else self.ramp_steps / step.max_steps
        factor = reversal_factor(step.progress, length=length, highest=self.reversal)
        labelled, weak = (
            step.network.through_head(WORST_HEAD, reverse_gradient(out[view].features, factor))
            for view in ("labelled", "weak")
        )
        if self.worst_labels == "predicted":
            label, _ = hard_pseudo_labels(out["labelled"].logits.detach())
        reaches = frozenset({EXTRACTOR, WORST_HEAD})
        return Losses(
            worst_labelled=Term(supervised_loss(labelled, label), LABELS, reaches, self.eta * self.eta_prime),
            worst_unlabelled=Term(avoidance_loss(weak, pseudo_labels.label), PSEUDO_LABELS, reaches, self.eta),
        )

    def readings(self) -> dict[str, Tensor]:
        """Return the policy's thresholds as they stand."""
        thresholds = self.policy.thresholds()
        return {} if thresholds is None else {THRESHOLDS.vector: thresholds}


def deep_head(
    num_features: int, num_classes: int, *, dropout: float, hidden_layers: int = 2, width: int | None = None
) -> nn.Module:
    """Return a head with hidden layers, which starts as a linear one does.

    Args:
        num_features: D.
        num_classes: K.
        dropout: The dropout after each hidden layer, in ``[0, 1)``.
        hidden_layers: Their number, at least 1.
        width: Their width; None is twice that of the features.
    """
    width = 2 * num_features if width is None else width
    layers: list[nn.Module] = []
    for size in (num_features, *[width] * (hidden_layers - 1)):
        layers += [linear_head(size, width), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, linear_head(width, num_classes))
