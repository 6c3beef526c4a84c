"""What a check finds in folders, tables and arrays, and what it leaves behind."""

from __future__ import annotations

import io
import json
import re
import sys
import tarfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from tests import processes
from tests.check.planted import picture, plant, write_sound

from layermatch.check.__main__ import check
from layermatch.check.findings import Finding, Inspection, inspect
from layermatch.check.looking import TINT, Looks
from layermatch.check.reading import Content
from layermatch.cli import config_dir, plain
from layermatch.data.images import ArrayImages
from layermatch.data.labelling import Labelling
from layermatch.data.manifest import Row, write_manifest
from layermatch.data.sets import ImageSet
from layermatch.errors import UserError
from layermatch.settings import DataSettings


def settings(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return plain(compose("check", overrides=list(overrides)))


def checked(tmp_path: Path, *overrides: str) -> Inspection:
    return check(settings(f"output={tmp_path / 'check.html'}", *overrides))


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Inspection]:
    folder = tmp_path_factory.mktemp("check")
    write_sound(folder / "pictures")
    plant(folder / "pictures")
    return folder, checked(folder, f"data.root={folder / 'pictures'}")


def of_kind(found: Inspection, kind: str) -> list[Finding]:
    return [one for one in found.findings if one.kind == kind]


def test_a_sound_folder_has_no_problem(tmp_path: Path) -> None:
    write_sound(tmp_path / "pictures")
    found = checked(tmp_path, f"data.root={tmp_path / 'pictures'}")
    assert found.problems == []
    assert found.pairs == ()
    assert found.counts == {"labelled": (6, 6, 6, 0), "validation": (2, 2, 2, 0), "test": (3, 3, 3, 0)}
    assert "up to 4, and data.num_labels=12 (4 a class)" in found.advice[0]


def test_every_planted_fault_is_found(faulty: tuple[Path, Inspection]) -> None:
    _, found = faulty
    exact, near = of_kind(found, "leak into test")
    assert exact.text.startswith("1 test image has the pixels of a labelled one")
    assert exact.examples == ("train/ant/0.png = test/ant/same pixels.bmp",)
    assert near.text.startswith("1 test image looks like a labelled one (hashes differ in 4 of 64 bits at most)")
    assert near.examples == ("train/ant/1.png = test/ant/same picture.jpg",)
    (wrong,) = of_kind(found, "contradicting labels")
    assert wrong.examples == ("train/ant/a bee.png = train/bee/1.png",)
    (bad,) = of_kind(found, "unreadable")
    assert bad.text.startswith("2 files cannot be read")
    assert [example.partition(":")[0] for example in bad.examples] == ["train/ant/cut off.png", "train/bee/empty.jpg"]
    (again,) = of_kind(found, "duplicates")
    assert again.text == "2 labelled images have the pixels of another labelled one"
    assert [one.text for one in of_kind(found, "not used")] == [".mp4 (1): train/bee/film.mp4"]
    (uneven,) = of_kind(found, "imbalance")
    assert uneven.text.startswith("bee has 27 images and ant 8, 3.4 times as many")
    (narrow,) = of_kind(found, "long images")
    assert narrow.text.startswith("1 of ")
    assert {one.kind for one in found.problems} == {"leak into test", "contradicting labels", "unreadable"}


def test_the_json_file_has_the_same(faulty: tuple[Path, Inspection]) -> None:
    folder, found = faulty
    written = json.loads((folder / "check.json").read_text())
    assert written == {"made_by": "layermatch.check", **json.loads(json.dumps(found.plain()))}
    assert written["problems"] == len(found.problems) == 4
    assert written["classes"]["test"] == {"ant": 5, "bee": 3, "cow": 3}
    assert written["sizes"]["labelled"]["short_side"] == {"min": 64, "median": 64.0, "max": 80}
    assert {"train/ant/0.png", "test/ant/same pixels.bmp"} in [set(one["paths"]) for one in written["same"]]


def inspected(parts: dict[str, list[int]], looks: dict[str, Looks]) -> Inspection:
    """Inspect made-up looks; the parts have the class of each image, -1 where it is unknown."""
    sets = {
        part: ImageSet(ArrayImages(np.zeros((len(labels), 3, 8, 8), np.uint8)), np.array(labels, np.int64))
        for part, labels in parts.items()
    }
    names = {part: tuple(f"{part}:{row}" for row in range(len(labels))) for part, labels in parts.items()}
    return inspect(Content(("ant", "bee"), sets, names), looks, distance=4)


