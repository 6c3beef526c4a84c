"""RegMixMatch: confident images mixed beside the clean ones, and uncertain ones mixed with confident ones."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from layermatch.data.batch import Batch
from layermatch.errors import check_bool, check_number
from layermatch.functional import (
    hard_pseudo_labels,
    own_share,
    partners_of_class,
    paste_resized,
    resize_box,
    soft_cross_entropy,
    weighted_squared_error,
)
from layermatch.methods.base import unlabelled_of
from layermatch.methods.passes import together
from layermatch.methods.pseudo_labelling import BatchOutputs, PseudoLabelling
from layermatch.networks import Network
from layermatch.parts import PSEUDO_LABELS, Losses, Problem, Step, Term

__all__ = ["RegMixMatch"]

#: The sides of the box that the other image gets, as a share of the image's (ResizeMix).
SCOPE = (0.1, 0.8)

#: The labels of each class, on average, from which labelled images are mixed as well (the authors' code).
MANY_LABELS = 100


class Images(NamedTuple):
    """Images with a target.

    Attributes:
        pixels: ``(N, C, H, W)``.
        target: ``(N, K)`` probabilities.
    """

    pixels: Tensor
    target: Tensor

    def rows(self, rows: Tensor) -> Images:
        """Return some of them."""
        return Images(self.pixels[rows], self.target[rows])

    def and_more(self, others: Images) -> Images:
        """Return these, then others."""
        return Images(torch.cat([self.pixels, others.pixels]), torch.cat([self.target, others.target]))


class RegMixMatch(PseudoLabelling):
    r"""FreeMatch on clean images; beside it, confident ones are mixed, and uncertain ones with confident ones.

    With V the unlabelled images whose weak view is confident, :math:`\max p_u \ge \tau_m`, and ResizeMix
    :math:`R(a, b)`, image a with a smaller image b in a box, so that a share :math:`\lambda` of its pixels stays:

    1. :math:`L_s`, and :math:`L_u` of the policy, as every method of the family has them.
    2. Confident images, mixed with one another: targets :math:`\lambda \hat y_i + (1 - \lambda) \hat y_{\pi(i)}`,

       .. math:: L_{mix} = \frac{1}{N} \sum_{i \in V} H\left(\cdot,
           f(R(s(u_i), s(u_{\pi(i)})); \theta)\right).

    3. Uncertain images, each with a confident or labelled one j of its most probable class, or, in half of the steps,
       of any class: targets :math:`q_i = \lambda p_i + (1 - \lambda) y_j`,

       .. math:: L_{cam} = \frac{1}{N - |V|} \sum_{i \notin V} (\max p_i)^3 \, \frac{1}{K}
           \left\|\mathrm{softmax}(f(R(s(u_i), x_j); \theta)) - q_i\right\|_2^2.

    4. :math:`L = L_s + \lambda_u L_u + \lambda_{mix} L_{mix} + \lambda_{cam} L_{cam}`. Mixtures go through the
       network in a second pass. Both losses go where the rule lets pseudo-labels.

    The box has the sides :math:`\tau H, \tau W` with :math:`\tau = 0.1 + 0.7 \sqrt{\beta}`, :math:`\beta` of
    ``Beta(1, 1)`` for confident and of ``Beta(16, 16)`` for uncertain images, one for all of a batch, and its middle
    anywhere. All draws are those of (seed, batch, rank).

    Source: RegMixMatch (Han et al. 2025, arXiv 2412.10741), from the authors' code (hhrd9/regmixmatch).

    NOTE: The abstract says that an uncertain image gets information from the *two most probable* classes. The authors'
    code looks at the most probable one, or at none; that is followed, as we could not read the paper's equation.

    NOTE: The code takes the mean of the squared errors over all images before it multiplies by the confidences, so that
    an image's weight says nothing of its own error. Here each error has its own weight.

    NOTE: A box of a small image may be without a pixel, where the code ends. The image then stays as it is.

    NOTE: Two ranks mix each its own images. With ``lambda_cam=0`` a rank without a confident image has no second
    pass, so that BatchNorm cannot be synchronised (``trainer.sync_batchnorm``) then.

    Args:
        mix_threshold: ``tau_m``, above which an image is confident, in ``(0, 1]`` (the code: 0.999 for CIFAR-10 with 4
            labels a class, 0.99 for CIFAR-100).
        lambda_mix: The weight of the loss of confident images, at least 0; 0 mixes none (the code: 1).
        lambda_cam: The weight of the loss of uncertain images, at least 0; 0 mixes none (the code: 1, and 0 for its
            largest networks).
        mix_labelled: Whether labelled images are mixed in step 2 as well. None: from 100 labels a class on, as in the
            code.
        mix_alpha: The parameter of the Beta distribution of confident images, above 0.
        cam_alpha: The parameter of that of uncertain images, above 0.
        **options: Those of :class:`~layermatch.methods.PseudoLabelling`, but ``skip_masked``.

    Raises:
        UserError: A value is not legal.

    Example:
        >>> from layermatch.layerwise import Uniform
        >>> from layermatch.policies import SelfAdaptiveThreshold
        >>> RegMixMatch(policy=SelfAdaptiveThreshold(), rule=Uniform()).changes_images
        'lambda_mix'
    """

    needs_masked: ClassVar[bool] = True

    def __init__(
        self,
        *,
        mix_threshold: float = 0.999,
        lambda_mix: float = 1.0,
        lambda_cam: float = 1.0,
        mix_labelled: bool | None = None,
        mix_alpha: float = 1.0,
        cam_alpha: float = 16.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_number("mix_threshold", mix_threshold, low=0, high=1, low_open=True)
        check_number("lambda_mix", lambda_mix, low=0)
        check_number("lambda_cam", lambda_cam, low=0)
        check_number("mix_alpha", mix_alpha, low=0, low_open=True)
        check_number("cam_alpha", cam_alpha, low=0, low_open=True)
        if mix_labelled is not None:
            check_bool("mix_labelled", mix_labelled)
        self.mix_threshold = mix_threshold
        self.lambda_mix = lambda_mix
        self.lambda_cam = lambda_cam
        self.mix_labelled = mix_labelled
        self._mixes_labelled = bool(mix_labelled)
        self.mix_alpha = mix_alpha
        self.cam_alpha = cam_alpha

    @property
    def changes_images(self) -> str:  # type: ignore[override]
        """The setting for which images are mixed; see :class:`~layermatch.methods.Method`."""
        return next((name for name in ("lambda_mix", "lambda_cam") if getattr(self, name)), "")

    def prepare(self, network: Network, problem: Problem) -> None:
        """Find out whether labelled images are mixed as well; see :class:`~layermatch.methods.Method`."""
        super().prepare(network, problem)
        if self.mix_labelled is None:
            self._mixes_labelled = problem.num_labelled >= MANY_LABELS * problem.num_classes

    def more_losses(self, seen: BatchOutputs, step: Step) -> Losses:
        """Return the losses of mixed images; see the class."""
        labelled, confident, uncertain = self.parted(seen.batch, seen.predictions.probs_weak)
        mixtures = {}
        if self.lambda_mix:
            mixtures["mixed"] = self.mixed(labelled.and_more(confident) if self._mixes_labelled else confident)
        if self.lambda_cam:
            mixtures["mixed_by_class"] = self.mixed_by_class(uncertain, labelled.and_more(confident))
        if not any(len(mixture.pixels) for mixture in mixtures.values()):
            return Losses()
        out = together(step.network, {name: mixture.pixels for name, mixture in mixtures.items()})
        logits = {name: self.rule.route(step.network, output).logits for name, output in out.items()}
        losses, reaches = Losses(), self.rule.reached
        if mixed := mixtures.get("mixed"):
            total = soft_cross_entropy(logits["mixed"], mixed.target, reduction="sum")
            losses["mixed"] = Term(total / len(seen.weak.features), PSEUDO_LABELS, reaches, self.lambda_mix)
        if mixed := mixtures.get("mixed_by_class"):
            # NOTE: A mean over this process's uncertain images; of several processes each counts as much.
            weight = uncertain.target.amax(dim=1) ** 3
            value = weighted_squared_error(logits["mixed_by_class"], mixed.target, weight)
            losses["mixed_by_class"] = Term(value, PSEUDO_LABELS, reaches, self.lambda_cam)
        return losses

    def parted(self, batch: Batch, probs_weak: Tensor) -> tuple[Images, Images, Images]:
        """Return labelled images, confident strong views with their class, and the others with their probabilities.

        Args:
            batch: The batch.
            probs_weak: ``(N, K)``, what the weak views are.
        """
        labelled, strong = batch.labelled, unlabelled_of(batch).views["strong"]
        label, confidence = hard_pseudo_labels(probs_weak)
        is_confident = confidence >= self.mix_threshold
        num_classes, dtype = probs_weak.shape[1], probs_weak.dtype
        confident = Images(strong, F.one_hot(label, num_classes).to(dtype)).rows(is_confident.nonzero()[:, 0])
        uncertain = Images(strong, probs_weak).rows((~is_confident).nonzero()[:, 0])
        return Images(labelled.views["weak"], F.one_hot(labelled.label, num_classes).to(dtype)), confident, uncertain

    def mixed(self, images: Images) -> Images:
        """Mix images with one another, in random order."""
        order = torch.randperm(len(images.pixels)).to(images.pixels.device, non_blocking=True)
        return self.pasted(images, images.rows(order), alpha=self.mix_alpha)

    def mixed_by_class(self, images: Images, others: Images) -> Images:
        """Mix images with others of the class that they most probably are; in half of the batches of any class."""
        draws = torch.rand(len(images.pixels)).to(images.pixels.device, non_blocking=True)
        by_class = bool(torch.rand(()) < 0.5)
        label, candidates = images.target.argmax(dim=1), others.target.argmax(dim=1)
        if not by_class:
            label, candidates = torch.zeros_like(label), torch.zeros_like(candidates)
        partner = partners_of_class(label, candidates, draws)
        has_one = (partner >= 0)[:, None]
        mixed = self.pasted(images, others.rows(partner), alpha=self.cam_alpha)
        return Images(
            torch.where(has_one[..., None, None], mixed.pixels, images.pixels),
            torch.where(has_one, mixed.target, images.target),
        )

    def pasted(self, images: Images, others: Images, *, alpha: float) -> Images:
        """Put the other image of each, made smaller, in a box that is drawn, and mix the targets by its size."""
        height, width = images.pixels.shape[-2:]
        low, high = SCOPE
        scale = low + (high - low) * self.draw(alpha) ** 0.5
        centre = int(torch.randint(height, ())), int(torch.randint(width, ()))
        box = resize_box(height=height, width=width, scale=scale, centre=centre)
        own = own_share(box, height=height, width=width)
        target = own * images.target + (1 - own) * others.target
        return Images(paste_resized(images.pixels, others.pixels, box), target)

    def draw(self, alpha: float) -> float:
        """Draw from ``Beta(alpha, alpha)``."""
        return float(torch.distributions.Beta(alpha, alpha).sample())
