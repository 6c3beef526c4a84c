"""The FixMatch family: a pseudo-label policy, a layer-wise rule, and two views."""

from __future__ import annotations

from functools import cached_property
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from layermatch.algorithms.base import Algorithm
from layermatch.algorithms.layer_gradients import measure_clustering, measure_layer_gradients
from layermatch.data.batch import Batch, UnlabelledBatch
from layermatch.distributed import all_reduce_mean_, world_size
from layermatch.errors import UserError, check_bool, check_choice, check_number
from layermatch.functional import entropy, probabilities
from layermatch.layerwise import ForwardPass, LayerLosses, LayerwiseRule
from layermatch.metrics import (
    ACCURACY_ACCEPTED,
    CLASS_COUNTS,
    CONFIDENCE,
    MASK_RATE,
    PSEUDO_ACCURACY,
    PSEUDO_ENTROPY,
    THRESHOLDS,
)
from layermatch.models import BatchStatistics, Network, NetworkOutput
from layermatch.pseudo_labels import PseudoLabelPolicy, PseudoLabels

__all__ = ["PseudoLabelling"]

FORWARDS = ("joint", "shared", "split")

#: Of the weak views, with ``forward="shared"`` unless said otherwise. Where a backward takes as long as two forwards,
#: and mu is 7, it costs 1.11 times the network time of ``split``, and ``joint`` 1.45 times.
WEAK_SHARE = 0.25


