"""A network whose heads give what its images hold, so that recorded outputs can be given as images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layermatch.data.batch import Batch, Samples, Unlabelled
from layermatch.methods import Method
from layermatch.networks import Network
from layermatch.parts import Problem, Step, StepState

TOLERANCE = {"rtol": 1e-7, "atol": 1e-7}


def oracle(name: str) -> dict[str, Any]:
    path = Path(__file__).parents[1] / "oracles" / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def expected_of(recorded: dict[str, Any], data: dict[str, Any], variant: str) -> dict[str, Any]:
    """What a variant gives for one step; a variant of the paper holds only what differs from its base."""
    base = data["variants_of_the_paper"].get(variant, {}).get("base", variant)
    return {**recorded["outputs"][base], **recorded["outputs"][variant]}


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def network_of(num_classes: int, **widths: int) -> Network:
    """Its features are its images: first the logits, then the output of each head."""
    width = num_classes + sum(widths.values())
    network = Network(nn.Identity(), num_features=width, num_classes=num_classes)
    start = num_classes
    for name, size in widths.items():
        head = nn.Linear(width, size)
        network.add_head(name, head)
        select(head, start)
        start += size
    select(network.classifier, 0)
    return network.double()


def select(head: nn.Linear, start: int) -> None:
    with torch.no_grad():
        head.weight.zero_()
        head.weight[:, start : start + len(head.weight)] = torch.eye(len(head.weight))
        head.bias.zero_()


def image(*parts: Any) -> Tensor:
    """Images that hold these outputs, one after another."""
    return torch.cat([tensor(part) for part in parts], dim=1)


def batch_of(labelled: Tensor, label: Sequence[int], views: dict[str, Tensor], indices: Any = None) -> Batch:
    num = len(views["weak"])
    unlabelled = Unlabelled(views, torch.arange(num), torch.full((num,), -1))
    indices = torch.arange(len(label)) if indices is None else torch.tensor(indices)
    return Batch(Samples({"weak": labelled}, torch.tensor(label), indices), unlabelled)


def problem_of(network: Network, *, num_labelled: int = 1000, side: int = 1) -> Problem:
    return Problem(network.num_classes, network.num_features, num_labelled, 1000, (1, side, side), 100)


def step_of(network: Network, number: int = 0, *, average: Network | None = None) -> Step:
    return Step(network, average or network, number, 100, lambda *_: None, lambda *_: None)


def parts_of(method: Method) -> list[StepState]:
    return [module for module in method.modules() if isinstance(module, StepState)]


def after_step(method: Method, step: Step) -> None:
    for part in parts_of(method):
        part.after_step(step)


def discard_step(method: Method) -> None:
    for part in parts_of(method):
        part.discard_step()


class Worst:
    """Compares with recorded numbers, and keeps the greatest difference."""

    def __init__(self) -> None:
        self.difference = 0.0

    def close(self, found: Tensor, recorded: Any) -> None:
        recorded = tensor(recorded)
        if found.numel():
            self.difference = max(self.difference, (found.detach().double() - recorded).abs().max().item())
        torch.testing.assert_close(found.detach().double(), recorded, **TOLERANCE)
