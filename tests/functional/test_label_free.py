"""Measures without labels against slow restatements: singular values by eigenvalues, ranks by counting."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from layermatch.functional.label_free import mean_squared_ranks, nuclear_norm_per_image, smooth_rank


def singular_values(matrix: np.ndarray) -> list[float]:
    """The roots of the eigenvalues of the smaller Gram matrix."""
    gram = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
    return [math.sqrt(max(value, 0.0)) for value in np.linalg.eigvalsh(gram)]


@pytest.mark.parametrize("shape", [(30, 6), (5, 12)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_smooth_rank_is_its_equation(shape: tuple[int, int], dtype: torch.dtype) -> None:
    features = torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    values = singular_values(features.double().numpy())
    shares = [value / sum(values) + 1e-7 for value in values]
    wanted = math.exp(-sum(share * math.log(share) for share in shares))
    assert float(smooth_rank(features)) == pytest.approx(wanted, rel=1e-9)


def test_the_smooth_rank_counts_directions() -> None:
    assert float(smooth_rank(torch.ones(9, 4))) == pytest.approx(1.0, abs=1e-4)
    assert float(smooth_rank(torch.eye(4).repeat(3, 1))) == pytest.approx(4.0, abs=1e-4)
    assert float(smooth_rank(torch.zeros(3, 4))) == 0


@pytest.mark.parametrize("num_classes", [2, 7])
def test_the_nuclear_norm_is_the_sum_of_singular_values(num_classes: int) -> None:
    logits = torch.randn(20, num_classes, generator=torch.Generator().manual_seed(0))
    probs = logits.softmax(dim=1)
    wanted = sum(singular_values(probs.double().numpy())) / 20
    assert float(nuclear_norm_per_image(probs)) == pytest.approx(wanted, rel=1e-9)
    # Sure and varied is more than sure of one class, and more than unsure.
    varied = torch.eye(num_classes).repeat(4, 1)
    alone, unsure = torch.eye(num_classes)[:1].repeat(len(varied), 1), torch.full_like(varied, 1 / num_classes)
    norms = [float(nuclear_norm_per_image(each)) for each in (varied, alone, unsure)]
    assert norms == sorted(norms, reverse=True)
    assert len(set(norms)) == 3


def test_ranks_are_counted_and_equal_scores_share_theirs() -> None:
    scores = np.array([[0.9, 1.0, np.nan], [0.9, 3.0, 0.1], [0.2, 2.0, 0.2], [0.5, 0.0, np.nan]])
    wanted = []
    for row in range(4):
        squares = []
        for column in range(3):
            values = np.nan_to_num(scores[:, column], nan=-1e9)
            above, equal = (values > values[row]).sum(), (values == values[row]).sum()
            squares.append((above + (equal + 1) / 2) ** 2)
        wanted.append(np.mean(squares))
    np.testing.assert_allclose(mean_squared_ranks(scores), wanted, rtol=1e-12)
    assert mean_squared_ranks(np.array([[0.3, 2.0]])).tolist() == [1.0]
    assert len(set(mean_squared_ranks(np.ones((3, 7))).tolist())) == 1  # all alike
