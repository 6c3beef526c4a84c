"""Mistakes in a method or a network of one's own: one line that says what is legal, at the first chance to say it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from layermatch import LayerMatch, SemiSupervisedModule
from layermatch.data.batch import Views
from layermatch.errors import UserError
from layermatch.functional import supervised_loss
from layermatch.methods import Method, Supervised
from layermatch.networks import Network, wrn_small
from layermatch.parts import Losses, Term

Make = Callable[..., Any]


class Mine(Method):
    """A method that gives whatever it is made with, of its loss."""

    def __init__(self, give: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.give = give
        self.steps = 0

    def losses(self, batch: Any, step: Any) -> Any:
        self.steps += 1
        return self.give(supervised_loss(step.network(batch.labelled.views["weak"]).logits, batch.labelled.label))


def first_steps(give: Callable[[torch.Tensor], Any], make_data: Make, train: Make, folder: Path) -> Mine:
    method = Mine(give)
    model = SemiSupervisedModule(wrn_small(in_channels=1), method, layer_gradients_every=0)
    train(model, make_data(), folder, max_steps=2)
    return method


WRONG = {
    "a dict": (lambda loss: {"mine": Term(loss)}, r"Mine.losses gives a dict: give Losses\(NAME=Term\(VALUE\), ...\)"),
    "nothing": (lambda loss: None, r"Mine.losses gives None: give Losses"),
    "no loss": (lambda loss: Losses(), r"Mine.losses gives no loss: give Losses"),
    "a tensor": (lambda loss: Losses(mine=loss), r"Mine: the loss 'mine' is a Tensor: give Term\(VALUE\)"),
    "a number": (lambda loss: Losses(mine=Term(1.0)), r"the loss 'mine' is a float: give a scalar tensor"),
    "a row": (
        lambda loss: Losses(mine=Term(loss.expand(3))),
        r"the loss 'mine' is a Tensor of shape \(3,\): give a sc",
    ),
    "no group": (
        lambda loss: Losses(mine=Term(loss), other=Term(loss, "pseudo_labels", frozenset({"extractr"}))),
        "Mine: the loss 'other' reaches 'extractr': choose from classifier, extractor",
    ),
    "no gradient": (lambda loss: Losses(mine=Term(loss.detach())), "Mine: no loss has a gradient"),
}


@pytest.mark.parametrize("name", WRONG)
def test_losses_that_are_none(name: str, make_data: Make, train: Make, tmp_path: Path) -> None:
    give, message = WRONG[name]
    with pytest.raises(UserError, match=message) as caught:
        first_steps(give, make_data, train, tmp_path)
    assert "\n" not in str(caught.value)


def test_good_losses_are_taken_and_looked_at_once(
    make_data: Make, train: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    groups = Network.parameter_groups
    monkeypatch.setattr(Network, "parameter_groups", lambda network: looks.append(1) or groups(network))
    method = first_steps(
        lambda loss: Losses(mine=Term(loss, "labels", frozenset({"extractor", "classifier"}))),
        make_data,
        train,
        tmp_path,
    )
    assert method.steps == 2
    assert len(looks) == 2  # for the optimizer, and at the first losses


def test_a_term_of_no_source_and_one_that_reaches_a_word() -> None:
    value = torch.tensor(1.0)
    with pytest.raises(UserError, match="source of a Term='pseudo' is not legal: choose one of labels, pseudo_labels"):
        Term(value, "pseudo", frozenset({"extractor"}))
    with pytest.raises(UserError, match=r"Term\(reaches='extractor'\) is not legal: give a set of names"):
        Term(value, "labels", "extractor")  # type: ignore[arg-type]
    term = Term(value, "pseudo_labels", frozenset({"extractor"}), weight=2.0)
    assert term._replace(source="labels").weighted == 2


def test_a_view_of_no_kind_is_refused_when_the_data_module_takes_it(
    make_data: Make, train: Make, tmp_path: Path
) -> None:
    message = r"Views\(unlabelled=...\)\['weak'\]='wek' is not legal: choose one of weak, medium, strong, local"
    wrong = Views(unlabelled={"weak": "wek"})
    with pytest.raises(UserError, match=message):
        make_data(views=wrong)
    method = Mine(lambda loss: Losses(mine=Term(loss)))
    method.views = wrong  # type: ignore[misc]
    data = make_data()  # which is set up already
    with pytest.raises(UserError, match=message):
        train(SemiSupervisedModule(wrn_small(in_channels=1), method), data, tmp_path, max_steps=1)
    assert method.steps == 0


def test_views_that_are_none() -> None:
    with pytest.raises(UserError, match=r"Views\(unlabelled=\('weak',\)\) is not legal: give names and kinds"):
        Views(unlabelled=("weak",))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"Views\(labelled={}\) is not legal: give at least one view"):
        Views(labelled={})
    method = Mine(lambda loss: Losses(mine=Term(loss)))
    method.views = {"weak": "weak"}  # type: ignore[assignment, misc]
    with pytest.raises(UserError, match=r"Mine.views is a dict: give layermatch.data.Views\(...\)"):
        SemiSupervisedModule(wrn_small(in_channels=1), method)


def test_a_module_in_the_place_of_a_network_and_a_class_in_that_of_a_method() -> None:
    with pytest.raises(UserError, match=r"the network is a Sequential: give Network\(module, num_features=D\)"):
        LayerMatch(nn.Sequential(nn.Flatten(), nn.Linear(64, 8)))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="the method is the class Supervised: give an object"):
        SemiSupervisedModule(wrn_small(in_channels=1), Supervised)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Flatten(), r"features of shape \(B, 64\) and the network has num_features=12: give num_features=64"),
        (
            nn.Identity(),
            r"features of shape \(B, 1, 8, 8\) .* num_features=12: give a module whose features are \(B, D\)",
        ),
    ],
)
def test_features_of_another_width(
    module: nn.Module, message: str, make_data: Make, train: Make, tmp_path: Path
) -> None:
    model = LayerMatch(Network(module, num_features=12))
    with pytest.raises(UserError, match=message) as caught:
        train(model, make_data(), tmp_path, max_steps=1)
    assert "\n" not in str(caught.value)
