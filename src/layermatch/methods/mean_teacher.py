"""Mean Teacher: the averaged network teaches the live one."""

from __future__ import annotations

from typing import ClassVar

from layermatch.data.batch import Batch, Views
from layermatch.errors import check_number
from layermatch.functional import linear_ramp, probabilities, squared_error_of_probabilities, supervised_loss
from layermatch.layerwise import LayerwiseRule
from layermatch.methods.base import RoutedMethod, unlabelled_of
from layermatch.methods.passes import keep_running_statistics, normalising_alike, without_gradient
from layermatch.parts import LABELS, PSEUDO_LABELS, Losses, Step, Term

__all__ = ["MeanTeacher"]


class MeanTeacher(RoutedMethod):
    r"""The probabilities of the averaged network on one weak view are the live network's targets on another.

    .. math:: L = L_s + \lambda_u \, r(t) \, \frac{1}{N K} \sum_{u, k} \left(p_{uk} - \bar p_{uk}\right)^2, \qquad
        p = \mathrm{softmax}(f(w_2(u); \theta)), \quad \bar p = \mathrm{softmax}(f(w_1(u); \bar\theta))

    with r a linear ramp. The average is the one that is evaluated (``ema_decay``). Source: Mean Teacher (Tarvainen and
    Valpola 2017); weight and ramp as in TorchSSL. Its unlabelled batch is as large as the labelled one (``data.mu=1``).

    The teacher normalises by its own batch's statistics, as the student does, and as in TorchSSL and the authors' code.
    (By running statistics, which are of labelled images alone, it teaches the student to undo its normalisation: on
    digits with 10 labels, seed 0, that gave 44 % instead of 67 %, where labels alone have 72 %.)

    NOTE: Dropout is off in the teacher; in TorchSSL it is on.

    Args:
        rule: The rule that routes the consistency loss, ``lambda_u`` its weight (TorchSSL: 50); see
            :class:`~layermatch.methods.RoutedMethod`.
        ramp: The share of the run in which the weight grows from 0, in ``[0, 1]``.

    Raises:
        UserError: A value is out of range.
    """

    views: ClassVar[Views] = Views(unlabelled={"weak": "weak", "weak_2": "weak"})

    def __init__(self, *, rule: LayerwiseRule, ramp: float = 0.4) -> None:
        super().__init__(rule=rule)
        check_number("ramp", ramp, low=0, high=1)
        self.ramp = ramp

    def losses(self, batch: Batch, step: Step) -> Losses:
        """Return the losses of one batch; see the class."""
        labelled, unlabelled = batch.labelled, unlabelled_of(batch)
        with normalising_alike(step.average, step.network):
            target = probabilities(without_gradient(step.average, unlabelled.views["weak"]).logits)
        logits_labelled = step.network(labelled.views["weak"]).logits
        with keep_running_statistics(step.network):
            out = step.network(unlabelled.views["weak_2"])
        logits = self.rule.route(step.network, out).logits
        weight = self.rule.lambda_u * linear_ramp(step.progress, length=self.ramp)
        return Losses(
            supervised=Term(supervised_loss(logits_labelled, labelled.label), LABELS),
            consistency=Term(
                squared_error_of_probabilities(logits, target), PSEUDO_LABELS, self.rule.reached, weight=weight
            ),
        )
