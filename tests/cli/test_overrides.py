"""What Hydra refuses on the command line is one line that says how to write it, ready for the shell."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from tests.cli.test_wrong_input import refused

Cli = Callable[..., None]


@pytest.mark.parametrize(
    "value", ["B (1)", "a=b", "nö", "it's", "a#b", "{x}", "a;b", "~/x", "[1", "a&b", 'say "x', "a`b`$c", "日本", "f(1)"]
)
def test_the_remedy_is_the_same_value_quoted(
    value: str, cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(cli, capsys, f"schedule.cycles={value}")
    assert line.startswith(f"error: cannot read {f'schedule.cycles={value}'!r} on the command line")
    pasted = line.rpartition(": ")[2] if ": " not in value else line.partition("quote it: ")[2]
    (word,) = shlex.split(pasted)  # as a shell would
    override = OverridesParser.create().parse_override(word)
    assert (override.get_key_element(), override.value()) == ("schedule.cycles", value)
    assert "give a number" in refused(cli, capsys, word)  # pasted, it reaches whoever reads the setting
    assert list(in_empty_folder.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["seed=0,1"], "seed=0,1 gives several values: add -m to run each of them, or write a list, 'seed=[0,1]', or"),
        (["seed=range(0,3)"], "seed=range(0,3) gives several values: add -m to run each of them"),
        (["+seed=1"], "An item is already at 'seed'. Either remove + prefix: 'seed=1'"),
        (["seed"], "cannot read 'seed' on the command line: give key=value, without spaces around the ="),
        (["seed", "=", "1"], "cannot read '=' on the command line: give key=value, without spaces around the ="),
        (["=3"], "cannot read '=3' on the command line: give key=value"),
        (["data.röot=3"], "cannot read 'data.röot=3' on the command line: give key=value, the key in letters"),
        (["plugins=[a=b, c]"], "on the command line: quote what is in the list: 'plugins=[\"a=b\",\"c\"]'"),
        (["seed.x=3"], "unknown setting seed.x: seed has no settings of its own: give seed=VALUE"),
        (["seed=int(x)"], "invalid literal for int() with base 10: 'x'"),
        (["--seed=1"], "unknown option --seed=1: give settings without dashes, seed=1"),
        (["~seed"], "seed is missing: give seed=VALUE"),
    ],
)  # fmt: skip
def test_other_refusals_keep_their_remedy(
    words: list[str], line: str, cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line in refused(cli, capsys, *words)
    assert list(in_empty_folder.iterdir()) == []
