"""V-PET: networks that learnt from labels alone vote on the pool, and a student learns what they say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from layermatch.data.batch import Batch, Views
from layermatch.errors import UserError, check_choice, check_number
from layermatch.functional import VOTE_TARGETS, divergence_loss, supervised_loss, target_of_votes, votes_of
from layermatch.layerwise import LayerwiseRule
from layermatch.methods.base import RoutedMethod, unlabelled_of
from layermatch.methods.passes import together
from layermatch.methods.teachers import check_teacher, load_teacher, logits_of, record_targets
from layermatch.networks import Network
from layermatch.parts import LABELS, PSEUDO_LABELS, Losses, Pool, Problem, Stage, Step, Term

__all__ = ["VPET"]

#: Who has a vote: each teacher, for the mean of its passes, or each pass of each teacher.
VOTERS = ("teachers", "passes")


class VPET(RoutedMethod):
    r"""The votes of several teachers are the target of weak and strong views; labels have no further part.

    .. math::
        L &= \lambda_u \left(\lambda_w \, \mathrm{KL}(t_u \| \mathrm{softmax}(\ell_{w(u)}))
        + \lambda_s \, \mathrm{KL}(t_u \| \mathrm{softmax}(\ell_{s(u)}))\right) + \lambda_l H(y, \ell_l) \\
        t_u &= \mathrm{softmax}(c_u), \qquad c_{uk} = \sum_t \mathbf{1}\left[k = \arg\max_j
        \frac{1}{P} \sum_p \ell^{(t)}_j(w_p(u))\right]

    with the logits of teacher t on P weak views of each image. The votes are counted once, before the student's first
    step. A student should start afresh (or from pretrained weights), and teachers should differ: the authors take two
    backbones with two kinds of adapters each, trained on the labels alone (``algorithm=supervised``), whose settings
    they choose without labels (``python -m layermatch.select``).

    Source: "Revisiting Semi-Supervised Learning in the Era of Foundation Models" (Zhang et al. 2025, arXiv
    2503.09707), and the authors' code (OSU-MLB/SSL-Foundation-Models).

    NOTE: In the authors' code the mean over weak passes is put where the votes are not taken from, so that each teacher
    votes by the image as it is (here ``passes=0``); and equal counts are no tie here, as targets are soft.

    NOTE: Without teachers, the network itself is the one teacher: it learns from labels in the first part of the run,
    votes, and goes on as the student. The authors' student starts afresh. Each of its passes has a vote then, whatever
    ``votes`` says: the softmax of a single vote, :math:`e / (e + K - 1)` on its class, would teach next to nothing.

    NOTE: Grad-ReLU needs ``supervised_weight`` above 0: it leaves labels alone to the classifier, and the authors'
    student has none.

    Args:
        rule: The rule that routes what the votes teach, and its weight ``lambda_u``.
        teachers: Directories of finished runs on the same classes and image size, or checkpoints; none takes the
            network itself.
        passes: P, at least 0; 0 shows the teachers each image once, as it is.
        votes: Who has a vote: ``teachers``, or each of their ``passes``; without teachers each pass has one.
        target: What counts become a distribution by: ``softmax`` (the authors' code), or ``mean``, their shares.
        weak_weight: ``lambda_w``, at least 0.
        strong_weight: ``lambda_s``, at least 0.
        supervised_weight: ``lambda_l``, the student's, at least 0; the authors have 0.
        supervised: The share of the run on labels alone where there are no teachers, between 0 and 1.

    Raises:
        UserError: A value is not legal, or the rule has losses of its own.

    Example:
        >>> from layermatch.layerwise import Uniform
        >>> [stage.start for stage in VPET(rule=Uniform()).stages]
        [0.0, 0.25]
        >>> [stage.start for stage in VPET(rule=Uniform(), teachers=["runs/lora", "runs/adaptformer"]).stages]
        [0.0]
    """

    views: ClassVar[Views] = Views(unlabelled={"weak": "weak", "strong": "strong"})

    target: Tensor

    def __init__(
        self,
        *,
        rule: LayerwiseRule,
        teachers: Sequence[str | Path] = (),
        passes: int = 10,
        votes: str = "teachers",
        target: str = "softmax",
        weak_weight: float = 1.0,
        strong_weight: float = 1.0,
        supervised_weight: float = 0.0,
        supervised: float = 0.25,
    ) -> None:
        super().__init__(rule=rule)
        check_teachers(teachers)
        check_number("passes", passes, low=0, integer=True)
        check_choice("votes", votes, VOTERS)
        check_choice("target", target, VOTE_TARGETS)
        check_number("weak_weight", weak_weight, low=0)
        check_number("strong_weight", strong_weight, low=0)
        check_number("supervised_weight", supervised_weight, low=0)
        check_number("supervised", supervised, low=0, high=1, low_open=True, high_open=True)
        self.teachers = tuple(teachers)
        self.passes = passes
        self.votes = votes
        self.form = target
        self.weak_weight, self.strong_weight = weak_weight, strong_weight
        self.supervised_weight = supervised_weight
        self.stages = (Stage(),) if teachers else (Stage(), Stage(start=supervised))

    def prepare(self, network: Network, problem: Problem) -> None:
        """Make room for the targets; see :class:`~layermatch.methods.Method`."""
        target = torch.full((problem.num_unlabelled, problem.num_classes), 1 / problem.num_classes)
        self.register_buffer("target", target.to(network.classifier.weight.device))

    @torch.no_grad()
    def begin_stage(self, stage: int, predict: Pool) -> None:
        """Count the votes before the student's first step; see :class:`~layermatch.methods.Method`."""
        if stage != len(self.stages) - 1:
            return
        counts = torch.zeros_like(self.target)
        if not self.teachers:
            counts += sum(votes_of(self.own_logits(predict, number)) for number in self.looks)
        for path in self.teachers:
            teacher = load_teacher(path, predict, name="teachers")
            given = f"teachers={path}"
            passes = [logits_of(teacher, predict, given=given, weak_pass=number) for number in self.looks]
            counts += self.votes_on(passes)
        self.target.copy_(target_of_votes(counts, form=self.form))

    @property
    def looks(self) -> list[int | None]:
        """The passes over the pool: their numbers, or None for the images as they are."""
        return [*range(self.passes)] or [None]

    def own_logits(self, pool: Pool, number: int | None) -> Tensor:
        """Return the live network's logits for the pool in one pass."""
        network = pool.step.network
        return pool.look(lambda images: self.outputs(network, images).logits, weak_pass=number)

    def votes_on(self, passes: Sequence[Tensor]) -> Tensor:
        """Return the votes of one teacher, ``(N, K)``.

        Args:
            passes: Its logits in each pass, ``(N, K)`` each.
        """
        if self.votes == "teachers":
            return votes_of(torch.stack(list(passes)).mean(dim=0))
        return torch.stack([votes_of(logits) for logits in passes]).sum(dim=0)

    def losses(self, batch: Batch, step: Step) -> Losses:
        """Return the losses of one batch; see the class."""
        labelled, unlabelled = batch.labelled, unlabelled_of(batch)
        if self.stage_of(step) < len(self.stages) - 1:
            logits = step.network(labelled.views["weak"]).logits
            return Losses(supervised=Term(supervised_loss(logits, labelled.label), LABELS))
        out = together(step.network, {"labelled": labelled.views["weak"], **unlabelled.views})
        target = self.target[unlabelled.indices]
        record_targets(target, unlabelled.hidden_label, step=step)
        everyone = target.new_ones(len(target))
        weak, strong = (
            divergence_loss(self.rule.route(step.network, out[view]).logits, target, everyone)
            for view in ("weak", "strong")
        )
        reached, weight = self.rule.reached, self.rule.lambda_u
        return Losses(
            supervised=Term(
                supervised_loss(out["labelled"].logits, labelled.label), LABELS, None, self.supervised_weight
            ),
            weak=Term(weak, PSEUDO_LABELS, reached, weight * self.weak_weight),
            strong=Term(strong, PSEUDO_LABELS, reached, weight * self.strong_weight),
        )


def check_teachers(teachers: object) -> None:
    """Refuse what is no list of runs or checkpoints.

    Args:
        teachers: What was given as ``teachers``.

    Raises:
        UserError: It is no list, or an entry is no path.
    """
    if not isinstance(teachers, Sequence) or isinstance(teachers, str):
        raise UserError(f"teachers={teachers!r} is not legal: give a list, [RUN_DIR, RUN_DIR]")
    for teacher in teachers:
        check_teacher("teachers", teacher)
