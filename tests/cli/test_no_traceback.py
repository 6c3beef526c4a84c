"""Settings that are taken away, null or of another kind, and words in another order: one line each, no traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image
from tests.cli.test_wrong_input import refused

from layermatch.cli import config_dir

Cli = Callable[..., None]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["algorithm=base"], "algorithm._target_ is not given: choose another file of conf/algorithm"),
        (["data=base"], "data.source is not given: choose another file of conf/data"),
        (["~algorithm.name"], "algorithm.name is missing: give algorithm.name=VALUE"),
        (["~trainer.devices"], "trainer.devices is missing: give trainer.devices=VALUE"),
        (["~trainer.wait"], "trainer.wait is missing: give trainer.wait=VALUE"),
        (["~trainer"], "trainer.accelerator is missing: give trainer.accelerator=VALUE"),
        (["~views.flip"], "views.flip is missing: give views.flip=VALUE"),
        (["~views.medium_ops"], "views.medium_ops is missing: give views.medium_ops=VALUE"),
        (["plugins=[1]"], "plugins=[1] is not legal: give a list of package names, plugins=[NAME]"),
        (["plugins=null"], "plugins=None is not legal: give a list of package names, plugins=[NAME]"),
        (["data=null"], "data=null is not legal: choose one of the files of conf/data"),
        (["seed=1", "model=5"], "model=5 is not legal: choose one of the files of conf/model"),
        (["algorithm=supervised", "pseudo_labels.threshold=0.9"],
         "unknown setting pseudo_labels.threshold: algorithm=supervised reads no pseudo_labels"),
        (["algorithm=supervised", "layerwise.lambda_u=1"],
         "unknown setting layerwise.lambda_u: algorithm=supervised reads no layerwise"),
        (["algorithm=mean_teacher", "pseudo_labels.threshold=0.9"],
         "unknown setting pseudo_labels.threshold: algorithm=mean_teacher reads no pseudo_labels"),
        (["algorithm=fixmatch", "pseudo_labels=none", "pseudo_labels.threshold=0.9"],
         "unknown setting pseudo_labels.threshold: choose one of alignment, alignment_decay, alignment_queue"),
        (["algorithm=fixmatch", "layerwise=none", "layerwise.lambda_u=1"],
         "unknown setting layerwise.lambda_u: layerwise has no settings of its own: give layerwise=VALUE"),
        (["+sweep=wandb"], "sweep=NAME is no choice here: the file is W&B's, as wandb sweep conf/sweep/wandb.yaml"),
        (["seed=1", "--no-such", "data.mu=1"], "unknown option --no-such: give settings without dashes"),
    ],
)  # fmt: skip
def test_a_run_is_refused_with_one_line(
    words: list[str], line: str, cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(cli, capsys, "run_dir=out", *words).startswith(f"error: {line}")
    assert list(in_empty_folder.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["algorithm=fixmatch"],
            "unknown setting algorithm: this command has no choice of it; --help shows its settings",
        ),
        (["plugins=foo"], "plugins='foo' is not legal: give a list of package names, plugins=[NAME]"),
        (["plugins=null"], "plugins=None is not legal: give a list of package names, plugins=[NAME]"),
        (["data=null"], "data=null is not legal: choose one of the files of conf/data"),
        (["trainer=null"], "trainer=null is not legal: choose one of the files of conf/trainer"),
        (["~data"], "Could not delete 'data'."),
        (["~split"], "split is missing: give split=VALUE; ~split takes it away"),
    ],
)
def test_an_evaluation_is_refused_with_one_line(
    words: list[str], line: str, evaluate_cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(evaluate_cli, capsys, "ckpt_path=a.ckpt", *words).startswith(f"error: {line}")


def test_an_evaluation_can_show_tracebacks(evaluate_cli: Cli) -> None:
    with pytest.raises(ValueError, match=r"ckpt_path=a\.ckpt: there is no such file"):
        evaluate_cli("ckpt_path=a.ckpt", "debug=tracebacks")
    with pytest.raises(ValueError, match="debug=fast changes a run, and this is none: choose one of none, tracebacks"):
        evaluate_cli("ckpt_path=a.ckpt", "debug=fast")


@pytest.mark.parametrize("max_steps", ["abc", "null", "[1]"])
def test_a_finished_run_whose_length_is_no_number(
    max_steps: str, cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (in_empty_folder / "out").mkdir()
    (in_empty_folder / "out" / "results.json").write_text('{"steps": 2}')
    line = refused(cli, capsys, "run_dir=out", "ckpt_path=auto", f"trainer.max_steps={max_steps}")
    assert line.startswith("error: trainer.max_steps=")
    assert line.endswith("is not legal: give a whole number, at least 1")


@pytest.mark.parametrize("place", [0, 1, 2])
def test_options_stand_anywhere_among_the_settings(
    place: int, cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = in_empty_folder / "conf" / "pseudo_labels"
    folder.mkdir(parents=True)
    (folder / "half.yaml").write_text("_target_: layermatch.policies.FixedThreshold\nthreshold: 0.5\n")
    words = ["seed=3", "pseudo_labels=half"]
    cli(*words[:place], "--config-dir", "conf", *words[place:], "--cfg", "job")
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["seed"], shown["pseudo_labels"]["threshold"]) == (3, 0.5)


def test_the_last_of_settings_around_an_option_counts(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    cli("views.pad=0.1", "--cfg", "job", "views={pad: 0.2}", "data.mu=5")
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["views"]["pad"], shown["data"]["mu"]) == (0.2, 5)


def groups(text: str) -> dict[str, list[str]]:
    """What ``--help`` offers."""
    lines = text.partition("(group=option)")[2].partition("==")[0].split("\n")
    return {name: files.split(", ") for name, _, files in (line.partition(": ") for line in lines) if files}


def test_help_offers_what_can_be_chosen(cli: Cli, evaluate_cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli("--help")
    offered = groups(capsys.readouterr().out)
    folders = {path.name for path in config_dir().iterdir() if path.is_dir()} - {"hydra", "sweep", "study"}
    assert offered == {
        name: sorted(path.stem for path in (config_dir() / name).glob("*.yaml") if path.stem != "base")
        for name in folders
    }
    with pytest.raises(SystemExit):
        evaluate_cli("--help")
    assert groups(capsys.readouterr().out) == {"debug": ["none", "tracebacks"]}


def test_a_folder_of_classes_is_no_root(cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (in_empty_folder / "train" / "cat").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(in_empty_folder / "train" / "cat" / "1.png")
    line = refused(cli, capsys, "experiment=folder", "data.root=train")
    assert "data.root='train' holds neither train/ nor labeled/ and unlabeled/: give a folder that holds" in line
