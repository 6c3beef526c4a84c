"""Folds of labelled images: every image once, every class in each training part, identical images together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from PIL import Image
from tests.study.conftest import Cli

from layermatch.build import build_parts
from layermatch.cli import config_dir, plain
from layermatch.errors import UserError
from layermatch.settings import Settings
from layermatch.study.folds import deal, make_folds

CLASSES = ("cat", "dog", "fox")


@pytest.mark.parametrize("folds", [2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_every_image_is_in_one_fold_and_every_class_in_each(folds: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.repeat([0, 1, 2], [4, 11, 23]))
    content = np.arange(38, dtype=np.uint64)
    found = deal(labels, content, folds=folds, seed=seed, classes=CLASSES)
    assert sorted(np.concatenate(found).tolist()) == list(range(38))
    counts = np.array([np.bincount(labels[part], minlength=3) for part in found])
    assert (counts.max(axis=0) - counts.min(axis=0) <= 1).all()  # as equal as can be, class by class
    assert np.ptp(counts.sum(axis=1)) <= 1
    assert all(len(set(np.delete(labels, part))) == 3 for part in found)
    again = deal(labels, content, folds=folds, seed=seed, classes=CLASSES)
    assert all((one == other).all() for one, other in zip(found, again, strict=True))
    others = deal(labels, content, folds=folds, seed=seed + 1, classes=CLASSES)
    assert any(list(one) != list(other) for one, other in zip(found, others, strict=True))


def test_identical_images_are_held_out_together() -> None:
    labels = np.arange(30) % 3
    content = np.arange(30, dtype=np.uint64)
    content[[3, 6, 27]] = 99
    content[[4, 7]] = 98
    found = deal(labels, content, folds=5, seed=0, classes=CLASSES)
    where = {row: fold for fold, part in enumerate(found) for row in part.tolist()}
    assert where[3] == where[6] == where[27]
    assert where[4] == where[7]


@pytest.mark.parametrize(
    ("labels", "content", "folds", "said"),
    [
        ([0, 0, 1, 1, 2], range(5), 2, "has not as many of fox"),
        ([0, 0, 1, 1, 2, 2], [0, 1, 2, 3, 4, 4], 2, "has not as many of fox"),
        ([0, 0, 1, 1, 2, 2], range(6), 7, "study.folds=7 is more than there are labelled images"),
    ],
)
def test_what_cannot_be_dealt_is_refused(labels: list[int], content: list[int], folds: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        deal(np.array(labels), np.array(content, np.uint64), folds=folds, seed=0, classes=CLASSES)


def test_a_run_never_makes_a_pseudo_label_of_what_it_is_judged_by(tmp_path: Path) -> None:
    """The held-out images are in neither of its sets, the folds are those of a run's own labels, and stay."""
    words = ["run_dir=unused", "algorithm=layermatch", "trainer=cpu", "data.num_labels=40", "seed=3"]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        raw = plain(compose("run", words))
        paths = [str(tmp_path / f"fold-{fold}.json") for fold in (1, 2, 3)]
        make_folds(raw, paths)
        whole = build_parts(Settings.parse(raw)).data
        parts = [
            build_parts(
                Settings.parse(
                    plain(compose("run", [*words, "data.num_labels=null", "data.num_val=0", f"data.split={p}"]))
                )
            ).data
            for p in paths
        ]
    held_out = [set(part.split.validation) for part in parts]
    assert set.union(*held_out) == set(whole.split.labelled)
    assert sum(map(len, held_out)) == 40
    for data, fold in zip(parts, held_out, strict=True):
        assert set(data.split.labelled) == set(whole.split.labelled) - fold
        assert not set(data.split.in_pool.tolist()) & fold
        assert len(data.unlabelled) == 1437 - len(fold)
        assert len(data.validation) == len(fold)
    before = [Path(path).read_text() for path in paths]
    make_folds({**raw, "seed": 4}, paths)
    assert [Path(path).read_text() for path in paths] == before


