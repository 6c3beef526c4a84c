"""A run on a user's own folder, as such folders are: what it says of them, and what it does not claim to know."""

from __future__ import annotations

import csv
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.data.stand_ins import write_folder

Cli = Callable[..., None]

SETTINGS = (
    "experiment=folder", "data.root=pictures", "data.image_size=16", "model=wrn_small", "trainer=cpu", "run_dir=out",
    "trainer.precision=32-true", "data.batch_size=4", "data.mu=2", "trainer.log_every=1", "trainer.max_steps=2",
    "pseudo_labels.threshold=0.3", "data.storage=lazy",
)  # fmt: skip


@pytest.mark.slow
def test_a_folder_with_unlabelled_pictures(cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No class of an unlabelled picture is known, so nothing is said of how many pseudo-labels are right."""
    root, out = in_empty_folder / "pictures", in_empty_folder / "out"
    write_folder(root, layout="labeled", classes=("ant", "caf\xe9"), per_class=2, test_per_class=3, num_unlabelled=20)
    test = root / "test"
    (test / "caf\xe9").rename(test / unicodedata.normalize("NFD", "caf\xe9"))
    for path in (root / "labeled" / "ant").iterdir():
        path.rename(path.with_suffix(""))  # pictures without an ending
    (root / "unlabeled" / "a.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    cli(*SETTINGS)

    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "not used .heic (1): unlabeled/a.HEIC" in said
    assert "class names caf\xe9 is one class, though labeled/ and test/ write it in different Unicode forms" in said
    assert "count; accuracy unknown: no class of an unlabelled image is known" in said
    quality = json.loads((out / "results.json").read_text())["pseudo_labels"]
    assert quality["accuracy"] is None
    assert quality["accuracy_accepted"] is None
    assert quality["mask_rate"] > 0
    header = (out / "metrics.csv").read_text().splitlines()[0].split(",")
    assert "pseudo_labels/mask_rate" in header
    assert not [name for name in header if name.startswith("pseudo_labels/accuracy")]
    with (out / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    classes = json.loads((out / "results.json").read_text())["classes"]
    for row in rows:
        assert (root / row["path"]).is_file()
        folder = Path(row["path"]).parent.name
        assert unicodedata.normalize("NFC", folder) == classes[int(row["label"])]
