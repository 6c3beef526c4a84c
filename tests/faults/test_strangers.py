"""What comes from strangers is data, and is never run."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.cli.conftest import cli, evaluate_cli, in_empty_folder

__all__ = ["cli", "evaluate_cli", "in_empty_folder"]  # fixtures

Cli = Callable[..., None]


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.sign),)


def write(kind: str, path: Path, payload: Payload) -> None:
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"state_dict": payload, "layermatch": {}}))
    elif kind == "zip":
        torch.save({"state_dict": payload, "layermatch": {}}, path)
    else:
        torch.save({"state_dict": {}, "layermatch": {}}, path)
        with zipfile.ZipFile(path, "a") as file:
            name = next(name for name in file.namelist() if name.endswith("data.pkl"))
            file.writestr(name, pickle.dumps(payload))


@pytest.mark.parametrize("kind", ["pickle", "zip", "zip with a second pickle"])
def test_a_payload_in_a_checkpoint_does_nothing(
    kind: str, cli: Cli, evaluate_cli: Cli, in_empty_folder: Path, fault: Callable[..., None],
    capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder,
) -> None:  # fmt: skip
    sign, path = in_empty_folder / "executed", in_empty_folder / "theirs.ckpt"
    write(kind, path, Payload(sign))
    for call in (cli, evaluate_cli):
        with pytest.raises(SystemExit) as status:
            call("ckpt_path=theirs.ckpt")
        assert status.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ckpt_path=theirs.ckpt")
    assert not sign.exists()
    # The test can fail: loaded without protection, the payload runs.
    if kind == "zip":
        torch.load(path, weights_only=False)
        assert sign.exists()
    fault(f"a stranger's checkpoint with a payload ({kind})", tried=2, survived=2, lost="nothing")


@pytest.mark.parametrize("value", ["$(mkdir executed)", "`mkdir executed`", "x; mkdir executed", "__import__('os')"])
def test_values_reach_no_shell_and_no_eval(value: str, cli: Cli, in_empty_folder: Path) -> None:
    quoted = value.replace("'", r"\'")
    for key in ("name", "data.root", "algorithm.ema_decay", "optimizer.lr", "data.split", "ckpt_path"):
        with pytest.raises(SystemExit) as status:
            cli(f"+{key}='{quoted}'" if key == "data.root" else f"{key}='{quoted}'", "trainer.max_steps=0")
        assert status.value.code == 2
    assert not (in_empty_folder / "executed").exists()
