"""``python -m layermatch.study``: what it prints, what it counts, what it refuses; no run is started here."""

from __future__ import annotations

import html
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from tests.study.conftest import Cli, make_finished

from layermatch.cli import config_dir, plain
from layermatch.runs.identity import fingerprint
from layermatch.runs.layout import find_runs

CommandsOf = Callable[..., list[list[str]]]

#: Accuracies that no two runs share, by the order of the runs.
SHARES = [0.5, 0.6, 0.85, 0.4, 0.7, 0.8]


@pytest.fixture
def finished(commands_of: CommandsOf) -> list[Path]:
    """The runs of study=smoke, all finished."""
    return [make_finished(words, share) for words, share in zip(commands_of("study=smoke"), SHARES, strict=True)]


def refused(cli: Cli, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        cli(*arguments)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("error: ")


def test_a_dry_run_prints_every_command_and_writes_nothing(commands_of: CommandsOf) -> None:
    words = commands_of("study=smoke", "study.num_labels=[10,40]", "data.cache_dir=pictures (1)")
    assert len(words) == 3 * 2 * 2
    # Seed by seed; what the command line gives comes last but for labels and seed.
    assert [word for word in words[4] if not word.startswith(("run_dir=", "ckpt_path="))] == [
        "experiment=digits", "trainer=cpu", "trainer.max_steps=5", "eval_every=2", "checkpoint.every_n_steps=2",
        "algorithm=fixmatch", 'data.cache_dir="pictures (1)"', "data.num_labels=40", "seed=0",
    ]  # fmt: skip
    assert [word for each in words for word in each if word.startswith("seed=")] == ["seed=0"] * 6 + ["seed=1"] * 6
    assert not list(Path().iterdir())


def test_a_study_knows_a_run_as_the_run_composes_itself(commands_of: CommandsOf, cli: Cli) -> None:
    """The fingerprints in study.json are those of the composed command lines."""
    words = commands_of("study=smoke")
    for each, share in zip(words, SHARES, strict=True):
        make_finished(each, share)
    cli("study=smoke")
    cells = json.loads(Path("runs/studies/smoke/study.json").read_text())["cells"]
    assert len(cells) == len(words)
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        by_dir = {dict(w.split("=", 1) for w in each)["run_dir"]: plain(compose("run", each)) for each in words}
    for cell in cells:
        assert cell["run_dir"] in by_dir
        raw = by_dir[cell["run_dir"]]
        assert raw["seed"] == cell["seed"]
        assert fingerprint(raw) == fingerprint(yaml.safe_load((Path(cell["run_dir"]) / "config.yaml").read_text()))


def test_a_finished_study_is_told_and_written(
    finished: list[Path], cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    cli("study=smoke")
    out = capsys.readouterr().out
    assert "6 of 6 runs finished" in out
    found = json.loads(Path("runs/studies/smoke/study.json").read_text())
    rows = {row["setting"]: row for row in found["rows"]}
    # Seed 0: 0.5, 0.6, 0.85; seed 1: 0.4, 0.7, 0.8.
    assert rows["layermatch"]["difference"]["mean"] == pytest.approx((0.25 + 0.1) / 2)
    assert rows["supervised"]["difference"]["mean"] == pytest.approx((-0.1 - 0.3) / 2)
    assert rows["layermatch"]["difference"]["wins"] == 2
    page = Path("runs/studies/smoke/study.html").read_text()
    assert all(name in page for name in rows)
    content = page.partition('<main id="content">')[2]
    assert content.index('id="answer"') < content.index('id="results"')
    answer = content[: content.index('id="results"')]
    assert f"<h1>{html.escape(found['title'])}</h1>" in page
    assert "95 % interval" in answer
    assert "85.0 80.0" in answer  # both seeds of layermatch
    assert len(find_runs(Path("runs/studies/smoke"))) == 6  # what the study keeps beside is no run
    assert sorted(path.name[:16] for path in Path("runs/studies/smoke/splits").iterdir()) == [
        "labels-10_seed-0", "labels-10_seed-1",
    ]  # fmt: skip


def test_other_images_of_a_seed_are_told(finished: list[Path], cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    (finished[2] / "split.json").write_text(json.dumps({"labelled": [8, 9], "validation": []}))
    cli("study=smoke")
    told = "layermatch, 10 labels, seed 0 had other images than the other runs of its seed"
    assert f"careful: {told}" in capsys.readouterr().out
    assert f"**Careful:** {told}" in Path("runs/studies/smoke/study.md").read_text()


def test_a_run_of_another_setting_is_not_counted(
    commands_of: CommandsOf, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    words = commands_of("study=smoke")
    for each, share in zip(words[:-1], SHARES, strict=False):
        make_finished(each, share)
    make_finished([*words[-1], "optimizer.lr=0.1"], 0.99)
    with pytest.raises(SystemExit) as ended:
        cli("study=smoke")
    assert ended.value.code == 1
    output, errors = capsys.readouterr()
    assert "holds a run with optimizer.lr=0.1, not 0.03" in output
    assert "1 of 6 runs failed" in errors
    found = json.loads(Path("runs/studies/smoke/study.json").read_text())
    assert found["finished"] == 5
    assert "0.99" not in Path("runs/studies/smoke/study.csv").read_text()


def test_a_table_of_other_settings_says_what_differs(
    finished: list[Path], cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    cli("study=smoke")
    capsys.readouterr()
    cli("study=smoke", "study.seeds=[1]")
    assert "were of other settings" in (output := capsys.readouterr().out)
    assert "seeds [0, 1], now [1]" in output
    cli("study=smoke", "study.seeds=[1]")
    assert "other settings" not in capsys.readouterr().out


def test_files_that_no_study_wrote_stay(cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "study.md").write_text("my own")
    assert "holds files that no study wrote (study.md)" in refused(cli, capsys, "study=smoke", "run_dir=mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["study.md"]
    assert (tmp_path / "mine" / "study.md").read_text() == "my own"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no study is given: give study=NAME, one of ablation, "),
        (["study=smok"], "unknown study=smok: choose one of ablation, "),
        (["study=smoke", "-m"], "a study runs several settings itself"),
        (["study=smoke", "job=2"], "setting 'supervised': unknown setting job: "),
        (["study=smoke", "jobs=0"], "jobs=0 is not legal: give a whole number, at least 1"),
        (["study=smoke", "dry_run=1"], "dry_run=1 is not legal"),
        (["study=smoke", "study.seed=1"], "unknown setting study.seed: choose one of "),
        (["study=smoke", "study.metric=best"], "study.metric='best' is not legal"),
        (["study=smoke", "seed=1"], "seed=1: a study gives seed to each run itself: give study.seeds=[0,1,2]"),
        (["study=base"], "study.title is not given"),
        (["study=smoke", "algorithm=no such"], "setting 'supervised': "),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    arguments: list[str], said: str, cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(cli, capsys, *arguments).startswith(said)
    assert not list(tmp_path.iterdir())


def test_nothing_missing_imports_no_torch(finished: list[Path], tmp_path: Path) -> None:
    script = (
        "import sys; from layermatch.study.__main__ import main; sys.argv = ['study', 'study=smoke']; main(); "
        "print([name for name in ('torch', 'lightning', 'torchvision', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert "6 of 6 runs finished" in done.stdout
