"""The baseline: labelled images only."""

from __future__ import annotations

from layermatch.data.batch import Batch
from layermatch.functional import supervised_loss
from layermatch.methods.base import Method
from layermatch.parts import Losses, Step, Term

__all__ = ["Supervised"]


class Supervised(Method):
    r"""Cross-entropy on weak views of the labelled images, for all layers.

    .. math:: L = \frac{1}{B} \sum_i H(y_i, W f(w(x_i)) + b)
    """

    def losses(self, batch: Batch, step: Step) -> Losses:
        """Return the loss of one batch; see the class."""
        logits = step.network(batch.labelled.views["weak"]).logits
        return Losses(supervised=Term(supervised_loss(logits, batch.labelled.label)))
