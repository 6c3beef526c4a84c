"""What a library raises and a user can do something about, in one line."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from layermatch.errors import RunError
from layermatch.failures import one_line_failures


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(3), nn.BatchNorm2d(3)])
def test_a_batch_that_batchnorm_cannot_normalise_is_said_in_one_line(norm: nn.Module) -> None:
    images = torch.zeros(1, 3) if isinstance(norm, nn.BatchNorm1d) else torch.zeros(1, 3, 1, 1)
    message = r"^BatchNorm has one value .* give data\.batch_size or data\.mu above 1$"
    with pytest.raises(RunError, match=message), one_line_failures():
        norm(images)


def test_a_mistake_in_the_code_stays_what_it_is() -> None:
    with pytest.raises(ValueError, match="a mistake"), one_line_failures():
        raise ValueError("a mistake")
