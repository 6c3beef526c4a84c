"""``python -m layermatch.study`` in this process, and finished runs for it to find."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.report.made_runs import make_run

from layermatch.study import __main__ as command

Cli = Callable[..., None]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """``python -m layermatch.study ARGS`` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["layermatch.study", *arguments])
        command.main()

    return call


@pytest.fixture
def commands_of(cli: Cli, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[list[str]]]:
    """The words of every run of a study, from what a dry run prints."""

    def call(*arguments: str) -> list[list[str]]:
        capsys.readouterr()
        cli(*arguments, "dry_run=true")
        lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
        assert all(words[:4] == ["OMP_NUM_THREADS=1", "python", "-m", "layermatch.run"] for words in lines)
        assert all(words[-1] == "ckpt_path=auto" for words in lines)
        return [words[4:] for words in lines]

    return call


def make_finished(words: list[str], accuracy: float, *, steps: int = 5) -> Path:
    """A finished run in the place where a command line puts it."""
    given = dict(word.split("=", 1) for word in words)
    overrides = [word for word in words if word.partition("=")[0] not in {"run_dir", "ckpt_path", "seed"}]
    run_dir = Path(given["run_dir"])
    return make_run(
        run_dir, *overrides, "ckpt_path=auto", seed=int(given["seed"]), accuracy=accuracy, steps=[steps],
        labelled=[int(given["seed"]), 5],
    )  # fmt: skip
