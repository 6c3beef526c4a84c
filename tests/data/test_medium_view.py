"""The medium view: between weak and strong, made where a method asks for it, and the others stay as they were."""

from __future__ import annotations

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from layermatch import UserError
from layermatch.augment import StrongView, WeakView
from layermatch.build import build_data, build_device
from layermatch.cli import config_dir, plain
from layermatch.data import Batch, SemiSupervisedData, Views
from layermatch.data.sources import Digits
from layermatch.methods import PseudoLabelling, SequenceMatch
from layermatch.settings import Settings


def batch_of(views: Views, **options: StrongView) -> Batch:
    data = SemiSupervisedData(
        Digits(), weak=WeakView(flip=False), strong=StrongView(flip=False, pad=0.25, cutout=0.3), views=views,
        num_labels=40, batch_size=8, mu=2, mean=(0.3,), std=(0.4,), seed=3, **options,
    )  # fmt: skip
    data.setup()
    return data.batch_of_step(17)


def test_the_other_views_stay_equal_to_the_bit() -> None:
    before, after = (batch_of(method.views) for method in (PseudoLabelling, SequenceMatch))
    assert set(after.unlabelled.views) - set(before.unlabelled.views) == {"medium"}
    for name, view in before.unlabelled.views.items():
        assert torch.equal(view, after.unlabelled.views[name])
    assert torch.equal(before.labelled.views["weak"], after.labelled.views["weak"])
    assert torch.equal(before.unlabelled.indices, after.unlabelled.indices)


def test_by_default_it_is_the_strong_view_with_one_operation() -> None:
    asked = Views(unlabelled={"weak": "weak", "strong": "strong", "medium": "medium"})
    medium = StrongView(flip=False, pad=0.25, cutout=0.3, num_ops=1)
    found, given = batch_of(asked), batch_of(asked, medium=medium)
    assert torch.equal(found.unlabelled.views["medium"], given.unlabelled.views["medium"])
    assert not torch.equal(found.unlabelled.views["medium"], found.unlabelled.views["strong"])


@pytest.mark.parametrize("num_ops", [0, 1, 5])
def test_with_ops_changes_the_number_of_operations_and_nothing_else(num_ops: int) -> None:
    view = StrongView(flip=False, pad=0.25, num_ops=3, cutout=0.0, operations=("rotate",))
    same = StrongView(flip=False, pad=0.25, num_ops=num_ops, cutout=0.0, operations=("rotate",))
    images = torch.randint(256, (20, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    draws: Tensor = torch.rand(20, same.num_draws, generator=torch.Generator().manual_seed(1))
    assert repr(view.with_ops(num_ops)) == repr(same)
    assert torch.equal(view.with_ops(num_ops)(images, draws), same(images, draws))


def data_of(*overrides: str, without: str = "") -> SemiSupervisedData:
    given = ["run_dir=unused", "experiment=digits", "algorithm=sequencematch", "trainer=cpu", *overrides]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        raw = plain(compose("run", overrides=given))
    raw["views"].pop(without, None)
    settings = Settings.parse(raw)
    return build_data(settings, device=build_device(settings), views=SequenceMatch.views)


def test_its_operations_are_a_setting() -> None:
    assert repr(data_of("views.medium_ops=2").kinds["medium"]) == repr(data_of().kinds["strong"].with_ops(2))
    with pytest.raises(UserError, match=r"^views\.medium_ops is missing"):
        data_of(without="medium_ops")
    with pytest.raises(UserError, match=r"^views\.medium_ops=-1 is not legal"):
        data_of("views.medium_ops=-1")
