"""Images that are evaluated as well, and labels that are wrong, as a user meets them: plan, results, going on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.data import stand_ins

Cli = Callable[..., None]

SMALL = (
    "experiment=folder", "data.root=pictures", "data.image_size=8", "data.batch_size=4", "data.mu=1",
    "model=wrn_small", "trainer=cpu", "trainer.precision=32-true", "algorithm=fixmatch", "data.num_labels=6",
    "data.num_val=3", "algorithm.layer_gradients_every=0", "trainer.max_steps=1", "eval_every=1", "run_dir=out",
)  # fmt: skip


@pytest.fixture
def pictures(in_empty_folder: Path) -> Path:
    """18 pictures of three classes to train on, and in the training folder of each a picture of the test set."""
    root = in_empty_folder / "pictures"
    stand_ins.write_folder(root, size=8)
    for kind in ("cat", "dog", "fox"):
        shutil.copy(root / "test" / kind / "00001.png", root / "train" / kind / "[b]copy.png")
    return root


def written(name: str) -> dict[str, Any]:
    return json.loads((Path("out") / name).read_text())


def refused(command: Cli, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a refusal."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        command(*arguments)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_what_is_reported_changes_nothing_and_may_be_left_out_when_a_run_goes_on(
    pictures: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    cli(*SMALL)
    found = written("results.json")["leaks"]
    assert found["handling"] == "report"
    assert found["labelled"]["test"] + found["unlabelled"]["test"] + found["validation"]["test"] == 3
    text = written("plan.json")["leaks"]
    assert text == found["text"]
    assert text.startswith("byte-identical to test images: ")
    assert text.endswith("leaks=remove takes them out")
    shown = capsys.readouterr().out
    assert shown.count("│ leaks") == 2  # the plan, and the results
    line = refused(cli, capsys, *SMALL, "trainer.max_steps=2", "ckpt_path=last", "data.leaks=remove")
    assert line.startswith(
        "error: data.leaks=remove is not legal with ckpt_path=out/checkpoints/step-0000001.ckpt: 2 of its labelled and "
        "validation images are byte-identical to images that are evaluated (train/cat/[b]copy.png, "
    )
    cli(*SMALL, "trainer.max_steps=2", "ckpt_path=last", "data.leaks=keep")
    assert "leaks" not in written("plan.json")
    assert written("results.json")["leaks"] is None


def test_what_is_removed_stays_removed_when_a_run_goes_on(
    pictures: Path, cli: Cli, evaluate_cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = (*SMALL, "data.leaks=remove", "data.label_noise=0.5")
    cli(*settings)
    plan = written("plan.json")
    assert plan["unlabelled"] == "15, the labelled ones among them"  # of 21: three copies, three held out
    assert plan["wrong labels"] == "3 of 6 (data.label_noise=0.5)"
    assert plan["leaks"].startswith(
        "taken out of the training pool, as they are byte-identical to test images: 3 unlabelled ("
    )
    assert not any("copy" in name for name in written("split.json")["names"])
    split, before = written("split.json"), written("results.json")
    assert before["leaks"]["unlabelled"] == {"test": 3, "validation": 0}
    cli(*settings, "trainer.max_steps=2", "ckpt_path=last")
    assert written("split.json") == split
    assert written("plan.json")["wrong labels"] == plan["wrong labels"]
    assert written("results.json")["leaks"] == before["leaks"]
    capsys.readouterr()
    evaluate_cli("ckpt_path=out/checkpoints/step-0000002.ckpt")
    assert f"{written('results.json')['test']['accuracy_ema']:.4%}" in capsys.readouterr().out
    for name, then, now in (("label_noise", "0.5", "0.1"), ("leaks", "remove", "report")):
        line = refused(cli, capsys, *settings, "trainer.max_steps=3", "ckpt_path=last", f"data.{name}={now}")
        assert f"is of a run with data.{name}={then}, this one has data.{name}={now}: a run goes on" in line


def test_another_value_is_one_line(pictures: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    for setting, legal in (("leaks=drop", "report, remove, keep"), ("label_noise=1.5", "1")):
        line = refused(cli, capsys, *SMALL, f"data.{setting}")
        assert line.startswith(f"error: data.{setting.split('=')[0]}=")
        assert legal in line
    assert not Path("out").exists()
