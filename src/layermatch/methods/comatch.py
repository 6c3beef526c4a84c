"""CoMatch: class probabilities and embeddings regularise each other, by a memory bank and a graph."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import nn

from layermatch.data.batch import Batch, Views
from layermatch.errors import check_number
from layermatch.functional import graph_contrast_loss, memory_smoothed, pseudo_label_graph
from layermatch.methods.embeddings import PROJECTION, embeddings_of, projection_head
from layermatch.methods.pseudo_labelling import BatchOutputs
from layermatch.methods.queue_aligned import QueueAligned
from layermatch.networks import CLASSIFIER, EXTRACTOR, Network, Output
from layermatch.parts import PSEUDO_LABELS, Losses, MemoryBank, Problem, Step, Term
from layermatch.policies import Predictions

__all__ = ["CoMatch"]


class CoMatch(QueueAligned):
    r"""A memory bank smooths pseudo-labels, and a graph of pseudo-labels teaches embeddings.

    One step:

    1. ``p`` = the aligned probabilities of ``w(u)``.
    2. ``q`` = :func:`~layermatch.functional.memory_smoothed` of p, by the bank; the policy makes pseudo-labels of q.
    3. ``W`` = :func:`~layermatch.functional.pseudo_label_graph` of q.
    4. :math:`L = L_s + \lambda_u L_u + \lambda_c L_c`, with :math:`L_c` the
       :func:`~layermatch.functional.graph_contrast_loss` between W and the embeddings of ``s(u)`` and ``s_2(u)``. It
       reaches the extractor and the projection head.
    5. (embedding, p) of ``w(u)`` and (embedding, label) of ``w(x)`` go into the bank.

    Source: CoMatch (Li et al. 2021, algorithm 1); projection head and defaults as in the authors' code for CIFAR. Its
    policy is :class:`~layermatch.policies.SoftThreshold`, its rule :class:`~layermatch.layerwise.Uniform`.

    NOTE: Smoothing starts when the bank is full. The authors' code starts one step later than their bank is full, and
    on CIFAR their 2,560 rows are full after 5 steps.

    NOTE: Under DDP the graph is that of each rank's own images, as in the authors' code for one GPU; the bank has those
    of all ranks.

    Args:
        alpha: The share of an image's own probabilities in q, in ``[0, 1]``.
        temperature: ``T`` of smoothing and contrast, above 0.
        graph_threshold: The similarity of two q that makes an edge of W, in ``[0, 1]``.
        lambda_c: The weight of the contrast, at least 0.
        width: The width of an embedding, at least 1.
        bank_rows: The images that the bank holds, at least 1; not more than there are. 5 batches of 64 labelled and 448
            unlabelled images are 2,560.
        bank_from: The first step that is smoothed, counted from 0, at least 0; None waits until the bank is full. Rows
            that are still empty take their part of the weight, as in the authors' code.
        **options: Those of :class:`~layermatch.methods.queue_aligned.QueueAligned`; ``skip_masked`` is not legal.

    Raises:
        UserError: A value is not legal.

    Example:
        >>> from layermatch.layerwise import Uniform
        >>> from layermatch.policies import SoftThreshold
        >>> method = CoMatch(policy=SoftThreshold(threshold=0.95), rule=Uniform())
        >>> list(method.views.unlabelled), method.heads_sent
        (['weak', 'strong', 'strong_2'], ('classifier', 'projection'))
    """

    views: ClassVar[Views] = Views(unlabelled={"weak": "weak", "strong": "strong", "strong_2": "strong"})

    def __init__(
        self,
        *,
        alpha: float = 0.9,
        temperature: float = 0.2,
        graph_threshold: float = 0.8,
        lambda_c: float = 1.0,
        width: int = 64,
        bank_rows: int = 2560,
        bank_from: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_number("alpha", alpha, low=0, high=1)
        check_number("temperature", temperature, low=0, low_open=True)
        check_number("graph_threshold", graph_threshold, low=0, high=1)
        check_number("lambda_c", lambda_c, low=0)
        check_number("width", width, low=1, integer=True)
        check_number("bank_rows", bank_rows, low=1, integer=True)
        if bank_from is not None:
            check_number("bank_from", bank_from, low=0, integer=True)
        self.alpha = alpha
        self.temperature = temperature
        self.graph_threshold = graph_threshold
        self.lambda_c = lambda_c
        self.width = width
        self.bank_rows = bank_rows
        self.bank_from = bank_from

    @property
    def heads_sent(self) -> tuple[str, ...]:
        """The classifier and the projection."""
        return (CLASSIFIER, PROJECTION)

    def heads(self, problem: Problem) -> dict[str, nn.Module]:
        """Return the rule's heads and the projection; see :class:`Method`."""
        projection = projection_head(problem.num_features, self.width, slope=0.1)
        return {**super().heads(problem), PROJECTION: projection}

    def prepare(self, network: Network, problem: Problem) -> None:
        """Make the bank; see :class:`Method`."""
        super().prepare(network, problem)
        bank = MemoryBank(rows=self.bank_rows, width=self.width, problem=problem)
        self.bank = bank.to(network.classifier.weight.device)

    @torch.no_grad()
    def make_predictions(self, weak: Output, labelled: Output | None, batch: Batch, step: Step) -> Predictions:
        """Return aligned predictions, smoothed by the bank, which takes the batch; see :class:`PseudoLabelling`."""
        predictions = super().make_predictions(weak, labelled, batch, step)
        probs, keys = predictions.probs_weak, embeddings_of(weak)
        step.must_be_finite("embeddings", keys)
        smoothed = memory_smoothed(
            probs, keys, self.bank.keys, self.bank.probs, alpha=self.alpha, temperature=self.temperature
        )
        self.bank.see(keys, probs)
        one_hot = F.one_hot(batch.labelled.label, probs.shape[1]).to(probs.dtype)
        keys_labelled = embeddings_of(cast("Output", labelled))  # all views are sent: see needs_masked
        step.must_be_finite("embeddings_labelled", keys_labelled)
        self.bank.see(keys_labelled, one_hot)
        ready = self.bank.is_ready(step, self.bank_from)
        return predictions._replace(probs_weak=torch.where(ready, smoothed, probs))

    def more_losses(self, seen: BatchOutputs, step: Step) -> Losses:  # noqa: ARG002 -- see PseudoLabelling
        """Return the contrast between the graphs of pseudo-labels and of embeddings."""
        graph = pseudo_label_graph(seen.predictions.probs_weak, threshold=self.graph_threshold)
        first, second = (embeddings_of(seen.views[name]) for name in ("strong", "strong_2"))
        loss = graph_contrast_loss(first, second, graph, temperature=self.temperature)
        return Losses(contrast=Term(loss, PSEUDO_LABELS, frozenset({EXTRACTOR, PROJECTION}), self.lambda_c))
