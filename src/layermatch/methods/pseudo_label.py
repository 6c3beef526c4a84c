"""Pseudo-Label: the network's own classes are its targets on the same view."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from layermatch.data.batch import Batch, Views
from layermatch.errors import check_number
from layermatch.functional import linear_ramp
from layermatch.layerwise import LayerwiseRule
from layermatch.methods.passes import detached, keep_running_statistics
from layermatch.methods.pseudo_labelling import PseudoLabelling
from layermatch.networks import Network, Output
from layermatch.parts import PSEUDO_LABELS, Losses, Step
from layermatch.policies import Policy

__all__ = ["PseudoLabel"]


class PseudoLabel(PseudoLabelling):
    r"""Pseudo-labels of the weak view teach that view itself, more and more.

    .. math:: L = L_s + \lambda_u \, r(t) \, \frac{1}{N} \sum_u m_u H(\hat y_u, f(w(u))), \qquad
        \hat y_u = \arg\max \mathrm{sg}(f(w(u)))

    with r a linear ramp, and targets and mask of the policy. Any policy and any rule goes with it: the weak view takes
    the place of the strong one. Source: Pseudo-Label (Lee 2013); threshold, ramp and passes as in TorchSSL and USB. Its
    unlabelled batch is as large as the labelled one (``data.mu=1``).

    NOTE: Lee has no threshold, a weight that stays at 0 for 100 epochs and then grows to 3 until epoch 600. The passes
    are two, each normalised by its own batch's statistics, and the running ones are those of labelled images.

    Args:
        policy: The policy that makes pseudo-labels.
        rule: The rule that routes the losses.
        ramp: The share of the run in which the weight of all losses of pseudo-labels grows from 0, in ``[0, 1]``.

    Raises:
        UserError: A value is out of range.

    Example:
        >>> from layermatch.layerwise import SeparateLosses
        >>> from layermatch.policies import FixedThreshold
        >>> dict(PseudoLabel(policy=FixedThreshold(), rule=SeparateLosses()).views.unlabelled)
        {'weak': 'weak'}
    """

    views: ClassVar[Views] = Views(unlabelled={"weak": "weak"})

    def __init__(self, *, policy: Policy, rule: LayerwiseRule, ramp: float = 0.4) -> None:
        super().__init__(policy=policy, rule=rule)
        check_number("ramp", ramp, low=0, high=1)
        self.ramp = ramp

    def losses(self, batch: Batch, step: Step) -> Losses:
        """Return the losses of one batch; see the class."""
        ramp = linear_ramp(step.progress, length=self.ramp)
        return Losses(
            {
                name: term._replace(weight=ramp * term.weight) if term.source == PSEUDO_LABELS else term
                for name, term in super().losses(batch, step).items()
            }
        )

    def send(self, views: dict[str, Tensor], weak: Tensor, network: Network) -> tuple[dict[str, Output], Output]:
        """Send labelled and weak views, both with gradient, the weak one in the strong one's place."""
        out = {name: network(images, heads=self.heads_sent) for name, images in views.items()}
        with keep_running_statistics(network):
            out["strong"] = network(weak, heads=self.heads_sent)
        return out, detached(out["strong"])
