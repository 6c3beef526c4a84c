"""What the banks, tables and queues of methods cost in a step, and the readings of Avg-Clustering."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from layermatch.bench.accuracy_runs import compose_settings
from layermatch.build import build_method
from layermatch.data.batch import Batch, Samples, Unlabelled
from layermatch.functional import label_gradient, probabilities
from layermatch.layerwise import SeparateLosses
from layermatch.layerwise.avg_clustering import READINGS
from layermatch.methods import R2D2, FineSSL, Method, PseudoLabelling, ReMixMatch
from layermatch.methods.base import unlabelled_of
from layermatch.networks import Network, Output
from layermatch.parts import Problem, Step, StepState
from layermatch.policies import FixedThreshold, Predictions, PseudoLabels
from layermatch.settings import Settings

__all__ = ["move_state", "works_of_states"]


@dataclass(frozen=True)
class Shown:
    """What a step shows to a method: outputs of a network whose images are features already, and costs nothing.

    Attributes:
        labelled: The outputs of labelled images.
        weak: Those of the weak views.
        strong: Those of the strong views.
        pseudo_labels: What a threshold makes of the weak views.
        batch: The batch.
        step: The step, in the middle of a run.
    """

    labelled: Output
    weak: Output
    strong: Output
    pseudo_labels: PseudoLabels
    batch: Batch
    step: Step


def _make_targets(method: PseudoLabelling, shown: Shown) -> None:
    """Make pseudo-labels with the bank or the queues, and the policy, whose share is measured by itself too."""
    method.make_pseudo_labels(shown.weak, shown.labelled, shown.batch, shown.step)


def _guess(method: ReMixMatch, shown: Shown) -> None:
    """Align the guesses by the last predictions."""
    method.guess(shown.step.network, shown.weak.features)


def _count_classes(method: FineSSL, shown: Shown) -> None:
    """Make the margins of the classes, and pseudo-labels, whose classes are counted."""
    method.margins()
    method.make_pseudo_labels(shown.weak.logits, shown.weak.logits, shown.batch, shown.step)


def _move_labels(method: R2D2, shown: Shown) -> None:
    """Read the labels of the images, and take the gradient by them."""
    indices = unlabelled_of(shown.batch).indices
    rows = method.table.logits[indices]
    method.table.see(indices, label_gradient(shown.weak.logits, rows, kind=method.divergence))


def _read(method: PseudoLabelling, shown: Shown) -> None:
    """Average the outputs, show features to the centres, and take the loss by the centres."""
    reading = cast("SeparateLosses", method.rule).avg_clustering
    reading.average_outputs(probabilities(shown.weak.logits), unlabelled_of(shown.batch).indices)
    reading.observe(shown.weak.features, shown.pseudo_labels)
    if reading.weight:
        loss = reading.loss(shown.strong.features.detach().requires_grad_(), shown.pseudo_labels)
        torch.autograd.backward(loss)


#: The methods that have a bank, a table or queues of their own -> what a step does with them.
METHODS: Mapping[str, Callable[[Any, Shown], object]] = {
    "comatch": _make_targets,
    "simmatch": _make_targets,
    "shrinkmatch": _make_targets,
    "daso": _make_targets,
    "remixmatch": _guess,
    "finessl": _count_classes,
    "r2d2": _move_labels,
}


def works_of_states(
    problem: Problem, *, num_labelled: int, num_unlabelled: int, device: torch.device
) -> dict[str, partial[None]]:
    """Return what has state beside the policies: by its choice in the configuration, its work in a step.

    That is to make targets with it, and to move it. A reading of Avg-Clustering has its loss as well; a reading without
    state is left out.

    Args:
        problem: What the methods are prepared for.
        num_labelled: The labelled images of a step.
        num_unlabelled: The unlabelled ones.
        device: The device that computes.
    """
    choices = {f"algorithm={name}": work for name, work in METHODS.items()}
    choices |= {f"layerwise.avg_clustering={name}": _read for name in READINGS}
    works: dict[str, partial[None]] = {}
    for choice, work in choices.items():
        method, network = _prepared(choice, problem, device)
        if any(isinstance(part, StepState) and list(part.buffers()) for part in method.modules()):
            shown = _shown(network, problem, num_labelled=num_labelled, num_unlabelled=num_unlabelled, device=device)
            works[choice] = partial(_work_and_move, work, method, shown)
    return works


def move_state(part: nn.Module, step: Step) -> None:
    """Tell everything with state that the step was applied.

    Args:
        part: What holds it.
        step: The step.
    """
    for state in part.modules():
        if isinstance(state, StepState):
            state.after_step(step)


def _prepared(choice: str, problem: Problem, device: torch.device) -> tuple[Method, Network]:
    """Return a method as the configuration has it, and the network that it is prepared for."""
    algorithm = () if choice.startswith("algorithm=") else ("algorithm=layermatch",)
    method = build_method(Settings.parse(compose_settings((*algorithm, choice))))
    network = Network(nn.Identity(), num_features=problem.num_features, num_classes=problem.num_classes)
    # As sure as the policies' predictions are here, with logits of deviation 3; a new network is sure of no image.
    nn.init.normal_(network.classifier.weight, std=3 / problem.num_features**0.5)
    for name, head in method.heads(problem).items():
        network.add_head(name, head)
    method.prepare(network.to(device), problem)
    return method.to(device), network


def _shown(
    network: Network, problem: Problem, *, num_labelled: int, num_unlabelled: int, device: torch.device
) -> Shown:
    features = torch.randn(num_labelled + 2 * num_unlabelled, problem.num_features, device=device)
    images = torch.split(features, [num_labelled, num_unlabelled, num_unlabelled])
    with torch.no_grad():
        labelled, weak, strong = (network(each, heads=tuple(network.heads)) for each in images)
    integers = partial(torch.randint, device=device)
    classes = integers(problem.num_classes, (num_labelled + num_unlabelled,))
    label, hidden = torch.split(classes, [num_labelled, num_unlabelled])
    indices = integers(problem.num_unlabelled, (num_unlabelled,))
    batch = Batch(
        Samples({"weak": images[0]}, label, integers(problem.num_labelled, (num_labelled,))),
        Unlabelled({"weak": images[1], "strong": images[2]}, indices, hidden),
    )
    pseudo_labels = FixedThreshold(threshold=0.5)(Predictions(probabilities(weak.logits), indices))
    half = problem.max_steps // 2
    step = Step(network, network, half, problem.max_steps, lambda *_: None, lambda *_: None)
    return Shown(labelled, weak, strong, pseudo_labels, batch, step)


def _work_and_move(work: Callable[[Any, Shown], object], method: Method, shown: Shown) -> None:
    work(method, shown)
    move_state(method, shown.step)
