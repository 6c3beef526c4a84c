"""Avg-Clustering: what pulls the features to stable cluster centres.

NOTE: We know the abstract and published summaries of "LayerMatch: Do Pseudo-labels Benefit All Layers?" (arXiv
2406.14207): Avg-Clustering integrates consistent outputs towards stable clustering centres. Its equation is in none
of them. The readings below are ours; they are choices of one option so that they can be compared.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layermatch.distributed import all_reduce_sum_
from layermatch.errors import UserError, check_number
from layermatch.functional import centroid_loss, class_sums, ema, warmup_decay
from layermatch.layerwise.routing import loss_of
from layermatch.networks import Network, linear_float32
from layermatch.parts import OutputAverage, Problem, Step, StepState
from layermatch.policies import PseudoLabels

__all__ = [
    "READINGS",
    "AvgClustering",
    "EmaCentroids",
    "EmaClassifier",
    "EmaOutputs",
    "EmaTeacher",
    "make_avg_clustering",
]


class AvgClustering(StepState):
    """No averaging (``avg_clustering=none``), and the interface of the other readings."""

    #: The share of the extractor's pseudo-label loss that :meth:`loss` takes, ``a``.
    weight = 0.0

    #: Whether pseudo-labels come from the averaged network.
    needs_teacher = False

    def prepare(self, network: Network, problem: Problem) -> None:
        """Make the state for this network and problem."""

    def average_outputs(self, probs_weak: Tensor, indices: Tensor) -> Tensor:  # noqa: ARG002 -- see EmaOutputs
        """Return the probabilities that pseudo-labels are made from, ``(N, K)``."""
        return probs_weak

    def loss(self, features_strong: Tensor, pseudo_labels: PseudoLabels) -> Tensor:  # noqa: ARG002
        """Return the clustering loss, a scalar with gradient to the features only."""
        return features_strong.new_zeros(())

    def observe(self, features_weak: Tensor, pseudo_labels: PseudoLabels) -> None:
        """See the weak views of one batch."""

    def centres(self, network: Network) -> Tensor:
        """Return the cluster centres ``(K, D)``; a reading without any gives the classifier's rows."""
        return network.classifier.weight


class EmaClassifier(AvgClustering):
    r"""Centres are an exponential moving average of the classifier's rows.

    A row of ``W`` is the centre that the features of its class are pulled to, so a stable centre is its average:

    .. math::
        \bar W \leftarrow \beta \bar W + (1 - \beta) W, \quad \bar b \text{ likewise}, \qquad
        L_{ac} = \frac{1}{N} \sum_u m_u H(\hat y_u, \bar W z_u + \bar b)

    with :math:`\beta_t = \min(\beta, (1+t)/(10+t))`. Source: ours; see the module's NOTE.

    Args:
        weight: ``a``, in ``[0, 1]``.
        decay: ``beta``, in ``[0, 1)``.
    """

    centre_weight: Tensor
    centre_bias: Tensor

    def __init__(self, *, weight: float = 0.5, decay: float = 0.999) -> None:
        super().__init__()
        self.weight = weight
        self.decay = decay

    def prepare(self, network: Network, problem: Problem) -> None:  # noqa: ARG002
        """Start the centres at the classifier's first values."""
        self.register_buffer("centre_weight", network.classifier.weight.detach().clone())
        self.register_buffer("centre_bias", network.classifier.bias.detach().clone())

    def loss(self, features_strong: Tensor, pseudo_labels: PseudoLabels) -> Tensor:
        """Return the clustering loss; see the class."""
        logits = linear_float32(features_strong, self.centre_weight, self.centre_bias)
        return loss_of(logits, pseudo_labels)

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """Move the centres towards the classifier."""
        decay, classifier = warmup_decay(self.decay, step.number), step.network.classifier
        self.centre_weight.copy_(ema(self.centre_weight, classifier.weight, decay))
        self.centre_bias.copy_(ema(self.centre_bias, classifier.bias, decay))

    def centres(self, network: Network) -> Tensor:  # noqa: ARG002
        """Return the averaged rows of the classifier."""
        return self.centre_weight


class EmaOutputs(AvgClustering):
    r"""Pseudo-labels come from an average of each sample's own outputs over time.

    .. math::
        P_i \leftarrow \beta P_i + (1 - \beta) p_i \text{ (bias-corrected)}, \qquad \hat p_i = (1 - a) p_i + a P_i

    There is no loss of its own. Source: ours, with the average of :class:`~layermatch.parts.OutputAverage`.

    Args:
        weight: ``a``, in ``[0, 1]``.
        decay: ``beta``, in ``[0, 1)``.
    """

    def __init__(self, *, weight: float = 0.5, decay: float = 0.9) -> None:
        super().__init__()
        # No loss has a share, so AvgClustering.weight stays 0.
        self.outputs = OutputAverage(share=weight, decay=decay)

    def prepare(self, network: Network, problem: Problem) -> None:
        """Start an empty table."""
        self.outputs.prepare(problem, device=network.classifier.weight.device)

    def average_outputs(self, probs_weak: Tensor, indices: Tensor) -> Tensor:
        """Return the mixture of this step's outputs and of the average with these outputs in it."""
        mixture: Tensor = self.outputs(probs_weak, indices)
        return mixture


