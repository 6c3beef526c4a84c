"""The FixMatch family: a pseudo-label policy, a layer-wise rule, and two views."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layermatch.data.batch import Batch, Views
from layermatch.errors import UserError, check_bool, check_choice, check_number
from layermatch.functional import entropy, probabilities, product_float32
from layermatch.layerwise import GradientRule, LayerwiseRule
from layermatch.methods.base import Method, unlabelled_of
from layermatch.methods.passes import detached, share_statistics, together, without_gradient
from layermatch.metrics import (
    ACCURACY_ACCEPTED,
    CLASS_COUNTS,
    CONFIDENCE,
    MASK_RATE,
    PSEUDO_ACCURACY,
    PSEUDO_ENTROPY,
    THRESHOLDS,
)
from layermatch.networks import CLASSIFIER, BatchStatistics, Network, Output
from layermatch.parts import Losses, Problem, Step
from layermatch.policies import Aligned, Policy, Predictions, PseudoLabels

__all__ = ["BatchOutputs", "PseudoLabelling"]

FORWARDS = ("joint", "shared", "split")

#: The share of the weak views with ``forward="shared"`` unless said otherwise. Where a backward takes as long as two
#: forwards, and mu is 7, it costs 1.11 times the network time of ``split``, and ``joint`` 1.45 times; measured on a CPU
#: they were 1.26 and 1.91 (docs/batchnorm.md).
WEAK_SHARE = 0.25


class BatchOutputs(NamedTuple):
    """What a batch gave.

    Attributes:
        views: The network's outputs for each view but the unlabelled ``weak``, with gradient: ``labelled`` (the weak
            view of labelled images), ``strong``, and the other views that the method asks for by their names; other
            views of labelled images are ``labelled/NAME``.
        weak: Its outputs for the weak views of unlabelled images, without gradient unless the method says that they
            learn (``weak_learns``).
        pseudo_labels: The pseudo-labels of these images.
        predictions: What the pseudo-labels were made from.
        batch: The batch.
    """

    views: Mapping[str, Output]
    weak: Output
    pseudo_labels: PseudoLabels
    predictions: Predictions
    batch: Batch


class PseudoLabelling(Method):
    r"""Pseudo-labels from the weak view teach the strong view; a rule decides which layers learn from them.

    FixMatch (Sohn et al. 2020) is ``FixedThreshold`` with ``Uniform``; LayerMatch (Liang et al. 2024) is
    ``FixedThreshold`` with ``SeparateLosses``; any policy goes with any rule. One step:

    1. ``f(w(x))``, ``f(w(u))`` and ``f(s(u))``, as ``forward`` has it.
    2. ``p = softmax(sg(W f(w(u)) + b))``; targets and mask from the policy.
    3. ``L_feat`` and ``L_cls`` from the rule; one backward; one optimizer step; averages.

    Args:
        policy: The policy that makes pseudo-labels.
        rule: The rule that routes the losses.
        forward: Which images BatchNorm's statistics are of. It decides what is learnt: on digits with 10 labels
            and seven unlabelled images for each label LayerMatch (by ``ema_classifier``) was 18 points worse with
            ``split`` than with ``joint``, with two 4 points (docs/batchnorm.md).

            - ``joint``: all views in one forward, with gradient, as in the references. The weak views have no loss of
              their own, but the statistics that they share in carry the others' gradient through them.
            - ``shared``: ours. Labelled views, strong views and ``weak_share`` of the weak ones as in ``joint``; the
              other weak views without gradient, normalised by the statistics of those. It saves network time, see
              ``benchmarks/README.md``; that it learns as well is not shown.
            - ``split``: ours. The weak views on their own, without gradient and normalised by their own statistics, the
              others by theirs; the running statistics see both. It saves about a third of the network time.

            Without batch statistics all three give the same gradient.
        weak_share: The share of the weak views with ``shared``, in ``[0, 1]``; 1 is ``joint``, and ``None`` is 0.25.
        skip_masked: Ours: strong views whose pseudo-label is masked are not sent through the network, as their loss is
            zero. Without BatchNorm the gradient is the same; with it, labelled and strong views are normalised by
            the statistics of fewer images, the confident ones. It saves most while the mask rate is low. Costs a
            wait for the GPU each step, and with ``compile`` a new kernel for each number of images. Needs ``split``, as
            the mask must be known before the strong views are sent through.

    Raises:
        UserError: A value is not legal.

    Example:
        >>> from layermatch.layerwise import SeparateLosses
        >>> from layermatch.policies import FixedThreshold
        >>> method = PseudoLabelling(policy=FixedThreshold(threshold=0.95), rule=SeparateLosses())
        >>> dict(method.views.unlabelled)
        {'weak': 'weak', 'strong': 'strong'}
    """

    views: ClassVar[Views] = Views(unlabelled={"weak": "weak", "strong": "strong"})

    #: Whether a method of the family has losses of images that the policy masks too, so that all must be sent.
    needs_masked: ClassVar[bool] = False

    #: Whether a method of the family has losses of the weak views: where these are sent with gradient, they keep it.
    weak_learns: ClassVar[bool] = False

    def __init__(
        self,
        *,
        policy: Policy,
        rule: LayerwiseRule,
        forward: str = "joint",
        weak_share: float | None = None,
        skip_masked: bool = False,
    ) -> None:
        super().__init__()
        check_choice("forward", forward, FORWARDS)
        check_bool("skip_masked", skip_masked)
        if weak_share is not None and forward != "shared":
            raise UserError(f"weak_share={weak_share!r} needs forward=shared, not {forward}")
        if skip_masked and forward != "split":
            raise UserError(
                f"skip_masked=true needs forward=split: with {forward} there is no mask yet when the strong views are "
                "sent through"
            )
        inner = policy.policy if isinstance(policy, Aligned) else policy
        if skip_masked and policy.needs_labelled:
            name = type(inner).__name__ if inner.needs_labelled else "this alignment"
            raise UserError(
                f"skip_masked=true is not legal with {name}: it compares with the labelled images, "
                "which are sent through after it"
            )
        learner = inner if inner.needs_masked else self
        if skip_masked and learner.needs_masked:
            raise UserError(
                f"skip_masked=true is not legal with {type(learner).__name__}, which learns from masked views too"
            )
        self.forward_mode = forward
        self.weak_share = WEAK_SHARE if weak_share is None else weak_share
        check_number("weak_share", self.weak_share, low=0, high=1)
        self.skip_masked = skip_masked
        self.policy = policy
        self.rule = rule
        self._statistics: BatchStatistics | None = None
        #: The strong views' outputs of the last batch, which its diagnosis reads.
        self._strong: Output | None = None

    @property
    def gradient_rule(self) -> GradientRule | None:  # type: ignore[override]
        """The gradient rule of the layer rule; see :class:`Method`."""
        return self.rule.gradient_rule

    @property
    def heads_sent(self) -> tuple[str, ...]:
        """The heads that every view is sent through; a method of the family adds its own."""
        return (CLASSIFIER,)

    def heads(self, problem: Problem) -> dict[str, nn.Module]:
        """Return the rule's heads; see :class:`Method`."""
        return self.rule.heads(problem)

    def prepare(self, network: Network, problem: Problem) -> None:
        """Make the state of policy and rule; see :class:`Method`."""
        self.policy.prepare(problem)
        self.rule.prepare(network, problem)

    def losses(self, batch: Batch, step: Step) -> Losses:
        """Return the losses of one batch; see the class."""
        labelled, unlabelled = batch.labelled, unlabelled_of(batch)
        views, weak_images = self.views_to_send(batch), unlabelled.views["weak"]
        if self.skip_masked:
            weak = self.send_weak(weak_images, step.network)
            pseudo_labels, predictions = self.make_pseudo_labels(weak, None, batch, step)
            views["strong"], pseudo_labels, predictions = leave_out_masked(views["strong"], pseudo_labels, predictions)
            out = together(step.network, views, heads=self.heads_sent)
        else:
            out, weak = self.send(views, weak_images, step.network)
            pseudo_labels, predictions = self.make_pseudo_labels(weak, out["labelled"], batch, step)
        self._strong = out["strong"]
        losses = self.rule(
            step.network, out["labelled"], out["strong"], label=labelled.label, pseudo_labels=pseudo_labels
        )
        routed = self.rule.route(step.network, out["strong"])
        for name, term in self.policy.losses(routed, pseudo_labels, predictions).items():
            losses[name] = term if term.reaches is not None else term._replace(reaches=self.rule.reached)
        seen = BatchOutputs(out, weak, pseudo_labels, predictions, batch)
        return Losses(losses | self.more_losses(seen, step))

    def more_losses(self, seen: BatchOutputs, step: Step) -> Losses:  # noqa: ARG002 -- for those that have some
        """Add losses beside the rule's and the policy's: by default none; a method of the family gives its own here.

        Args:
            seen: What the network, the policy and the data gave for the batch.
            step: The step that it belongs to.
        """
        return Losses()

    def views_to_send(self, batch: Batch) -> dict[str, Tensor]:
        """Return the images that learn, by view; a method of the family adds those that it makes itself."""
        return views_to_send(batch)

    def send(self, views: dict[str, Tensor], weak: Tensor, network: Network) -> tuple[dict[str, Output], Output]:
        """Return all views through the network, as ``forward`` has it."""
        if self.forward_mode == "split":
            out_weak = self.send_weak(weak, network)
            return together(network, views, heads=self.heads_sent), out_weak
        return self.send_with_weak(views, weak, network)

    def send_weak(self, weak: Tensor, network: Network) -> Output:
        """Return the weak views alone, without gradient and by their own statistics."""
        return without_gradient(network, weak, heads=self.heads_sent)

    def send_with_weak(
        self, views: dict[str, Tensor], weak: Tensor, network: Network
    ) -> tuple[dict[str, Output], Output]:
        """Return all views in one pass, as in the references, or only a share of the weak ones with ``shared``."""
        if self.forward_mode == "joint":
            # In the order of the references: labelled, weak, strong.
            first, *others = views
            ordered = {first: views[first], "weak": weak, **{name: views[name] for name in others}}
            out = together(network, ordered, heads=self.heads_sent)
            out_weak = out.pop("weak")
            return out, out_weak if self.weak_learns else detached(out_weak)
        if self._statistics is None:  # made at the first step, as synchronised BatchNorms take others' places
            self._statistics = BatchStatistics(network)
        return share_statistics(
            network, views, weak, share=self.weak_share, statistics=self._statistics, heads=self.heads_sent
        )

    def make_pseudo_labels(
        self, weak: Output, labelled: Output | None, batch: Batch, step: Step
    ) -> tuple[PseudoLabels, Predictions]:
        """Return the targets and mask from the weak views, which the rule sees as well."""
        predictions = self.make_predictions(weak, labelled, batch, step)
        pseudo_labels = self.decide(predictions, weak, step.network)
        # They make no pseudo-label where the averaged network does, and the rule keeps them all the same.
        step.must_be_finite("weak_features", weak.features)
        self.rule.observe(weak.features, pseudo_labels)
        record_quality(pseudo_labels, predictions.probs_weak, unlabelled_of(batch).hidden_label, step=step)
        return pseudo_labels, predictions

    def make_predictions(self, weak: Output, labelled: Output | None, batch: Batch, step: Step) -> Predictions:
        """Show the batch to the policy; a method of the family aligns or smooths the probabilities here.

        Args:
            weak: The outputs of the weak views of unlabelled images.
            labelled: Those of labelled images; None with ``skip_masked``.
            batch: The batch.
            step: The step that it belongs to.
        """
        unlabelled = unlabelled_of(batch)
        needs_teacher = self.rule.needs_teacher or self.policy.needs_teacher
        logits_weak = self.teach(unlabelled.views["weak"], step.average) if needs_teacher else weak.logits
        step.must_be_finite("weak_views", logits_weak)
        return Predictions(
            probs_weak=self.rule.average_outputs(probabilities(logits_weak), unlabelled.indices),
            indices=unlabelled.indices,
            probs_labelled=None if labelled is None else probabilities(labelled.logits),
            label=batch.labelled.label,
        )

    def decide(self, predictions: Predictions, weak: Output, network: Network) -> PseudoLabels:  # noqa: ARG002
        """Return what the policy makes of the predictions; a method of the family may go on from there.

        Args:
            predictions: What the network says of the batch.
            weak: Its outputs for the weak views, of all heads that are sent.
            network: Gives further heads.
        """
        pseudo_labels: PseudoLabels = self.policy(predictions)
        return pseudo_labels

    @torch.no_grad()
    def teach(self, weak: Tensor, average: Network) -> Tensor:
        """Return the logits of the averaged network's classifier, whichever head is evaluated."""
        logits: Tensor = average(weak).logits
        return logits

    def outputs(self, network: Network, images: Tensor) -> Output:
        """Return the features, and logits of the head that the rule evaluates; see :class:`Method`."""
        features = network(images, heads=()).features
        return Output(features, {CLASSIFIER: self.rule.evaluation_logits(network, features)})

    @property
    def evaluated_head(self) -> str | None:
        """The head that the rule evaluates; see :class:`Method`."""
        return self.rule.evaluated_head if type(self).outputs is PseudoLabelling.outputs else None

    def diagnose(self, losses: Losses) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the rule's ratios; see :class:`Method`."""
        return self.rule.diagnose(losses, self._strong) if self._strong is not None else {}

    def after_step(self, step: Step) -> None:  # noqa: ARG002 -- see StepState
        """Let go of the last batch."""
        self._strong = None

    def discard_step(self) -> None:
        """Let go of the last batch."""
        self._strong = None

    def readings(self) -> dict[str, Tensor]:
        """Return the policy's thresholds as they stand."""
        thresholds = self.policy.thresholds()
        return {} if thresholds is None else {THRESHOLDS.vector: thresholds}

    def centres(self, network: Network) -> Tensor:
        """Return the rule's cluster centres; the classifier's rows where it has none."""
        return self.rule.centres(network)


