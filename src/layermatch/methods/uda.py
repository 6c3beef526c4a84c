"""UDA: soft targets, and labels that count only once the network may know them."""

from __future__ import annotations

from typing import Any

from layermatch.errors import UserError, check_choice
from layermatch.functional import ANNEALING_FORMS, ANNEALING_SCHEDULES, annealed_supervised_loss, annealing_threshold
from layermatch.layerwise import LayerwiseRule
from layermatch.methods.pseudo_labelling import BatchOutputs, PseudoLabelling
from layermatch.networks import CLASSIFIER, EXTRACTOR, Network
from layermatch.parts import LABELS, Losses, Problem, Step, Term
from layermatch.policies import Policy

__all__ = ["UDA"]


class UDA(PseudoLabelling):
    r"""Pseudo-labelling with Training Signal Annealing of the labels.

    Its policy is :class:`~layermatch.policies.SharpenedTargets`. Where few labels would be learnt by heart before the
    unlabelled images teach anything, annealing leaves out the labelled images whose true class has a probability above

    .. math:: \eta_t = \alpha_t \left(1 - \tfrac{1}{K}\right) + \tfrac{1}{K},

    which grows from chance to 1 in the course of the run; see :func:`~layermatch.functional.annealing_threshold` and
    :func:`~layermatch.functional.annealed_supervised_loss`. Source: UDA (Xie et al. 2020).

    NOTE: Each process, and each of accumulated batches, divides by the number of its own labels that count.

    Args:
        policy: The policy that makes pseudo-labels.
        rule: The rule that routes the losses.
        tsa: How the threshold grows: ``none`` (all labels count throughout), ``linear``, ``log`` or ``exp``.
        tsa_form: ``paper`` (None is this) or ``torchssl``: that code and USB compare the largest probability in place
            of the true class's, and divide by all labelled images in place of those that count.
        **options: Those of :class:`~layermatch.methods.PseudoLabelling`.

    Raises:
        UserError: A value is not legal, or the rule has a head of its own, which learns from all labels.

    Example:
        >>> from layermatch.layerwise import Uniform
        >>> from layermatch.policies import SharpenedTargets
        >>> UDA(policy=SharpenedTargets(), rule=Uniform(), tsa="linear").tsa
        'linear'
    """

    def __init__(
        self, *, policy: Policy, rule: LayerwiseRule, tsa: str = "none", tsa_form: str | None = None, **options: Any
    ) -> None:
        super().__init__(policy=policy, rule=rule, **options)
        check_choice("tsa", tsa, ANNEALING_SCHEDULES)
        if tsa_form is not None:
            check_choice("tsa_form", tsa_form, ANNEALING_FORMS)
            if tsa == "none":
                raise UserError(f"tsa_form={tsa_form} needs tsa=linear, log or exp, not none")
        self.tsa = tsa
        self.tsa_form = tsa_form or "paper"

    def prepare(self, network: Network, problem: Problem) -> None:
        """Make the state of policy and rule; see :class:`Method`."""
        if self.tsa != "none" and self.rule.heads(problem):
            raise UserError(
                f"tsa={self.tsa} is not legal with a rule that has a head of its own, which learns from all labels: "
                "give tsa=none, or layerwise.decoupled=false"
            )
        super().prepare(network, problem)

    def more_losses(self, seen: BatchOutputs, step: Step) -> Losses:
        """Return the annealed loss of the labels, in place of the rule's loss of that name."""
        if self.tsa == "none":
            return Losses()
        logits, label = seen.views["labelled"].logits, seen.batch.labelled.label
        threshold = annealing_threshold(self.tsa, step.progress, num_classes=logits.shape[1])
        loss = annealed_supervised_loss(logits, label, threshold=threshold, form=self.tsa_form)
        return Losses(supervised=Term(loss, LABELS, frozenset({EXTRACTOR, CLASSIFIER})))
