"""What is proposed, against what one would do by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.label.given import write_pictures

from layermatch.label.examine import Task, examine
from layermatch.label.proposals import Found, confident, doubted, read_found, thoughts, typical, uncertain


def some(count: int = 40, *, classes: int = 3, clusters: int = 5, total: int = 60, seed: int = 0) -> Found:
    """What could be known of some of the pictures."""
    draw = np.random.default_rng(seed)
    probabilities = draw.dirichlet(np.ones(classes), count).astype(np.float32)
    ranked = np.sort(probabilities, axis=1)
    return Found(
        numbers=draw.permutation(total)[:count],
        clusters=draw.integers(0, clusters, count).astype(np.int32),
        distances=draw.random(count).astype(np.float32),
        classes=("ant", "bee", "cow")[:classes],
        probabilities=probabilities,
        guess=probabilities.argmax(axis=1),
        confidence=ranked[:, -1],
        margin=ranked[:, -1] - ranked[:, -2],
    )


def test_uncertain_pictures_have_the_smallest_margin() -> None:
    found = some()
    is_open = np.random.default_rng(1).random(60) < 0.5
    ids = uncertain(found, is_open).tolist()
    margins = dict(zip(found.numbers.tolist(), found.margin.tolist(), strict=True))
    assert ids == sorted((number for number in margins if is_open[number]), key=lambda number: margins[number])


def test_typical_pictures_come_cluster_by_cluster() -> None:
    """Restated: take, again and again, the cluster with the fewest labels, of these the largest, its nearest one."""
    found = some()
    draw = np.random.default_rng(2)
    is_labelled = draw.random(60) < 0.2
    is_open = ~is_labelled & (draw.random(60) < 0.8)
    labels, sizes = np.zeros(5), np.zeros(5)
    left: dict[int, list[tuple[float, int]]] = {cluster: [] for cluster in range(5)}
    for number, cluster, distance in zip(found.numbers, found.clusters, found.distances, strict=True):
        labels[cluster] += is_labelled[number]
        sizes[cluster] += 1
        if is_open[number]:
            left[cluster].append((float(distance), int(number)))
    expected = []
    while any(left.values()):
        cluster = min(
            (cluster for cluster in left if left[cluster]), key=lambda each: (labels[each], -sizes[each], each)
        )
        nearest = min(left[cluster])
        left[cluster].remove(nearest)
        labels[cluster] += 1
        expected.append(nearest[1])
    assert typical(found, is_open, is_labelled).tolist() == expected


def test_guesses_of_a_class_come_by_confidence() -> None:
    found = some()
    is_open = np.ones(60, bool)
    ids = confident(found, is_open, "bee", 0.6)
    places = [found.numbers.tolist().index(number) for number in ids]
    sure = found.probabilities[places, 1]
    assert len(ids) == int(((found.guess == 1) & (found.confidence >= 0.6)).sum()) > 0
    assert (np.diff(sure) <= 0).all()
    assert len(confident(found, ~is_open, "bee", 0)) == 0
    assert len(confident(found, is_open, "unknown", 0)) == 0


def test_doubted_labels_are_those_that_the_model_finds_improbable() -> None:
    found = some()
    labels = [["ant", "bee", "cow", "", "unknown"][number % 5] for number in range(60)]
    expected = []
    for number, row in zip(found.numbers.tolist(), found.probabilities, strict=True):
        if labels[number] in found.classes:
            probability = row[found.classes.index(labels[number])]
            if probability < 0.3:
                expected.append((probability, number))
    assert doubted(found, labels, 0.3).tolist() == [number for _, number in sorted(expected)]
    assert len(expected) > 3


def test_thoughts_are_of_the_pictures_that_were_looked_at() -> None:
    found = some()
    guess, confidence = thoughts(found, 60)
    assert (guess >= 0).sum() == 40
    assert confidence[found.numbers].tolist() == found.confidence.tolist()
    assert (thoughts(None, 3)[0] == -1).all()


# -------------------------------------------------------------------------------------------------------------- looking


def look(root: Path, cache: Path, **options: Any) -> tuple[list[dict[str, Any]], list[Found]]:
    paths = sorted(path.name for path in root.iterdir())
    said: list[dict[str, Any]] = []
    examine(
        Task(str(root), paths, str(cache), **({"sample": 10, "clusters": 3} | options)),
        lambda each: said.append(dict(each)),
    )
    return said, [read_found(Path(each["found"])) for each in said if "found" in each]


def test_pictures_that_look_alike_are_a_cluster_and_samples_grow(tmp_path: Path) -> None:
    truth = list(write_pictures(tmp_path / "pictures", per_class=20).values())
    said, (first, _, last) = look(tmp_path / "pictures", tmp_path / "cache")
    assert [each["looked"] for each in said if "found" in each] == [10, 40, 60]
    assert len(first.numbers) == 10
    assert sorted(last.numbers.tolist()) == list(range(60))
    assert last.classes == ()
    groups = {(truth[number], int(cluster)) for number, cluster in zip(last.numbers, last.clusters, strict=True)}
    assert len(groups) == 3
    proposed = typical(last, np.ones(60, bool), np.zeros(60, bool))[:3]
    assert {truth[number] for number in proposed} == {"red", "green", "blue"}


def test_it_goes_on_where_it_was_and_finds_the_same(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    write_pictures(root, per_class=10)
    _, whole = look(root, tmp_path / "one")

    class StoppedError(Exception):
        pass

    def stop(said: Any) -> None:
        if said["looked"] == 30:
            raise StoppedError

    task = Task(str(root), sorted(path.name for path in root.iterdir()), str(tmp_path / "two"), sample=10, clusters=3)
    with pytest.raises(StoppedError):
        examine(task, stop)
    (folder,) = (tmp_path / "two").iterdir()
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("chunk-*")}
    assert kept
    _, again = look(root, tmp_path / "two")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    for one, two in zip(whole, again, strict=True):
        assert one.numbers.tolist() == two.numbers.tolist()
        assert one.clusters.tolist() == two.clusters.tolist()
        np.testing.assert_array_equal(one.distances, two.distances)
    _, other = look(root, tmp_path / "three", seed=1)
    assert other[0].numbers.tolist() != whole[0].numbers.tolist()


def test_a_picture_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    write_pictures(root, per_class=4)
    (root / "IMG_003.png").write_bytes(b"broken")
    _, found = look(root, tmp_path / "cache")
    assert sorted(found[-1].numbers.tolist()) == [number for number in range(12) if number != 3]
    for path in root.iterdir():
        path.write_bytes(b"broken")
    _, found = look(root, tmp_path / "cache")
    assert len(found[-1].numbers) == 0
    assert typical(found[-1], np.ones(12, bool), np.zeros(12, bool)).tolist() == []


def test_a_first_sample_of_broken_pictures_alone_is_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layermatch.label.examine._CHUNK", 5)
    root = tmp_path / "pictures"
    write_pictures(root, per_class=10)
    names = sorted(path.name for path in root.iterdir())
    first = np.random.default_rng(0).permutation(30)[:10]  # the order in which they are looked at
    for number in first:
        (root / names[number]).write_bytes(b"broken")
    for _ in range(2):  # what was kept is used the second time
        _, (nothing, rest) = look(root, tmp_path / "cache")
        assert len(nothing.numbers) == 0
        assert sorted(rest.numbers.tolist()) == sorted(set(range(30)) - set(first.tolist()))
        assert (rest.distances > 0).any()
    (folder,) = (tmp_path / "cache").iterdir()
    for path in (folder / "first-30").iterdir():
        path.unlink()
    (folder / "first-30").rmdir()
    assert look(root, tmp_path / "cache")[1][1].distances.tolist() == rest.distances.tolist()


def test_a_chunk_of_broken_pictures_alone_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layermatch.label.examine._CHUNK", 4)
    root = tmp_path / "pictures"
    write_pictures(root, per_class=3)
    last = int(np.random.default_rng(0).permutation(9)[-1])
    (root / f"IMG_{last:03d}.png").write_bytes(b"broken")
    _, found = look(root, tmp_path / "cache")
    assert sorted(found[-1].numbers.tolist()) == [number for number in range(9) if number != last]


def test_a_changed_picture_is_looked_at_again(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    write_pictures(root, per_class=4)
    look(root, tmp_path / "cache")
    write_pictures(root, per_class=4, seed=1)
    said, _ = look(root, tmp_path / "cache")
    assert len([each for each in said if "found" not in each]) > 0
    assert len(list((tmp_path / "cache").iterdir())) == 2