class PseudoLabelling(Algorithm):
    r"""Pseudo-labels from the weak view teach the strong view; a rule decides which layers learn from them.

    FixMatch (Sohn et al. 2020) is ``FixedThreshold`` with ``Uniform``; LayerMatch (Liang et al. 2024) is
    ``FixedThreshold`` with ``LayerMatch``; any policy goes with any rule. One step:

    1. ``f(w(x))``, ``f(w(u))`` and ``f(s(u))``, as ``forward`` has it.
    2. ``p = softmax(sg(W f(w(u)) + b))``; targets and mask from the policy.
    3. ``L_feat`` and ``L_cls`` from the rule; one backward; one optimizer step; averages.

    Args:
        network: extractor and classifier; with a second head where the rule needs one.
        policy: makes pseudo-labels.
        rule: routes the losses.
        num_unlabelled: images in the unlabelled pool.
        forward: which images BatchNorm's statistics are of. It decides what is learnt: on digits with 10 labels
            LayerMatch is 18 points worse with ``split`` than with ``joint`` (README).

            - ``joint``: all views in one forward, with gradient, as in the references. The weak views have no loss of
              their own, but the statistics that they share in carry the others' gradient through them.
            - ``shared``: ours. Labelled views, strong views and ``weak_share`` of the weak ones as in ``joint``; the
              other weak views without gradient, normalised by the statistics of those. It saves network time, see
              ``benchmarks/README.md``; that it learns as well is not shown.
            - ``split``: ours. The weak views on their own, without gradient and normalised by their own statistics, the
              others by theirs; the running statistics see both. It saves about a third of the network time.

            Without batch statistics all three give the same gradient.
        weak_share: for ``shared``, in ``[0, 1]``; 1 is ``joint``, and ``None`` is 0.25.
        skip_masked: ours: strong views whose pseudo-label is masked are not sent through the network, as their loss is
            zero. Without BatchNorm the gradient is the same; with it, labelled and strong views are normalised by
            the statistics of fewer images, the confident ones. It saves most while the mask rate is low. Costs a
            wait for the GPU each step, and with ``compile`` a new kernel for each number of images. Needs ``split``, as
            the mask must be known before the strong views are sent through.
        **kwargs: those of :class:`~layermatch.algorithms.base.Algorithm`.

    Raises:
        UserError: a value is not legal, or the network lacks the head that the rule needs.

    Example:
        >>> from functools import partial
        >>> from layermatch.layerwise import LayerMatch
        >>> from layermatch.models import wrn_small
        >>> from layermatch.pseudo_labels import FixedThreshold
        >>> algorithm = PseudoLabelling(
        ...     wrn_small(num_classes=10),
        ...     policy=FixedThreshold(threshold=0.95),
        ...     rule=LayerMatch(),
        ...     num_unlabelled=1000,
        ...     optimizer=partial(torch.optim.SGD, lr=0.03),
        ... )
        >>> algorithm.automatic_optimization
        False
    """

    def __init__(
        self,
        network: Network,
        *,
        policy: PseudoLabelPolicy,
        rule: LayerwiseRule,
        num_unlabelled: int,
        forward: str = "joint",
        weak_share: float | None = None,
        skip_masked: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(network, **kwargs)
        check_choice("algorithm.forward", forward, FORWARDS)
        check_bool("algorithm.skip_masked", skip_masked)
        if weak_share is not None and forward != "shared":
            raise UserError(f"algorithm.weak_share={weak_share!r} needs algorithm.forward=shared, not {forward}")
        if skip_masked and forward != "split":
            raise UserError(
                f"algorithm.skip_masked=true needs algorithm.forward=split: with {forward} there is no mask yet when "
                "the strong views are sent through"
            )
        if rule.needs_pseudo_head and network.pseudo_classifier is None:
            raise UserError(f"{type(rule).__name__} needs a network with pseudo_head=True")
        self.forward_mode = forward
        self.weak_share = WEAK_SHARE if weak_share is None else weak_share
        check_number("algorithm.weak_share", self.weak_share, low=0, high=1)
        self.skip_masked = skip_masked
        self.policy = policy
        self.rule = rule
        policy.prepare(num_classes=network.classifier.out_features, num_unlabelled=num_unlabelled)
        rule.prepare(network, num_unlabelled=num_unlabelled)

    def losses(self, batch: Batch) -> LayerLosses:
        """The losses of one batch, by layer group."""
        labelled, unlabelled = batch
        if unlabelled is None:
            raise UserError("this algorithm needs unlabelled images, and the batch has none")
        strong = unlabelled.strong
        if self.forward_mode == "joint":
            views, out_weak = self.forward_joint(labelled.image, unlabelled.weak, strong)
            pseudo_labels = self.make_pseudo_labels(out_weak, unlabelled)
        elif self.forward_mode == "shared":
            views, out_weak = self.forward_shared(labelled.image, unlabelled.weak, strong)
            pseudo_labels = self.make_pseudo_labels(out_weak, unlabelled)
        else:
            out_weak = self.forward_weak(unlabelled.weak)
            pseudo_labels = self.make_pseudo_labels(out_weak, unlabelled)
            if self.skip_masked:
                strong, pseudo_labels = leave_out_masked(strong, pseudo_labels)
            views = self.forward_labelled_and_strong(labelled.image, strong)
        return cast("LayerLosses", self.rule(self.network, views, labelled.label, pseudo_labels))

    def make_pseudo_labels(self, out_weak: NetworkOutput, unlabelled: UnlabelledBatch) -> PseudoLabels:
        """Targets and mask from the weak views, which the rule sees as well."""
        logits_weak = self.forward_teacher(unlabelled.weak) if self.rule.needs_teacher else out_weak.logits
        probs_weak = self.rule.average_outputs(probabilities(logits_weak), unlabelled.indices)
        pseudo_labels = cast("PseudoLabels", self.policy(probs_weak, unlabelled.indices))
        self.rule.observe(out_weak.features, pseudo_labels)
        self.record_quality(pseudo_labels, probs_weak, unlabelled.hidden_label)
        return pseudo_labels

    @torch.no_grad()
    def forward_teacher(self, weak: Tensor) -> Tensor:
        """Logits of the averaged network, as it is evaluated."""
        network = self.ema.network
        return self.rule.evaluation_logits(network, network(weak).features)

    @torch.no_grad()
    def forward_weak(self, weak: Tensor) -> NetworkOutput:
        """Weak views alone and without gradient."""
        out_weak = cast("NetworkOutput", self.network(weak))
        # Autocast keeps its bf16 copies of the weights, and those made under no_grad carry no gradient.
        torch.clear_autocast_cache()
        return out_weak

    def forward_labelled_and_strong(self, labelled: Tensor, strong: Tensor) -> ForwardPass:
        """Labelled and strong views together, with gradient."""
        out = self.network(torch.cat([labelled, strong]))
        features_labelled, features_strong = out.features.split([len(labelled), len(strong)])
        return ForwardPass(features_labelled, out.logits[: len(labelled)], features_strong)

    def forward_joint(self, labelled: Tensor, weak: Tensor, strong: Tensor) -> tuple[ForwardPass, NetworkOutput]:
        """All views in one forward, as in the references: joint BatchNorm statistics."""
        out = self.network(torch.cat([labelled, weak, strong]))
        sizes = [len(labelled), len(weak), len(strong)]
        features_labelled, features_weak, features_strong = out.features.split(sizes)
        logits_labelled, logits_weak, _ = out.logits.split(sizes)
        views = ForwardPass(features_labelled, logits_labelled, features_strong)
        return views, NetworkOutput(features_weak.detach(), logits_weak.detach())

    @cached_property
    def batch_statistics(self) -> BatchStatistics:
        """Of the network as it is trained: made at the first step, as synchronised BatchNorms take others' places."""
        return BatchStatistics(self.network)

    def forward_shared(self, labelled: Tensor, weak: Tensor, strong: Tensor) -> tuple[ForwardPass, NetworkOutput]:
        """Some weak views with the others as in a joint forward; the rest without gradient, by their statistics."""
        first, rest = weak.tensor_split([round(self.weak_share * len(weak))])
        with self.batch_statistics.taken():
            views, out_first = self.forward_joint(labelled, first, strong)
        if not len(rest):
            return views, out_first
        with self.batch_statistics.applied():
            out_rest = self.forward_weak(rest)
        return views, NetworkOutput(*map(torch.cat, zip(out_first, out_rest, strict=True)))

    def backward_by_group(self, losses: LayerLosses, *, sync: bool) -> None:
        """Add each parameter's gradient of its own group's loss to ``.grad``; see :class:`Algorithm`."""
        if not self.rule.separates_gradients:
            super().backward_by_group(losses, sync=sync)
            return
        grads_pseudo = self._gradients(losses.pseudo, retain_graph=True)
        grads_supervised = self._gradients(losses.supervised, retain_graph=False)
        for name, parameter in self.network.named_parameters():
            grad = self.rule.combine_gradients(name, grads_supervised[name], grads_pseudo[name])
            parameter.grad = grad if parameter.grad is None else parameter.grad + grad

    def _gradients(self, loss: Tensor, *, retain_graph: bool) -> dict[str, Tensor]:
        """Gradients of one loss, mean over all ranks; ``.grad`` is left as it was."""
        parameters = dict(self.network.named_parameters())
        before = {name: parameter.grad for name, parameter in parameters.items()}
        for parameter in parameters.values():
            parameter.grad = None
        if loss.requires_grad:
            with self._no_sync():  # these are averaged here, one loss at a time
                self.manual_backward(loss / self.accumulate, retain_graph=retain_graph)
        gradients = {}
        for name, parameter in parameters.items():
            grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            gradients[name] = all_reduce_mean_(grad)
            parameter.grad = before[name]
        return gradients

    def record_quality(self, pseudo_labels: PseudoLabels, probs_weak: Tensor, hidden_label: Tensor) -> None:
        """Log how many pseudo-labels count, of which classes, how sure they are, and how many are right.

        Args:
            pseudo_labels: of ``N`` images.
            probs_weak: ``(N, K)``, the probabilities that they were made from.
            hidden_label: ``(N,)`` int64, the true class, -1 where unknown. It is used for nothing else.
        """
        weight, label = pseudo_labels.weight, pseudo_labels.label
        known = (hidden_label >= 0).to(weight.dtype)
        right = known * (label == hidden_label)
        # A matrix product rather than index_add: its order of additions is fixed on CUDA too.
        counts = weight @ F.one_hot(label, probs_weak.shape[1]).to(weight.dtype)  # (K,)
        self.meter.add(
            {
                MASK_RATE.name: weight.mean(),
                CONFIDENCE.name: pseudo_labels.confidence.mean(),
                PSEUDO_ENTROPY.name: entropy(probs_weak).mean(),
                # Of a whole optimizer step: all ranks and accumulated batches.
                CLASS_COUNTS.vector: counts * (world_size() * self.accumulate),
            },
            {
                PSEUDO_ACCURACY.name: (right.sum(), known.sum()),
                ACCURACY_ACCEPTED.name: ((weight * right).sum(), (weight * known).sum()),
            },
        )

    def discard_step(self) -> None:
        """Forget a step that is not applied."""
        super().discard_step()
        self.rule.discard_step()

    def record_layer_gradients(self, losses: LayerLosses) -> None:
        """Add ``layers/*`` of one batch, with the pseudo-label gradient that the rule lets through.

        And ``avg_clustering/*`` where the rule has such a loss.
        """
        combine = self.rule.combine_gradients if self.rule.separates_gradients else None
        self.meter.add(measure_layer_gradients(self.network, losses, combine=combine), measure_clustering(losses))

    def log_interval(self) -> None:
        """Send the interval's means to the loggers, and the policy's thresholds as they stand."""
        thresholds = self.policy.thresholds()
        if thresholds is not None:
            named = zip(self.class_names(), thresholds.tolist(), strict=True)
            self.log_with_next({THRESHOLDS.of(name): value for name, value in named})
        super().log_interval()

    def centres(self) -> Tensor:
        """The rule's cluster centres; the classifier's rows where it has none."""
        return self.rule.centres(self.network)

    def after_step(self, *, num_updates: int) -> None:
        """Move the rule's centres."""
        self.rule.after_step(self.network, num_updates=num_updates)

    def evaluation_output(self, network: Network, images: Tensor) -> NetworkOutput:
        """Features, and logits of the head that the rule evaluates."""
        features = network(images).features
        return NetworkOutput(features, self.rule.evaluation_logits(network, features))


def leave_out_masked(strong: Tensor, pseudo_labels: PseudoLabels) -> tuple[Tensor, PseudoLabels]:
    """The strong views that count, and their pseudo-labels, weighted so that a mean over them is the mean over all.

    Args:
        strong: ``(N, C, H, W)``.
        pseudo_labels: of the ``N`` images.

    Returns:
        ``(M, C, H, W)`` with ``M`` at most ``N``, and the pseudo-labels of these.
    """
    kept = pseudo_labels.weight.nonzero()[:, 0]
    share = len(kept) / max(len(strong), 1)
    target, weight, label, confidence = (tensor[kept] for tensor in pseudo_labels)
    return strong[kept], PseudoLabels(target, weight * share, label, confidence)