def looks_of(digests: list[int], hashes: list[int]) -> Looks:
    return Looks(
        sizes=np.full((len(digests), 2), 8, np.int32),
        digests=tuple(digest.to_bytes(16, "big") for digest in digests),
        hashes=np.array(hashes, np.uint64),
        tints=np.zeros((len(digests), TINT, TINT, 3), np.uint8),
        reasons={},
    )


def test_a_copy_without_a_label_hides_no_contradiction() -> None:
    looks = {"labelled": looks_of([2], [0]), "unlabelled": looks_of([1], [0]), "test": looks_of([1, 1, 1], [0] * 3)}
    found = inspected({"labelled": [0], "unlabelled": [-1], "test": [0, 1, 0]}, looks)
    (wrong,) = of_kind(found, "contradicting labels")
    assert wrong.text == "1 image has the pixels of one of another class"
    assert wrong.examples == ("test:0 (ant) = test:1 (bee)",)


def test_all_copies_that_look_like_a_learnt_picture_leak() -> None:
    looks = {
        "labelled": looks_of([1, 2], [0, 2**60 - 1]), "unlabelled": looks_of([3], [255 << 20]),
        "test": looks_of([4, 4, 4, 5], [1, 1, 1, 255 << 20 | 1]),
    }  # fmt: skip
    leaks = of_kind(inspected({"labelled": [0, 1], "unlabelled": [-1], "test": [0] * 4}, looks), "leak into test")
    assert [leak.text.partition(" (")[0] for leak in leaks] == [
        "3 test images look like a labelled one", "1 test image looks like an unlabelled one",
    ]  # fmt: skip


def test_frames_of_a_camera_are_as_many_pairs_as_frames() -> None:
    flips = [0, *(1 << one for one in range(64)), *(1 << a | 1 << b for a in range(64) for b in range(a))]
    looks = {
        "labelled": looks_of(list(range(900)), flips[:900]),
        "test": looks_of([*range(900, 1000)], flips[900:1000]),
    }
    found = inspected({"labelled": [0] * 900, "test": [0] * 100}, looks)
    assert len(found.pairs) == 899 + 100 + 99
    assert {pair.first.row for pair in found.pairs} == {0}
    (leak,) = of_kind(found, "leak into test")
    assert leak.text.startswith("100 test images look like a labelled one")


def test_a_picture_of_a_shard_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for number, name in enumerate(["a", "b", "a", "b"]):
            content = io.BytesIO()
            picture(number).save(content, "PNG")
            image = content.getvalue()[: 60 if number == 2 else None]
            for ending, written in (("png", image), ("cls", name.encode())):
                member = tarfile.TarInfo(f"{number}.{ending}")
                member.size = len(written)
                tar.addfile(member, io.BytesIO(written))
    found = checked(tmp_path, "data=shards", f"data.root={tmp_path}", "data.image_size=64")
    (bad,) = of_kind(found, "unreadable")
    assert bad.text.startswith("1 file cannot be read")
    assert "0.tar/2.png cannot be decoded: " in bad.examples[0]
    assert int(found.looks["labelled"].is_whole.sum()) == 3


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in {"src", "href"}]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_needs_no_other_file_and_shows_names_as_text(faulty: tuple[Path, Inspection]) -> None:
    folder, found = faulty
    page = Page()
    page.feed((folder / "check.html").read_text())
    assert all(address.startswith(("#", "data:image/jpeg;base64,")) for address in page.loaded)
    assert page.tags.count("img") == 2 * len(found.pairs) + 3
    assert "b" not in page.tags
    assert "script" not in page.tags
    assert "train/ant/0.png = test/ant/same pixels.bmp" in page.words