def record_quality(pseudo_labels: PseudoLabels, probs_weak: Tensor, hidden_label: Tensor, *, step: Step) -> None:
    """Log how many pseudo-labels count, of which classes, how sure they are, and how many are right.

    Args:
        pseudo_labels: The pseudo-labels of ``N`` images.
        probs_weak: ``(N, K)``, the probabilities that they were made from.
        hidden_label: ``(N,)`` int64, the true class, -1 where unknown. It is used for nothing else.
        step: Takes the quantities.
    """
    weight, label = pseudo_labels.weight, pseudo_labels.label
    known = (hidden_label >= 0).to(weight.dtype)
    right = known * (label == hidden_label)
    # A matrix product rather than index_add: its order of additions is fixed on CUDA too.
    counts = product_float32(weight, F.one_hot(label, probs_weak.shape[1]).to(weight.dtype))  # (K,)
    step.record(
        {
            MASK_RATE.name: weight.mean(),
            CONFIDENCE.name: pseudo_labels.confidence.mean(),
            PSEUDO_ENTROPY.name: entropy(probs_weak).mean(),
            # Of a whole optimizer step: all ranks and accumulated batches.
            CLASS_COUNTS.vector: counts * step.batches,
        },
        {
            PSEUDO_ACCURACY.name: (right.sum(), known.sum()),
            ACCURACY_ACCEPTED.name: ((weight * right).sum(), (weight * known).sum()),
        },
    )


