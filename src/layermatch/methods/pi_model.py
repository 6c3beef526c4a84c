"""The Pi-Model: the network is asked twice, and its two answers are drawn together."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from layermatch.data.batch import Batch, Views
from layermatch.errors import check_choice, check_number
from layermatch.functional import linear_ramp, squared_error_of_probabilities, supervised_loss
from layermatch.layerwise import LayerwiseRule
from layermatch.methods.base import RoutedMethod, unlabelled_of
from layermatch.methods.passes import keep_running_statistics, without_gradient
from layermatch.networks import Network
from layermatch.parts import LABELS, PSEUDO_LABELS, Losses, Step, Term

__all__ = ["PiModel"]

LEARNS = ("both", "first", "second")


class PiModel(RoutedMethod):
    r"""The probabilities of two weak views of the same image are drawn together.

    .. math:: L = L_s + \lambda_u \, r(t) \, \frac{1}{N K} \sum_{u, k} \left(p^{(1)}_{uk} - p^{(2)}_{uk}\right)^2,
        \qquad p^{(i)} = \mathrm{softmax}(f(w_i(u); \theta))

    with r a linear ramp. Source: Temporal Ensembling (Laine and Aila 2017, algorithm 1); weight and ramp as in
    TorchSSL. Its unlabelled batch is as large as the labelled one (``data.mu=1``).

    NOTE: In the paper and in its authors' code the gradient goes through both views (``learns="both"``). The PyTorch
    codes take one view as a constant target: USB the first (``second`` learns), TorchSSL the second (``first`` learns).
    The gradient of ``both`` is the sum of these two, so about twice as large.

    NOTE: The running statistics of BatchNorm are those of labelled images, as in both PyTorch codes; in the authors'
    code, whose batch holds labelled and unlabelled images alike, they are those of all.

    NOTE: The ramp is linear, as in TorchSSL; the paper's is :math:`\exp(-5 (1 - t)^2)`.

    Args:
        rule: The rule that routes the consistency loss, ``lambda_u`` its weight (TorchSSL: 10); see
            :class:`~layermatch.methods.RoutedMethod`.
        learns: Which views learn: ``both``, ``first`` or ``second``.
        ramp: The share of the run in which the weight grows from 0, in ``[0, 1]``.

    Raises:
        UserError: A value is not legal.

    Example:
        >>> from layermatch.layerwise import Uniform
        >>> dict(PiModel(rule=Uniform(lambda_u=10.0)).views.unlabelled)
        {'weak': 'weak', 'weak_2': 'weak'}
    """

    views: ClassVar[Views] = Views(unlabelled={"weak": "weak", "weak_2": "weak"})

    def __init__(self, *, rule: LayerwiseRule, learns: str = "both", ramp: float = 0.4) -> None:
        super().__init__(rule=rule)
        check_choice("learns", learns, LEARNS)
        check_number("ramp", ramp, low=0, high=1)
        self.learns = learns
        self.ramp = ramp

    def losses(self, batch: Batch, step: Step) -> Losses:
        """Return the losses of one batch; see the class."""
        labelled, unlabelled = batch.labelled, unlabelled_of(batch)
        logits_labelled = step.network(labelled.views["weak"]).logits
        with keep_running_statistics(step.network):
            first, second = (
                self.logits(step.network, unlabelled.views[view], learns=self.learns in {"both", name})
                for view, name in (("weak", "first"), ("weak_2", "second"))
            )
        student, other = (first, second) if self.learns == "first" else (second, first)
        loss = squared_error_of_probabilities(student, other.softmax(dim=-1))
        weight = self.rule.lambda_u * linear_ramp(step.progress, length=self.ramp)
        return Losses(
            supervised=Term(supervised_loss(logits_labelled, labelled.label), LABELS),
            consistency=Term(loss, PSEUDO_LABELS, self.rule.reached, weight=weight),
        )

    def logits(self, network: Network, images: Tensor, *, learns: bool) -> Tensor:
        """Return the logits of a view, without gradient where it does not learn.

        Args:
            network: The live network.
            images: ``(N, C, H, W)``, normalised.
            learns: Whether it learns.
        """
        if not learns:
            return without_gradient(network, images).logits
        return self.rule.route(network, network(images)).logits