class EmaTeacher(AvgClustering):
    r"""Pseudo-labels come from the averaged network, the one that is evaluated.

    .. math:: p = \mathrm{softmax}(\bar W \bar f(w(u)) + \bar b)

    with the parameters' average :math:`\bar\theta` of :class:`~layermatch.parts.WeightAverage`, in evaluation mode.
    There is no loss of its own. Source: ours, after Mean Teacher (Tarvainen and Valpola 2017). It costs one more
    forward of the weak views.
    """

    needs_teacher = True


class EmaCentroids(AvgClustering):
    r"""Centres are class means of confident weak features, averaged over time.

    .. math::
        c_k \leftarrow \beta c_k + (1 - \beta) \operatorname{mean}\{z_w : \hat y = k, m = 1\}, \qquad
        L_{ac} = \frac{1}{N} \sum_u m_u H(\hat y_u, \cos(z_u, c) / T)

    A class starts at its first mean; until then it is left out. Source: ours; see the module's NOTE.

    Args:
        weight: ``a``, in ``[0, 1]``.
        decay: ``beta``, in ``[0, 1)``.
        temperature: ``T``, above 0.
    """

    centroids: Tensor

    def __init__(self, *, weight: float = 0.5, decay: float = 0.99, temperature: float = 0.1) -> None:
        super().__init__()
        self.weight = weight
        self.decay = decay
        self.temperature = temperature
        #: For each batch of the step, the sum of each class's features and their number.
        self._seen: list[tuple[Tensor, Tensor]] = []

    def prepare(self, network: Network, problem: Problem) -> None:  # noqa: ARG002
        """Start without centres."""
        self.register_buffer("centroids", torch.zeros_like(network.classifier.weight.detach()))

    def loss(self, features_strong: Tensor, pseudo_labels: PseudoLabels) -> Tensor:
        """Return the clustering loss; see the class."""
        return centroid_loss(
            features_strong,
            self.centroids,
            pseudo_labels.label,
            pseudo_labels.weight,
            temperature=self.temperature,
        )

    @torch.no_grad()
    def observe(self, features_weak: Tensor, pseudo_labels: PseudoLabels) -> None:
        """Add the confident weak features of one batch."""
        classes = len(self.centroids)
        self._seen.append(class_sums(features_weak, pseudo_labels.label, pseudo_labels.weight, num_classes=classes))

    @torch.no_grad()
    def after_step(self, step: Step) -> None:  # noqa: ARG002 -- see StepState
        """Move the centres towards the means of the step's batches."""
        sums, counts = (all_reduce_sum_(torch.stack(parts).sum(dim=0)) for parts in zip(*self._seen, strict=True))
        mean = sums / counts.clamp(min=1e-12)[:, None]
        is_new = self.centroids.norm(dim=1, keepdim=True) == 0
        moved = torch.where(is_new, mean, ema(self.centroids, mean, self.decay))
        self.centroids.copy_(torch.where(counts[:, None] > 0, moved, self.centroids))
        self.discard_step()

    def discard_step(self) -> None:
        """Forget the features of the step."""
        self._seen = []

    def centres(self, network: Network) -> Tensor:  # noqa: ARG002
        """Return the averaged class means; 0 for a class that has none yet."""
        return self.centroids


#: The readings of Avg-Clustering, by the name that ``layerwise.avg_clustering`` takes, and the options of each.
READINGS: dict[str, tuple[type[AvgClustering], tuple[str, ...]]] = {
    "ema_classifier": (EmaClassifier, ("weight", "decay")),
    "ema_outputs": (EmaOutputs, ("weight", "decay")),
    "ema_teacher": (EmaTeacher, ()),
    "ema_centroids": (EmaCentroids, ("weight", "decay", "temperature")),
    "none": (AvgClustering, ()),
}


def make_avg_clustering(
    reading: str, *, weight: float | None, decay: float | None, temperature: float | None
) -> AvgClustering:
    """Return a reading of Avg-Clustering by name.

    Args:
        reading: A key of :data:`READINGS`.
        weight: ``a`` in ``[0, 1]``; None takes the reading's default (0.5).
        decay: The decay, in ``[0, 1)``; None takes the reading's default (0.999, 0.9 or 0.99).
        temperature: The temperature, above 0; None takes the reading's default (0.1).

    Raises:
        UserError: The name or a value is not legal, or an option is given that the reading does not have.

    Example:
        >>> make_avg_clustering("ema_classifier", weight=None, decay=0.99, temperature=None).decay
        0.99
    """
    given = {"weight": weight, "decay": decay, "temperature": temperature}
    given = {name: value for name, value in given.items() if value is not None}
    kind, legal = READINGS[reading]
    for name, value in given.items():
        if name not in legal:
            takes = ", ".join(legal) or "none of these options"
            raise UserError(f"{name}={value!r} has no effect with avg_clustering={reading}, which takes {takes}")
    if "weight" in given:
        check_number("weight", weight, low=0, high=1)
    if "decay" in given:
        check_number("decay", decay, low=0, high=1, high_open=True)
    if "temperature" in given:
        check_number("temperature", temperature, low=0, low_open=True)
    return kind(**given)