def test_classes_that_differ_are_found_and_the_rest_is_looked_at(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    write_sound(root)
    (root / "test" / "bee").rename(root / "test" / "Bee")
    found = checked(tmp_path, f"data.root={root}")
    assert [one.text for one in found.problems] == [
        "only train/ has the classes bee",
        "only test/ has the classes Bee",
        "'bee' and 'Bee' differ only in upper and lower case, spaces or characters that look alike",
    ]
    assert found.content.classes == ("Bee", "ant", "bee", "cow")
    assert sum(found.counts["test"]) == 9


def test_one_class_in_two_unicode_forms_is_said(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    write_sound(root)
    (root / "train" / "bee").rename(root / "train" / "b\xe9")
    for part in ("test", "val"):
        (root / part / "bee").rename(root / part / "be\u0301")
    found = checked(tmp_path, f"data.root={root}")
    assert found.problems == []
    (said,) = of_kind(found, "class names")
    assert "b\xe9 is one class, though" in said.text


def test_classes_of_a_table_that_look_alike_are_a_problem(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    root.mkdir()
    labels = ["cat", "Cat", "dog"]
    for k in range(6):
        picture(k).save(root / f"{k}.png")
    write_manifest(root / "labels.csv", [Row(f"{k}.png", labels[k % 3]) for k in range(6)])
    found = checked(tmp_path, "data=manifest", f"data.manifest={root / 'labels.csv'}")
    (said,) = of_kind(found, "class names")
    assert said.is_problem
    assert said.text == "'cat' and 'Cat' differ only in upper and lower case, spaces or characters that look alike"


def test_a_class_without_pictures_is_a_problem(tmp_path: Path) -> None:
    write_sound(tmp_path / "pictures")
    for path in (tmp_path / "pictures" / "train" / "cow").iterdir():
        path.unlink()
    found = checked(tmp_path, f"data.root={tmp_path / 'pictures'}")
    (said,) = found.problems
    assert "has no images for the classes cow" in said.text
    assert found.advice == ()


def test_folders_without_classes_are_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "pictures" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match="train has no class folders: give a folder of images for each of at least 2"):
        checked(tmp_path, f"data.root={tmp_path / 'pictures'}")


def test_one_class_is_refused_and_no_number_of_labels_is_advised(tmp_path: Path) -> None:
    (tmp_path / "pictures" / "train" / "ant").mkdir(parents=True)
    for k in range(5):
        picture(k).save(tmp_path / "pictures" / "train" / "ant" / f"{k}.png")
    found = checked(tmp_path, f"data.root={tmp_path / 'pictures'}")
    assert [one.kind for one in found.problems] == ["refused by a run"]
    assert found.advice == ()


def write_layout(root: Path, layout: str, counts: tuple[int, ...]) -> list[str]:
    """Pictures without validation or test images, and the settings of their data set."""
    labelled = root / ("labeled" if layout == "labeled" else "train")
    for number, count in enumerate(counts):
        (labelled / f"class {number}").mkdir(parents=True)
        for k in range(count):
            picture(100 * number + k, size=(16, 16)).save(labelled / f"class {number}" / f"{k}.png")
    if layout == "labeled":
        (root / "unlabeled").mkdir()
        for k in range(6):
            picture(5000 + k, size=(16, 16)).save(root / "unlabeled" / f"{k}.png")
    if layout != "manifest":
        return [f"data.root={root}"]
    paths = sorted(path.relative_to(root).as_posix() for path in labelled.rglob("*.png"))
    write_manifest(root / "labels.csv", [Row(path, path.split("/")[1]) for path in paths])
    return ["data=manifest", f"data.manifest={root / 'labels.csv'}"]


@pytest.mark.parametrize("layout", ["train", "labeled", "manifest"])
@pytest.mark.parametrize("counts", [(20, 20), (4, 7), (30, 6), (2, 9)])
def test_a_run_accepts_what_is_advised(layout: str, counts: tuple[int, ...], tmp_path: Path) -> None:
    """The settings that would hold out validation images, drawn as a run draws them."""
    words = write_layout(tmp_path / "pictures", layout, counts)
    advised = re.search(r"There are no validation images: (.*) would", "\n".join(checked(tmp_path, *words).advice))
    assert advised is not None
    assert layout != "labeled" or "data.val_from=labelled" in advised[1]
    data = DataSettings.parse(settings(*words, *advised[1].split())["data"], ())
    names = ("num_labels", "num_val", "val_from", "fold")
    given = {name: data.module[name] for name in names}
    drawn = Labelling(**given, imbalance=None, seed=0).split(data.source.make().load(), None)
    assert len(drawn.validation) == given["num_val"] > 0
    # With what it advises, there is no more to say of them.
    found = checked(tmp_path, *words, *advised[1].split())
    assert found.problems == []
    assert "no validation images" not in " ".join(found.advice)
    assert f"the {given['num_val']} validation images that data.num_val holds out" in found.advice[-1]


def test_a_draw_that_a_run_refuses_is_a_problem(tmp_path: Path) -> None:
    words = write_layout(tmp_path / "pictures", "labeled", (5, 5))
    found = checked(tmp_path, *words, "data.num_val=2")
    (said,) = found.problems
    assert said.kind == "refused by a run"
    assert said.text.endswith(
        "(data.val_from=pool): give data.num_val=0, or data.val_from=labelled with data.num_val=8 at most"
    )
    assert "no validation images" not in " ".join(found.advice)


def test_a_manifest_is_looked_at_with_the_files_that_it_does_not_name(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    root.mkdir()
    for k in range(8):
        picture(k).save(root / f"{k}.png")
    picture(0).save(root / "8.webp", lossless=True)
    rows = [
        Row("0.png", "ant"),
        Row("1.png", "bee"),
        Row("2.png"),
        Row("3.png", "ant", "val"),
        Row("8.webp", "ant", "test"),
    ]
    write_manifest(tmp_path / "labels.csv", [*rows, Row("4.png", "", "ignored")])
    found = checked(tmp_path, "data=manifest", f"data.manifest={tmp_path / 'labels.csv'}", f"data.root={root}")
    assert found.counts["unlabelled"] == (0, 0, 1)
    (leak,) = found.problems
    assert leak.examples == ("0.png (ant) = 8.webp (ant)",)
    assert of_kind(found, "not used")[0].text == "rows of the manifest: ignored (1)"
    assert of_kind(found, "files not used")[0].text.endswith(": 4.png, 5.png, 6.png and 1 more")


def test_arrays_are_looked_at_too(tmp_path: Path) -> None:
    found = checked(tmp_path, "data=digits")
    assert sum(found.counts["labelled"]) == 1437
    assert found.looks["test"].sizes.tolist() == [[8, 8]] * 360
    assert (tmp_path / "check.html").read_text().count("<h3>") >= 10


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.root=gone"], "data.root='gone' is not a folder: give a folder that holds either train/"),
        (["distance=16"], "distance=16 is not legal: give a whole number, at least 0 and at most 15"),
        (["pictures=0"], "pictures=0 is not legal: give a whole number, at least 1 and at most 100"),
        (["output=page.txt"], "output=page.txt is no HTML page: give a name that ends with .html"),
        (["output=no/such/check.html"], "output=no/such/check.html: there is no folder no/such: give a file in a "),
        (["data.num_workers=-1"], "data.num_workers=-1 is not legal: give a whole number, at least 0"),
        (["data.cache_dir=here"], "data.cache_dir='here' is not legal: give an absolute path, or null for the default"),
        (["+data.bogus=1"], "unknown setting data.bogus: choose one of "),
    ],
)
def test_a_mistake_is_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        check(settings("data.root=x", *overrides))
    assert str(caught.value).startswith(message)


def test_files_of_others_are_not_replaced(tmp_path: Path) -> None:
    write_sound(tmp_path / "pictures", per_class=1)
    (tmp_path / "check.json").write_text("{}")
    with pytest.raises(UserError, match=r"check\.json exists and is no check: give another name$"):
        checked(tmp_path, f"data.root={tmp_path / 'pictures'}")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["check.json"]
    (tmp_path / "check.json").unlink()
    checked(tmp_path, f"data.root={tmp_path / 'pictures'}")
    checked(tmp_path, f"data.root={tmp_path / 'pictures'}")


def test_the_package_for_hashes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagehash", None)
    with pytest.raises(UserError, match=r"pip install 'layermatch\[check\]'"):
        checked(tmp_path, f"data.root={tmp_path}")


def test_the_command_says_it_in_lines_and_by_its_status(tmp_path: Path) -> None:
    write_sound(tmp_path / "pictures", per_class=2)
    picture(0).save(tmp_path / "pictures" / "test" / "ant" / "leak.png")
    command = [sys.executable, "-m", "layermatch.check", "data.root=pictures"]
    done = processes.run(command, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "warning: leak into test: 1 test image has the pixels of a labelled one" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("1 problem found in ")
    assert (tmp_path / "check.html").exists()
    assert not (tmp_path / "outputs").exists()
