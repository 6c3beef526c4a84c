"""The time to an accuracy: what counts as reached, what is compared, the command, its file and its tables."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from layermatch.bench import accuracy_runs, tables
from layermatch.bench.__main__ import main
from layermatch.bench.accuracy import ACCURACY_FORMAT, rows_of
from layermatch.bench.accuracy_cases import LEFT_OUT, PUT_IN, RECIPES, SETTINGS, variants_of
from layermatch.bench.accuracy_runs import Curve, TrainingClock, compose_settings, measure_conventional
from layermatch.errors import UserError

CPU = torch.device("cpu")
QUICK = (
    "accuracy", "--quick", "--setting", "digits", "--labels", "10", "--seeds", "0", "--targets", "0.01", "1",
    "--device", "cpu", "--threads", "1", "--algorithms", "fixmatch", "--recipes", "conventional", "fast",
)  # fmt: skip


@pytest.mark.parametrize(
    ("accuracy", "target", "reached"),
    [
        ([], 0.5, None),
        ([0.5], 0.5, 0),
        ([0.4, 0.6, 0.7], 0.5, 1),
        ([0.6, 0.4, 0.5, 0.9], 0.5, 2),  # the first time does not count: it was below again
        ([0.9, 0.9, 0.4], 0.5, None),
    ],
)
def test_a_target_is_reached_where_it_is_kept(accuracy: list[float], target: float, reached: int | None) -> None:
    assert Curve(accuracy=accuracy).reached(target) == reached


def test_the_clock_does_not_count_pauses() -> None:
    clock = TrainingClock(CPU)
    clock.start()
    clock.pause()
    before = clock.seconds, clock.processor_seconds
    torch.randn(300, 300).matmul(torch.randn(300, 300)).sum()
    clock.pause()
    assert (clock.seconds, clock.processor_seconds) == before
    clock.start()
    torch.randn(300, 300).matmul(torch.randn(300, 300)).sum()
    clock.pause()
    assert clock.seconds > before[0]
    assert clock.processor_seconds > before[1]


# ------------------------------------------------------------------------------------------------- what is compared


def a_run(variant: str, seed: int, accuracy: list[float], *, speed: float = 1, **changes: Any) -> dict[str, Any]:
    steps = [10 * (number + 1) for number in range(len(accuracy))]
    about = {
        "gpu": None, "processor": "a processor", "cores": 2, "threads": 1, "versions": {"torch": "2"},
    }  # fmt: skip
    run = {
        "setting": "digits", "labels": 10, "variant": variant, "seed": seed, "measurement": "0", "quick": False,
        "finished": "2026-01-01T00:00:00", "machine": about, "load at start": 0.5, "test_accuracy": accuracy[-1],
        "steps": steps, "seconds": [step * speed for step in steps],
        "processor_seconds": [2 * step * speed for step in steps], "accuracy": accuracy,
    }  # fmt: skip
    return run | changes


def content_of(*runs: dict[str, Any]) -> dict[str, Any]:
    return {"format": ACCURACY_FORMAT, "runs": {str(number): run for number, run in enumerate(runs)}}


def some_runs() -> dict[str, Any]:
    curves = ([0.1, 0.8, 0.9], [0.8, 0.8, 0.8], [0.8, 0.1, 0.2])
    theirs = [a_run("conventional fixmatch", seed, curve, speed=4) for seed, curve in enumerate(curves)]
    ours = [a_run("fast fixmatch", seed, curve) for seed, curve in enumerate(curves)]
    without = [a_run("fast fixmatch, without mu-ramp", seed, curve, speed=3) for seed, curve in enumerate(curves)]
    return content_of(*theirs, *ours, *without)


def test_a_row_is_the_median_over_the_runs_and_one_that_fails_is_the_slowest() -> None:
    rows = {(row["variant"], row["target"]): row for row in rows_of(some_runs(), targets=[0.5, 0.85])}
    ours = rows["fast fixmatch", 0.5]
    # 20 s, 10 s, and never.
    assert (ours["runs"], ours["reached"], ours["seconds"], ours["lowest"], ours["highest"]) == (3, 2, 20, 10, 20)
    assert (ours["processor_seconds"], ours["steps"], ours["test_accuracy"]) == (40, 20, 0.8)
    assert ours["times_as_fast"] == {"published": None, "conventional": 4}
    assert ours["seeds"] == [0, 1, 2]
    hard = rows["fast fixmatch", 0.85]
    assert (hard["reached"], hard["seconds"], hard["steps"]) == (1, None, None)
    assert hard["times_as_fast"] == {"published": None, "conventional": None}
    assert (hard["lowest"], hard["highest"]) == (30, 30)


def test_a_recipe_is_compared_with_the_published_one_of_its_algorithm_and_with_the_conventional_code() -> None:
    runs = {"conventional fixmatch": 20, "published fixmatch": 5, "published layermatch": 8, "fast layermatch": 2}
    content = content_of(*(a_run(variant, 0, [0.9], speed=speed) for variant, speed in runs.items()))
    times = {row["variant"]: row["times_as_fast"] for row in rows_of(content, targets=[0.5])}
    assert times["fast layermatch"] == {"published": 4, "conventional": 10}
    assert times["published fixmatch"] == {"published": 1, "conventional": 4}


def test_the_last_measurement_of_a_variant_counts() -> None:
    old = a_run("fast fixmatch", 0, [0.9])
    new = a_run("fast fixmatch", 1, [0.9], speed=5, measurement="1", finished="2026-01-02T00:00:00")
    (row,) = rows_of(content_of(new, old), targets=[0.5])
    assert (row["runs"], row["seconds"]) == (1, 50)


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_late_mu_is_larger_at_the_end_alone(setting: str) -> None:
    more = [] if setting == "digits" else ["data.root=x"]
    variants = variants_of(setting, recipes=["fast"], put_in=["mu-late"], more=more)
    (before, after) = (compose_settings(overrides)["data"] for _, _, overrides in variants)
    assert (before["mu"] < 14, after["mu"]) == (True, 14)
    *_, (until, mu) = after["ramp"]["mu"]
    assert (until, mu <= before["mu"]) == (0.6, True)
    # What comes before is the recipe's own.
    assert after["ramp"]["mu"] == (before["ramp"]["mu"] or [[0.6, before["mu"]]])
    assert after | {"mu": 0, "ramp": 0} == before | {"mu": 0, "ramp": 0}


def test_parts_are_left_out_and_put_in_one_at_a_time() -> None:
    variants = variants_of("digits", recipes=RECIPES, left_out=tuple(LEFT_OUT), put_in=tuple(PUT_IN))
    changes = [change for recipe, change, _ in variants if recipe == "fast"]
    assert changes[:3] == ["", "without learning-rate", "without schedule"]
    assert "with batch-ramp" in changes
    # What the recipe has not cannot be left out, and what it has already cannot be put in.
    assert not {"without batch-ramp", "without side-ramp", "without compile", "with mu-ramp"} & set(changes)
    by_change = {change: compose_settings(overrides) for recipe, change, overrides in variants if recipe == "fast"}
    assert by_change["without learning-rate"]["optimizer"]["lr"] == 0.03
    assert by_change["without schedule"]["schedule"]["_target_"].endswith(".cosine")
    assert by_change["without short-run"]["trainer"]["max_steps"] == 1500
    settings = [json.dumps(each, sort_keys=True) for each in by_change.values()]
    assert len(set(settings)) == len(settings)


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting_has_its_recipes(setting: str) -> None:
    more = [] if setting == "digits" else ["data.root=x"]
    variants = {
        recipe: compose_settings(given) for recipe, _, given in variants_of(setting, recipes=RECIPES, more=more)
    }
    assert tuple(variants) == RECIPES
    assert variants["conventional"] == variants["published"] != variants["fast"]
    assert variants["fast"]["trainer"]["max_steps"] < variants["published"]["trainer"]["max_steps"] <= 20_000
    same = ("source", "num_labels", "num_val", "batch_size", "mu", "mean", "std")
    assert {name: variants["fast"]["data"][name] for name in same} == {
        name: variants["published"]["data"][name] for name in same
    }


def test_the_conventional_code_gets_the_same_images_labels_and_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = (
        "experiment=digits", "data.num_labels=20", "data.batch_size=4", "data.mu=2", "trainer.max_steps=2",
        "trainer.accelerator=cpu", "eval_every=1", "model=wrn_small", "seed=3",
    )  # fmt: skip
    seen: dict[str, Any] = {}
    train = accuracy_runs.conventional.train

    def watched(network: Any, images: Any, labels: Any, rows: Any, **options: Any) -> Any:
        seen.update(network=copy.deepcopy(network), images=images, labels=labels, rows=rows, options=options)
        return train(network, images, labels, rows, **options)

    monkeypatch.setattr(accuracy_runs.conventional, "train", watched)
    curve = measure_conventional(overrides, CPU)
    assert (curve["steps"], len(curve["accuracy"]), 0 <= curve["test_accuracy"] <= 1) == ([1, 2], 2, True)
    assert curve["seconds"] == sorted(curve["seconds"])
    parts = accuracy_runs.build_parts(accuracy_runs.Settings.parse(compose_settings((*overrides, *PLAIN))))
    for ours, theirs in zip(parts.algorithm.network.parameters(), seen["network"].parameters(), strict=True):
        assert torch.equal(ours, theirs)
    data = parts.data
    expected = data.labelled.images.read(np.arange(len(data.labelled))).transpose(0, 2, 3, 1)
    assert (seen["images"][seen["rows"]] == expected).all()
    assert seen["labels"][seen["rows"]].tolist() == data.labelled.labels.tolist()
    assert (seen["labels"] >= 0).sum() == 20
    assert len(seen["images"]) == len(data.unlabelled)
    pipeline = seen["options"]["pipeline"]
    assert (pipeline.flip, pipeline.num_ops, pipeline.cutout) == (False, 2, 0.25)


PLAIN = ("trainer.precision=32-true", "trainer.channels_last=false", "data.storage=ram")


# ----------------------------------------------------------------------------------------------- the command, its file


def test_the_command_measures_goes_on_and_makes_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, page = tmp_path / "accuracy.json", tmp_path / "speed.md"
    main([*QUICK, "--json", str(path)])
    shown = capsys.readouterr().out
    assert "stays at 1 %" in shown
    assert "never" in shown  # 100 %
    content = json.loads(path.read_text())
    assert len(content["runs"]) == 2
    for run in content["runs"].values():
        assert run["steps"] == [2, 4, 6]
        assert run["seconds"] == sorted(run["seconds"])
        assert all(0 <= accuracy <= 1 for accuracy in run["accuracy"])
        assert 0 <= run["test_accuracy"] <= 1
        assert run["code"].startswith("layermatch ")
    assert "Goals of the fast recipe: at least 5 x published and 20 x conventional." in shown
    main([*QUICK, "--json", str(path), "--leave-out", "schedule", "--put-in", "clipping"])
    assert capsys.readouterr().out.count("there already") == 2
    more = json.loads(path.read_text())
    assert len(more["runs"]) == 4
    assert {key: more["runs"][key] for key in content["runs"]} == content["runs"]
    main(["accuracy", "--show", "--json", str(path), "--targets", "0.02"])
    assert "stays at 2 %" in capsys.readouterr().out
    names = ("time to accuracy", "parts")
    page.write_text(
        "".join(f"# {n}\n<!-- The table of {n} begins. -->\n<!-- The table of {n} ends. -->\n" for n in names)
    )
    for _ in range(2):  # a second time replaces what the first one wrote
        tables.main([str(path), "--page", str(page)])
    text = page.read_text()
    assert text.count("| digits | 10 | 70 % | conventional fixmatch |") == 1
    assert text.count("| digits | 10 | 70 % | fast fixmatch | without schedule |") == 1
    assert "shortened runs, which measure nothing" in text
    assert all(f", with {run['code']}" in text for run in content["runs"].values())
    asked = "\n    python -m layermatch.bench accuracy --labels 10 --seeds 0 --recipes conventional fast --algorithms "
    assert text.count(asked) == 2  # the first command, and the one that put something in
    assert str(tmp_path) not in text


def test_tables_say_how_much_a_part_is_worth() -> None:
    row = next(line for line in tables.parts_table(some_runs()).splitlines() if "| 70 % |" in line)
    assert row == "| digits | 10 | 70 % | fast fixmatch | without mu-ramp | 60.0 | 30.0 | 60.0 | 3.00 | 2 of 3 | 80.0 |"
    whole = tables.accuracy_table(some_runs())
    assert "| fast fixmatch | 20.0 | 10.0 | 20.0 | 40.0 | 20 | 2 of 3 | - | 4.0 | 80.0 | 0 to 2 |\n" in whole
    assert "\nGoals of the fast recipe: at least 5 x published and 20 x conventional.\n" in whole
    assert "Measured on a processor, 2 cores, 1 thread, torch 2; load" in whole
    assert tables.accuracy_table(content_of()) == "Not measured yet.\n"


def test_the_table_names_the_code_the_commands_and_the_seeds_of_the_runs_that_count() -> None:
    noted = {"code": "layermatch 1", "command": "python -m layermatch.bench accuracy --seeds 3 7"}
    old = a_run("fast fixmatch", 0, [0.9], code="layermatch 0", command="python -m layermatch.bench accuracy --seeds 0")
    new = {"measurement": "1", "finished": "2026-01-02T00:00:00", **noted}
    table = tables.accuracy_table(content_of(old, *(a_run("fast fixmatch", seed, [0.9], **new) for seed in (7, 3))))
    assert table.endswith(f", with layermatch 1.\n\n    {noted['command']}\n")
    assert table.count("| 3, 7 |\n") == 3
    assert "layermatch 0" not in table
    assert "Goals" not in table  # there is nothing that it is compared with
    before = tables.accuracy_table(content_of(a_run("fast fixmatch", 0, [0.9])))
    assert before.endswith(", with a version that is not noted.\n")  # a file of earlier versions


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--setting", "mnist"], "invalid choice: 'mnist'"),
        (["--recipes", "slow"], "invalid choice: 'slow'"),
        (["--targets", "70"], "--targets=70.0 is not legal"),
        (["--seeds", "-1"], "--seeds=-1 is not legal"),
        (["--leave-out", "luck"], "--leave-out luck is not legal: choose each or some of learning-rate"),
        (["--put-in", "luck"], "--put-in luck is not legal"),
        (["--set", "data.nu=3"], "data.nu"),
        (["--steps", "0"], "--steps=0 is not legal"),
        (["--show"], "--show: there is no accuracy.json"),
        (["--json", "missing/a.json"], "there is no folder missing"),
        (["--json", "notes.txt"], "exists and is no result of bench accuracy"),
        (["--setting", "fashion_mnist", "--root", "nowhere", "--recipes", "fast"], "nowhere"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit) as stopped:
        main(["accuracy", "--quick", "--device", "cpu", *arguments])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_page_without_a_place_is_refused() -> None:
    with pytest.raises(UserError, match=r"^the page has no place for parts"):
        tables.into_page("# Speed\n", {"parts": "| a |\n"})
