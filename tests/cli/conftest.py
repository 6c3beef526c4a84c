"""The command line, in this process: fast, and with the real Hydra."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from layermatch import evaluate, run

Cli = Callable[..., None]


@pytest.fixture
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cli(in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """``python -m layermatch.run ARGS`` in an empty folder."""

    def call(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["layermatch.run", *arguments])
        run.main()

    return call


@pytest.fixture
def evaluate_cli(in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """``python -m layermatch.evaluate ARGS`` in the same folder."""

    def call(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["layermatch.evaluate", *arguments])
        evaluate.main()

    return call
