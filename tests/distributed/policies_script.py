"""One of two processes: each policy is shown this process's half of every batch; what it decides is written down."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from layermatch.parts import Problem, StepState
from layermatch.policies import (
    DebiasedThreshold,
    FixedThreshold,
    GaussianWeight,
    Policy,
    Predictions,
    RelativeThreshold,
    SelfAdaptiveThreshold,
    aligned,
)

NUM_CLASSES, NUM_LABELLED, NUM_UNLABELLED, STEPS = 4, 8, 12, 5


def policies() -> dict[str, Policy]:
    """The policies, prepared, by name."""
    found: dict[str, Policy] = {
        "freematch": SelfAdaptiveThreshold(decay=0.7),
        "softmatch": GaussianWeight(decay=0.7),
        "debiaspl": DebiasedThreshold(threshold=0.6, decay=0.7),
        "adamatch": RelativeThreshold(queue=3, decay=0.7),
        "predictions": aligned(FixedThreshold(threshold=0.6), alignment="predictions", alignment_decay=0.7),
        "queue": aligned(FixedThreshold(threshold=0.6), alignment="labelled", alignment_queue=2),
    }
    problem = Problem(NUM_CLASSES, 8, 8, 24, (1, 8, 8), 10, (1, 2, 3, 4))
    for policy in found.values():
        policy.prepare(problem)
        policy.double()
    return found


def random_probs(num: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(num, NUM_CLASSES, generator=generator, dtype=torch.float64)).softmax(dim=1)


def decide(part: int, parts: int) -> dict[str, list[Any]]:
    """Targets and weights of a part of every batch, and the state after every step."""
    step: Any = None
    found: dict[str, list[Any]] = {}
    for name, policy in policies().items():
        found[name] = []
        for number in range(STEPS):
            weak = random_probs(NUM_UNLABELLED, number).chunk(parts)[part]
            labelled = random_probs(NUM_LABELLED, 100 + number).chunk(parts)[part]
            labels = policy(Predictions(weak, torch.arange(len(weak)), labelled))
            for state in policy.modules():
                if isinstance(state, StepState):
                    state.after_step(step)
            state_now = {key: value.clone() for key, value in policy.state_dict().items()}
            found[name].append((labels.target, labels.weight, state_now))
    return found


if __name__ == "__main__":
    rank, folder, port = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.save(decide(rank, 2), folder / f"{rank}.pt")
    dist.destroy_process_group()