def picture(path: Path, number: int) -> None:
    """A picture of its own for each number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def test_ones_own_pictures_are_dealt_by_their_files(tmp_path: Path) -> None:
    """A folder with unlabelled pictures, a copy of a labelled one, and validation pictures of its own."""
    root = tmp_path / "pictures"
    for number in range(12):
        picture(root / "labeled" / CLASSES[number % 2] / f"{number}.png", number)
    picture(root / "labeled" / CLASSES[1] / "copy of 5.png", 5)
    for number in range(20, 29):
        picture(root / "unlabeled" / f"{number}.png", number)
    for number in (40, 41):
        picture(root / "val" / CLASSES[number % 2] / f"{number}.png", number)
    words = [
        "run_dir=unused", "experiment=folder", f"data.root={root}", "data.image_size=16", "model=wrn_small",
        "trainer=cpu",
        f"data.cache_dir={tmp_path / 'cache'}", "data.storage=ram", "seed=0",
    ]  # fmt: skip
    paths = [str(tmp_path / "folds" / f"{fold}.json") for fold in (1, 2, 3)]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        make_folds(plain(compose("run", words)), paths)
        picture(root / "unlabeled" / "late.png", 99)  # further pictures may come
        data = [
            build_parts(Settings.parse(plain(compose("run", [*words, f"data.split={path}"])))).data for path in paths
        ]
    held_out = [{part.content.image_id("labelled", row) for row in part.split.validation} for part in data]
    assert sorted(map(len, held_out)) == [4, 4, 5]
    assert len(set.union(*held_out)) == 13
    (together,) = [names for names in held_out if any("copy of 5" in name for name in names)]
    assert any(name.endswith("/5.png") for name in together)
    for part, names in zip(data, held_out, strict=True):
        assert len(part.validation) == len(names)  # and not the two pictures of val/
        assert len(part.unlabelled) == 13 - len(names) + 10
        assert part.leaks_found.unlabelled.get("validation") == 0


def test_a_study_holds_out_each_fold_of_each_seed(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    cli("study=cross_validation", "study.num_labels=[40]", "study.folds=3", "dry_run=true")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * 2 * 3
    for line in lines:
        assert "data.num_labels=null" in line
        assert "data.num_val=0" in line
        seed = line.partition("seed=")[2].split()[0]
        assert f"runs/studies/cross_validation/folds/labels-40_seed-{seed}_fold-" in line
    assert len({line.partition("run_dir=")[2].split()[0] for line in lines}) == len(lines)


def test_other_folds_are_other_runs(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs of three folds and of five in one directory would hold out some images twice and others never."""
    found = []
    for folds in (3, 5):
        cli("study=cross_validation", "study.num_labels=[40]", f"study.folds={folds}", "dry_run=true")
        lines = capsys.readouterr().out.splitlines()
        found.append({line.partition(key)[2].split()[0] for line in lines for key in ("run_dir=", "data.split=")})
    assert not found[0] & found[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["study.folds=1"], "study.folds=1 is not legal: give a whole number, at least 2"),
        (["study.metric=test/accuracy_ema"], "study.metric=test/accuracy_ema is not legal with study.folds"),
        (["data.split=mine.json"], "data.split=mine.json: a study with folds gives data.split to each run itself"),
        (["checkpoint.selection=best_val"], "checkpoint.selection=best_val is not legal with study.folds"),
        (["study.curves=mask"], "study.curves='mask' is not legal: give a list"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], said: str, cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli("study=cross_validation", *arguments, "dry_run=true")
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.removeprefix("error: ").startswith(said)
    assert not list(tmp_path.iterdir())


def test_a_run_of_a_fold_is_known_from_wherever_the_study_is_called(tmp_path: Path) -> None:
    from tests.report.made_runs import make_run, settings_of

    from layermatch.study.design import Cell, Setting
    from layermatch.study.records import State, look

    def cell(folder: str, fold: int) -> Cell:
        words = (f"data.split={folder}/labels-40_seed-0_fold-{fold}_feed.json",)
        raw = settings_of("trainer.max_steps=30", *words, seed=0)
        return Cell(Setting("fixmatch", ()), 40, 0, words, raw, tmp_path, fold)

    one = cell("folds", 1)
    make_run(one.run_dir, *one.words, seed=0)
    assert look(one).state is State.FINISHED
    assert look(cell("elsewhere/folds", 1)).state is State.FINISHED
    other = cell("folds", 2)
    make_run(other.run_dir, *one.words, seed=0)
    assert "fold-1_feed.json, not 0, split=labels-40_seed-0_fold-2_feed.json" in look(other).why


def test_the_table_names_folds_and_the_verdict(tmp_path: Path) -> None:
    from tests.study.test_tables import CODE, SETTINGS, cell_of, study_of

    from layermatch.metrics import VAL_ACCURACY_EMA
    from layermatch.study.formats import as_json, rows_of_plain
    from layermatch.study.rows import Finding, Found, rows_of
    from layermatch.study.tables import as_markdown

    study = study_of(folds=3, metric=VAL_ACCURACY_EMA, seeds=(0, 1))
    cells, findings = [], []
    for seed in (0, 1):
        for fold in (1, 2, 3):
            for number, setting in enumerate(SETTINGS):
                one = cell_of(setting, seed)
                cells.append(type(one)(**{**vars(one), "fold": fold}))
                share = 0.5 + 0.1 * seed + 0.02 * fold + number * (0.1 + 0.01 * fold)
                results = {"val": {"accuracy_ema": share}, "num_labels": 27, "seconds": 1.0}
                findings.append(Finding(cells[-1], results, (CODE,), processor=30.0 * fold))
    found = Found(
        study=study, cells=cells, findings=findings, left_out={}, failed={}, notes=(), code=CODE, command="python",
        data=("feed",), written="now",
    )  # fmt: skip
    text = as_markdown(found).replace("\\", "")
    assert "**layer | match against fixmatch with 10 labels: helps. +12.0 points, 95 % interval +" in text
    assert "Each fold: folds 1 to 3 of seed 0; folds 1 to 3 of seed 1, in this order." in text
    assert "Nadeau and Bengio" in text
    assert "1 min 0 s" in text  # the processor's time, mean of 30, 60 and 90 s
    content = json.loads(as_json(found))
    assert content["rows"][1]["by_seed"]["1/3"] == pytest.approx(0.5 + 0.1 + 0.06 + 0.13)
    assert content["verdicts"][0].startswith("layer | match against fixmatch")
    assert rows_of_plain(content) == rows_of(found)
