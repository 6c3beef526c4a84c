"""The FixMatch family: a pseudo-label policy, a layer-wise rule, and two views."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from layermatch.algorithms.base import Algorithm
from layermatch.data.batch import Batch, UnlabelledBatch
from layermatch.distributed import all_reduce_mean_
from layermatch.errors import UserError, check_choice
from layermatch.functional import probabilities
from layermatch.layerwise import ForwardPass, LayerLosses, LayerwiseRule
from layermatch.models import Network
from layermatch.pseudo_labels import PseudoLabelPolicy, PseudoLabels

__all__ = ["PseudoLabelling"]

FORWARDS = ("split", "joint")


class PseudoLabelling(Algorithm):
    r"""Pseudo-labels from the weak view teach the strong view; a rule decides which layers learn from them.

    FixMatch (Sohn et al. 2020) is ``FixedThreshold`` with ``Uniform``; LayerMatch (Liang et al. 2024) is
    ``FixedThreshold`` with ``LayerMatch``; any policy goes with any rule. One step:

    1. ``p = softmax(W f(w(u)) + b)`` without gradient; targets and mask from the policy.
    2. ``f(w(x))`` and ``f(s(u))`` with gradient.
    3. ``L_feat`` and ``L_cls`` from the rule; one backward; one optimizer step; averages.

    Args:
        network: extractor and classifier; with a second head where the rule needs one.
        policy: makes pseudo-labels.
        rule: routes the losses.
        num_unlabelled: images in the unlabelled pool.
        forward: ``split`` sends the weak views through the network on their own, without gradient, which saves about
            a third of the work. ``joint`` sends labelled, weak and strong views through together, as the
            references do. They differ in BatchNorm: with ``split`` the weak views are normalised by their own
            statistics, the others by those of labelled and strong views, and the running statistics see both.
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
        forward: str = "split",
        **kwargs: Any,
    ) -> None:
        super().__init__(network, **kwargs)
        check_choice("algorithm.forward", forward, FORWARDS)
        if rule.needs_pseudo_head and network.pseudo_classifier is None:
            raise UserError(f"{type(rule).__name__} needs a network with pseudo_head=True")
        self.forward_mode = forward
        self.policy = policy
        self.rule = rule
        policy.prepare(num_classes=network.classifier.out_features, num_unlabelled=num_unlabelled)
        rule.prepare(network, num_unlabelled=num_unlabelled)

    def losses(self, batch: Batch) -> LayerLosses:
        """The losses of one batch, by layer group."""
        unlabelled = batch.unlabelled
        if unlabelled is None:
            raise UserError("this algorithm needs unlabelled images, and the batch has none")
        forward = self.forward_joint if self.forward_mode == "joint" else self.forward_split
        views, logits_weak = forward(batch.labelled.image, unlabelled.weak, unlabelled.strong)
        probs_weak = self.rule.average_outputs(probabilities(logits_weak), unlabelled.indices)
        pseudo_labels = self.policy(probs_weak, unlabelled.indices)
        self.record_quality(pseudo_labels, unlabelled)
        return cast("LayerLosses", self.rule(self.network, views, batch.labelled.label, pseudo_labels))

    def forward_split(self, labelled: Tensor, weak: Tensor, strong: Tensor) -> tuple[ForwardPass, Tensor]:
        """Weak views alone and without gradient, then labelled and strong views together."""
        with torch.no_grad():
            out_weak = self.network(weak)
        # Autocast keeps its bf16 copies of the weights, and those made under no_grad carry no gradient.
        torch.clear_autocast_cache()
        out = self.network(torch.cat([labelled, strong]))
        features_labelled, features_strong = out.features.split([len(labelled), len(strong)])
        logits_labelled = out.logits[: len(labelled)]
        return ForwardPass(features_labelled, logits_labelled, features_strong, out_weak.features), out_weak.logits

    def forward_joint(self, labelled: Tensor, weak: Tensor, strong: Tensor) -> tuple[ForwardPass, Tensor]:
        """All views in one forward, as in the references: joint BatchNorm statistics."""
        out = self.network(torch.cat([labelled, weak, strong]))
        sizes = [len(labelled), len(weak), len(strong)]
        features_labelled, features_weak, features_strong = out.features.split(sizes)
        logits_labelled, logits_weak, _ = out.logits.split(sizes)
        views = ForwardPass(features_labelled, logits_labelled, features_strong, features_weak.detach())
        return views, logits_weak.detach()

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

    def record_quality(self, pseudo_labels: PseudoLabels, unlabelled: UnlabelledBatch) -> None:
        """Log how many pseudo-labels count, and how many of those are right where the truth is known."""
        weight = pseudo_labels.weight
        counted = weight * (unlabelled.hidden_label >= 0)
        correct = counted * (pseudo_labels.label == unlabelled.hidden_label)
        self.meter.add(
            {
                "pseudo_labels/mask_rate": weight.mean(),
                "pseudo_labels/confidence": pseudo_labels.confidence.mean(),
            },
            {"pseudo_labels/accuracy": (correct.sum(), counted.sum())},
        )

    def after_step(self, *, num_updates: int) -> None:
        """Move the rule's centres."""
        self.rule.after_step(self.network, num_updates=num_updates)

    def evaluation_logits(self, network: Network, images: Tensor) -> Tensor:
        """Logits of the head that the rule evaluates."""
        return self.rule.evaluation_logits(network, network(images).features)
