"""What the data say of a setting: its own name in Python, and its section before it where a configuration was read."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from tests.data import stand_ins
from tests.test_config import settings_of

from layermatch import data as room
from layermatch.build import build_parts
from layermatch.components import option_names
from layermatch.data import SemiSupervisedData, Split
from layermatch.data.loader import loader_errors
from layermatch.data.sources import STL10, SVHN, Digits, Folder, ImageNet100, Manifest, Source
from layermatch.errors import RunError, UserError
from layermatch.settings import GIVEN_TO_DATA, Settings

#: Wrong settings of the data module, and the start of what is said of each; {} is the section.
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a number": ({"batch_size": 0}, "{}batch_size=0 is not legal"),
    "a word": ({"storage": "tape"}, "{}storage='tape' is not legal"),
    "a truth": ({"overfit": 3}, "{}overfit=3 is not legal"),
    "a path": ({"cache_dir": "here"}, "{}cache_dir='here' is not legal"),
    "a list": ({"mean": [0.5, 0.5]}, "{}mean=[0.5, 0.5] is not legal"),
    "no list": ({"std": 1}, "{}std=1 is not legal"),
    "labels": ({"num_labels": 5000}, "{}num_labels=5000 is too many for a pool of 1437 images"),
    "part of a mapping": ({"imbalance": {"labelled": 2}}, "{0}imbalance.labelled=2 needs {0}imbalance.labelled_head"),
    "an unknown part": ({"imbalance": {"gamma": 2}}, "unknown setting {}imbalance.gamma: choose one of"),
    "three settings": (
        {"num_val": 31, "num_labels": 40, "val_from": "labelled"},
        "{0}num_val=31 is more than can be held out, each class in proportion, of {0}num_labels=40 "
        "({0}val_from=labelled)",
    ),
    "no folds": ({"fold": 1}, "{0}fold=1: this data set has no predefined folds: give {0}fold=null"),
    "two that exclude each other": ({"fold": 1, "open_set": 5}, "{0}fold=1 is not legal with {0}open_set=5"),
    "two that say the same": (
        {"fold": 1, "imbalance": {"unlabelled": 2}},
        "{0}fold=1 and an imbalance both say which images are labelled: give {0}fold=null or {0}imbalance=null",
    ),
    "a class": ({"open_set": ["ten"]}, "{}open_set: there is no class 'ten'"),
    "a file": ({"split": "none.json"}, "{}split=none.json is not a split file written by a run (split.json)"),
}

#: The same of sources: the file of conf/data, the source, its settings, and the start of what is said.
SOURCES: dict[str, tuple[str, type, dict[str, Any], str]] = {
    "a folder": ("folder", Folder, {"root": "no/where"}, "{}root='no/where' is not a folder"),
    "no path": ("folder", Folder, {"root": 3}, "{}root=3 is not legal"),
    "a size": ("folder", Folder, {"root": "x", "image_size": 0}, "{}image_size=0 is not legal"),
    "channels": ("folder", Folder, {"root": "x", "channels": 2}, "{}channels=2 is not legal"),
    "a truth": ("svhn", SVHN, {"root": "x", "extra": 3}, "{}extra=3 is not legal"),
    "a title": ("stl10", STL10, {"root": "x"}, "STL-10: {}root='x' is not a folder: give the folder of the files"),
    "a table": ("manifest", Manifest, {"manifest": "no.csv"}, "cannot read the manifest no.csv"),
    "a list": ("imagenet100", ImageNet100, {"root": ".", "class_list": "no"}, "{}class_list='no' is not a file"),
}


def said_in_python(source: Source, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        SemiSupervisedData(source, **options).setup()
    return str(caught.value)


def said_of_a_configuration(changes: dict[str, Any], *words: str) -> str:
    settings = settings_of("trainer=cpu", *words)
    settings["data"] |= changes
    with pytest.raises(UserError) as caught:
        build_parts(Settings.parse(settings))
    return str(caught.value)


def check_both(python: str, configured: str, expected: str) -> None:
    """Check the start of what is said in Python, and that the other is the same with sections."""
    assert python.startswith(expected.format(""))
    assert configured.startswith(expected.format("data."))
    assert configured.replace("data.", "") == python


@pytest.fixture
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("in_empty_folder")
class TestMessages:
    @pytest.mark.parametrize("name", WRONG)
    def test_of_the_data_module(self, name: str) -> None:
        changes, expected = WRONG[name]
        check_both(said_in_python(Digits(), **changes), said_of_a_configuration(changes, "data=digits"), expected)

    @pytest.mark.parametrize("name", SOURCES)
    def test_of_a_source(self, name: str) -> None:
        config, source, changes, expected = SOURCES[name]
        needed = {"imagenet100": ["data.class_list=classes.txt"], "manifest": ["data.manifest=table.csv"]}.get(
            config, []
        )
        configured = said_of_a_configuration(changes, f"data={config}", "data.root=pictures", *needed)
        with pytest.raises(UserError) as caught:
            source(**changes).load()
        check_both(str(caught.value), configured, expected)

    def test_of_a_split_of_another_data_set(self) -> None:
        Split(0, 7, (0, 1), ()).save(Path("split.json"))
        changes = {"split": "split.json", "num_labels": None}
        python, configured = said_in_python(Digits(), **changes), said_of_a_configuration(changes, "data=digits")
        check_both(python, configured, "{}split=split.json is of a pool of 7 images")

    def test_of_a_split_that_fits_although_files_have_gone(self, caplog: pytest.LogCaptureFixture) -> None:
        stand_ins.write_folder(Path("pictures"))
        words = ["trainer=cpu", "data=folder", "data.root=pictures", "data.image_size=8", "data.num_labels=3"]
        first = build_parts(Settings.parse(settings_of(*words, "data.num_val=0"))).data
        first.save_split(Path("split.json"))
        unused = next(i for i in range(18) if i not in first.split.labelled)
        (Path("pictures") / first.content.image_ids["labelled"][unused]).unlink()
        build_parts(Settings.parse(settings_of(*words, "data.num_val=0", "data.split=split.json")))
        assert caplog.messages[-1].startswith(
            "data.split=split.json was drawn when other files were there (18 training"
        )

    def test_of_a_process_that_ends_in_training(self) -> None:
        settings = Settings.parse(settings_of("data=digits"))
        with (
            pytest.raises(RunError, match=r"and with fewer of them \(data\.num_workers=NUMBER\) if it happens again$"),
            settings.data.named_in_errors(),
            loader_errors(),
        ):
            raise RuntimeError("DataLoader worker (pid 7) exited unexpectedly")


def of_a_setting() -> re.Pattern[str]:
    """A setting of the section ``data`` with its section."""
    names = option_names(SemiSupervisedData) - GIVEN_TO_DATA
    for source in (Folder, SVHN, STL10, ImageNet100, Manifest):
        names |= option_names(source)
    return re.compile(rf"(?<![\w.])data\.({'|'.join(sorted(names))})\b")


def test_no_text_of_the_data_names_the_section() -> None:
    pattern, seen = of_a_setting(), 0
    for path in sorted(Path(room.__file__).parent.rglob("*.py")):
        texts = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
        texts = [text for text in texts if isinstance(text, str)]
        seen += len(texts)
        assert [text for text in texts if pattern.search(text)] == [], path
    assert seen > 1000
    assert pattern.search("give data.num_labels=4")
