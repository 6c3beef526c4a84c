from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from layermatch import UserError, functional
from layermatch.cli import config_dir
from layermatch.components import check_keys, find_target, make, option_names, section_of_errors
from layermatch.data import SemiSupervisedData
from layermatch.errors import RunError
from layermatch.networks import wrn_small
from layermatch.policies import FixedThreshold

PLUGIN = """
import os
from functools import partial

class Mine:
    def __init__(self, size, *, colour="red"):
        self.size, self.colour = size, colour

def build(*, size=3):
    return Mine(size)

built = partial(build, size=5)
foreign = partial(os.system, "exit 7")
nested = partial(partial(partial, os.system), "exit 7")
number = 3
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of the user's: its name."""
    name = "a_users_own_package"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


def targets_in_conf() -> list[tuple[str, str]]:
    found = []
    for path in sorted(config_dir().rglob("*.yaml")):
        if path.relative_to(config_dir()).parts[0] == "hydra":
            continue  # Hydra makes these
        content = yaml.safe_load(path.read_text()) or {}
        for section in (content, *(value for value in content.values() if isinstance(value, dict))):
            found += [(path.name, section["_target_"])] if "_target_" in section else []
    return found


# ------------------------------------------------------------------------------------------------------- find_target


def test_the_configuration_names_targets() -> None:
    assert len(targets_in_conf()) >= 20


@pytest.mark.parametrize(("file", "path"), targets_in_conf())
def test_every_target_of_the_configuration_is_found(file: str, path: str) -> None:
    assert callable(find_target("section._target_", path))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("layermatch.policies.FixedThreshold", FixedThreshold),
        ("layermatch.functional.cosine", functional.cosine),
        ("layermatch.functional.schedules.cosine", functional.cosine),
        ("layermatch.networks.wrn_small", wrn_small),
        ("torch.optim.SGD", torch.optim.SGD),
        ("torch.optim.adamw.AdamW", torch.optim.AdamW),
    ],
)
def test_a_target_is_what_its_path_names(path: str, expected: object) -> None:
    assert find_target("section._target_", path) is expected


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "posix.system",
        "subprocess.run",
        "builtins.eval",
        "torch.load",
        "torch.hub.load",
        "torch.nn.Linear",
        "layermatch",
        "layermatch_other.Policy",
        "layermatch.functional_other.cosine",
        "torch.optimizers.SGD",
        "",
        "print",
        "...",
        "layermatch.cli.os.system",
        "layermatch.loggers.os.system",
        # These are reached through a trusted module, but come from elsewhere.
        "layermatch.functional.schedules.math",
        "layermatch.functional.schedules.check_number",
        "layermatch.data.splits.Path",
        "layermatch.data.splits.json",
        "layermatch.data.datamodule.DataLoader",
        "torch.optim.sgd.torch",
        "torch.optim.sgd.cast",
        # Not callable.
        "layermatch.functional.schedules",
        "layermatch.data.splits.VAL_FROM",
        # No such thing.
        "layermatch.functional.no_such_schedule",
        "layermatch.no_such_room.Policy",
        "layermatch.functional.no_such_module.cosine",
        "layermatch.functional.",
        "layermatch.functional.schedules.math.cos",
        17,
    ],
)
def test_anything_else_is_refused(path: object) -> None:
    with pytest.raises(UserError, match=r"^section\._target_=") as caught:
        find_target("section._target_", path)
    assert "\n" not in str(caught.value)


def test_no_target_is_refused() -> None:
    with pytest.raises(UserError, match=r"^section\._target_"):
        find_target("section._target_", None)


#: Functions of this package that call what a configuration names, with the plugins that it names.
WAYS_AROUND = [
    "layermatch.components.make",
    "layermatch.components.find_target",
    "layermatch.build.make",
    "layermatch.build.build_parts",
    "layermatch.build.build_data",
    "layermatch.evaluate.evaluate",
    "layermatch.run.main",
    "layermatch.cli.run_app",
]


@pytest.mark.parametrize("path", WAYS_AROUND)
def test_there_is_no_way_around_through_this_package(path: str) -> None:
    with pytest.raises(UserError, match="is not of"):
        find_target("section._target_", path)


