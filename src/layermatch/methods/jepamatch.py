"""JEPAMatch: a pseudo-label policy, and embeddings of local views that are shaped class by class."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from layermatch.data.batch import Batch, Views
from layermatch.errors import UserError, check_choice, check_number
from layermatch.functional import (
    class_sums,
    repulsion_loss,
    shaping_degree,
    sketched_gaussian_loss,
    unit_directions,
    view_spread,
)
from layermatch.methods.base import unlabelled_of
from layermatch.methods.embeddings import PROJECTION
from layermatch.methods.pseudo_labelling import BatchOutputs, PseudoLabelling
from layermatch.networks import CLASSIFIER, EXTRACTOR, Network, Output
from layermatch.parts import PSEUDO_LABELS, Losses, Problem, Step, Term
from layermatch.policies import PseudoLabels

__all__ = ["JEPAMatch"]

CENTRES = ("local", "global")
SHAPED = ("local", "all")

#: What the deviation of embeddings falls to, from 1.
_SMALLEST = 0.1


class JEPAMatch(PseudoLabelling):
    r"""FlexMatch, and embeddings of V views of an image that are alike and have a Gaussian for each class.

    .. math::
        L = L_s + \lambda_u L_u + \lambda_r \left[(1 - \beta) L_{pred} + \beta L_{sig} + \gamma L_{rep}\right]

    With e the projections of the weak, the strong and M local views of an image u, and :math:`c_u` the mean of its
    local ones, ``L_pred`` is :func:`~layermatch.functional.view_spread` of all of them about :math:`c_u`, and

    .. math::
        L_{sig} = \mathrm{sketch}\left(e_{ul} - m_u \, \alpha \, \mathrm{sg}(\mu_{\hat y_u}); \,
        \sigma = 1 - 0.9 \alpha\right), \qquad L_{rep} = \mathrm{repulsion}(\mu)

    of the local views, with :func:`~layermatch.functional.sketched_gaussian_loss` along random directions and
    :func:`~layermatch.functional.repulsion_loss`. :math:`\mu_k` is the mean of the labelled projections of class k and
    of the :math:`c_u` that the policy accepts for it. :math:`\alpha` is
    :func:`~layermatch.functional.shaping_degree`; while it is 0, and in a batch where nothing is accepted, there is no
    repulsion. These losses reach the extractor and the projection, under any rule. The policy is FlexMatch's.

    Source: JEPAMatch (Aghababaei-Harandi, Sportisse and Amini 2026, arXiv 2604.21046), from the authors' code
    (aah94/JEPAMatch), which says where it departs from the paper.

    NOTE: By the authors' word the paper's repulsion has no weight (``repulsion=1.0``), and every number of its tables
    is of a weight of 1,000.

    NOTE: Local views are a forward of their own, as they have another size; they are normalised by their own batch
    statistics, and BatchNorm's running statistics see them as well, as in the authors' code.

    NOTE: Under DDP the directions and the embeddings that are compared are each rank's own, as in the authors' code.

    Args:
        num_local: M, the local views of each unlabelled image, at least 1.
        lambda_r: The weight of the three losses, at least 0.
        beta: The share of the Gaussian in the first two, in ``[0, 1]``.
        repulsion: gamma, the weight of the repulsion among them, at least 0.
        warmup: The share of the run before classes are told apart, in ``[0, 0.5]``.
        centre: The views whose mean is the centre: ``local``, or ``global`` for the weak and the strong one.
        shaped: The views whose projections are shaped: ``local`` or ``all``.
        num_directions: The random directions of a step, at least 1.
        width: The width of a projection, at least 1.
        hidden: The width of the layers within the projection, at least 1.
        **options: Those of :class:`~layermatch.methods.PseudoLabelling`; ``skip_masked`` is not legal.

    Raises:
        UserError: A value is not legal, or the extractor takes images of one size alone.

    Example:
        >>> from layermatch.layerwise import Uniform
        >>> from layermatch.policies import CurriculumThresholds
        >>> method = JEPAMatch(policy=CurriculumThresholds(), rule=Uniform(), num_local=2)
        >>> method.views.unlabelled
        {'weak': 'weak', 'strong': 'strong', 'local': 'local', 'local_2': 'local'}
    """

    needs_masked: ClassVar[bool] = True
    weak_learns: ClassVar[bool] = True

    def __init__(
        self,
        *,
        num_local: int = 6,
        lambda_r: float = 0.5,
        beta: float = 0.2,
        repulsion: float = 1.0,
        warmup: float = 0.25,
        centre: str = "local",
        shaped: str = "local",
        num_directions: int = 1024,
        width: int = 128,
        hidden: int = 512,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_number("num_local", num_local, low=1, integer=True)
        check_number("lambda_r", lambda_r, low=0)
        check_number("beta", beta, low=0, high=1)
        check_number("repulsion", repulsion, low=0)
        check_number("warmup", warmup, low=0, high=0.5)
        check_choice("centre", centre, CENTRES)
        check_choice("shaped", shaped, SHAPED)
        check_number("num_directions", num_directions, low=1, integer=True)
        check_number("width", width, low=1, integer=True)
        check_number("hidden", hidden, low=1, integer=True)
        self.local = ("local", *(f"local_{number}" for number in range(2, num_local + 1)))
        self.lambda_r, self.beta, self.repulsion = lambda_r, beta, repulsion
        self.warmup = warmup
        self.centre, self.shaped = centre, shaped
        self.num_directions = num_directions
        self.width, self.hidden = width, hidden

    @property
    def views(self) -> Views:  # type: ignore[override]
        """The views that the method asks for: a weak, a strong and M local ones of unlabelled images."""
        return Views(unlabelled={"weak": "weak", "strong": "strong", **dict.fromkeys(self.local, "local")})

    @property
    def heads_sent(self) -> tuple[str, ...]:
        """The classifier and the projection."""
        return (CLASSIFIER, PROJECTION)

    def heads(self, problem: Problem) -> dict[str, nn.Module]:
        """Return the rule's heads and the projection; see :class:`Method`."""
        projection = _projection_head(problem.num_features, self.hidden, self.width)
        return {**super().heads(problem), PROJECTION: projection}

    def views_to_send(self, batch: Batch) -> dict[str, Tensor]:
        """Return the views that learn, without the local ones, whose size is another."""
        views = super().views_to_send(batch)
        return {name: view for name, view in views.items() if name not in self.local}

    def more_losses(self, seen: BatchOutputs, step: Step) -> Losses:
        """Return what the projections learn; see the class."""
        local = self.send_local(seen.batch, step.network)
        whole = torch.stack([out.heads[PROJECTION] for out in (seen.weak, seen.views["strong"])])
        every = torch.cat([whole, local])  # (2 + M, N, width)
        centre = (local if self.centre == "local" else whole).mean(dim=0)
        shaped = local if self.shaped == "local" else every
        degree = shaping_degree(step.progress, warmup=self.warmup)
        labelled, label = seen.views["labelled"].heads[PROJECTION], seen.batch.labelled.label
        means, present = self.class_means(shaped, labelled, label, seen.pseudo_labels)
        accepted = (seen.pseudo_labels.weight > 0).to(local.dtype)
        middle = degree * accepted[:, None] * means.detach()[seen.pseudo_labels.label]
        gaussian = sketched_gaussian_loss(
            (shaped - middle).flatten(0, 1), self.directions().to(local), deviation=1 - (1 - _SMALLEST) * degree
        )
        repulsion = repulsion_loss(means, present) * accepted.amax()
        reached, weight = frozenset({EXTRACTOR, PROJECTION}), self.lambda_r
        values = {
            "prediction": (view_spread(every, centre), weight * (1 - self.beta)),
            "gaussian": (gaussian, weight * self.beta),
            "repulsion": (repulsion, weight * self.repulsion if degree else 0.0),
        }
        return Losses({name: Term(value, PSEUDO_LABELS, reached, share) for name, (value, share) in values.items()})

    def send_local(self, batch: Batch, network: Network) -> Tensor:
        """Return the projections of the local views, ``(M, N, width)``.

        Args:
            batch: The batch.
            network: The live network.

        Raises:
            UserError: The extractor does not take images of this size.
        """
        views = [unlabelled_of(batch).views[name] for name in self.local]
        try:
            out: Output = network(torch.cat(views), heads=(PROJECTION,))
        except UserError as error:
            size = "x".join(map(str, views[0].shape[2:]))
            raise UserError(
                f"JEPAMatch needs an extractor for images of any size, such as one that ends in a mean over all "
                f"places, and this one takes no local views of {size}: give another, or views.local_side=1"
            ) from error
        return torch.stack(out.heads[PROJECTION].chunk(len(views)))

    def directions(self) -> Tensor:
        """Return the directions that this step's distribution is seen along, ``(width, S)``, columns of length 1."""
        return unit_directions(torch.randn(self.num_directions, self.width)).T

    def class_means(
        self, shaped: Tensor, labelled: Tensor, label: Tensor, pseudo_labels: PseudoLabels
    ) -> tuple[Tensor, Tensor]:
        """Return the mean projection of each class, of labelled images and of those whose pseudo-label counts.

        Args:
            shaped: ``(V, N, width)``, the projections that are shaped; an image counts with its mean.
            labelled: ``(B, width)``, those of labelled images.
            label: ``(B,)`` int64.
            pseudo_labels: The pseudo-labels of the ``N`` unlabelled images.

        Returns:
            The means ``(K, width)``, 0 for a class without any; and which classes there are, ``(K,)`` bool.
        """
        accepted = (pseudo_labels.weight > 0).to(labelled.dtype)
        sums, counts = class_sums(
            torch.cat([labelled, shaped.mean(dim=0)]),
            torch.cat([label, pseudo_labels.label]),
            torch.cat([torch.ones_like(labelled[:, 0]), accepted]),
            num_classes=self.num_classes,
        )
        return sums / counts.clamp(min=1)[:, None], counts > 0

    def prepare(self, network: Network, problem: Problem) -> None:
        """Take the number of classes; see :class:`Method`."""
        super().prepare(network, problem)
        self.num_classes = problem.num_classes


def _projection_head(num_features: int, hidden: int, width: int) -> nn.Module:
    """Return three linear layers with BatchNorm."""
    return nn.Sequential(
        nn.Linear(num_features, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.GELU(),
        nn.Linear(hidden, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.GELU(),
        nn.Linear(hidden, width),
    )
