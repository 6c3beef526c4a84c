"""R2-D2: a label of every image is learnt with the network, and predicted anew from time to time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from layermatch.data.batch import Batch, Views
from layermatch.errors import UserError, check_choice, check_number
from layermatch.functional import label_divergence, label_gradient, prediction_entropy, supervised_loss
from layermatch.functional.decipher import DIVERGENCES
from layermatch.layerwise import LayerwiseRule
from layermatch.methods.base import RoutedMethod, unlabelled_of
from layermatch.methods.passes import together
from layermatch.metrics import PSEUDO_ACCURACY
from layermatch.networks import Network
from layermatch.parts import LABELS, PSEUDO_LABELS, LabelTable, Losses, Problem, Stage, Step, Term, fixed_logits

__all__ = ["R2D2"]

#: The authors let the learning rate fall by a cosine of 350 epochs in the 300 of the supervised stage.
SUPERVISED_COSINE = 300 / 350


class R2D2(RoutedMethod):
    r"""The labels of unlabelled images are parameters, which move with the network's.

    With :math:`f = \mathrm{softmax}` of the network's logits and :math:`\tilde y` a row of a table of label logits,

    .. math:: L = \frac{1}{B + N} \sum_i \alpha \, \mathrm{KL}(f_i \| \mathrm{softmax}(\tilde y_i)) + \beta H(f_i),
        \qquad \tilde y \leftarrow \tilde y - \lambda \, \frac{\partial L}{\partial \tilde y}

    over the ``B`` labelled and ``N`` unlabelled images of a batch. The rows of labelled images stay 10 on their class.
    A run has four stages:

    1. Cross-entropy on labelled images alone.
    2. The table starts from the network's logits for the whole pool; network and table learn by L.
    3. As 2, with the table predicted anew at the start of each of several rounds.
    4. The table is predicted once more, and the network learns by cross-entropy with its most probable classes.

    Source: R2-D2 (Wang and Wu 2020, arXiv 1908.04345); lengths and learning rates as in the authors' code for CIFAR-10,
    whose batches have 32 labelled and 96 unlabelled images on each of four GPUs.

    NOTE: L is a mean over the images of a step, so a row of the table moves the less the more images there are. On one
    process with ``data.batch_size=32 data.mu=3`` a quarter of the authors' step has ``lambda`` 1000 in the place of
    their 4000.

    NOTE: Labelled images are also in the pool here; the authors' unlabelled batch has none.

    NOTE: Every stage draws the same batches. The authors' first stage has larger batches of labelled images, and in the
    last one, labelled images are as frequent as in the data set.

    NOTE: The authors start stages 2 and 4 with fresh momentum; here it goes on.

    Args:
        rule: The rule that routes the losses on unlabelled images, ``lambda_u`` their weight (in the paper 1); see
            :class:`~layermatch.methods.RoutedMethod`.
        supervised: The share of the run that stage 1 takes, in ``[0, 1]``.
        decipher: The share of stage 2.
        reprediction: The share of stage 3, whose rounds are of equal length. The rest of the run is stage 4.
        supervised_rate: What stage 1 multiplies the learning rate by, at least 0; it then falls by a cosine.
        decipher_rate: What stage 2 multiplies it by.
        reprediction_rates: What the rounds of stage 3 multiply it by; at least one.
        finetune_rate: What stage 4 multiplies it by; it then falls to 0 by a cosine.
        class_weight: alpha, at least 0.
        entropy_weight: beta, at least 0.
        label_rate: lambda, at least 0.
        divergence: ``kl_reverse`` is :math:`\mathrm{KL}(f \| y)`, the paper's; ``kl`` and ``mse`` are options of the
            authors' code, see :func:`~layermatch.functional.label_divergence`.

    Raises:
        UserError: A value is out of range, or the stages are longer than the run.

    Example:
        >>> from layermatch.layerwise import Uniform
        >>> [round(stage.start, 4) for stage in R2D2(rule=Uniform()).stages]
        [0.0, 0.09, 0.52, 0.6275, 0.735, 0.8425, 0.95]
    """

    views: ClassVar[Views] = Views(unlabelled={"weak": "weak"})

    def __init__(
        self,
        *,
        rule: LayerwiseRule,
        supervised: float = 0.09,
        decipher: float = 0.43,
        reprediction: float = 0.43,
        supervised_rate: float = 5 / 3,
        decipher_rate: float = 1.0,
        reprediction_rates: Sequence[float] = (1.0, 2 / 3, 1 / 3, 1 / 30),
        finetune_rate: float = 1 / 12,
        class_weight: float = 0.1,
        entropy_weight: float = 0.03,
        label_rate: float = 4000.0,
        divergence: str = "kl_reverse",
    ) -> None:
        super().__init__(rule=rule)
        check_choice("divergence", divergence, DIVERGENCES)
        check_rates(reprediction_rates)
        shares = {"supervised": supervised, "decipher": decipher, "reprediction": reprediction}
        for name, share in shares.items():
            check_number(name, share, low=0, high=1)
        if sum(shares.values()) > 1 + 1e-9:
            raise UserError(
                f"supervised, decipher and reprediction take {sum(shares.values()):g} of the run: give less"
            )
        numbers = {
            "supervised_rate": supervised_rate, "decipher_rate": decipher_rate, "finetune_rate": finetune_rate,
            "class_weight": class_weight, "entropy_weight": entropy_weight, "label_rate": label_rate,
        }  # fmt: skip
        for name, number in numbers.items():
            check_number(name, number, low=0)
        self.class_weight, self.entropy_weight = class_weight, entropy_weight
        self.label_rate = label_rate
        self.divergence = divergence
        rounds = len(reprediction_rates)
        lengths = [0.0, supervised, decipher, *[reprediction / rounds] * rounds]
        starts = [min(start, 1.0) for start in accumulate(lengths)]
        rates = [supervised_rate, decipher_rate, *reprediction_rates, finetune_rate]
        cosines = [SUPERVISED_COSINE, *[0.0] * (1 + rounds), 1.0]
        self.stages = tuple(Stage(*each) for each in zip(starts, rates, cosines, strict=True))

    def prepare(self, network: Network, problem: Problem) -> None:  # noqa: ARG002 -- see Method
        """Make the table; see :class:`~layermatch.methods.Method`."""
        if problem.pool_labels is None:
            raise UserError("R2D2 needs to know which images of the pool are labelled")
        self.table = LabelTable(problem.pool_labels, num_classes=problem.num_classes, rate=self.label_rate)

    def begin_stage(self, stage: int, predict: Callable[[], Tensor]) -> None:
        """Predict the table; see :class:`~layermatch.methods.Method`."""
        if stage > 0:
            self.table.assign(predict())

    def losses(self, batch: Batch, step: Step) -> Losses:
        """Return the losses of one batch; see the class."""
        labelled, unlabelled = batch.labelled, unlabelled_of(batch)
        stage = self.stage_of(step)
        if stage == 0:
            logits = step.network(labelled.views["weak"]).logits
            return Losses(supervised=Term(supervised_loss(logits, labelled.label), LABELS))
        out = together(step.network, {"labelled": labelled.views["weak"], "unlabelled": unlabelled.views["weak"]})
        logits = out["labelled"].logits
        logits_pool = self.rule.route(step.network, out["unlabelled"]).logits
        rows = self.table.logits[unlabelled.indices]
        record_labels(rows.argmax(dim=1), unlabelled.hidden_label, step=step)
        images = len(logits) + len(logits_pool)
        if stage == len(self.stages) - 1:
            supervised = F.cross_entropy(logits, labelled.label, reduction="sum")
            pseudo = F.cross_entropy(logits_pool, rows.argmax(dim=1), reduction="sum")
        else:
            supervised = self.decipher(logits, fixed_logits(labelled.label, logits.shape[1])).sum()
            pseudo = self.decipher(logits_pool, rows).sum()
            scale = self.rule.lambda_u * self.class_weight / images
            self.table.see(unlabelled.indices, scale * label_gradient(logits_pool, rows, kind=self.divergence))
        return Losses(
            supervised=Term(supervised / images, LABELS),
            pseudo=Term(pseudo / images, PSEUDO_LABELS, self.rule.reached, weight=self.rule.lambda_u),
        )

    def decipher(self, logits: Tensor, label_logits: Tensor) -> Tensor:
        """Return the loss of each image: how far it is from its label, and how undecided the network is."""
        far = label_divergence(logits, label_logits, kind=self.divergence)
        return self.class_weight * far + self.entropy_weight * prediction_entropy(logits)


def check_rates(rates: object) -> None:
    """Refuse what is no list of factors of the learning rate.

    Args:
        rates: What was given as ``reprediction_rates``.

    Raises:
        UserError: It is no list, it is empty, or a number is below 0.
    """
    if not isinstance(rates, Sequence) or isinstance(rates, str) or not rates:
        raise UserError(f"reprediction_rates={rates!r} is not legal: give a list of numbers, one for each round")
    for rate in rates:
        check_number("reprediction_rates", rate, low=0)


def record_labels(label: Tensor, hidden_label: Tensor, *, step: Step) -> None:
    """Log how many labels of the table are right, of the images whose true class is known."""
    known = (hidden_label >= 0).float()
    step.record({}, {PSEUDO_ACCURACY.name: ((known * (label == hidden_label)).sum(), known.sum())})
