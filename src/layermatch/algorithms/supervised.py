"""The baseline: labelled images only."""

from __future__ import annotations

import torch

from layermatch.algorithms.base import Algorithm
from layermatch.data.batch import Batch
from layermatch.functional import supervised_loss
from layermatch.layerwise import LayerLosses

__all__ = ["Supervised"]


class Supervised(Algorithm):
    r"""Cross-entropy on weak views of the labelled images, for all layers.

    .. math:: L = \frac{1}{B} \sum_i H(y_i, W f(w(x_i)) + b)

    Takes the arguments of :class:`~layermatch.algorithms.base.Algorithm`.
    """

    uses_unlabelled = False

    def losses(self, batch: Batch) -> LayerLosses:
        """The losses of one batch."""
        loss = supervised_loss(self.network(batch.labelled.image).logits, batch.labelled.label)
        zero = torch.zeros_like(loss)
        return LayerLosses(supervised=loss, pseudo_features=zero, pseudo_classifier=zero, parts={"supervised": loss})
