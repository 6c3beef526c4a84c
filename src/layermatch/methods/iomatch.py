"""IOMatch: unlabelled images of classes that no label has, told apart by one head and taken as one class by another."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from layermatch.errors import check_number
from layermatch.functional import (
    confidence_mask,
    hard_pseudo_labels,
    one_vs_all_loss,
    one_vs_all_probabilities,
    open_set_targets,
    pseudo_label_loss,
)
from layermatch.methods.pseudo_labelling import BatchOutputs, PseudoLabelling
from layermatch.networks import CLASSIFIER, EXTRACTOR, Network, Output, linear_head
from layermatch.parts import LABELS, PSEUDO_LABELS, Losses, Problem, Step, Term
from layermatch.policies import Predictions, PseudoLabels

__all__ = ["IOMatch"]

#: A projection of the features, and the two heads upon it.
PROJECTION, ONE_VS_ALL, OPEN = "projection", "one_vs_all", "open"

#: An image is taken for one of the classes where it is less likely than this to be of none.
INLIER = 0.5


class IOMatch(PseudoLabelling):
    r"""Inliers learn their class, and inliers and outliers together learn K + 1 classes.

    .. math::
        L &= L_s + \lambda_{mb} L_{mb} + \lambda_u L_{ui} + \lambda_{op} L_{op} \\
        L_{ui} &= \frac{1}{N} \sum_u \mathbf{1}[s_u < 1/2] \, m_u H(p_u, W z_u + b) \\
        L_{op} &= \frac{1}{N} \sum_u \mathbf{1}[\max q_u \ge \tau_q] H(q_u, \ell^{open}_u)

    ``p`` are the probabilities of the weak view, ``m`` the policy's mask. A head "one_vs_all" says for each class
    whether the image is of it, and learns from labels (``L_mb``, :func:`~layermatch.functional.one_vs_all_loss`). With
    ``p`` it gives ``s``, how likely the image is of none of the classes, and ``q`` over K + 1 classes, the target of
    the head "open" (:func:`~layermatch.functional.open_set_targets`). Both heads are upon a projection of the features.
    The classifier is evaluated, on the classes that have labels. ``data.open_set`` makes pools with other classes.

    Targets are soft. A policy that gives soft targets of its own (``soft``, the default, gives aligned ones where
    ``pseudo_labels.alignment`` says so) has them in the place of ``p``; one of hard labels decides on the mask alone.

    Source: IOMatch (Li et al., ICCV 2023, arXiv 2308.13168), and the authors' code (nukezil/IOMatch). Their
    distribution alignment, which CIFAR-10's settings switch off, is a matter of the policy; the rotation loss, which
    all settings switch off, is left out.

    Args:
        open_threshold: ``tau_q``, the confidence that the head "open" asks for, in ``(0, 1]``.
        open_after: The share of the run before ``L_op`` counts, in ``[0, 1]``; the authors leave out the first of 256
            epochs.
        one_vs_all_weight: ``lambda_mb``, at least 0.
        open_weight: ``lambda_op``, at least 0.
        width: The width of the projection, at least 1.
        **options: Those of :class:`~layermatch.methods.PseudoLabelling`, but ``skip_masked``: masked strong views teach
            the head "open".

    Raises:
        UserError: A value is not legal.

    Example:
        >>> from layermatch.layerwise import Uniform
        >>> from layermatch.policies import FixedThreshold
        >>> IOMatch(policy=FixedThreshold(), rule=Uniform()).heads_sent
        ('classifier', 'projection')
    """

    needs_masked: ClassVar[bool] = True

    def __init__(
        self,
        *,
        open_threshold: float = 0.5,
        open_after: float = 1 / 256,
        one_vs_all_weight: float = 1.0,
        open_weight: float = 1.0,
        width: int = 128,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_number("open_threshold", open_threshold, low=0, high=1, low_open=True)
        check_number("open_after", open_after, low=0, high=1)
        check_number("one_vs_all_weight", one_vs_all_weight, low=0)
        check_number("open_weight", open_weight, low=0)
        check_number("width", width, low=1, integer=True)
        self.open_threshold = open_threshold
        self.open_after = open_after
        self.one_vs_all_weight = one_vs_all_weight
        self.open_weight = open_weight
        self.width = width

    @property
    def heads_sent(self) -> tuple[str, ...]:
        """The classifier, and the projection that the other heads are upon."""
        return (CLASSIFIER, PROJECTION)

    def heads(self, problem: Problem) -> dict[str, nn.Module]:
        """Return the rule's heads, the projection, and the heads upon it."""
        features, classes = problem.num_features, problem.num_classes
        one_vs_all = nn.Linear(self.width, 2 * classes, bias=False)
        nn.init.xavier_normal_(one_vs_all.weight)
        return super().heads(problem) | {
            PROJECTION: nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, self.width)),
            ONE_VS_ALL: one_vs_all,
            OPEN: linear_head(self.width, classes + 1),
        }

    def decide(self, predictions: Predictions, weak: Output, network: Network) -> PseudoLabels:
        """Return the soft targets, of the images that are taken for one of the classes."""
        pseudo_labels = super().decide(predictions, weak, network)
        target = pseudo_labels.target if pseudo_labels.target.is_floating_point() else predictions.probs_weak
        outside, _ = self.judge(target, weak, network)
        weight = pseudo_labels.weight * (outside < INLIER)
        return pseudo_labels._replace(target=target, weight=weight)

    def judge(self, probs: Tensor, weak: Output, network: Network) -> tuple[Tensor, Tensor]:
        """Compute ``s`` and ``q`` of the weak views, without a gradient; see the class.

        Args:
            probs: ``p``, ``(N, K)``.
            weak: What the network gave for the weak views.
            network: Gives the head.
        """
        logits = network.through_head(ONE_VS_ALL, weak.heads[PROJECTION]).detach()
        return open_set_targets(probs, one_vs_all_probabilities(logits))

    def more_losses(self, seen: BatchOutputs, step: Step) -> Losses:
        """Return the losses of the two heads; see the class."""
        network, label = step.network, seen.batch.labelled.label
        _, target = self.judge(seen.pseudo_labels.target, seen.weak, network)
        mask = confidence_mask(hard_pseudo_labels(target)[1], self.open_threshold)
        told = one_vs_all_loss(network.through_head(ONE_VS_ALL, seen.views["labelled"].heads[PROJECTION]), label)
        opened = pseudo_label_loss(network.through_head(OPEN, seen.views["strong"].heads[PROJECTION]), target, mask)
        weight = self.open_weight if step.progress >= self.open_after else 0.0
        return Losses(
            one_vs_all=Term(told, LABELS, frozenset({EXTRACTOR, PROJECTION, ONE_VS_ALL}), self.one_vs_all_weight),
            open=Term(opened, PSEUDO_LABELS, frozenset({EXTRACTOR, PROJECTION, OPEN}), weight),
        )
