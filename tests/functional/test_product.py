"""Matrix products of the equations are those of float32, also where autocast would make them bfloat16."""

from __future__ import annotations

import ast
import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from layermatch import functional
from layermatch.functional import (
    centroid_loss,
    class_histogram,
    class_means,
    class_sums,
    fairness_loss,
    product_float32,
    prototype_logits,
)

MODULES = [module.name for module in pkgutil.iter_modules(functional.__path__)]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_product_is_of_float32_or_more(dtype: torch.dtype) -> None:
    first, second = draw(5, 300).to(dtype), draw(300, 4, seed=1).to(dtype)
    expected = first.double() @ second.double()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = product_float32(first, second)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)


def test_its_gradient_under_autocast() -> None:
    first, second = draw(3, 4).double().requires_grad_(), draw(4, 2, seed=1).double().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.autograd.gradcheck(product_float32, (first, second))


LABEL = torch.arange(600) % 3
CALLS = {
    "class_sums": lambda x: class_sums(x, LABEL, x[:, 0].sigmoid(), num_classes=3),
    "class_means": lambda x: class_means(x + 9, LABEL, num_classes=3),
    "centroid_loss": lambda x: centroid_loss(x, draw(3, 3, seed=1), LABEL, x[:, 0].sigmoid(), temperature=0.1),
    "prototype_logits": lambda x: prototype_logits(x + 9, draw(3, 3, seed=1) + 9, temperature=0.01),
    "class_histogram": lambda x: class_histogram(LABEL, 3, x[:, 0].sigmoid()),
    "fairness_loss": lambda x: fairness_loss(x, (x[:, 0] > 0).float(), torch.full((3,), 0.3), torch.full((3,), 0.3)),
}


@pytest.mark.parametrize("name", CALLS)
def test_autocast_changes_no_bit(name: str) -> None:
    results = []
    for is_on in (False, True):
        x = draw(600, 3).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_on):
            found = CALLS[name](x)
            parts = found if isinstance(found, tuple) else (found,)
        sum(part.square().sum() for part in parts).backward()
        results.append([*(part.detach() for part in parts), x.grad])
    for plain, cast in zip(*results, strict=True):
        assert cast.dtype == torch.float32
        assert torch.equal(plain, cast)


@pytest.mark.parametrize("name", MODULES)
def test_examples_say_the_same_under_autocast(name: str) -> None:
    """What an equation gives has the same dtype and digits: found of every equation that has an example."""
    module = importlib.import_module(f"layermatch.functional.{name}")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        # Each example imports torch, or has it from its module.
        failed, _ = doctest.testmod(module, extraglobs={"torch": torch}, verbose=False)
    assert failed == 0


@pytest.mark.parametrize("room", ["methods", "policies", "parts", "layerwise"])
def test_no_other_product_is_left_to_autocast(room: str) -> None:
    paths = sorted((Path(functional.__path__[0]).parent / room).rglob("*.py"))
    assert len(paths) > 3
    for path in paths:
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        assert not [node for node in nodes if isinstance(node, ast.MatMult)], path