def test_a_configuration_cannot_trust_itself(tmp_path: Path) -> None:
    inner = {"_target_": "posix.system", "command": f"touch {tmp_path}/was_here"}
    outer = {"_target_": "layermatch.components.make", "section": "x", "settings": inner, "plugins": ["posix"]}
    with pytest.raises(UserError, match="is not of"):
        make("layerwise", outer)
    assert not (tmp_path / "was_here").exists()


def test_a_plugin_is_found_where_the_user_names_it(plugin: str) -> None:
    with pytest.raises(
        UserError, match=rf"^a={plugin}\.Mine is not of .*: name your own package in plugins=\[\.\.\.\]"
    ):
        find_target("a", f"{plugin}.Mine")
    assert plugin not in sys.modules  # refused before anything in it could run
    for name in ("Mine", "build", "built"):
        assert callable(find_target("a", f"{plugin}.{name}", plugins=[plugin]))
    # The others are still trusted, and the plugin's own name is no prefix.
    assert find_target("a", "torch.optim.SGD", plugins=[plugin]) is torch.optim.SGD
    with pytest.raises(UserError, match="is not of"):
        find_target("a", f"{plugin}.Mine", plugins=[plugin[:-1]])


@pytest.mark.parametrize("name", ["os.system", "foreign", "nested", "partial", "number", "nothing"])
def test_a_plugin_gives_nothing_but_its_own(plugin: str, name: str) -> None:
    with pytest.raises(UserError):
        find_target("a", f"{plugin}.{name}", plugins=[plugin])


# ------------------------------------------------------------------------------------------------------ option_names


class Base:
    def __init__(self, first: int, *, second: int = 2) -> None: ...


class PassesOn(Base):
    def __init__(self, *, third: int, **options: int) -> None:
        super().__init__(**options)


class PassesNothingOn(Base):
    def __init__(self, *, third: int) -> None:
        super().__init__(third)


class NoConstructor(PassesOn):
    pass


class PositionalOnly:
    def __init__(self, first: int, /, *rest: int, second: int) -> None: ...


def function(first: int, /, second: int, *, third: int = 3, **rest: int) -> None: ...


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (Base, {"first", "second"}),
        (PassesOn, {"first", "second", "third"}),
        (PassesNothingOn, {"third"}),
        (NoConstructor, {"first", "second", "third"}),
        (PositionalOnly, {"second"}),
        (function, {"second", "third"}),
        (partial(function, third=4), {"second", "third"}),
        (functional.cosine, {"step", "max_steps", "cycles"}),
    ],
)
def test_option_names(target: Any, expected: set[str]) -> None:
    assert option_names(target) == expected


def test_option_names_of_the_data_module_are_its_own_settings() -> None:
    names = option_names(SemiSupervisedData)
    assert {"num_labels", "mu", "overfit"} <= names
    assert "self" not in names


# --------------------------------------------------------------------------------------------------------- check_keys


def test_legal_keys_pass() -> None:
    check_keys("data", ["b", "a"], {"a", "b", "c"})
    check_keys("data", [], [])


