"""Every mistake gets one line that says what was given and what is legal, status 2, and leaves nothing behind."""

from __future__ import annotations

import pickle
import re
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.data import stand_ins

from layermatch import UserError, build
from layermatch.trainer import Device

Cli = Callable[..., None]


def refused(cli: Cli, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli(*arguments)
    assert stop.value.code == 2
    printed = capsys.readouterr()
    lines = printed.err.strip().splitlines()
    assert len(lines) == 1, printed.err
    assert lines[0].startswith("error: ")
    assert "Traceback" not in printed.out + printed.err
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "given", "legal"),
    [
        (["experiment=mnist"], "unknown experiment=mnist", "folder, imagenet100, stl10, stl10_fast, svhn"),
        (["algorithm=maxmatch"], "unknown algorithm=maxmatch", "layermatch, linear_probe, mean_teacher, mixmatch"),
        (["data=emnist"], "unknown data=emnist", "choose one of cifar10"),
        (["model=vgg"], "unknown model=vgg", "wrn_28_2"),
        (["data.batchsize=3"], "unknown setting data.batchsize", "batch_size"),
        (["batch_size=3"], "unknown setting batch_size", "data"),
        (["+data.batchsize=3"], "unknown setting data.batchsize", "batch_size"),
        (["+extra=3"], "unknown setting extra", "trainer"),
        (["data.num_labels=5000"], "data.num_labels=5000 is too many", "from 10 to 1390"),
        (["data.num_labels=45"], "data.num_labels=45 cannot be the same number for every class", "multiple of the 10"),
        (["data.num_labels=5"], "data.num_labels=5 is below one label per class", "from 10"),
        (["pseudo_labels.threshold=0"], "pseudo_labels.threshold=0 ", "above 0 and at most 1"),
        (["pseudo_labels.threshold=1.01"], "pseudo_labels.threshold=1.01 ", "above 0 and at most 1"),
        (["data.mu=0"], "data.mu=0 ", "at least 1"),
        (["data.mu=0.5"], "data.mu=0.5 ", "a whole number"),
        (["trainer.max_steps=-5"], "trainer.max_steps=-5 ", "at least 1"),
        (["trainer.log_every=0"], "trainer.log_every=0 ", "at least 1"),
        (["algorithm.accumulate=0"], "algorithm.accumulate=0 ", "at least 1"),
        (["algorithm.weak_share=0.5"], "algorithm.weak_share=0.5 needs algorithm.forward=shared", "not joint"),
        (["algorithm.gradient_scale={classifier: 2}"], "algorithm.gradient_scale.classifier=2 ", "at most 1"),
        (["algorithm.gradient_scale={clasifier: 0}"], "algorithm.gradient_scale: 'clasifier' matches no", "extractor."),
        (["layerwise={extractor: 0}"], "unknown setting layerwise.extractor", "algorithm.gradient_scale={PATTERN"),
        (["views.pad=1"], "views.pad=1 ", "below 1"),
        (["eval_every=-1"], "eval_every=-1 ", "at least 1"),
        (["checkpoint.every_n_steps=-1"], "checkpoint.every_n_steps=-1 ", "at least 1"),
        (["seed=-1"], "seed=-1 ", "at least 0"),
        (["data.num_val=1430"], "data.num_val=1430 is more than", "data.val_from=pool"),
        (["optimizer.lr=-0.1"], "optimizer: Invalid learning rate", "-0.1"),
        (["experiment=folder"], "data.root is not given", "data.root=VALUE"),
        (["experiment=folder", "data.root=nowhere"], "data.root='nowhere'", "labeled/<class>/"),
        (["experiment=stl10", "data.root=nowhere"], "data.root='nowhere'", "data.download=true"),
        (["experiment=cifar10", "data.root=nowhere"], "data.root='nowhere'", "data.download=true"),
        (["experiment=imagenet100", "data.root=nowhere"], "data.root='nowhere'", "train/<"),
        (["ckpt_path=nowhere.ckpt"], "ckpt_path=nowhere.ckpt", "give a .ckpt file of a run"),
        (["ckpt_path=last"], "ckpt_path=last", "ckpt_path=FILE or run_dir=DIR"),
        (["layerwise.grad_relu=half"], "layerwise.grad_relu='half'", "block, conflict, off"),
        (["schedule.cycles=2"], "schedule.cycles=2 ", "at most 0.5"),
        (["trainer.precision=16-mixed"], "trainer.precision='16-mixed'", "bf16-mixed"),
        (["checkpoint.selection=best"], "checkpoint.selection='best'", "last, best_val"),
        (["algorithm=supervised", "pseudo_labels=fixed"], "supervised reads no pseudo_labels", "pseudo_labels=none"),
        (["algorithm._target_=os.system"], "algorithm._target_=os.system", "plugins"),
        (["data.num_labels=[1"], "cannot read 'data.num_labels=[1'", "close what is opened"),
    ],
)  # fmt: skip
def test_one_line(
    arguments: list[str], given: str, legal: str, cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(cli, capsys, "run_dir=out", *arguments)
    assert given in line
    assert legal in line
    assert list(in_empty_folder.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
@pytest.mark.parametrize("choice", ["trainer=gpu", "trainer=ddp", "trainer.accelerator=gpu"])
def test_cuda_where_there_is_none(
    choice: str, cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(cli, capsys, choice)
    assert "trainer.accelerator=gpu, but this machine has none" in line
    assert "cpu" in line
    assert list(in_empty_folder.iterdir()) == []


def test_an_incomplete_data_set_names_its_files(
    cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_ins.write_stl10(in_empty_folder / "stl")
    (in_empty_folder / "stl" / "stl10_binary" / "test_y.bin").unlink()
    line = refused(cli, capsys, "experiment=stl10", "data.root=stl", "data.verify=false")
    assert "test_y.bin" in line
    assert "data.download=true" in line


def test_a_stand_in_does_not_pass_for_the_real_data(
    cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_ins.write_cifar10(in_empty_folder / "c")
    line = refused(cli, capsys, "experiment=cifar10", "data.root=c")
    assert "data.verify=false" in line


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda root: [(root / "test" / "fox").rename(root / "test" / "wolf")], ("fox", "wolf")),
        (lambda root: [path.unlink() for path in (root / "train").rglob("*.*")], ("no images", "train")),
        (lambda root: [_remove(root / "train" / name) for name in ("dog", "fox")], ("class", "at least 2")),
    ],
)
def test_wrong_folders(
    spoil: Callable[[Path], object],
    words: tuple[str, str],
    cli: Cli,
    in_empty_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stand_ins.write_folder(in_empty_folder / "pictures")
    spoil(in_empty_folder / "pictures")
    line = refused(cli, capsys, "experiment=folder", "data.root=pictures")
    assert all(word in line for word in words), line


def _remove(folder: Path) -> None:
    for path in folder.rglob("*.*"):
        path.unlink()
    folder.rmdir()


class Payload:
    """What a stranger's checkpoint could hold."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
        return (Path.touch, (Path("was-here"),))


def test_unreadable_and_foreign_checkpoints(
    cli: Cli, evaluate_cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (in_empty_folder / "text.ckpt").write_text("this is no checkpoint\n" * 100)
    (in_empty_folder / "empty.ckpt").write_bytes(b"")
    torch.save({"weights": torch.zeros(3)}, in_empty_folder / "other.ckpt")
    (in_empty_folder / "payload.ckpt").write_bytes(pickle.dumps(Payload()))
    torch.save({"layermatch": Payload(), "state_dict": {}}, in_empty_folder / "zip-payload.ckpt")
    names = ("text", "empty", "other", "payload", "zip-payload")
    for command in (cli, evaluate_cli):
        for name in names:
            line = refused(command, capsys, f"ckpt_path={name}.ckpt")
            assert f"ckpt_path={name}.ckpt" in line
            assert "checkpoint" in line
    assert not (in_empty_folder / "was-here").exists()
    assert len(list(in_empty_folder.iterdir())) == len(names)


def test_a_checkpoint_that_does_not_fit(cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("data.batch_size=4", "data.mu=1", "trainer.max_steps=1")
    cli("run_dir=out", *small)
    checkpoint = "ckpt_path=out/checkpoints/step-0000001.ckpt"
    stand_ins.write_folder(in_empty_folder / "pictures", size=8)
    options = (
        "experiment=folder",
        "data.root=pictures",
        "data.image_size=8",
        "data.channels=1",
        "data.mean=[0.3]",
        "data.std=[0.3]",
        "model=wrn_small",
    )
    line = refused(cli, capsys, *options, *small, checkpoint)
    assert "is of 10 classes, but this data set has 3" in line
    line = refused(cli, capsys, "data.batch_size=4", "trainer.max_steps=3", "model.width=1", checkpoint)
    assert "is of another model or algorithm" in line
    line = refused(cli, capsys, *small, checkpoint)
    assert "is at step 1 already: give trainer.max_steps above that" in line
    line = refused(cli, capsys, "data.batch_size=4", "trainer.max_steps=3", "seed=1", checkpoint)
    assert "other labelled images" in line


def test_nothing_of_the_users_is_overwritten(
    cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli("run_dir=out", "data.batch_size=4", "data.mu=1", "trainer.max_steps=1")
    before = {path: path.read_bytes() for path in (in_empty_folder / "out").rglob("*.*") if path.is_file()}
    line = refused(cli, capsys, "run_dir=out", "data.batch_size=4", "data.mu=1", "trainer.max_steps=1")
    assert "already holds a finished run" in line
    assert {path: path.read_bytes() for path in (in_empty_folder / "out").rglob("*.*") if path.is_file()} == before
    (in_empty_folder / "mine").mkdir()
    (in_empty_folder / "mine" / "config.yaml").write_text("precious")
    line = refused(cli, capsys, "run_dir=mine", "trainer.max_steps=1")
    assert "config.yaml" in line
    assert (in_empty_folder / "mine" / "config.yaml").read_text() == "precious"


def test_compile_without_a_compiler(
    cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(in_empty_folder))
    line = refused(cli, capsys, "compile=true", "trainer.accelerator=cpu")
    assert "compile=true needs a C++ compiler for cpu" in line


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("", ""),
        ("card", "a GPU of compute capability 7.0"),
        ("triton", "triton"),
        ("compiler", "a C compiler"),
        ("header", "Python.h (of python3-dev or alike)"),
    ],
)
def test_a_graphics_card_compiles_where_triton_can_build(
    missing: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = Device("gpu", "bf16-mixed", channels_last=True)
    (tmp_path / "Python.h").touch()
    (tmp_path / "my-cc").touch(mode=0o755)
    folder = tmp_path / "none"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (6, 1) if missing == "card" else (7, 0))
    monkeypatch.setattr(build, "find_spec", lambda _: None if missing == "triton" else "there")
    monkeypatch.setenv("CC", "my-cc")
    monkeypatch.setenv("PATH", str(folder if missing == "compiler" else tmp_path))
    include = folder if missing == "header" else tmp_path
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": str(include)})
    assert build.missing_to_compile(card) == named
    if missing:
        with pytest.raises(UserError, match=f"^compile=true needs {re.escape(named)} for gpu"):
            build.check_compiler(card)


def test_debug_shows_the_traceback(cli: Cli) -> None:
    with pytest.raises(ValueError, match=r"pseudo_labels\.threshold=2"):
        cli("debug=fast", "pseudo_labels.threshold=2")


def test_a_checkpoints_settings_are_not_trusted(
    cli: Cli, evaluate_cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli("run_dir=out", "data.batch_size=4", "data.mu=1", "trainer.max_steps=1")
    checkpoint = torch.load("out/checkpoints/step-0000001.ckpt", weights_only=True)
    checkpoint["layermatch"]["settings"]["model"] = {"_target_": "subprocess.run", "args": ["touch", "was-here"]}
    checkpoint["layermatch"]["settings"]["plugins"] = ["subprocess"]
    torch.save(checkpoint, "evil.ckpt")
    line = refused(evaluate_cli, capsys, "ckpt_path=evil.ckpt")
    assert "model._target_=subprocess.run is not of layermatch" in line
    assert not (in_empty_folder / "was-here").exists()