def views_to_send(batch: Batch) -> dict[str, Tensor]:
    """Return the views that learn: those of labelled images, then those of unlabelled images but the weak one."""
    labelled, unlabelled = batch.labelled, unlabelled_of(batch)
    views = {"labelled" if name == "weak" else f"labelled/{name}": view for name, view in labelled.views.items()}
    return views | {name: view for name, view in unlabelled.views.items() if name != "weak"}


def leave_out_masked(
    strong: Tensor, pseudo_labels: PseudoLabels, predictions: Predictions
) -> tuple[Tensor, PseudoLabels, Predictions]:
    """Keep the strong views that count, and their pseudo-labels, weighted so that their mean is the mean over all.

    Args:
        strong: ``(N, C, H, W)``.
        pseudo_labels: The pseudo-labels of the ``N`` images.
        predictions: What they were made from.

    Returns:
        ``(M, C, H, W)`` with ``M`` at most ``N``, and the pseudo-labels and predictions of these.
    """
    kept = pseudo_labels.weight.nonzero()[:, 0]
    share = len(kept) / max(len(strong), 1)
    labels = pseudo_labels.rows(kept)
    return (
        strong[kept],
        labels._replace(weight=labels.weight * share),
        predictions._replace(probs_weak=predictions.probs_weak[kept], indices=predictions.indices[kept]),
    )
