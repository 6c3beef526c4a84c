"""The rows of labels alone that a study of a pretrained network has, and which of them is the better one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from layermatch.study.baselines import BASELINES, with_baselines
from layermatch.study.design import Study


def study(settings: dict[str, list[str]], **changes: Any) -> Study:
    section = {
        "title": "what?", "settings": settings, "grid": {}, "reference": None, "common": ["experiment=folder"],
        "num_labels": [4], "seeds": [0], "metric": "test/accuracy_ema", "illegal": "refuse", "jobs": None,
        "folds": None, "curves": [],
    }  # fmt: skip
    return Study.parse("mine", section | changes, given=["trainer.max_steps=50"], files_of=lambda folder: [])


def pretrained(words: Sequence[str]) -> Mapping[str, Any]:
    assert tuple(words) == ("experiment=folder", "trainer.max_steps=50")
    return {"name": "resnet18", "weights": "hub", "tune": "full"}


def test_a_pretrained_network_has_both_rows_in_front() -> None:
    found = with_baselines(study({"fixmatch": ["algorithm=fixmatch"]}), model_of=pretrained, has_reference=False)
    assert [setting.name for setting in found.settings] == ["linear_probe", "supervised", "fixmatch"]
    assert found.reference == "linear_probe"
    probe, supervised, _ = found.settings
    # One step and a frozen extractor, also where the command line gives every run others.
    assert found.words_of(probe)[-4:] == ("trainer.max_steps=50", *BASELINES["linear_probe"])
    assert found.words_of(supervised)[-2:] == ("algorithm=supervised", "trainer.max_steps=50")
    assert found.plain()["settings"]["linear_probe"] == ["algorithm=linear_probe", *BASELINES["linear_probe"]]


def test_a_reference_that_was_given_stays() -> None:
    given = study({"a": ["algorithm=fixmatch"], "b": ["algorithm=layermatch"]}, reference="b")
    assert with_baselines(given, model_of=pretrained).reference == "b"


def test_what_is_there_already_is_not_added_again() -> None:
    given = study({"labels": ["algorithm=supervised"], "linear_probe": ["algorithm=linear_probe"]})
    assert with_baselines(given, model_of=pretrained) == given
    one = with_baselines(study({"labels": ["algorithm=supervised"]}), model_of=pretrained)
    assert [setting.name for setting in one.settings] == ["linear_probe", "labels"]


@pytest.mark.parametrize("model", [{}, {"depth": 28}, {"name": "resnet18", "weights": None}])
def test_random_weights_have_none(model: dict[str, Any]) -> None:
    given = study({"fixmatch": ["algorithm=fixmatch"]})
    assert with_baselines(given, model_of=lambda words: model, has_reference=False) == given
