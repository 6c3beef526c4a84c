"""SimMatch: two views of an image are as similar to each class, and to each labelled image."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from layermatch.data.batch import Batch
from layermatch.errors import check_choice, check_number
from layermatch.functional import aggregated, instance_similarity_loss, similarity_distribution, unfolded
from layermatch.methods.base import unlabelled_of
from layermatch.methods.embeddings import PROJECTION, embeddings_of, projection_head
from layermatch.methods.passes import without_gradient
from layermatch.methods.pseudo_labelling import BatchOutputs
from layermatch.methods.queue_aligned import QueueAligned
from layermatch.networks import CLASSIFIER, EXTRACTOR, Network, Output
from layermatch.parts import PSEUDO_LABELS, LabelledBank, Losses, Problem, Step, Term
from layermatch.policies import Predictions

__all__ = ["SimMatch"]


class SimMatch(QueueAligned):
    r"""Class probabilities and similarities to all labelled images correct each other.

    One step:

    1. ``p`` = the aligned probabilities of ``w(u)``, and ``s`` = its
       :func:`~layermatch.functional.similarity_distribution` over the bank.
    2. :math:`\hat s` = s :func:`~layermatch.functional.unfolded` by p, and :math:`q = c p + (1 - c) a` with a the
       similarities :func:`~layermatch.functional.aggregated` by class; the policy makes pseudo-labels of q.
    3. :math:`L = L_s + \lambda_u L_u + \lambda_{in} L_{in}`, with :math:`L_{in}` the
       :func:`~layermatch.functional.instance_similarity_loss` of ``s(u)``. It reaches the extractor and the projection
       head.
    4. The embeddings of ``w(x)`` go into the bank, which has a row for each labelled image.

    Source: SimMatch (Zheng et al. 2022, algorithm 1). Its policy is :class:`~layermatch.policies.SoftThreshold`, its
    rule :class:`~layermatch.layerwise.Uniform`. The defaults are those for CIFAR, as in USB; for ImageNet the authors
    have ``teacher=average``, ``bank_decay=0``, ``lambda_in=5``, ``lambda_u=10``, a threshold of 0.7 and a queue of 256.

    NOTE: The bank is used when every labelled image has been seen; the authors' code waits for the end of the first
    epoch.

    NOTE: The averaged teacher has BatchNorm's statistics of the live network; the authors' code averages them too.
    USB's configurations switch on EPASS, three averaged projections, which is no part of SimMatch.

    Args:
        share: ``c``, the share of p in q, in ``[0, 1]``.
        temperature: ``T`` of the similarities, above 0.
        lambda_in: The weight of the instance loss, at least 0.
        width: The width of an embedding, at least 1.
        teacher: What p, s and the bank's embeddings come from: ``live``, the network itself, or ``average``, the
            network of averaged weights.
        bank_decay: The decay of the bank's embeddings, in ``[0, 1)``; 0 replaces them.
        bank_from: The first step that uses the bank, counted from 0, at least 0; None waits until it is full.
        **options: Those of :class:`~layermatch.methods.queue_aligned.QueueAligned`; ``skip_masked`` is not legal.

    Raises:
        UserError: A value is not legal.

    Example:
        >>> from layermatch.layerwise import Uniform
        >>> from layermatch.policies import SoftThreshold
        >>> SimMatch(policy=SoftThreshold(threshold=0.95), rule=Uniform(), bank_decay=0.0).heads_sent
        ('classifier', 'projection')
    """

    TEACHERS: ClassVar[tuple[str, ...]] = ("live", "average")

    def __init__(
        self,
        *,
        share: float = 0.9,
        temperature: float = 0.1,
        lambda_in: float = 1.0,
        width: int = 128,
        teacher: str = "live",
        bank_decay: float = 0.7,
        bank_from: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_number("share", share, low=0, high=1)
        check_number("temperature", temperature, low=0, low_open=True)
        check_number("lambda_in", lambda_in, low=0)
        check_number("width", width, low=1, integer=True)
        check_choice("teacher", teacher, self.TEACHERS)
        check_number("bank_decay", bank_decay, low=0, high=1, high_open=True)
        if bank_from is not None:
            check_number("bank_from", bank_from, low=0, integer=True)
        self.share = share
        self.temperature = temperature
        self.lambda_in = lambda_in
        self.width = width
        self.teacher = teacher
        self.bank_decay = bank_decay
        self.bank_from = bank_from
        #: The calibrated similarities of the last batch's weak views, which its instance loss reads.
        self._target: Tensor | None = None

    @property
    def heads_sent(self) -> tuple[str, ...]:
        """The classifier and the projection."""
        return (CLASSIFIER, PROJECTION)

    def heads(self, problem: Problem) -> dict[str, nn.Module]:
        """Return the rule's heads and the projection; see :class:`Method`."""
        projection = projection_head(problem.num_features, self.width, slope=0.0)
        return {**super().heads(problem), PROJECTION: projection}

    def prepare(self, network: Network, problem: Problem) -> None:
        """Make the bank; see :class:`Method`."""
        super().prepare(network, problem)
        bank = LabelledBank(width=self.width, problem=problem, decay=self.bank_decay)
        self.bank = bank.to(network.classifier.weight.device)

    @torch.no_grad()
    def make_predictions(self, weak: Output, labelled: Output | None, batch: Batch, step: Step) -> Predictions:
        """Return aligned predictions, mixed with aggregated similarities; see :class:`PseudoLabelling`."""
        if self.teacher == "average":
            weak = without_gradient(step.average, unlabelled_of(batch).views["weak"], heads=self.heads_sent)
            labelled = without_gradient(step.average, batch.labelled.views["weak"], heads=self.heads_sent)
        predictions = super().make_predictions(weak, labelled, batch, step)
        probs, bank = predictions.probs_weak, self.bank
        keys = embeddings_of(weak)
        step.must_be_finite("embeddings", keys)
        similarity = similarity_distribution(keys, bank.keys, temperature=self.temperature)
        self._target = unfolded(similarity, probs, bank.label)
        of_classes = aggregated(similarity, bank.label, num_classes=probs.shape[1])
        keys_labelled = embeddings_of(cast("Output", labelled))  # all views are sent: see needs_masked
        step.must_be_finite("embeddings_labelled", keys_labelled)
        bank.see(keys_labelled, label=batch.labelled.label, indices=batch.labelled.indices)
        mixed = self.share * probs + (1 - self.share) * of_classes
        return predictions._replace(probs_weak=torch.where(bank.is_ready(step, self.bank_from), mixed, probs))

    def more_losses(self, seen: BatchOutputs, step: Step) -> Losses:
        """Return the instance loss; 0 until the bank is used."""
        target = cast("Tensor", self._target) * self.bank.is_ready(step, self.bank_from)
        keys = embeddings_of(seen.views["strong"])
        loss = instance_similarity_loss(keys, self.bank.keys, target, temperature=self.temperature)
        self._target = None
        return Losses(instance=Term(loss, PSEUDO_LABELS, frozenset({EXTRACTOR, PROJECTION}), self.lambda_in))
