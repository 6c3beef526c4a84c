"""CR-Match: the classifier takes both views for the same class, and the features tell them apart."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layermatch.data.batch import Batch
from layermatch.errors import UserError, check_bool, check_number
from layermatch.functional import feature_distance_loss, quarter_turns
from layermatch.methods.base import unlabelled_of
from layermatch.methods.pseudo_labelling import BatchOutputs, PseudoLabelling
from layermatch.networks import CLASSIFIER, EXTRACTOR, Network
from layermatch.parts import PSEUDO_LABELS, Losses, Problem, Step, Term

__all__ = ["CRMatch"]

#: The head whose outputs for both views shall differ, and the one that tells by how much an image is turned.
DISTANCE, ROTATION = "distance", "rotation"


class CRMatch(PseudoLabelling):
    r"""FixMatch, whose features shall differ between the views of an image, and know how an image is turned.

    One step:

    1. Pseudo-labels of ``w(u)`` as the policy makes them.
    2. :math:`L = L_s + \lambda_u L_u + \lambda_d L_d + \lambda_r L_r`, with :math:`L_d` the
       :func:`~layermatch.functional.feature_distance_loss` between a linear head's outputs for ``s(u)`` and ``w(u)``,
       of the images that count, and :math:`L_r` the mean cross-entropy of another head, which tells by how many
       quarters an image is turned.

    :math:`L_d` and :math:`L_r` reach the extractor and the head of their own.

    Source: "Revisiting Consistency Regularization for Semi-Supervised Learning" (Fan, Kukleva and Schiele 2021), with
    the equations as in USB. Its policy is :class:`~layermatch.policies.FixedThreshold`, its rule
    :class:`~layermatch.layerwise.Uniform`.

    NOTE: USB never applies the weight of the rotation loss. We could not settle whether the paper's cosine is clamped
    at 0, as USB's is; ``clamped`` is the choice.

    NOTE: In USB the head of the distance reads the maps before pooling; here it reads the pooled features, which every
    network has.

    NOTE: The turned images are every mu-th of the batch's weak views, so as many as there are labelled images and the
    same on any number of ranks, and each in all four positions; USB draws that many from a loader of their own.

    NOTE: With ``forward=joint`` the distance's gradient goes to both views, as in USB with ``use_cat``; with ``split``
    and ``shared`` to the strong view alone, as in USB without.

    Args:
        lambda_d: The weight of the feature distance, at least 0.
        lambda_r: The weight of the rotation loss, at least 0; 0 leaves it out, with its head and images.
        clamped: Whether views that point in opposite directions are far enough apart.
        **options: Those of :class:`~layermatch.methods.PseudoLabelling`; ``skip_masked`` is not legal.

    Raises:
        UserError: A value is not legal, or images are not square.

    Example:
        >>> from layermatch.layerwise import Uniform
        >>> from layermatch.policies import FixedThreshold
        >>> CRMatch(policy=FixedThreshold(), rule=Uniform(), lambda_r=0.0).heads_sent
        ('classifier', 'distance')
    """

    needs_masked: ClassVar[bool] = True
    weak_learns: ClassVar[bool] = True

    def __init__(self, *, lambda_d: float = 1.0, lambda_r: float = 1.0, clamped: bool = True, **options: Any) -> None:
        super().__init__(**options)
        check_number("lambda_d", lambda_d, low=0)
        check_number("lambda_r", lambda_r, low=0)
        check_bool("clamped", clamped)
        self.lambda_d = lambda_d
        self.lambda_r = lambda_r
        self.clamped = clamped

    @property
    def changes_images(self) -> str:  # type: ignore[override]
        """The setting for which images are turned; see :class:`Method`."""
        return "lambda_r" if self.lambda_r else ""

    @property
    def heads_sent(self) -> tuple[str, ...]:
        """The classifier, the distance, and the rotation where it is asked for."""
        return (CLASSIFIER, DISTANCE, ROTATION) if self.lambda_r else (CLASSIFIER, DISTANCE)

    def heads(self, problem: Problem) -> dict[str, nn.Module]:
        """Return the rule's heads, the distance, and the rotation where it is asked for; see :class:`Method`."""
        width = problem.num_features
        heads = {**super().heads(problem), DISTANCE: nn.Linear(width, width)}
        if self.lambda_r:
            heads[ROTATION] = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4))
        return heads

    def prepare(self, network: Network, problem: Problem) -> None:
        """See that images can be turned; see :class:`Method`."""
        super().prepare(network, problem)
        height, width = problem.image_shape[1:]
        if self.lambda_r and height != width:
            raise UserError(f"images of {height}x{width} are not square: a quarter turn needs lambda_r=0")

    def views_to_send(self, batch: Batch) -> dict[str, Tensor]:
        """Return the views that learn, and the turned images."""
        views = super().views_to_send(batch)
        if self.lambda_r:
            weak, num_labelled = unlabelled_of(batch).views["weak"], len(batch.labelled.label)
            images = weak[:: max(len(weak) // num_labelled, 1)][:num_labelled]
            views[ROTATION] = quarter_turns(images.repeat(4, 1, 1, 1), _turns(4 * len(images), images))
        return views

    def more_losses(self, seen: BatchOutputs, step: Step) -> Losses:  # noqa: ARG002 -- see PseudoLabelling
        """Return the feature distance and the rotation loss."""
        strong, weak = seen.views["strong"].heads[DISTANCE], seen.weak.heads[DISTANCE]
        distance = feature_distance_loss(strong, weak, seen.pseudo_labels.weight, clamped=self.clamped)
        losses = Losses(distance=Term(distance, PSEUDO_LABELS, frozenset({EXTRACTOR, DISTANCE}), self.lambda_d))
        if self.lambda_r:
            logits = seen.views[ROTATION].heads[ROTATION]
            rotation = F.cross_entropy(logits, _turns(len(logits), logits))
            losses["rotation"] = Term(rotation, PSEUDO_LABELS, frozenset({EXTRACTOR, ROTATION}), self.lambda_r)
        return losses


def _turns(count: int, like: Tensor) -> Tensor:
    """Say by how many quarters each of four times as many images is turned: all by 0, then all by 1, 2 and 3."""
    return torch.arange(4, device=like.device).repeat_interleave(count // 4)
