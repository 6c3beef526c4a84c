"""FlexMatch's equations, against loops."""

from __future__ import annotations

import math

import pytest
import torch

from layermatch.functional import curriculum_mapping, last_of_each, learning_status


@pytest.mark.parametrize("warmup", [True, False])
@pytest.mark.parametrize("counts", [[3, 0, 5, 9], [3, 0, 5, 1], [0, 0, 7], [0, 4, 0], [4, 4, 4]])
def test_the_status_is_a_share_of_the_largest_count(counts: list[int], warmup: bool) -> None:
    *of_classes, unused = counts
    largest = max([*of_classes, unused] if warmup else of_classes)
    expected = [count / largest if largest else 0.0 for count in of_classes]
    found = learning_status(torch.tensor(counts), warmup=warmup)
    assert found.tolist() == expected
    assert found.dtype == torch.float64


def test_mappings() -> None:
    status = torch.linspace(0, 1, 11, dtype=torch.float64)
    expected = {
        "convex": [b / (2 - b) for b in status.tolist()],
        "linear": status.tolist(),
        "concave": [(math.log(b + 1) + 0.5) / (math.log(2) + 0.5) for b in status.tolist()],
        "low_limit": [1 / (2 - b) for b in status.tolist()],
    }
    for mapping, values in expected.items():
        found = curriculum_mapping(status, mapping).tolist()
        assert found == pytest.approx(values, rel=1e-12)
        assert found == sorted(found)
        assert found[-1] == pytest.approx(1)


@pytest.mark.parametrize("size", [0, 1, 2, 50])
@pytest.mark.parametrize("pool", [1, 7, 1000])
def test_the_last_of_each_is_what_a_loop_leaves(size: int, pool: int) -> None:
    indices = torch.randint(pool, (size,), generator=torch.Generator().manual_seed(size))
    last = {index: place for place, index in enumerate(indices.tolist())}
    assert last_of_each(indices).tolist() == [last[index] == place for place, index in enumerate(indices.tolist())]
