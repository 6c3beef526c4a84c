from __future__ import annotations

import numpy as np
import pytest
import torch

from layermatch.functional import cosine_similarity, keep_agreeing, scale_for


def sign(value: float) -> int:
    return (value > 0) - (value < 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (0,), (7,), (10, 16), (2, 3, 3, 3)])
def test_only_components_of_one_sign_are_kept(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(len(shape))
    # Whole numbers from -2 to 2: every pair of signs, zeros among them.
    pseudo, supervised = (torch.randint(-2, 3, shape, generator=generator).to(dtype) for _ in range(2))
    before = pseudo.clone(), supervised.clone()
    kept = keep_agreeing(pseudo, supervised)
    expected = np.zeros(shape)
    for index in np.ndindex(*shape):
        u, s = pseudo[index].item(), supervised[index].item()
        expected[index] = u if sign(u) == sign(s) and u != 0 else 0.0
    assert kept.dtype == dtype
    np.testing.assert_array_equal(kept.double().numpy(), expected)
    assert torch.equal(pseudo, before[0])
    assert torch.equal(supervised, before[1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_signs_agree_however_small_the_numbers(dtype: torch.dtype) -> None:
    tiny = torch.finfo(dtype).tiny  # its square is 0
    pseudo = torch.tensor([tiny, tiny, -tiny, -tiny, tiny], dtype=dtype)
    supervised = torch.tensor([tiny, -tiny, tiny, -tiny, 0.0], dtype=dtype)
    assert keep_agreeing(pseudo, supervised).tolist() == [tiny, 0.0, 0.0, -tiny, 0.0]


WEIGHT = "extractor.groups.0.1.conv1.weight"


@pytest.mark.parametrize(
    ("name", "scales", "expected"),
    [
        ("classifier.weight", {}, 1.0),
        ("classifier.weight", {"classifier": 0.0}, 0.0),
        ("classifier.bias", {"classifier": 0.0}, 0.0),
        ("classifier.weight", {"classifier.weight": 0.25}, 0.25),
        ("classifier.bias", {"classifier.weight": 0.25}, 1.0),
        ("classifier2.weight", {"classifier": 0.0}, 1.0),
        ("head.classifier.weight", {"classifier": 0.0}, 1.0),
        ("classifier.weight", {"Classifier": 0.0}, 1.0),
        ("classifier.weight", {"*.weight": 0.5}, 0.5),
        (WEIGHT, {"extractor": 0.5}, 0.5),
        (WEIGHT, {"extractor.groups": 0.5}, 0.5),
        (WEIGHT, {"extractor.groups.0": 0.5}, 0.5),
        ("extractor.groups.01.weight", {"extractor.groups.0": 0.5}, 1.0),
        (WEIGHT, {"extractor.groups.[1-3]": 0.5}, 1.0),
        (WEIGHT, {"extractor.groups.?": 0.5}, 0.5),
        (WEIGHT, {"*.conv1": 0.5}, 0.5),
        (WEIGHT, {"*": 0.0}, 0.0),
        (WEIGHT, {"*": 0.0, "extractor": 0.5}, 0.5),
        (WEIGHT, {"extractor": 0.5, "*": 0.0}, 0.0),
        (WEIGHT, {"extractor": 0.5, "classifier": 0.0}, 0.5),
    ],
)
def test_the_last_matching_pattern_gives_the_scale(name: str, scales: dict[str, float], expected: float) -> None:
    assert scale_for(name, scales) == expected


@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_cosine_similarity(scale: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        first, second = rng.normal(size=(2, 3, 4))
        expected = (first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum())
        found = cosine_similarity(torch.from_numpy(first).float() * scale, torch.from_numpy(second).float())
        assert found.item() == pytest.approx(expected, abs=1e-5)
    assert cosine_similarity(torch.from_numpy(first), torch.from_numpy(-first)).item() == pytest.approx(-1)


def test_what_is_zero_has_no_direction() -> None:
    assert cosine_similarity(torch.zeros(3), torch.ones(3)).isnan()
    assert cosine_similarity(torch.ones(3), torch.zeros(3)).isnan()
