"""Quarter turns against a loop over pixels."""

from __future__ import annotations

import pytest
import torch

from layermatch.functional import quarter_turns


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_each_image_is_turned_by_its_own_number_of_quarters(dtype: torch.dtype) -> None:
    side = 3
    images = torch.arange(5 * 2 * side * side).view(5, 2, side, side).to(dtype)
    turns = torch.tensor([0, 1, 2, 3, 1])
    found = quarter_turns(images, turns)
    for n, times in enumerate(turns.tolist()):
        for y in range(side):
            for x in range(side):
                row, column = y, x
                for _ in range(times):  # where the pixel was before each quarter
                    row, column = column, side - 1 - row
                assert torch.equal(found[n, :, y, x], images[n, :, row, column])