@pytest.mark.parametrize(
    ("section", "given", "legal", "message"),
    [
        ("data", ["a", "x"], ["b", "a"], "unknown setting data.x: choose one of a, b"),
        ("", ["x"], ["b", "a"], "unknown setting x: choose one of a, b"),
        ("data", ["x"], [], "unknown setting data.x: choose one of (none)"),
    ],
)
def test_an_unknown_key_is_refused(section: str, given: list[str], legal: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        check_keys(section, given, legal)
    assert str(caught.value) == message


# --------------------------------------------------------------------------------------------------------------- make


def test_make_calls_the_target_with_the_other_keys(plugin: str) -> None:
    settings = {"_target_": f"{plugin}.Mine", "colour": "blue"}
    made = make("mine", settings, plugins=[plugin], size=4)
    assert (made.size, made.colour) == (4, "blue")
    assert settings == {"_target_": f"{plugin}.Mine", "colour": "blue"}
    assert make("mine", {"_target_": f"{plugin}.built"}, plugins=[plugin]).size == 5
    assert make("mine", {"_target_": f"{plugin}.built", "size": 6}, plugins=[plugin]).size == 6


def test_make_refuses_unknown_keys() -> None:
    settings = {"_target_": "layermatch.policies.FixedThreshold", "treshold": 0.9}
    with pytest.raises(UserError, match=r"^unknown setting pseudo_labels\.treshold: choose one of threshold$"):
        make("pseudo_labels", settings)


def test_make_refuses_settings_that_are_given(plugin: str) -> None:
    with pytest.raises(UserError, match=r"^unknown setting mine\.size: choose one of colour$"):
        make("mine", {"_target_": f"{plugin}.Mine", "size": 3}, plugins=[plugin], size=4)


def test_make_passes_on_what_the_target_refuses() -> None:
    with pytest.raises(UserError, match=r"^pseudo_labels\.threshold=2 is not legal"):
        make("pseudo_labels", {"_target_": "layermatch.policies.FixedThreshold", "threshold": 2})


@pytest.mark.parametrize("settings", [{}, {"_target_": None}, {"_target_": "os.system", "command": "exit 7"}])
def test_make_refuses_what_find_target_does(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^logger\._target_"):
        make("logger", settings)


# -------------------------------------------------------------------------------------------------- section_of_errors


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("weight=2 is not legal: give a number", "s.weight=2 is not legal: give a number"),
        ("weight=2 has no effect with kind=none", "s.weight=2 has no effect with s.kind=none"),
        ("scale.stem=2 is not legal", "s.scale.stem=2 is not legal"),
        ("scale: 'stem' matches nothing", "s.scale: 'stem' matches nothing"),
        ("kind=weight is not legal", "s.kind=weight is not legal"),
        ("give (weight=1)", "give (s.weight=1)"),
        # Other names that a key is a part of, values, and words.
        ("weights=2, my_weight=2 and weight_decay=2", "weights=2, my_weight=2 and weight_decay=2"),
        ("optimizer.weight=2 and s.weight=3", "optimizer.weight=2 and s.weight=3"),
        ("'weight=2' and /tmp/weight=2 and no-weight=2", "'weight=2' and /tmp/weight=2 and no-weight=2"),
        ("the weight is 2, by weight. Look", "the weight is 2, by weight. Look"),
        ("give a weight.json", "give a weight.json"),
        ("colour=2 is not a key of the section", "colour=2 is not a key of the section"),
        # A key is a word, not a pattern.
        ("aXb=2 and a.b=2", "aXb=2 and s.a.b=2"),
    ],
)
def test_an_error_names_settings_as_the_user_writes_them(message: str, expected: str) -> None:
    keys = {"weight": 1, "kind": "none", "scale": {"stem": 1}, "a.b": 3}
    with pytest.raises(UserError) as caught, section_of_errors("s", keys):
        raise UserError(message)
    assert str(caught.value) == expected


class FullError(RunError):
    """An error with more than a message."""

    def __init__(self, room: str) -> None:
        super().__init__(f"{room} is full: give a smaller weight=NUMBER")
        self.room = room


def test_an_error_stays_what_it_is_but_for_its_message() -> None:
    error = FullError("the attic")
    with pytest.raises(FullError) as caught, section_of_errors("s", ["weight"]):
        raise error
    assert caught.value is error
    assert error.room == "the attic"
    assert str(error) == "the attic is full: give a smaller s.weight=NUMBER"


def test_the_section_within_names_its_settings_first() -> None:
    with (
        pytest.raises(UserError, match=r"^inner\.weight=2 and outer\.size=3$"),
        section_of_errors("outer", ["weight", "size"]),
        section_of_errors("inner", ["weight"]),
    ):
        raise UserError("weight=2 and size=3")


def test_a_section_without_keys_and_errors_of_other_kinds_stay_as_they_are() -> None:
    with pytest.raises(UserError, match=r"^weight=2$"), section_of_errors("s", []):
        raise UserError("weight=2")
    with pytest.raises(ValueError, match=r"^weight=2$"), section_of_errors("s", ["weight"]):
        raise ValueError("weight=2")
    with section_of_errors("s", ["weight"]):
        pass


def test_make_names_the_settings_that_do_not_go_together() -> None:
    settings = {"_target_": "layermatch.layerwise.SeparateLosses", "avg_clustering": "none", "weight": 0.5}
    with pytest.raises(UserError) as caught:
        make("layerwise", settings)
    assert str(caught.value) == (
        "layerwise.weight=0.5 has no effect with layerwise.avg_clustering=none, which takes none of these options"
    )
