"""Networks whose outputs are given as images, and the batches, steps and problems that they are tested with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tests.oracle import tensor
from torch import Tensor, nn

from layermatch.data.batch import Batch, Samples, Unlabelled
from layermatch.functional import larger_part
from layermatch.methods.mixmatch import Mixing
from layermatch.networks import Network
from layermatch.parts import Losses, Problem, Step, StepState
from layermatch.policies import Predictions, PseudoLabels, SoftThreshold

# ------------------------------------------------------------------------------------------------------------ networks


def picking(first: int, count: int, *, of: int) -> nn.Linear:
    """A head that gives some of its inputs as they are."""
    head = nn.Linear(of, count).double()
    with torch.no_grad():
        head.weight.zero_()
        head.weight[:, first : first + count] = torch.eye(count)
        head.bias.zero_()
    return head


def network_of(num_classes: int, extractor: nn.Module | None = None, /, **widths: int) -> Network:
    """A network whose features are its images: first the logits, then the output of each head."""
    width, start = num_classes + sum(widths.values()), 0
    network = Network(extractor or nn.Identity(), num_features=width)
    for name, size in {"classifier": num_classes, **widths}.items():
        network.add_head(name, picking(start, size, of=width))
        start += size
    return network.double()


def linear_network(weight: Any, bias: Any) -> Network:
    """A network that is a linear map, with the weight as an oracle has it, ``(D, K)``."""
    weight = tensor(weight).T
    network = Network(nn.Flatten(), num_features=weight.shape[1], num_classes=len(weight)).double()
    with torch.no_grad():
        network.classifier.weight.copy_(weight)
        network.classifier.bias.copy_(tensor(bias))
    return network


def image(*parts: Any) -> Tensor:
    """Images that hold these outputs, one after another."""
    return torch.cat([tensor(part) for part in parts], dim=1)


def gradient(value: Tensor, network: Network, group: str) -> Tensor:
    """The gradient of a loss in all parameters of a group; 0 where there is none."""
    parameters = [parameter for _, parameter in network.parameter_groups()[group]]
    grads = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    filled = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads, strict=True)]
    return torch.cat([grad.flatten() for grad in filled])


def check_classifier_learns_from_labels(network: Network, losses: Losses) -> None:
    """Check that all losses together teach the classifier what the supervised one alone teaches it."""
    found = gradient(losses.total, network, "classifier")
    assert found.abs().sum() > 0
    assert torch.equal(found, gradient(losses["supervised"].value, network, "classifier"))


# ------------------------------------------------------------------------------------------ batches, steps and problems


def batch_of(
    labelled: Tensor,
    label: Sequence[int] | Tensor,
    views: dict[str, Tensor],
    *,
    indices: Any = None,
    pool_indices: Any = None,
) -> Batch:
    """A batch of these views; the classes of unlabelled images are not known."""
    num_labelled, num = len(label), len(views["weak"])
    rows = torch.arange(num_labelled) if indices is None else torch.as_tensor(indices)
    pool_rows = torch.arange(num) if pool_indices is None else torch.as_tensor(pool_indices)
    samples = Samples({"weak": labelled}, torch.as_tensor(label), rows)
    return Batch(samples, Unlabelled(views, pool_rows, torch.full((num,), -1)))


def batch_from(inputs: dict[str, Any], labelled: str = "x_lb", **views: str) -> Batch:
    """The batch of an oracle's step: what its images and each of its views are called there."""
    images = {view: tensor(inputs[name]) for view, name in views.items()}
    return batch_of(tensor(inputs[labelled]), inputs["y_lb"], images, pool_indices=inputs.get("idx_ulb"))


def batch_of_logits(inputs: dict[str, Any]) -> Batch:
    """The batch of an oracle's step whose images are logits; all views can have gradients."""
    batch = batch_from(inputs, "logits_lb", weak="logits_w", strong="logits_s")
    if "logits_lb_strong" in inputs:
        batch.labelled.views["strong"] = tensor(inputs["logits_lb_strong"])
    for view in (*batch.labelled.views.values(), *batch.unlabelled.views.values()):
        view.requires_grad_()
    return batch


def problem_of(num_classes: int, num_features: int | None = None, **more: Any) -> Problem:
    """What a method may know of 8 labelled images and 24 unlabelled ones, and of a run of 100 steps."""
    usual = {"num_labelled": 8, "num_unlabelled": 24, "image_shape": (1, 1, 1), "max_steps": 100}
    return Problem(num_classes, num_features or num_classes, **(usual | more))


def step_of(
    network: Network,
    number: int = 0,
    max_steps: int = 100,
    *,
    average: Network | None = None,
    seen: dict[str, Tensor] | None = None,
    batches: int = 1,
) -> Step:
    """A step that logs nothing but into ``seen``."""

    def record(means: dict[str, Tensor], ratios: Any = None) -> None:
        if seen is not None:
            seen.update(means)

    return Step(network, average or network, number, max_steps, record, lambda *_: None, batches=batches)


# --------------------------------------------------------------------------------------------------------------- state


def finish(module: nn.Module, step: Step | None = None, *, is_applied: bool = True) -> None:
    """End a step for everything with state, as the training module does."""
    for state in module.modules():
        if isinstance(state, StepState):
            state.after_step(step) if is_applied else state.discard_step()  # type: ignore[arg-type]


def in_double(module: nn.Module, num_classes: int) -> None:
    """Float64, with a start of 1 / K that float32 had rounded."""
    module.double()
    for buffer in module.buffers():
        if buffer.is_floating_point():
            rounded = (buffer - 1 / num_classes).abs() < 1e-6
            buffer[rounded] = 1 / num_classes


# ----------------------------------------------------------------------------------------------- parts that are watched


class Noted(SoftThreshold):
    """Notes what it was shown and gave."""

    def forward(self, predictions: Predictions) -> PseudoLabels:
        self.seen = predictions.probs_weak
        self.given = super().forward(predictions)
        return self.given


class GivenMixing(Mixing):
    """Mixes as the oracle says."""

    def give(self, inputs: dict[str, Any]) -> None:
        name = "beta_draw_per_sample" if self.coefficients == "sample" else "beta_draw"
        self.given = larger_part(tensor(inputs[name])), torch.tensor(inputs["perm"])

    def draw(self, count: int, *, device: torch.device | str) -> tuple[Tensor, Tensor]:
        assert count == len(self.given[1])
        return self.given
