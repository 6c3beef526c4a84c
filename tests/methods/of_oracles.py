"""The numbers of an oracle as a batch: its logits are the images of a network that leaves them as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layermatch.data.batch import Batch, Samples, Unlabelled
from layermatch.networks import Network
from layermatch.parts import Problem, Step


def load(name: str) -> dict[str, Any]:
    return json.loads((Path(__file__).parents[1] / "oracles" / f"{name}.json").read_text(encoding="utf-8"))


def expected(oracle: dict[str, Any], number: int, variant: str) -> dict[str, Any]:
    """What a variant gives at a step; a variant of the paper holds only what differs from its base."""
    out = oracle["steps"][number]["outputs"]
    of_paper = oracle["variants_of_the_paper"].get(variant)
    return {**out[of_paper["base"]], **out[variant]} if of_paper else out[variant]


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def identity_network(num_classes: int) -> Network:
    network = Network(nn.Identity(), num_features=num_classes, num_classes=num_classes).double()
    with torch.no_grad():
        network.classifier.weight.copy_(torch.eye(num_classes))
        network.classifier.bias.zero_()
    return network


def problem_of(oracle: dict[str, Any], *, pool: int | None = None, max_steps: int = 100) -> Problem:
    num_classes = oracle["inputs"]["K"]
    num_unlabelled = oracle["inputs"]["N"] if pool is None else pool
    return Problem(num_classes, num_classes, oracle["inputs"]["B"], num_unlabelled, (1, 1, 1), max_steps)


def batch_of(inputs: dict[str, Any]) -> Batch:
    """The batch of an oracle's step; all its views can have gradients."""
    label = torch.tensor(inputs["y_lb"])
    views = {"weak": tensor(inputs["logits_w"]), "strong": tensor(inputs["logits_s"])}
    indices = torch.tensor(inputs.get("idx_ulb", range(len(views["weak"]))))
    labelled = tensor(inputs["logits_lb"])
    for view in (labelled, *views.values()):
        view.requires_grad_()
    unlabelled = Unlabelled(views, indices, torch.full_like(indices, -1))
    return Batch(Samples({"weak": labelled}, label, torch.arange(len(label))), unlabelled)


def step_of(network: Network, number: int = 0, max_steps: int = 100) -> Step:
    return Step(network, network, number, max_steps, lambda *_: None, lambda *_: None)


class Worst:
    """The largest difference that was found, each of which must be small."""

    def __init__(self, tolerance: float = 1e-7) -> None:
        self.tolerance = tolerance
        self.difference = 0.0

    def see(self, found: Tensor | float, wanted: Any, what: str = "") -> None:
        difference = (torch.as_tensor(found).double() - tensor(wanted)).abs()
        assert difference.shape == tensor(wanted).shape, what
        largest = difference.max().item()
        assert largest <= self.tolerance, (what, largest)
        self.difference = max(self.difference, largest)

    def say(self, what: str) -> None:
        """Show it, where pytest is asked to (``-s``)."""
        print(f"{what}: worst difference {self.difference:.1e}")  # noqa: T201
