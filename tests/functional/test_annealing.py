"""Training Signal Annealing, against loops, in value and gradient."""

from __future__ import annotations

import math

import pytest
import torch

from layermatch.functional import annealed_supervised_loss, annealing_threshold, supervised_loss


@pytest.mark.parametrize("num_classes", [2, 10])
@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_the_threshold_grows_from_chance_to_one(progress: float, num_classes: int) -> None:
    chance = 1 / num_classes
    alphas = {"linear": progress, "log": 1 - math.exp(-5 * progress), "exp": math.exp((progress - 1) * 5)}
    for schedule, alpha in alphas.items():
        found = annealing_threshold(schedule, progress, num_classes=num_classes)
        assert found == pytest.approx(alpha * (1 - chance) + chance, rel=1e-12)
    assert annealing_threshold("none", progress, num_classes=num_classes) == 1


def reference(logits: torch.Tensor, label: torch.Tensor, threshold: float, form: str) -> tuple[float, torch.Tensor]:
    kept, value, gradient = 0, 0.0, torch.zeros_like(logits)
    for i, row in enumerate(logits.tolist()):
        exps = [math.exp(x - max(row)) for x in row]
        probs = [e / sum(exps) for e in exps]
        y = int(label[i])
        if (probs[y] if form == "paper" else max(probs)) <= threshold:
            kept += 1
            value -= math.log(probs[y])
            gradient[i] = torch.tensor([p - (k == y) for k, p in enumerate(probs)], dtype=torch.float64)
    divisor = max(kept, 1) if form == "paper" else len(logits)
    return value / divisor, gradient / divisor


@pytest.mark.parametrize("form", ["paper", "torchssl"])
@pytest.mark.parametrize("threshold", [0.05, 0.4, 0.8, 1.0])
@pytest.mark.parametrize("num_classes", [2, 7])
def test_only_labels_that_are_not_known_yet_count(form: str, threshold: float, num_classes: int) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = (3 * torch.randn(40, num_classes, generator=generator, dtype=torch.float64)).requires_grad_()
    label = torch.randint(num_classes - 1, (40,), generator=generator)  # the last class has no image
    loss = annealed_supervised_loss(logits, label, threshold=threshold, form=form)
    loss.backward()
    value, gradient = reference(logits.detach(), label, threshold, form)
    assert loss.item() == pytest.approx(value, rel=1e-12, abs=1e-15)
    torch.testing.assert_close(logits.grad, gradient, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("form", ["paper", "torchssl"])
def test_none_and_all(form: str) -> None:
    logits = torch.tensor([[9.0, 0.0], [8.0, 0.0]], requires_grad=True)
    label = torch.tensor([0, 0])
    none = annealed_supervised_loss(logits, label, threshold=0.6, form=form)
    none.backward()
    assert none.item() == 0
    assert torch.equal(logits.grad, torch.zeros(2, 2))
    every = annealed_supervised_loss(logits, label, threshold=1.0, form=form)
    torch.testing.assert_close(every, supervised_loss(logits, label))
    assert annealed_supervised_loss(logits[:0], label[:0], threshold=0.5, form=form).item() == 0


def test_a_tie_counts() -> None:
    logits = torch.zeros(1, 2)
    assert annealed_supervised_loss(logits, torch.tensor([1]), threshold=0.5).item() == pytest.approx(math.log(2))


def test_bf16_is_computed_in_float32() -> None:
    logits = torch.tensor([[1.0, 0.0, -2.0], [0.0, 0.0, 0.0]], dtype=torch.bfloat16, requires_grad=True)
    loss = annealed_supervised_loss(logits, torch.tensor([0, 2]), threshold=0.8)
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, supervised_loss(logits.detach().float(), torch.tensor([0, 2])))
    assert logits.grad.dtype == torch.bfloat16
