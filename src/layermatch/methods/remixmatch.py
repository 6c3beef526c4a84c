"""ReMixMatch: guesses of weak views, aligned with the classes wanted, teach mixtures of strong views."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layermatch.data.batch import Batch, Views
from layermatch.errors import UserError, check_choice, check_number
from layermatch.functional import linear_ramp, probabilities, quarter_turns, sharpen, soft_cross_entropy
from layermatch.layerwise import LayerwiseRule
from layermatch.methods.base import RoutedMethod, unlabelled_of
from layermatch.methods.mixmatch import Mixing, mixed_outputs
from layermatch.methods.passes import keep_running_statistics, without_gradient
from layermatch.networks import CLASSIFIER, EXTRACTOR, Network, linear_head
from layermatch.parts import LABELS, PSEUDO_LABELS, DistributionAlignment, Losses, Problem, Step, Term

__all__ = ["ReMixMatch"]

#: The head that tells by how many quarter turns an image was turned.
ROTATION = "rotation"

AVERAGES = ("buffer", "running")
LABELLED_VIEWS = ("strong", "weak")

#: The steps of the buffer, and the decay of the running mean that the PyTorch codes have instead.
BUFFER, DECAY = 128, 0.999


class ReMixMatch(RoutedMethod):
    r"""Guessed labels of a weak view, aligned and sharpened, for mixtures of weak and strong views; and rotations.

    1. Guess, from the weak view w(u): :math:`p = \mathrm{softmax}(f(w(u); \theta))`,
       :math:`\tilde p = \mathrm{Normalise}(p \, t / a)`, :math:`q = \mathrm{sharpen}(\tilde p, T)`. Here a is the mean
       of p over the batches of the last 128 steps, this one not among them, and t is how often each class is among the
       labelled images (*distribution alignment*).
    2. Mix the labelled images, K strong views of each unlabelled one and its weak view, the unlabelled ones all with
       target q (*augmentation anchoring*), as :class:`~layermatch.methods.MixMatch` does. X' are the mixtures that
       began with a labelled image, U' the others.
    3. Learn, with :math:`s_1` the first strong view, not mixed, and :math:`\rho` a turn by 0, 1, 2 or 3 quarters:

    .. math:: L = H_{X'} + r(t) \left[\lambda_u \, H_{U'} + w_{kl} \, \frac{1}{N} \sum_u H(q_u, f(s_1(u); \theta))
        \right] + w_{rot} \, \frac{1}{N} \sum_u H(\rho_u, g(\rho_u(s_1(u)); \theta))

    H are means of cross-entropies, r is a linear ramp, and g a linear head of its own on the same features. Source:
    ReMixMatch (Berthelot et al. 2020, algorithm 1 and eq. 3). Its unlabelled batch is as large as the labelled one
    (``data.mu=1``).

    :math:`H_{X'}` counts as the loss of labels: in each of its mixtures a labelled image has a share of at least a
    half. The rest of its target may be a guessed label, and under Grad-ReLU the classifier learns from that part too;
    it learns nothing from the other terms. The rotation loss reaches the extractor and its own head under any rule.

    NOTE: In the paper and in its authors' code labelled images are strong views (``labelled_view="strong"``); in USB
    and TorchSSL they are weak ones. The paper's strong views are drawn by CTAugment, which learns; here they are those
    of ``views``.

    NOTE: The paper's average is over the last 128 batches and starts at 1/K (``average="buffer"``), and its code adds
    1e-6 to t and a. USB and TorchSSL have a running mean with decay 0.999 that starts at the first batch and has this
    batch in it (``running``).

    NOTE: The paper draws a mixing coefficient for each image (``coefficients="sample"``), USB and TorchSSL one for the
    whole batch (``batch``).

    NOTE: BatchNorm normalises all mixtures together, and its running statistics are of these; see
    :class:`~layermatch.methods.MixMatch`. The weak view, the strong view that is not mixed, and the turned one are each
    normalised by their own statistics and leave the running ones as they are, as in the codes.

    NOTE: Each image is turned by a random number of quarters, as in the paper; its authors' code turns a fixed quarter
    of the batch by each.

    Args:
        rule: The rule that routes the losses of guessed labels; its ``lambda_u`` is the weight of the mixtures U' (the
            paper: 1.5); see :class:`~layermatch.methods.RoutedMethod`.
        num_strong: K, the strong views of each unlabelled image, at least 1 (the PyTorch codes: 2; the authors' README:
            4).
        w_kl: The weight of the strong view that is not mixed, at least 0.
        w_rot: The weight of the rotation loss, at least 0; 0 is no rotation head.
        alpha: The parameter of the Beta distribution of the mixing coefficients, above 0.
        temperature: T, above 0.
        coefficients: ``sample`` or ``batch``.
        average: ``buffer`` or ``running``: the average prediction that guesses are aligned by.
        epsilon: What is added to t and a, at least 0; 0 is the paper (the authors' code and USB: 1e-6).
        labelled_view: The views of labelled images, ``strong`` or ``weak``.
        ramp: The share of the run in which both weights in brackets grow from 0, in ``[0, 1]``.

    Raises:
        UserError: A value is not legal, or images that are not square are to be turned.

    Example:
        >>> from layermatch.layerwise import Uniform
        >>> ReMixMatch(rule=Uniform(lambda_u=1.5), num_strong=2).views.unlabelled
        {'weak': 'weak', 'strong': 'strong', 'strong_2': 'strong'}
    """

    def __init__(
        self,
        *,
        rule: LayerwiseRule,
        num_strong: int = 2,
        w_kl: float = 0.5,
        w_rot: float = 0.5,
        alpha: float = 0.75,
        temperature: float = 0.5,
        coefficients: str = "sample",
        average: str = "buffer",
        epsilon: float = 0.0,
        labelled_view: str = "strong",
        ramp: float = 1 / 64,
    ) -> None:
        super().__init__(rule=rule)
        check_number("num_strong", num_strong, low=1, integer=True)
        check_number("w_kl", w_kl, low=0)
        check_number("w_rot", w_rot, low=0)
        check_number("temperature", temperature, low=0, low_open=True)
        check_choice("average", average, AVERAGES)
        check_choice("labelled_view", labelled_view, LABELLED_VIEWS)
        check_number("ramp", ramp, low=0, high=1)
        self.mixing = Mixing(alpha=alpha, coefficients=coefficients)
        self.alignment = make_alignment(average, epsilon=epsilon)
        self.strong = ("strong", *(f"strong_{number}" for number in range(2, num_strong + 1)))
        self.w_kl = w_kl
        self.w_rot = w_rot
        self.temperature = temperature
        self.labelled_view = labelled_view
        self.ramp = ramp

    @property
    def views(self) -> Views:  # type: ignore[override]
        """The views that the method asks for: one weak and K strong ones of unlabelled images."""
        strong = dict.fromkeys(self.strong, "strong")
        return Views(labelled={self.labelled_view: self.labelled_view}, unlabelled={"weak": "weak", **strong})

    @property
    def changes_images(self) -> str:  # type: ignore[override]
        """The setting for which images are turned; see :class:`~layermatch.methods.Method`."""
        return "w_rot" if self.w_rot else ""

    def heads(self, problem: Problem) -> dict[str, nn.Module]:
        """Return the head that tells rotations; see :class:`~layermatch.methods.Method`."""
        return {ROTATION: linear_head(problem.num_features, 4)} if self.w_rot else {}

    def prepare(self, network: Network, problem: Problem) -> None:  # noqa: ARG002 -- see Method
        """Make the averages; see :class:`~layermatch.methods.Method`."""
        _, height, width = problem.image_shape
        if self.w_rot and height != width:
            raise UserError(f"images of {height}x{width} cannot be turned by a quarter: give w_rot=0")
        self.alignment.prepare(problem)

    def losses(self, batch: Batch, step: Step) -> Losses:
        """Return the losses of one batch; see the class."""
        labelled, views = batch.labelled, unlabelled_of(batch).views
        guess = self.guess(step.network, views["weak"])
        label = F.one_hot(labelled.label, step.network.num_classes).to(guess.dtype)
        unlabelled = [*(views[name] for name in self.strong), views["weak"]]
        out, target = mixed_outputs(
            step.network, [labelled.views[self.labelled_view], *unlabelled], [label, *[guess] * len(unlabelled)],
            mixing=self.mixing,
        )  # fmt: skip
        logits = self.rule.route(step.network, out["unlabelled"]).logits
        ramp, reached = linear_ramp(step.progress, length=self.ramp), self.rule.reached
        losses = Losses(
            supervised=Term(
                soft_cross_entropy(out["labelled"].logits, target["labelled"]),
                LABELS,
                frozenset({EXTRACTOR, CLASSIFIER}),
            ),
            match=Term(
                soft_cross_entropy(logits, target["unlabelled"]), PSEUDO_LABELS, reached, self.rule.lambda_u * ramp
            ),
        )
        with keep_running_statistics(step.network):
            if self.w_kl:
                anchored = self.rule.route(step.network, step.network(views["strong"])).logits
                losses["kl"] = Term(soft_cross_entropy(anchored, guess), PSEUDO_LABELS, reached, self.w_kl * ramp)
            if self.w_rot:
                losses["rotation"] = self.rotation_loss(step.network, views["strong"])
        return losses

    def guess(self, network: Network, weak: Tensor) -> Tensor:
        """Return the guessed labels of unlabelled images, whose average the alignment sees.

        Args:
            network: The live network.
            weak: The weak views, ``(N, C, H, W)``.

        Returns:
            ``(N, K)`` probabilities, without gradient.
        """
        with keep_running_statistics(network):
            probs = probabilities(without_gradient(network, weak).logits)
        self.alignment.see(probs)
        return sharpen(self.alignment(probs), self.temperature)

    def rotation_loss(self, network: Network, strong: Tensor) -> Term:
        """Return how well the network tells by how much each image was turned.

        Args:
            network: The live network, with the head ``rotation``.
            strong: ``(N, C, S, S)``.
        """
        turned, turns = self.turn(strong)
        logits = network(turned, heads=(ROTATION,)).heads[ROTATION]
        loss = F.cross_entropy(logits, turns)
        return Term(loss, PSEUDO_LABELS, frozenset({EXTRACTOR, ROTATION}), self.w_rot)

    def turn(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Turn each image by a random number of quarters.

        Args:
            images: ``(N, C, S, S)``.

        Returns:
            The turned images, and ``(N,)`` int64, their quarters.
        """
        turns = torch.randint(4, (len(images),)).to(images.device, non_blocking=True)
        return quarter_turns(images, turns), turns


def make_alignment(average: str, *, epsilon: float) -> DistributionAlignment:
    """Return the distribution alignment of ReMixMatch.

    Args:
        average: ``buffer`` as in the paper, ``running`` as in the PyTorch codes.
        epsilon: What is added to target and average, at least 0.
    """
    if average == "buffer":
        return DistributionAlignment(
            target="labelled", queue=BUFFER, start="uniform", includes_batch=False, epsilon=epsilon
        )
    return DistributionAlignment(target="labelled", decay=DECAY, start="first", epsilon=epsilon)
