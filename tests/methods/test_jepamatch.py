"""JEPAMatch against the authors' numbers and a slow numpy reference, in value and gradient; edges and refusals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from tests import given, oracle
from tests.oracle import Worst
from tests.slopes import slopes
from torch import Tensor, nn

from layermatch.data.batch import Batch
from layermatch.errors import UserError
from layermatch.functional import unit_directions
from layermatch.layerwise import SeparateLosses, Uniform
from layermatch.methods import JEPAMatch
from layermatch.networks import Network
from layermatch.parts import Losses
from layermatch.policies import FixedThreshold, GaussianWeight

ORACLE = oracle.read("jepamatch")
VARIANTS = sorted(ORACLE["config"])
K, WIDTH = ORACLE["inputs"]["K"], 3

#: What the recorded names of projections are called here.
VIEWS = {"proj_w": "weak", "proj_s": "strong"}


class Along(JEPAMatch):
    """Sees a distribution along directions that are given."""

    given: Tensor

    def directions(self) -> Tensor:
        return unit_directions(self.given.T).T


def make(directions: Any, *, policy: Any = None, rule: Any = None, **options: Any) -> tuple[JEPAMatch, Network]:
    method = Along(policy=policy or FixedThreshold(threshold=0.8), rule=rule or Uniform(), width=WIDTH, **options)
    method.given = oracle.tensor(directions)
    network = given.network_of(K, projection=WIDTH)
    method.prepare(network, given.problem_of(K, K + WIDTH))
    return method.double(), network


def batch_of(inputs: dict[str, Any]) -> Batch:
    """Images that hold the logits and the projections, which are leaves; the logits of local views are not read."""
    views = {
        "weak": given.image(inputs["logits_w"], inputs["proj_w"]),
        "strong": given.image(inputs["logits_s"], inputs["proj_s"]),
    }
    for number, projection in enumerate(inputs["proj_l"], start=1):
        name = "local" if number == 1 else f"local_{number}"
        views[name] = given.image(torch.zeros(len(projection), K), projection)
    batch = given.batch_of(given.image(inputs["logits_lb"], inputs["proj_lb"]), inputs["y_lb"], views)
    for view in (*batch.labelled.views.values(), *batch.unlabelled.views.values()):
        view.requires_grad_()
    return batch


def losses_of(inputs: dict[str, Any], **options: Any) -> tuple[Losses, Batch]:
    method, network = make(inputs["directions"], num_local=len(inputs["proj_l"]), **options)
    batch = batch_of(inputs)
    return method.losses(batch, given.step_of(network, inputs["number"], ORACLE["inputs"]["max_steps"])), batch


def of_embeddings(losses: Losses) -> Tensor:
    return sum(losses[name].weighted for name in ("prediction", "gaussian", "repulsion"))


def gradient_of(view: Tensor) -> Tensor:
    return torch.zeros_like(view[:, K:]) if view.grad is None else view.grad[:, K:]


@pytest.mark.oracle
@pytest.mark.parametrize("variant", VARIANTS)
def test_values_and_gradients_are_the_authors(variant: str) -> None:
    options = {key: ORACLE["config"][variant][key] for key in ("centre", "shaped", "repulsion")}
    worst = Worst()
    for recorded in ORACLE["steps"]:
        want = oracle.expected(ORACLE, recorded, variant)
        losses, batch = losses_of(recorded["inputs"], **options)
        for name in ("prediction", "gaussian", "repulsion"):
            # The repulsion is left out by its weight while classes are not told apart.
            found = losses[name].value if name != "repulsion" or losses[name].weight else torch.zeros(())
            scale = max(want[name], 1.0)  # the numbers have nine digits
            worst.see(found / scale, want[name] / scale, name)
        total = of_embeddings(losses)
        worst.see(total / want["loss_rep"], 1.0, "loss_rep")
        total.backward()
        views = batch.unlabelled.views
        for name, view in VIEWS.items():
            worst.see(gradient_of(views[view]), want[f"grad_{name}"], name)
        local = torch.stack([gradient_of(view) for name, view in views.items() if name.startswith("local")])
        worst.see(local, want["grad_proj_l"], "proj_l")
        worst.see(gradient_of(batch.labelled.views["weak"]), want["grad_proj_lb"], "proj_lb")
    worst.say(f"jepamatch {variant}")


# ------------------------------------------------------------------------------------------------- a slow reference


def by_loops(
    parts: dict[str, np.ndarray], inputs: dict[str, Any], means: np.ndarray | None, *, centre: str, shaped: str
) -> tuple[float, np.ndarray]:
    """The three losses added up with their weights; and the means, which have no gradient where views are centred."""
    weak, strong, local = parts["proj_w"], parts["proj_s"], parts["proj_l"]
    every = [weak, strong, *local]
    shown = local if shaped == "local" else every
    middle = np.mean(local if centre == "local" else [weak, strong], axis=0)
    spread = np.mean([((row - middle[n]) ** 2).sum() for view in every for n, row in enumerate(view)])

    progress = inputs["number"] / ORACLE["inputs"]["max_steps"]
    alpha = (
        0.0 if progress < 0.25 else 1.0 if progress >= 0.75 else 0.5 - 0.5 * math.cos(math.pi * (progress - 0.25) * 2)
    )
    logits = np.asarray(inputs["logits_w"])
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    hard, accepted = probs.argmax(axis=1), probs.max(axis=1) >= 0.8
    members: dict[int, list[np.ndarray]] = {}
    for row, label in zip(parts["proj_lb"], inputs["y_lb"], strict=True):
        members.setdefault(label, []).append(row)
    for n in np.flatnonzero(accepted):
        members.setdefault(int(hard[n]), []).append(np.mean([view[n] for view in shown], axis=0))
    live = np.zeros((K, WIDTH))
    for k, rows in members.items():
        live[k] = np.mean(rows, axis=0)
    means = live if means is None else means

    points = [row - alpha * means[hard[n]] * accepted[n] for view in shown for n, row in enumerate(view)]
    knots, sigma, total = np.linspace(0, 5, 17), 1 - 0.9 * alpha, 0.0
    directions = np.asarray(inputs["directions"])
    for direction in (directions / np.linalg.norm(directions, axis=0)).T:
        for number, t in enumerate(knots):
            wanted = math.exp(-((t * sigma) ** 2) / 2)
            weight = 5 / 16 * (1 if number in {0, 16} else 2) * wanted
            real = np.mean([math.cos(t * (direction @ point)) for point in points])
            imaginary = np.mean([math.sin(t * (direction @ point)) for point in points])
            total += weight * ((real - wanted) ** 2 + imaginary**2)
    gaussian = len(points) * total / directions.shape[1]

    there, pairs = sorted(members), []
    for i in there:
        for j in there:
            if i != j:
                cosine = live[i] @ live[j] / np.linalg.norm(live[i]) / np.linalg.norm(live[j])
                pairs.append(max(cosine, 0.0) ** 2)
    repulsion = np.mean(pairs) if pairs and accepted.any() and alpha else 0.0
    return 0.5 * (0.8 * spread + 0.2 * gaussian + 1.0 * repulsion), means


@pytest.mark.parametrize(("centre", "shaped"), [("local", "local"), ("global", "all"), ("local", "all")])
@pytest.mark.parametrize("number", [0, 2, 4])
def test_values_and_gradients_are_those_of_loops(number: int, centre: str, shaped: str) -> None:
    inputs = ORACLE["steps"][number]["inputs"]
    parts = {name: np.asarray(inputs[name]) for name in ("proj_w", "proj_s", "proj_l", "proj_lb")}
    expected, means = by_loops(parts, inputs, None, centre=centre, shaped=shaped)
    losses, batch = losses_of(inputs, centre=centre, shaped=shaped)
    total = of_embeddings(losses)
    assert total.item() == pytest.approx(expected, rel=1e-12)
    total.backward()
    found = {
        "proj_s": gradient_of(batch.unlabelled.views["strong"]),
        "proj_lb": gradient_of(batch.labelled.views["weak"]),
    }
    for name, gradient in found.items():

        def moved(values: np.ndarray, name: str = name) -> float:
            return by_loops(parts | {name: values}, inputs, means, centre=centre, shaped=shaped)[0]

        np.testing.assert_allclose(gradient.numpy(), slopes(moved, parts[name]), rtol=1e-5, atol=1e-8)


# ------------------------------------------------------------------------------------------------------------- edges


def test_a_soft_weight_counts_as_accepted_and_none_is_no_repulsion() -> None:
    inputs = ORACLE["steps"][2]["inputs"]
    soft, _ = losses_of(inputs, policy=GaussianWeight())
    every, _ = losses_of(inputs, policy=FixedThreshold(threshold=1e-9))
    none, _ = losses_of(inputs, policy=FixedThreshold(threshold=1.0))
    torch.testing.assert_close(soft["gaussian"].value, every["gaussian"].value)
    assert every["repulsion"].value > 0
    assert none["repulsion"].value == 0
    assert none["gaussian"].value != every["gaussian"].value


def test_losses_of_bf16_outputs_are_in_float32() -> None:
    inputs = ORACLE["steps"][4]["inputs"]
    method, network = make(inputs["directions"], num_local=2)
    step = given.step_of(network.float(), 70)
    batch = batch_of(inputs)
    views = {name: view.detach().float() for name, view in batch.unlabelled.views.items()}
    batch = given.batch_of(batch.labelled.views["weak"].detach().float(), inputs["y_lb"], views)
    exact = of_embeddings(method.losses(batch, step))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = of_embeddings(method.losses(batch, step))
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=0.02)


def test_its_losses_reach_the_extractor_and_the_projection_under_any_rule() -> None:
    inputs = ORACLE["steps"][2]["inputs"]
    for rule in (Uniform(), SeparateLosses(avg_clustering="none")):
        losses, _ = losses_of(inputs, rule=rule)
        for name in ("prediction", "gaussian", "repulsion"):
            assert losses[name].reaches == {"extractor", "projection"}
            assert losses[name].source == "pseudo_labels"


def test_an_extractor_for_images_of_one_size_is_refused_with_the_reason() -> None:
    network = Network(nn.Flatten(), num_features=16, num_classes=2)
    method = JEPAMatch(policy=FixedThreshold(), rule=Uniform(), num_local=1, width=3, hidden=4)
    problem = given.problem_of(2, 16, image_shape=(1, 4, 4))
    for name, head in method.heads(problem).items():
        network.add_head(name, head)
    method.prepare(network, problem)
    views = {"weak": torch.randn(4, 1, 4, 4), "strong": torch.randn(4, 1, 4, 4), "local": torch.randn(4, 1, 3, 3)}
    batch = given.batch_of(torch.randn(2, 1, 4, 4), [0, 1], views)
    with pytest.raises(UserError, match=r"takes no local views of 3x3.*views\.local_side=1"):
        method.losses(batch, given.step_of(network))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_local": 0}, "num_local=0"),
        ({"beta": 1.5}, "beta=1.5"),
        ({"warmup": 0.6}, "warmup=0.6"),
        ({"centre": "all"}, "centre='all' is not legal: choose one of local, global"),
        ({"forward": "split", "skip_masked": True}, "skip_masked=true is not legal with JEPAMatch"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        JEPAMatch(policy=FixedThreshold(), rule=Uniform(), **options)
