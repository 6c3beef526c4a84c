"""Distribution alignment against numbers of the peers' own code, step by step, and against loops in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests import oracle
from tests.oracle import Worst
from torch import Tensor

from layermatch.errors import UserError
from layermatch.parts import DistributionAlignment, Problem, QueueMean

ORACLE = oracle.read("distribution_alignment")
STEP: Any = None  # the averages do not look at it
LENGTH, SMALL = ORACLE["inputs"]["queue_length"], 1e-6

#: The variants of the codes, and the options that give them.
VARIANTS: dict[str, dict[str, Any]] = {
    "paper/comatch_queue": {"queue": LENGTH},
    "paper/remixmatch_no_eps": {"target": "labelled", "queue": LENGTH, "start": "uniform", "includes_batch": False},
    "tf/remixmatch_tf_gt": {
        "target": "labelled", "queue": LENGTH, "start": "uniform", "includes_batch": False, "epsilon": SMALL
    },
    "usb/ema_uniform_m0.999": {"epsilon": SMALL},
    "usb/ema_uniform_m0.9": {"decay": 0.9, "epsilon": SMALL},
    "usb/ema_model_m0.9": {"target": "predictions", "decay": 0.9, "epsilon": SMALL},
    "usb/ema_gt_m0.9": {"target": "labelled", "decay": 0.9, "epsilon": SMALL},
    "torchssl/flexmatch_use_DA_gt_m0.999": {"target": "labelled"},
    "torchssl/softmatch_ema_lb_m0.9": {"target": "predictions", "decay": 0.9, "start": "uniform"},
}  # fmt: skip


def problem(num_classes: int = 6, label_counts: tuple[int, ...] = ()) -> Problem:
    return Problem(num_classes, 8, 4, 24, (1, 8, 8), 100, label_counts)


def prepared(num_classes: int = 6, label_counts: tuple[int, ...] = (), **options: Any) -> DistributionAlignment:
    alignment = DistributionAlignment(**options)
    alignment.prepare(problem(num_classes, label_counts))
    return alignment


def softmax(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).softmax(dim=1)


def random_probs(seed: int, num: int = 10, num_classes: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(num, num_classes, generator=generator)).softmax(dim=1)


def in_double(alignment: DistributionAlignment) -> DistributionAlignment:
    """In float64, with the constants that float32 had rounded."""
    alignment.double()
    for name, buffer in alignment.named_buffers():
        if name == "fixed_target" and alignment.target == "labelled":
            buffer.copy_(torch.tensor(ORACLE["inputs"]["p_target_gt"], dtype=torch.float64))
        elif buffer.is_floating_point() and buffer.abs().sum() > 0:
            buffer.fill_(1 / 6)
    return alignment


@pytest.mark.oracle
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_step_is_that_of_the_peers_code(variant: str) -> None:
    counts = tuple(round(10_000 * share) for share in ORACLE["inputs"]["p_target_gt"])
    alignment, worst = in_double(prepared(label_counts=counts, **VARIANTS[variant])), Worst()
    for recorded in ORACLE["steps"]:
        inputs, expected = recorded["inputs"], recorded["outputs"][variant]
        probs = softmax(inputs["logits_w"])
        alignment.see(probs, softmax(inputs["logits_lb"]))
        found = {"aligned": alignment(probs), "p_model": alignment.model_average, "p_target": alignment.wanted}
        found |= {"p_model_before": alignment.model_average, "pseudo_label": alignment(probs).argmax(dim=1)}
        alignment.after_step(STEP)
        for module in alignment.children():
            module.after_step(STEP)
        found["p_model_after"] = alignment.average.value
        for key, value in expected.items():
            worst.see(found[key], value, key)


def test_a_queue_forgets_the_oldest_step_and_counts_accumulated_batches_as_one() -> None:
    queue = QueueMean(torch.zeros(2), length=3)
    steps = [[1.0], [2.0, 4.0], [5.0], [6.0], [7.0]]
    means: list[float] = []
    for step in steps:
        for number, value in enumerate(step, 1):
            queue.see(torch.tensor([value, -value]))
            kept = [*means, np.mean(step[:number])][-3:]
            torch.testing.assert_close(queue.moved, torch.tensor([np.mean(kept), -np.mean(kept)], dtype=torch.float32))
        before = queue.value.clone()
        expected_before = np.mean(means[-3:]) if means else 0.0
        assert before[0].item() == pytest.approx(expected_before)
        queue.after_step(STEP)
        means.append(float(np.mean(step)))
        assert queue.value[0].item() == pytest.approx(np.mean(means[-3:]))
    queue.after_step(STEP)  # a step that shows nothing moves nothing
    assert queue.value[0].item() == pytest.approx(np.mean(means[-3:]))


@pytest.mark.parametrize("options", [{}, {"queue": 3}, {"target": "predictions"}, {"start": "uniform"}])
def test_a_step_that_is_not_applied_leaves_it_as_it_was(options: dict[str, Any]) -> None:
    alignment, twin = prepared(3, **options), prepared(3, **options)
    for seed in range(4):
        if seed % 2:
            alignment.see(torch.full((10, 3), float("nan")), random_probs(9))
            for module in alignment.children():
                module.discard_step()
        for each in (alignment, twin):
            each.see(random_probs(seed), random_probs(50 + seed))
            for module in each.children():
                module.after_step(STEP)
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(alignment.state_dict()[name], value, rtol=0, atol=0)
    torch.testing.assert_close(alignment(random_probs(8)), twin(random_probs(8)), rtol=0, atol=0)


def test_a_checkpoint_goes_on_where_it_was() -> None:
    first, second = (prepared(3, target="predictions", queue=2) for _ in range(2))
    first.see(random_probs(1), random_probs(2))
    for module in first.children():
        module.after_step(STEP)
    second.load_state_dict(first.state_dict())
    for alignment in (first, second):
        alignment.see(random_probs(3), random_probs(4))
    torch.testing.assert_close(first(random_probs(3)), second(random_probs(3)), rtol=0, atol=0)


def test_the_labelled_target_is_the_share_of_each_class() -> None:
    alignment = prepared(3, label_counts=(1, 3, 0), target="labelled")
    torch.testing.assert_close(alignment.wanted, torch.tensor([0.25, 0.75, 0.0]))
    with pytest.raises(UserError, match="target=labelled needs the number of labelled images of each class"):
        prepared(3, target="labelled")


def test_repeated_alignment_gives_the_target_on_average() -> None:
    """Where the average is that of the batch alone, soft rows that are alike come out as the target."""
    alignment = prepared(3, label_counts=(1, 2, 5), target="labelled", decay=0.0)
    probs = random_probs(0, num=1).expand(6, 3)
    alignment.see(probs)
    torch.testing.assert_close(alignment(probs).mean(dim=0), torch.tensor([1, 2, 5]) / 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "classes"}, "target='classes' is not legal"),
        ({"start": "zero"}, "start='zero' is not legal"),
        ({"queue": 0}, "queue=0 is not legal"),
        ({"queue": 2.5}, "queue=2.5 is not legal"),
        ({"decay": 1}, "decay=1 is not legal"),
        ({"decay": 0.9, "queue": 4}, "decay=0.9 has no effect with queue=4"),
        ({"epsilon": -1}, "epsilon=-1 is not legal"),
        ({"includes_batch": "no"}, "includes_batch='no' is not legal"),
        ({"includes_batch": False}, "includes_batch=false needs start=uniform"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        DistributionAlignment(**options)
    assert str(caught.value).startswith(message)
