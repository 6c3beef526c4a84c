"""What a study file may say, and the runs that it comes to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from layermatch.cli import config_dir
from layermatch.errors import UserError
from layermatch.functional import scale_for
from layermatch.networks import wrn_small
from layermatch.networks.pretrained import efficientnet_lite0
from layermatch.study.design import METRICS, Setting, Study

FOLDER = config_dir() / "study"
STUDIES = sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != "base")
ALGORITHMS = sorted(path.stem for path in (config_dir() / "algorithm").glob("*.yaml") if path.stem != "base")

TWO = {"fixmatch": ["algorithm=fixmatch"], "layermatch": ["algorithm=layermatch"]}


def files_of(group: str) -> list[str]:
    return sorted(path.stem for path in (config_dir() / group).glob("*.yaml") if path.stem != "base")


def section_of(name: str) -> dict[str, Any]:
    """A study file as Hydra merges it with what all share."""
    own = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    if name == "base":
        return dict(own)
    (above,) = own.pop("defaults")
    shared = section_of(above)
    assert own.keys() <= shared.keys()
    return shared | own


def parsed(**section: Any) -> Study:
    base = yaml.safe_load((FOLDER / "base.yaml").read_text()) | {"title": "Which?", "settings": TWO}
    return Study.parse("made", base | section, files_of=files_of)


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_file_is_legal(name: str) -> None:
    study = Study.parse(name, section_of(name), files_of=files_of)
    assert study.title
    assert any(study.reference_of(setting) for setting in study.settings)
    text = (FOLDER / f"{name}.yaml").read_text()
    assert text.startswith("# ")


def test_the_family_is_every_algorithm_with_its_own_rule_and_with_layermatch() -> None:
    study = Study.parse("family", section_of("family"), files_of=files_of)
    crossed = [setting for setting in study.settings if setting.choice]
    own = [setting for setting in crossed if setting.choice["layerwise"] == "null"]
    assert [setting.name for setting in own] == ALGORITHMS
    assert [setting.words for setting in own] == [(f"algorithm={name}",) for name in ALGORITHMS]
    others = [setting for setting in crossed if setting not in own]
    assert [setting.words for setting in others] == [(f"algorithm={n}", "layerwise=layermatch") for n in ALGORITHMS]
    assert [study.reference_of(setting) for setting in others] == own
    assert {study.reference_of(setting) for setting in own} == {None}


def test_the_family_has_every_policy() -> None:
    """By an algorithm of its own, or by a setting; but for no policy, and for the one of errors on purpose."""
    study = Study.parse("family", section_of("family"), files_of=files_of)
    chosen = set()
    for key, _, name in (word.partition("=") for setting in study.settings for word in setting.words):
        if key == "pseudo_labels":
            chosen.add(name)
        elif key == "algorithm":
            defaults = yaml.safe_load((config_dir() / "algorithm" / f"{name}.yaml").read_text())["defaults"]
            chosen |= {each["override /pseudo_labels"] for each in defaults if "override /pseudo_labels" in each}
    assert chosen | {"none", "noisy"} == set(files_of("pseudo_labels"))


def test_a_new_file_is_in_the_family() -> None:
    study = Study.parse("family", section_of("family"), files_of=lambda _: ["fixmatch", "newmatch"])
    assert "newmatch, layerwise=layermatch" in [setting.name for setting in study.settings]


def test_a_grid_has_every_choice_with_every_other() -> None:
    axes = {"algorithm": ["fixmatch", "vat"], "noise": {"none": [], "much": ["pseudo_labels.noise=0.4"]}}
    study = parsed(settings={}, grid=axes, reference={"algorithm": "fixmatch"})
    assert [(setting.name, setting.words) for setting in study.settings] == [
        ("fixmatch, none", ("algorithm=fixmatch",)),
        ("fixmatch, much", ("algorithm=fixmatch", "pseudo_labels.noise=0.4")),
        ("vat, none", ("algorithm=vat",)),
        ("vat, much", ("algorithm=vat", "pseudo_labels.noise=0.4")),
    ]
    assert [each and each.name for each in map(study.reference_of, study.settings)] == [
        None, None, "fixmatch, none", "fixmatch, much",
    ]  # fmt: skip


def test_the_first_setting_is_the_reference_unless_another_is_named() -> None:
    assert parsed().reference == "fixmatch"
    assert parsed(reference="layermatch").reference == "layermatch"


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"settings": {}}, "study=made has no settings"),
        ({"settings": ["fixmatch"]}, "study.settings=['fixmatch'] is not legal"),
        ({"settings": {"a": "algorithm=fixmatch"}}, "study.settings.a='algorithm=fixmatch' is not legal"),
        ({"settings": {"a": ["fixmatch"]}}, "study.settings.a=['fixmatch'] is not legal"),
        ({"settings": {"a b": [], "a, b": []}}, "study.settings: 'a b' and 'a, b' are one name"),
        ({"grid": {"algorithm": []}}, "study.grid.algorithm=[] is not legal"),
        ({"grid": {"algorithm": [[1]]}}, "study.grid: [1] is no value of an axis"),
        ({"grid": "algorithm"}, "study.grid='algorithm' is not legal"),
        ({"reference": "vat"}, "study.reference='vat' is no setting: choose one of fixmatch, layermatch"),
        ({"reference": {"algorithm": "vat"}}, "study.reference={'algorithm': 'vat'} is no choice of study.grid"),
        ({"change_from": {"data": "clean"}}, "study.change_from={'data': 'clean'} is no choice of study.grid"),
        ({"change_from": "clean"}, "study.change_from='clean' is not legal: give values of axes of study.grid"),
        ({"metric": "best"}, f"study.metric='best' is not legal: choose one of {', '.join(METRICS)}"),
        ({"illegal": "ignore"}, "study.illegal='ignore' is not legal: choose one of refuse, leave_out"),
        ({"seeds": []}, "study.seeds=[] is not legal"),
        ({"seeds": [0, 0]}, "study.seeds=[0, 0] is not legal: give each once"),
        ({"seeds": [-1]}, "study.seeds=-1 is not legal"),
        ({"seeds": [None]}, "study.seeds=None is not legal"),
        ({"num_labels": ["ten"]}, "study.num_labels='ten' is not legal"),
        ({"common": "seed=1"}, "study.common='seed=1' is not legal"),
        ({"labels": 3}, "unknown setting study.labels"),
    ],
)
def test_a_mistake_is_one_line(section: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        parsed(**section)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("word", ["seed=3", "data.num_labels=40", "run_dir=x", "ckpt_path=last", "++seed=1"])
def test_what_a_study_gives_itself_is_not_given_to_runs(word: str) -> None:
    section = yaml.safe_load((FOLDER / "base.yaml").read_text()) | {"title": "Which?", "settings": TWO}
    with pytest.raises(UserError, match="a study gives"):
        Study.parse("made", section, given=[word], files_of=files_of)


def test_a_name_with_any_signs_is_a_folder() -> None:
    names = ["../../etc", "a/b", "freematch, layerwise=layermatch", "0 % wrong", "..."]
    slugs = [Setting(name, ()).slug for name in names]
    assert slugs == ["etc", "a-b", "freematch-layerwise-layermatch", "0-wrong", "setting"]
    assert all(Path(slug).name == slug for slug in slugs)


#: The layers of the network of digits, from input to output; the last BatchNorm goes with the third block.
LAYERS = {
    "the stem": ["stem"], "block 1": ["groups.0"], "block 2": ["groups.1"], "block 3": ["groups.2", "activation"],
    "the classifier": ["classifier"],
}  # fmt: skip


def test_the_study_of_layers_lets_pseudo_labels_reach_the_layers_that_it_names() -> None:
    groups = wrn_small(num_classes=10, in_channels=1).layer_groups()
    assert [group for names in LAYERS.values() for group in names] == list(groups)
    order = list(LAYERS)
    asked = {"every layer (FixMatch)": order, "no layer": [], **{name: [name] for name in order}}
    asked |= {f"the stem to {order[last]}": order[: last + 1] for last in (1, 2)}
    asked["the stem to block 3 (Grad-ReLU)"] = order[:4]
    asked |= {f"{order[first]} to the classifier": order[first:] for first in (1, 2, 3)}
    settings = Study.parse("layers", section_of("layers"), files_of=files_of).settings
    assert {setting.name for setting in settings} == set(asked)
    for setting in settings:
        scales = yaml.safe_load(setting.words[0].partition("=")[2]) if setting.words else {}
        for name, parts in LAYERS.items():
            found = {scale_for(parameter, scales) for part in parts for parameter, _ in groups[part]}
            assert found == {1.0 if name in asked[setting.name] else 0.0}, (setting.name, name)


#: The layers of EfficientNet-Lite0 that learn there, in their order; what follows the last stage goes with it.
LAST_LAYERS = {
    "stage 5": ["blocks.4"], "stage 6": ["blocks.5"], "stage 7": ["blocks.6", "conv_head", "bn2"],
    "the classifier": ["classifier"],
}  # fmt: skip


def test_the_study_of_a_pretrained_network_names_every_layer_that_learns() -> None:
    pytest.importorskip("timm", reason="the extra pretrained is not installed")
    study = Study.parse("layers_pretrained", section_of("layers_pretrained"), files_of=files_of)
    given = dict(word.split("=", 1) for word in study.common)
    tune, num_last = given["model.tune"], int(given["model.num_last"])
    network = efficientnet_lite0(num_classes=10, weights=None, tune=tune, num_last=num_last)
    groups = {
        group: [parameter for parameter, tensor in named if tensor.requires_grad]
        for group, named in network.layer_groups().items()
    }
    assert [group for names in LAST_LAYERS.values() for group in names] == [name for name in groups if groups[name]]
    order = list(LAST_LAYERS)
    asked = {"every layer (FixMatch)": order, **{name: [name] for name in order}}
    asked |= {"stages 5 and 6": order[:2], "stages 5 to 7 (Grad-ReLU)": order[:3]}
    asked |= {f"{order[first]} to the classifier": order[first:] for first in (1, 2)}
    alone, *settings = study.settings
    assert alone.words == ("algorithm=supervised",)
    assert {setting.name for setting in settings} == set(asked)
    for setting in settings:
        algorithm, *rest = setting.words
        assert algorithm == "algorithm=fixmatch"
        scales = yaml.safe_load(rest[0].partition("=")[2]) if rest else {}
        for name, parts in LAST_LAYERS.items():
            found = {scale_for(parameter, scales) for part in parts for parameter in groups[part]}
            assert found == {1.0 if name in asked[setting.name] else 0.0}, (setting.name, name)


def test_seeds_that_choose_are_no_seeds_that_are_reported() -> None:
    choosing = {"ablation", "parts", "readings", "readings_mu7"}
    chosen_with = {seed for name in choosing for seed in section_of(name)["seeds"]}
    assert all(section_of(name)["metric"].startswith("val/") for name in choosing)
    for name in STUDIES:
        if name not in choosing:
            assert not chosen_with & set(section_of(name)["seeds"]), name
