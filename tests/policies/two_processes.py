"""One of two processes that train together, for what policies with state remember."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from layermatch.networks import wrn_small
from layermatch.parts import Problem, Step, StepState
from layermatch.policies import CurriculumThresholds, LossThreshold, Policy, Predictions

NUM_CLASSES, POOL, BATCH, STEPS = 4, 40, 24, 5


def policies() -> dict[str, Policy]:
    return {"flexmatch": CurriculumThresholds(threshold=0.6), "dash": LossThreshold(warmup=0.02)}


def draw(number: int) -> Predictions:
    """The predictions of a step, where an image may be in a batch more than once."""
    generator = torch.Generator().manual_seed(number)
    probs, labelled = ((2 * torch.randn(BATCH, NUM_CLASSES, generator=generator)).softmax(dim=1) for _ in range(2))
    indices, label = (torch.randint(high, (BATCH,), generator=generator) for high in (POOL, NUM_CLASSES))
    return Predictions(probs, indices, labelled, label)


def train(policy: Policy, part: slice) -> dict[str, Any]:
    """The state after some steps with a part of each batch, and the weights on the way."""
    policy.prepare(Problem(NUM_CLASSES, 8, 30, POOL, (3, 8, 8), 100))
    network, weights = wrn_small(num_classes=2), []
    for number in range(STEPS):
        whole = draw(number)
        weights.append(policy(Predictions(*(None if rows is None else rows[part] for rows in whole))).weight)
        for state in policy.modules():
            if isinstance(state, StepState):
                state.after_step(Step(network, network, number, 100, lambda *_: None, lambda *_: None))
    return {"state": policy.state_dict(), "weights": torch.stack(weights)}


def run(rank: int, folder: Path) -> None:
    """What each process does; it leaves what it found in a file."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )
    half = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
    found: dict[str, dict[str, Tensor]] = {name: train(policy, half) for name, policy in policies().items()}
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()
