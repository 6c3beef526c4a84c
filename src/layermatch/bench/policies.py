"""What every policy of conf/pseudo_labels costs, and every bank and table, against the step that it is part of."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from layermatch.bench.report import Figure, Ratio, Section
from layermatch.bench.states import move_state, works_of_states
from layermatch.bench.step import BATCH_SIZE, MU, NUM_CLASSES
from layermatch.bench.timing import alternate, timed
from layermatch.build import build_policy
from layermatch.cli import config_dir, plain
from layermatch.functional import supervised_loss
from layermatch.networks import CLASSIFIER, Network, Output, wrn_28_2
from layermatch.parts import Problem, Step
from layermatch.policies import Policy, Predictions
from layermatch.settings import Settings
from layermatch.trainer import choose_device

__all__ = ["measure", "policy_names"]

#: CIFAR-10's pool, and the most labels that are usual with it, which a bank of labelled images holds.
POOL, SIDE, NUM_LABELLED = 50_000, 32, 4000


def policy_names() -> list[str]:
    """Return the choices of conf/pseudo_labels."""
    return sorted(path.stem for path in (config_dir() / "pseudo_labels").glob("*.yaml") if path.stem != "none")


def measure(*, device: torch.device, quick: bool, make_network: Callable[..., Network] = wrn_28_2) -> Section:
    """Return the seconds of the work of each policy and other state in a step, and of the pure compute of that step.

    Args:
        device: The device that computes.
        quick: Whether the short form is measured: fewer rounds, and on a CPU a quarter of the published batch.
        make_network: Makes the network, given ``num_classes``.
    """
    batch_size = BATCH_SIZE // 4 if quick and device.type == "cpu" else BATCH_SIZE
    # As a run computes: a slower step would make every policy look cheaper.
    accelerator = "gpu" if device.type == "cuda" else "cpu"
    chosen = choose_device(accelerator=accelerator, precision="auto", channels_last="auto")
    layout = torch.channels_last if chosen.channels_last else torch.contiguous_format
    network = make_network(num_classes=NUM_CLASSES).to(device).to(memory_format=layout)
    images = torch.randn(batch_size + 2 * MU * batch_size, 3, SIDE, SIDE, device=device).to(memory_format=layout)
    # The network takes most of the time, and a policy's microseconds want many measurements.
    is_half = chosen.precision == "bf16-mixed"
    compute = {"": timed(partial(_compute, network, images, autocast=is_half), device)}
    whole = Figure.in_ms("pure compute of a step", alternate(compute, rounds=1 if quick else 3, warmups=1)[""])
    predictions = _predictions(batch_size, device)
    policies = {name: make_policy(name, num_labelled=batch_size).to(device) for name in policy_names()}
    works: dict[str, Callable[[], None]] = {
        f"pseudo_labels={name}": partial(_decide, each, network, predictions) for name, each in policies.items()
    }
    works |= works_of_states(
        _problem(NUM_LABELLED), num_labelled=batch_size, num_unlabelled=MU * batch_size, device=device
    )
    target = "<= 0.02" if batch_size == BATCH_SIZE else ""
    section = Section(
        "policies",
        {
            "B": batch_size,
            "mu": MU,
            "classes": NUM_CLASSES,
            "pool": POOL,
            "labels in a bank": NUM_LABELLED,
            "precision": chosen.precision,
        },
    )
    section.figures.append(whole)
    variants = {name: timed(work, device) for name, work in works.items()}
    for name, seconds in alternate(variants, rounds=10 if quick else 50, warmups=2).items():
        figure = Figure.in_ms(name, seconds)
        section.figures.append(figure)
        section.ratios.append(Ratio(f"{name} / pure compute", figure, whole, target))
    return section


def make_policy(name: str, *, num_labelled: int) -> Policy:
    """Return a policy as the configuration has it, ready for a pool of CIFAR-10's size.

    Args:
        name: The choice in conf/pseudo_labels.
        num_labelled: The number of labelled images.
    """
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        settings = Settings.parse(plain(compose("run", overrides=["run_dir=unused", f"pseudo_labels={name}"])))
    policy = build_policy(settings.pseudo_labels)
    policy.prepare(_problem(num_labelled))
    return policy


def _problem(num_labelled: int) -> Problem:
    return Problem(
        NUM_CLASSES, 128, num_labelled, POOL, (3, SIDE, SIDE), 2**20,
        label_counts=(num_labelled // NUM_CLASSES,) * NUM_CLASSES, pool_labels=torch.full((POOL,), -1),
    )  # fmt: skip


def _compute(network: Network, images: Tensor, *, autocast: bool) -> None:
    """Make the forward and the backward of all views."""
    label = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=autocast):
        logits = network(images).logits
    torch.autograd.backward(supervised_loss(logits, label))


def _predictions(num_labelled: int, device: torch.device) -> Predictions:
    """Return what a network might say of a batch."""
    weak, labelled = (
        (3 * torch.randn(num, NUM_CLASSES, device=device)).softmax(dim=1) for num in (MU * num_labelled, num_labelled)
    )
    indices = torch.randint(POOL, (len(weak),), device=device)
    return Predictions(weak, indices, labelled, torch.randint(NUM_CLASSES, (num_labelled,), device=device))


def _decide(policy: Policy, network: Network, predictions: Predictions) -> None:
    """Do what a policy does in a step: pseudo-labels, losses of its own, state."""
    pseudo_labels = policy(predictions)
    logits = predictions.probs_weak.log().requires_grad_()
    losses = policy.losses(Output(logits, {CLASSIFIER: logits}), pseudo_labels, predictions)
    if losses:
        torch.autograd.backward(losses.total)
    move_state(policy, Step(network, network, 0, 2**20, lambda *_: None, lambda *_: None))
