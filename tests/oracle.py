"""Numbers of the peers' own code, and the small pieces that tests feed them to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layermatch.data.batch import Batch, Samples, Unlabelled
from layermatch.networks import Network
from layermatch.parts import Problem, Step, StepState


def read(name: str) -> dict[str, Any]:
    """The numbers of a method."""
    return json.loads((Path(__file__).parent / "oracles" / f"{name}.json").read_text(encoding="utf-8"))


def outputs(oracle: dict[str, Any], number: int, variant: str) -> dict[str, Any]:
    """What a variant gives at a step; a paper's variant has what differs from its base."""
    found, derived = oracle["steps"][number]["outputs"], oracle["variants_of_the_paper"].get(variant)
    return {**found[derived["base"]], **found[variant]} if derived else found[variant]


def tensor(values: Any) -> Tensor:
    """Float64, as the numbers are."""
    return torch.tensor(values, dtype=torch.float64)


def problem(num_classes: int = 6) -> Problem:
    """What a policy may know."""
    return Problem(num_classes, num_classes, 8, 24, (1, 1, 1), 10, (1,) * num_classes)


def identity_network(num_classes: int, extractor: nn.Module | None = None) -> Network:
    """A network whose logits are its images, so that logits can be given as images."""
    network = Network(extractor or nn.Identity(), num_features=num_classes, num_classes=num_classes).double()
    with torch.no_grad():
        network.classifier.weight.copy_(torch.eye(num_classes))
        network.classifier.bias.zero_()
    return network


def step_of(network: Network, number: int = 0) -> Step:
    """A step of ten that logs nothing."""
    return Step(network, network, number, 10, lambda *_: None, lambda *_: None)


def batch_of(inputs: dict[str, Any]) -> Batch:
    """A batch whose images are logits; the strong ones take a gradient."""
    label, strong = torch.tensor(inputs["y_lb"]), tensor(inputs["logits_s"]).requires_grad_()
    unlabelled = Unlabelled(
        {"weak": tensor(inputs["logits_w"]), "strong": strong},
        torch.arange(len(strong)),
        torch.full((len(strong),), -1),
    )
    views = {"weak": tensor(inputs["logits_lb"])}
    if "logits_lb_strong" in inputs:
        views["strong"] = tensor(inputs["logits_lb_strong"])
    return Batch(Samples(views, label, torch.arange(len(label))), unlabelled)


def in_double(module: nn.Module, num_classes: int) -> None:
    """Float64, with a start of 1 / K that float32 had rounded."""
    module.double()
    for buffer in module.buffers():
        if buffer.is_floating_point():
            rounded = (buffer - 1 / num_classes).abs() < 1e-6
            buffer[rounded] = 1 / num_classes


def finish(module: nn.Module, step: Step | None = None, *, is_applied: bool = True) -> None:
    """End a step for everything with state, as the training module does."""
    for state in module.modules():
        if isinstance(state, StepState):
            state.after_step(step) if is_applied else state.discard_step()  # type: ignore[arg-type]
