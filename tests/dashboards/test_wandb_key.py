"""Where a W&B key is found, and that W&B is used by its public names."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb
from tests.dashboards.servers import KEY

import layermatch
from layermatch.dashboards.wandb_key import has_key


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user without any key."""
    for name in [name for name in os.environ if name.startswith("WANDB") or name == "NETRC"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org:8080")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    wandb.teardown()  # it reads its environment once
    yield tmp_path
    wandb.teardown()


def write_netrc(path: Path, machine: str) -> None:
    path.write_text(f"machine {machine}\n  login user\n  password {KEY}\n")
    path.chmod(0o600)


def test_no_key(home: Path) -> None:
    assert not has_key()
    write_netrc(home / ".netrc", "api.wandb.ai")  # another server
    assert not has_key()
    (home / ".netrc").write_text("machine wandb.example.org:8080 pass")  # damaged
    assert not has_key()


@pytest.mark.parametrize("name", ["WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"])
def test_a_key_in_the_environment(name: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "token").write_text("token")
    monkeypatch.setenv(name, KEY if name == "WANDB_API_KEY" else str(home / "token"))
    assert has_key()


def test_a_key_in_a_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_netrc(home / "_netrc", "wandb.example.org:8080")
    assert has_key()
    (home / "_netrc").rename(home / "elsewhere")
    assert not has_key()
    monkeypatch.setenv("NETRC", "~/elsewhere")
    assert has_key()


def test_wandb_is_used_by_its_public_names() -> None:
    """A later W&B keeps those."""
    private = []
    for path in sorted(Path(layermatch.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [name for name in names_of(node) if name.split(".")[0] == "wandb"]
            parts = {part for name in names for part in name.split(".")}
            if any(part.startswith(("_", "x_")) or part in {"sdk", "proto"} for part in parts):
                private.append(f"{path.name}: {ast.unparse(node)}")
    assert private == []


def names_of(node: ast.AST) -> list[str]:
    """What is imported, or written out, in a place of the code; of a call also the names of its arguments."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call):
        return [f"{ast.unparse(node.func)}.{keyword.arg}" for keyword in node.keywords]
    return [ast.unparse(node)] if isinstance(node, ast.Attribute) else []
