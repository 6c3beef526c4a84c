"""The command: what it refuses in one line, how it starts and ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.label.given import write_pictures

from layermatch.cli import config_dir
from layermatch.label import __main__ as command

ADDRESS = re.compile(
    r"open (http://127\.0\.0\.1:(\d+)/\?token=([\w-]{32})) in a browser of this machine; Ctrl-C ends\n"
)
PICTURES = ["IMG_000.png", "IMG_001.png", "IMG_002.png"]

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "pictures", per_class=1)
    return tmp_path


def refused(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(sys, "argv", ["layermatch.label", *words])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    output, errors = capsys.readouterr()
    assert not output
    (line,) = errors.splitlines()
    return line


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "data.root is not given: give data.root=VALUE"),
        (["data.root=no"], "data.root=no: there is no such folder: give the folder of the pictures"),
        (["data.root=empty"], "data.root=empty holds no picture"),
        (["data.root=pictures", "links=1"], "links=1 is not legal: choose true or false"),
        (["data.root=pictures", "open=yes"], "open='yes' is not legal: choose true or false"),
        (["data.root=pictures", "port=65536"], "port=65536 is not legal: give a whole number, at least 0 and "),
        (["data.root=pictures", "sample=0"], "sample=0 is not legal: give a whole number, at least 1"),
        (["data.root=pictures", "clusters=0"], "clusters=0 is not legal"),
        (["data.root=pictures", "seed=-1"], "seed=-1 is not legal"),
        (["data.root=pictures", "cache_megabytes=0"], "cache_megabytes=0 is not legal"),
        (["data.root=pictures", "cache_dir=1"], "cache_dir=1 is not legal: give an absolute path"),
        (["data.root=pictures", "classes=cat"], "classes='cat' is not legal: give a list, classes=[cat, dog]"),
        (["data.root=pictures", 'classes=[""]'], "the class '' is not legal: give a name of 1 to 200 characters"),
        (["data.root=pictures", "train=fast"],
         "train='fast' is not legal: give names and values, 'train={trainer.max_steps: 500}'"),
        (["data.root=pictures", "train={run_dir: x}"], "train: run_dir is the page's to give: leave it out"),
        (["data.root=pictures", "ckpt_path=no.ckpt"],
         "ckpt_path=no.ckpt: there is no such file: give a .ckpt file or a run directory"),
        (["data.root=pictures", "ckpt_path=empty"], "ckpt_path=empty: there is no checkpoint in this folder"),
        (["data.root=pictures", "data.manifest=no/labels.csv"], "data.manifest=no/labels.csv: there is no folder "),
        (["data.root=pictures", "data.manifest=empty.csv"], "the manifest "),
        (["data.root=pictures", "data.manifest=l.xlsx"],
         "data.manifest=l.xlsx is no CSV file: give a name that ends with .csv"),
        (["data.root=pictures", "data.manifest=a.parquet"], "data.manifest=a.parquet is no CSV file: give "),
        (["data.root=pictures", "classes=[cat, cat]"], "classes has cat twice: give each class once"),
        (["data.root=pictures", "classes=[cat, Cat]"], "classes: 'Cat' and 'cat' differ only in upper and lower case"),
        (["data.root=pictures", "train={algorithm: nonsense}"], "train: unknown algorithm=nonsense: choose one of "),
        (["data.root=pictures", "train={trainer.max_stepz: 3}"],
         "train: unknown setting trainer.max_stepz: choose one of "),
        (["data.root=pictures", "train={algorithm: null}"], "train: algorithm=null is not legal: choose one of the "),
        (["data.root=pictures", "data.manifest=bad.csv"], "the manifest "),
        (["data.root=pictures", "data.mu=1"], "unknown setting data.mu: choose one of manifest, root"),
        (["data.root=pictures", "~port"], "port is missing: give port=VALUE"),
        (["data.root=pictures", "port={taken}"], "port={taken} cannot be used: Address already in use: give port=0"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(
    words: list[str], line: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "empty").mkdir()
    (folder / "empty.csv").mkdir()
    (folder / "bad.csv").write_text("path,label,split\na.png,cat,neither\n")
    default = ["port=0", "open=false"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        given = [word.format(taken=port) if "{taken}" in word else word for word in words]
        first = [word for word in default if not any(each.lstrip("~").startswith(word[:4]) for each in given)]
        said = refused([*first, *given], monkeypatch, capsys)
    assert said.startswith(f"error: {line.format(taken=port) if '{taken}' in line else line}")
    assert sorted(path.name for path in (folder / "pictures").iterdir()) == [
        "IMG_000.png",
        "IMG_001.png",
        "IMG_002.png",
    ]


def test_every_setting_is_read() -> None:
    """One that is given otherwise makes other options, or is refused."""
    import yaml

    stated = yaml.safe_load((config_dir() / "label.yaml").read_text())
    names = set(stated) - {"defaults", "hydra"}
    assert names == set(command.SETTINGS)
    assert set(stated["data"]) == {"root", "manifest"}


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    started = []

    def call(*words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "layermatch.label", "data.root=pictures", "open=false", *words],
            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        started.append(process)
        return process

    yield call
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def address(process: subprocess.Popen[str]) -> re.Match[str]:
    assert process.stdout is not None
    for line in process.stdout:
        found = re.fullmatch(
            r"open (http://127\.0\.0\.1:(\d+)/\?token=([\w-]{32})) in a browser of this machine; Ctrl-C ends\n", line
        )
        if found:
            return found
    raise AssertionError(process.stderr.read() if process.stderr else "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_starts_and_ends(number: signal.Signals, start: Start, folder: Path) -> None:
    from urllib.request import urlopen

    process = start("port=0", "classes=[a, b]")
    found = address(process)
    with urlopen(found[1], timeout=60) as answer:  # noqa: S310 -- this machine
        assert answer.status == 200
    second = start("port=0")
    output, errors = second.communicate(timeout=120)
    assert (second.returncode, output) == (2, "")
    assert re.fullmatch(r"error: \S*labels\.csv is being labelled by another server: use its page, or end it\n", errors)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (0, "", "")
    assert sorted(path.name for path in (folder / "pictures").iterdir()) == [
        "IMG_000.png",
        "IMG_001.png",
        "IMG_002.png",
    ]


def test_the_server_needs_no_torch(folder: Path) -> None:
    check = (
        "import sys, layermatch.label.__main__, layermatch.label.app, layermatch.label.session; "
        "print([name for name in ('torch', 'lightning', 'sklearn', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, cwd=folder)
    assert done.stdout.strip() == "[]"


def test_a_missing_package_is_one_line(folder: Path) -> None:
    """A module of that name that cannot be imported is as good as none."""
    hide = "import sys; sys.modules['uvicorn'] = None; sys.argv[1:] = ['data.root=pictures', 'port=0', 'open=false']; "
    check = hide + "from layermatch.label.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 2
    assert done.stderr == "error: the page needs the package uvicorn: pip install 'layermatch[label]'\n"
