"""Every path is taken as it was typed, ``~`` is the home folder, and a path that is none is one line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from tests.cli.test_wrong_input import refused
from tests.data import stand_ins
from tests.test_config import settings_of

from layermatch.build import build_data, build_device
from layermatch.command_line import as_typed
from layermatch.data import Views
from layermatch.data.cache import default_cache_dir
from layermatch.errors import UserError
from layermatch.paths import PATHS
from layermatch.report.__main__ import main as report_main
from layermatch.run import run
from layermatch.runs.directory import lock_run_dir
from layermatch.settings import Settings

Cli = Callable[..., None]

#: What Hydra makes something else of, or refuses.
ODD = [
    "2024", "2024_06_01", "1e3", "1.10", "true", "[x]", "{x}", "{}", "B (1)", "a=b", "nö", "it's", "a#b", "a;b", "a&b",
    "日本", " x ", "a[1]", "-1", "a:b", "inf", 'say "x"', "a(b",
]  # fmt: skip


@pytest.fixture
def home(in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = in_empty_folder / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("key", PATHS)
def test_hydra_reads_a_path_as_it_was_typed(key: str) -> None:
    parser = OverridesParser.create()
    assert [parser.parse_override(as_typed(f"{key}={name}")).value() for name in ODD] == ODD


@pytest.mark.parametrize("name", ["2024_06_01", "[x]", "B (1)", "it's a=b", "nö"])
def test_a_root_is_what_was_typed(
    name: str, cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_ins.write_folder(in_empty_folder / name)
    line = refused(cli, capsys, "experiment=folder", f"data.root={name}", "data.num_labels=99999")
    assert "data.num_labels=99999 is too many" in line  # its images have been listed
    assert names(in_empty_folder) == {name}


@pytest.mark.parametrize(
    "word",
    ['run_dir="2024"', "run_dir='a b'", "data.split=null", "run_dir=str(5)", "run_dir=runs/${name}", r"run_dir=a\ b"],
)
def test_what_is_written_in_hydras_own_way_stays(word: str) -> None:
    assert as_typed(word) == word


def test_paths_of_a_sweep_are_taken_one_by_one() -> None:
    assert as_typed("data.root=2024_01,b") == 'data.root="2024_01",b'


def test_a_name_in_the_run_directory_is_what_was_typed(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    cli("--cfg", "job", "name=2024_06_01", "run_dir=2024_06_01")
    settings = yaml.safe_load(capsys.readouterr().out)
    assert (settings["name"], settings["run_dir"]) == ("2024_06_01", "2024_06_01")


def test_the_home_folder_is_meant_everywhere(
    cli: Cli, evaluate_cli: Cli, in_empty_folder: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ("data.batch_size=4", "data.mu=1", "trainer.max_steps=1", "algorithm.layer_gradients_every=0")
    cli("run_dir=~/2024_06 (1)", *small)
    run_dir = home / "2024_06 (1)"
    assert (run_dir / "results.json").is_file()
    capsys.readouterr()
    evaluate_cli("ckpt_path=~/2024_06 (1)/checkpoints/step-0000001.ckpt")
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "checkpoint: ~/2024_06 (1)/checkpoints/step-0000001.ckpt"  # in one piece, to be copied
    assert shown[1].strip() == "Accuracy on test"
    report_main(["~/2024_06 (1)", "--out=~/report.html"])
    assert (home / "report.html").is_file()
    line = refused(cli, capsys, "data.split=~/2024_06 (1)/split.json", "data.num_labels=7")
    assert "has 10 labelled images, but data.num_labels=7" in line  # it has been read
    line = refused(cli, capsys, "ckpt_path=~/2024_06 (1)/checkpoints/step-0000001.ckpt", *small)
    assert "is at step 1 already" in line
    assert names(in_empty_folder) == {"home"}
    assert names(home) == {"2024_06 (1)", "report.html", "report.md"}


def test_the_home_folder_is_meant_in_python_and_in_files(in_empty_folder: Path, home: Path) -> None:
    settings = settings_of("experiment=folder", "data.root=x")
    settings["data"] |= {"root": "~/pictures", "split": "~/split.json", "cache_dir": "~/cache"}
    stand_ins.write_folder(home / "pictures")
    parsed = Settings.parse(settings)
    with pytest.raises(UserError, match=r"^data\.split=~/split\.json is not a split file"):
        build_data(parsed, device=build_device(parsed), views=Views())
    (home / "here").write_text("")
    with pytest.raises(UserError, match=rf"^run_dir={home}/here is a file"):
        run(parsed, run_dir=Path("~/here"))
    assert names(in_empty_folder) == {"home"}


def test_a_folder_of_the_name_of_a_home_folder(cli: Cli, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(cli, capsys, "experiment=folder", "data.root=~nobody-here/x")
    assert "user 'nobody-here' is unknown" in line
    stand_ins.write_folder(Path("./~nobody-here") / "x")
    line = refused(cli, capsys, "experiment=folder", "data.root=./~nobody-here/x", "data.num_labels=99999")
    assert "data.num_labels=99999 is too many" in line


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["run_dir=null"], "run_dir=null is not legal: give the path of a directory"),
        (["run_dir="], "run_dir='' is not legal: give the path of a directory"),
        (["-m", "seed=0,1", "run_dir=null"], "run_dir=null is not legal: give the path of a directory"),
        (["data.split=12"], "data.split=12 is not a split file"),
        (["data.split="], "data.split='' is not legal: give the path of a split.json"),
        (["ckpt_path="], "ckpt_path='' is not legal: give the path of a checkpoint file"),
        (["ckpt_path=12"], "ckpt_path=12: there is no such file"),
        (["experiment=folder", "data.root=null"], "data.root=null is not legal"),
        (["experiment=folder", f"data.root={'x' * 300}"], "is not a folder"),
        ([f"data.split={'x' * 300}"], "is not a split file"),
        ([f"ckpt_path={'x' * 300}"], "there is no such file"),
        (["experiment=imagenet100", "data.root=.", f"data.class_list={'x' * 300}"], "is not a file"),
        (["experiment=folder", "data.root=pictures", "data.cache_dir="], "data.cache_dir='' is not legal"),
    ],
)  # fmt: skip
def test_what_is_no_path(
    words: list[str], line: str, cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line in refused(cli, capsys, *words)
    assert names(in_empty_folder) == set()


def test_a_number_in_a_file_is_to_be_quoted(in_empty_folder: Path) -> None:
    """YAML has made 20240601 of 2024_06_01 by then."""
    settings = settings_of("experiment=folder", "data.root=x")
    settings["data"]["root"] = 20240601
    parsed = Settings.parse(settings)
    with pytest.raises(UserError, match=r"^data\.root=20240601 is not legal: .* quoted: '20240601'$"):
        build_data(parsed, device=build_device(parsed), views=Views())
    with pytest.raises(UserError, match=r"^run_dir=3 is not legal"):
        run(parsed, run_dir=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("words", [[], ["-m", "seed=0,1"]])
@pytest.mark.parametrize("run_dir", ["/proc/x/y", "file/x", "new/" + "x" * 300, "file"])
def test_a_run_directory_that_cannot_be_made(
    run_dir: str, words: list[str], cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (in_empty_folder / "file").write_text("mine")
    # No picture is looked for before.
    line = refused(cli, capsys, *words, f"run_dir={run_dir}", "experiment=folder", "data.root=gone")
    assert line.startswith(f"error: run_dir={run_dir} ")
    assert "cannot be made" in line or "is a file" in line
    assert "give another run_dir" in line or "give a directory" in line
    assert names(in_empty_folder) == {"file"}


# --------------------------------------------------------------------------------------------------------- no home


def test_the_cache_falls_back_where_the_home_folder_cannot_hold_it(
    in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    (in_empty_folder / "home").mkdir()
    monkeypatch.setenv("HOME", str(in_empty_folder / "home"))
    assert default_cache_dir() == in_empty_folder / "home" / ".cache" / "layermatch"
    (in_empty_folder / "home" / ".cache").write_text("no folder")
    fallback = default_cache_dir()
    assert fallback.is_absolute()
    assert in_empty_folder / "home" not in fallback.parents


NO_HOME = """
import os
from layermatch.data.cache import default_cache_dir
from layermatch.errors import UserError
from layermatch.paths import expand
os.setgid(54321)
os.setuid(54321)
print(default_cache_dir())
try:
    expand("data.root", "~/x", "a folder")
except UserError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(getattr(os, "getuid", lambda: 1)() != 0, reason="only root becomes a user without an entry")
def test_a_user_without_an_entry_and_without_a_home(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in {"HOME", "XDG_CACHE_HOME"}}
    done = subprocess.run(
        [sys.executable, "-c", NO_HOME], env=environment | {"TMPDIR": str(tmp_path)}, cwd="/", capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    cache, refusal = done.stdout.splitlines()
    assert cache.endswith("layermatch-54321")
    assert refusal.startswith("data.root=~/x: this user has no home folder, and HOME is not set")


def test_a_lock_that_another_holds_and_one_that_cannot_be_made_are_told_apart(tmp_path: Path) -> None:
    with lock_run_dir(tmp_path / "out"), pytest.raises(UserError, match="is in use by another run"):
        lock_run_dir(tmp_path / "out").__enter__()
    (tmp_path / "blocked" / ".lock").mkdir(parents=True)  # not even root opens a folder as a file
    with pytest.raises(UserError, match=r"blocked cannot be written to: .*: give another run_dir$"):
        lock_run_dir(tmp_path / "blocked").__enter__()
