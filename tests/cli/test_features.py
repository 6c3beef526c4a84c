"""``data.storage=features`` from the command line: plan, results, evaluation, and what is refused in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.data.stand_ins import write_folder

Cli = Callable[..., None]

PLUGIN = """
from layermatch.networks import wrn_small

def frozen(*, num_classes=None, in_channels=3, learns=False):
    network = wrn_small(num_classes=num_classes, in_channels=in_channels)
    network.extractor.requires_grad_(learns)
    return network
"""
SETTINGS = (
    "experiment=folder", "data.root=pictures", "data.image_size=16", "~model", "+model._target_=frozen_plugin.frozen",
    "plugins=[frozen_plugin]", "trainer=cpu", "trainer.precision=32-true", "data.batch_size=4", "data.mu=2",
    "data.num_labels=6", "trainer.log_every=1", "trainer.max_steps=4", "checkpoint.every_n_steps=2",
    "checkpoint.keep=9", "optimizer.lr=1", "pseudo_labels.threshold=0.34", "data.storage=features",
    "data.feature_views=2", "algorithm.layer_gradients_every=0",
)  # fmt: skip


@pytest.fixture
def _plugin(in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (in_empty_folder / "frozen_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(in_empty_folder)
    write_folder(in_empty_folder / "pictures", size=20, test_per_class=4)
    yield
    sys.modules.pop("frozen_plugin", None)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.replace("\N{BOX DRAWINGS LIGHT VERTICAL}", " ").split())


@pytest.mark.slow
@pytest.mark.usefixtures("_plugin")
def test_a_run_on_features(cli: Cli, evaluate_cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    cli("run_dir=whole", *SETTINGS)
    text = said(capsys)
    assert "views of images (" in text
    assert "views computed (" in text
    assert "2 of a kind and image, float32" in text
    whole = json.loads(Path("whole/results.json").read_text())
    cli("run_dir=rest", *SETTINGS, "ckpt_path=whole/checkpoints/step-0000002.ckpt")
    assert "all there already" in said(capsys)
    rest = json.loads(Path("rest/results.json").read_text())
    for section in ("loss", "test", "confusion"):
        assert whole[section] == rest[section], section
    evaluate_cli("ckpt_path=whole/checkpoints/step-0000004.ckpt", "plugins=[frozen_plugin]")
    assert f"{whole['test']['accuracy_ema']:.4%}" in said(capsys)

    cli("run_dir=probe", *[word for word in SETTINGS if "pseudo" not in word and "max_steps" not in word],
        "algorithm=linear_probe", "trainer.max_steps=1")  # fmt: skip
    assert json.loads(Path("probe/results.json").read_text())["steps"] == 1


@pytest.mark.usefixtures("_plugin")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["+model.learns=true"], "data.storage=features is not legal with an extractor that learns ("),
        (["data.feature_views=0"], "data.feature_views=0 is not legal"),
        (["data.feature_dtype=half"], "data.feature_dtype='half' is not legal: choose one of float32, bfloat16"),
        (["~pseudo_labels", "algorithm=remixmatch"], "data.storage=features is not legal with algorithm.w_rot=0.5"),
        (["~pseudo_labels", "algorithm=linear_probe"],
         "trainer.max_steps=4 is not legal with algorithm=linear_probe, which is solved in one step: give "),
    ],
)  # fmt: skip
def test_what_is_not_legal_is_one_line(
    words: list[str], message: str, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = SETTINGS
    if "~pseudo_labels" in words:
        settings = tuple(word for word in SETTINGS if not word.startswith("pseudo_labels"))
        words = [word for word in words if word != "~pseudo_labels"]
    with pytest.raises(SystemExit) as ended:
        cli("run_dir=out", *settings, *words)
    assert ended.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith(f"error: {message}")
    assert not Path("out").exists()
