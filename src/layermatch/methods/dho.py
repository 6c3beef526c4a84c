"""DHO: one head learns from labels, another from a frozen teacher, and both predict."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layermatch.data.batch import Batch, Views
from layermatch.errors import check_choice, check_number
from layermatch.functional import (
    class_means,
    distillation_loss,
    mixed_log_probabilities,
    probabilities,
    prototype_logits,
    supervised_loss,
)
from layermatch.layerwise import LayerwiseRule
from layermatch.methods.base import RoutedMethod, unlabelled_of
from layermatch.methods.passes import together
from layermatch.methods.teachers import check_teacher, load_teacher, logits_of, record_targets
from layermatch.networks import CLASSIFIER, EXTRACTOR, Network, Output, linear_float32, linear_head
from layermatch.parts import LABELS, PSEUDO_LABELS, Losses, Pool, Problem, Step, Term

__all__ = ["DHO", "DistillationHead"]

#: The head that learns from the teacher.
DISTILLED = "distilled"

#: The heads that start from the class means.
STARTS = ("second", "both", "none")

#: What the cosine to a class mean is multiplied by where the class means teach; as CLIP's logits are.
PROTOTYPE_SCALE = 100.0


class DHO(RoutedMethod):
    r"""A head for the labels and one for the teacher share an extractor, so that neither draws the other's class rows.

    .. math::
        L &= \lambda_{ce} H(y, h(f_l)) + \lambda_{kd} \left(D(t_l, g(f_l)) + \lambda_u D(t_u, g(f_u))\right) \\
        D(t, \ell) &= T^2 \, \mathrm{KL}\left(\mathrm{softmax}(t / T) \,\|\, \mathrm{softmax}(\ell / T)\right), \qquad
        g(f) = s \left(V f / \|f\| + c\right)

    on weak views, with the teacher's logits t. The prediction is
    :math:`\alpha \, \mathrm{softmax}(h(f)) + (1 - \alpha) \, \mathrm{softmax}(g(f) / \beta)`. alpha and beta are
    settings: choose them on validation images, never on test images.

    For the first head this is Grad-ReLU, whatever the rule: nothing that the teacher says comes near it.

    Source: "Simple yet Effective Semi-supervised Knowledge Distillation from Vision-Language Models via Dual-Head
    Optimization" (Kang et al. 2025, arXiv 2505.07675), and the authors' code (erjui/DHO).

    NOTE: The authors' teacher is CLIP, zero-shot or tuned, with texts for the classes. Here it is any run of this
    package; or, without one, the cosine to the class means of the labelled images' features, by this run's network as
    it is before training. That is worth something only where the network is pretrained.

    NOTE: The teacher sees each image once, as it is, before training; the authors' sees every augmented view. That
    costs nothing per step, and ``4 K`` bytes for every image of the pool, in the checkpoint too.

    NOTE: The authors start the heads from the embeddings of texts; here from the class means.

    NOTE: The authors' few-shot script chooses alpha and beta on validation images, one of their ImageNet scripts on
    test images. Their ImageNet scripts weigh all terms by 1, and have ``scale=100``, which wants AdamW and a small
    learning rate; the others weigh by 0.5, and both heads are linear.

    Args:
        rule: Gives ``lambda_u``, the weight of the pool's part of what the teacher teaches, and changes nothing else:
            ``grad_relu`` says what happens, and ``uniform`` is the same.
        teacher: The directory of a finished run on the same classes and image size, or one of its checkpoints; None
            takes the class means.
        temperature: T, above 0.
        ce_weight: ``lambda_ce``, at least 0.
        distill_weight: ``lambda_kd``, at least 0.
        scale: s, above 0; None is a linear second head, :math:`g(f) = V f + c`.
        start: The heads that start from the class means: the ``second`` one, ``both``, or ``none``.
        alpha: The weight of the first head in a prediction, in ``[0, 1]``.
        beta: The temperature of the second head in a prediction, above 0.

    Raises:
        UserError: A value is not legal, or the rule has losses of its own.

    Example:
        >>> from layermatch.layerwise import Uniform
        >>> DHO(rule=Uniform(), alpha=0.4).alpha
        0.4
    """

    views: ClassVar[Views] = Views(unlabelled={"weak": "weak"})

    teacher_labelled: Tensor
    teacher_pool: Tensor

    def __init__(
        self,
        *,
        rule: LayerwiseRule,
        teacher: str | Path | None = None,
        temperature: float = 2.0,
        ce_weight: float = 0.5,
        distill_weight: float = 0.5,
        scale: float | None = None,
        start: str = "second",
        alpha: float = 0.5,
        beta: float = 0.5,
    ) -> None:
        super().__init__(rule=rule)
        if teacher is not None:
            check_teacher("teacher", teacher)
        check_number("temperature", temperature, low=0, low_open=True)
        check_number("ce_weight", ce_weight, low=0)
        check_number("distill_weight", distill_weight, low=0)
        if scale is not None:
            check_number("scale", scale, low=0, low_open=True)
        check_choice("start", start, STARTS)
        check_number("alpha", alpha, low=0, high=1)
        check_number("beta", beta, low=0, low_open=True)
        self.teacher = teacher
        self.temperature = temperature
        self.ce_weight, self.distill_weight = ce_weight, distill_weight
        self.scale = scale
        self.start = start
        self.alpha, self.beta = alpha, beta

    def heads(self, problem: Problem) -> dict[str, nn.Module]:
        """Return the head of the teacher."""
        return {DISTILLED: DistillationHead(problem.num_features, problem.num_classes, scale=self.scale)}

    def prepare(self, network: Network, problem: Problem) -> None:
        """Make room for what the teacher says; see :class:`~layermatch.methods.Method`."""
        device, classes = network.classifier.weight.device, problem.num_classes
        self.register_buffer("teacher_labelled", torch.zeros(problem.num_labelled, classes, device=device))
        self.register_buffer("teacher_pool", torch.zeros(problem.num_unlabelled, classes, device=device))

    @torch.no_grad()
    def begin_stage(self, stage: int, predict: Pool) -> None:  # noqa: ARG002 -- there is one
        """Ask the teacher once, and start the heads; see :class:`~layermatch.methods.Method`."""
        network, classes = predict.step.network, self.teacher_pool.shape[1]

        def features(images: Tensor) -> Tensor:
            out: Tensor = network(images, heads=()).features
            return out

        if self.teacher is None or self.start != "none":
            labelled = predict.look(features, labelled=True)
            means = class_means(labelled, predict.labels, num_classes=classes)
        tables = {True: self.teacher_labelled, False: self.teacher_pool}
        if self.teacher is None:
            for of_labelled, table in tables.items():
                seen = labelled if of_labelled else predict.look(features)
                table.copy_(prototype_logits(seen, means, temperature=1 / PROTOTYPE_SCALE))
        else:
            teacher = load_teacher(self.teacher, predict, name="teacher")
            for of_labelled, table in tables.items():
                table.copy_(logits_of(teacher, predict, given=f"teacher={self.teacher}", labelled=of_labelled))
        if self.start != "none":
            for each in (network, predict.step.average):
                self.start_heads(each, means)

    def start_heads(self, network: Network, means: Tensor) -> None:
        """Give the heads that start so the class means for rows.

        Args:
            network: The network, live or averaged.
            means: ``(K, D)``; the rows of classes without labelled images, which are 0, are left as they are.
        """
        linears = [network.get_submodule(f"{DISTILLED}.linear")]
        linears += [network.classifier] if self.start == "both" else []
        is_known = means.any(dim=1, keepdim=True)
        for linear in linears:
            weight, bias = linear.get_parameter("weight"), linear.get_parameter("bias")
            weight.copy_(torch.where(is_known, means.to(weight), weight))
            bias.zero_()

    def losses(self, batch: Batch, step: Step) -> Losses:
        """Return the losses of one batch; see the class."""
        labelled, unlabelled = batch.labelled, unlabelled_of(batch)
        views = {"labelled": labelled.views["weak"], "unlabelled": unlabelled.views["weak"]}
        out = together(step.network, views, heads=(CLASSIFIER, DISTILLED))
        teacher = self.teacher_pool[unlabelled.indices]
        record_targets(probabilities(teacher), unlabelled.hidden_label, step=step)
        given, known = self.teacher_labelled[labelled.indices], frozenset({EXTRACTOR, DISTILLED})
        learnt = distillation_loss(out["labelled"].heads[DISTILLED], given, temperature=self.temperature)
        pseudo = distillation_loss(out["unlabelled"].heads[DISTILLED], teacher, temperature=self.temperature)
        return Losses(
            supervised=Term(
                supervised_loss(out["labelled"].logits, labelled.label),
                LABELS,
                frozenset({EXTRACTOR, CLASSIFIER}),
                self.ce_weight,
            ),
            distilled_labelled=Term(learnt, PSEUDO_LABELS, known, self.distill_weight),
            distilled=Term(pseudo, PSEUDO_LABELS, known, self.distill_weight * self.rule.lambda_u),
        )

    def outputs(self, network: Network, images: Tensor) -> Output:
        """Return the features, and the logarithms of what both heads say together; see :class:`Method`."""
        out: Output = network(images, heads=(CLASSIFIER, DISTILLED))
        mixed = mixed_log_probabilities(out.logits, out.heads[DISTILLED], alpha=self.alpha, beta=self.beta)
        return Output(out.features, {CLASSIFIER: mixed})


class DistillationHead(nn.Module):
    r"""A linear head upon features of length 1, times a scale, :math:`s (V f / \|f\| + c)`.

    Source: DHO (arXiv 2505.07675) in the authors' code for ImageNet.

    Args:
        num_features: D.
        num_classes: K.
        scale: s, above 0; None is a linear head on the features as they are.

    Example:
        >>> DistillationHead(4, 3, scale=100.0)(torch.ones(2, 4)).shape
        torch.Size([2, 3])
    """

    def __init__(self, num_features: int, num_classes: int, *, scale: float | None) -> None:
        super().__init__()
        self.linear = linear_head(num_features, num_classes)
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits, ``(B, K)``, at least float32."""
        weight, bias = self.linear.weight, self.linear.bias
        if self.scale is None:
            return linear_float32(features, weight, bias)
        features = features.float() if features.dtype.itemsize < 4 else features
        return self.scale * linear_float32(F.normalize(features, dim=1), weight, bias)
