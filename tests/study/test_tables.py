"""The numbers of a study's tables, against a computation of their own."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from layermatch.metrics import TEST_ACCURACY_EMA
from layermatch.study.code_version import CodeVersion
from layermatch.study.design import Cell, Setting, Study
from layermatch.study.formats import as_csv, as_json, rows_of_plain
from layermatch.study.rows import Finding, Found, rows_of
from layermatch.study.tables import as_markdown

CODE = CodeVersion("0.1.0", "", False, "0123456789")
SETTINGS = (Setting("fixmatch", ("algorithm=fixmatch",)), Setting("layer | match", ("algorithm=layermatch",)))

#: The quantile of Student's t distribution for 95 %, by degrees of freedom, from a printed table.
T = {1: 12.7062, 2: 4.30265, 3: 3.18245}

FIGURES = {"fixmatch": {0: 0.70, 1: 0.65, 2: 0.80, 7: 0.10}, "layer | match": {0: 0.85, 1: 0.65, 2: 0.82}}


def study_of(**fields: Any) -> Study:
    usual: dict[str, Any] = {
        "name": "made", "title": "Which?", "settings": SETTINGS, "common": (), "given": (), "num_labels": (10,),
        "seeds": (0, 1, 2, 7), "reference": "fixmatch", "metric": TEST_ACCURACY_EMA, "illegal": "refuse",
    }  # fmt: skip
    return Study(**(usual | fields))


def cell_of(setting: Setting, seed: int, *, labels: int = 10, lr: float = 0.03) -> Cell:
    raw = {
        "seed": seed, "optimizer": {"lr": lr}, "data": {"num_labels": labels, "source": {"root": "x"}},
        "checkpoint": {"selection": "last"}, "algorithm": {"name": setting.name}, "trainer": {"max_steps": 30},
    }  # fmt: skip
    return Cell(setting, labels, seed, (*setting.words, f"seed={seed}"), raw, Path("studies"))


def finding_of(setting: Setting, seed: int, share: float, **fields: Any) -> Finding:
    results = {
        "num_labels": 10, "seconds": 100.0 + seed, "steps": 30,
        "test": {"accuracy_ema": share, "macro_accuracy_ema": share - 0.1},
        "val": {"accuracy_ema": share / 2, "median_accuracy_ema": share / 4},
        "pseudo_labels": {"mask_rate": 0.5, "accuracy_accepted": None},
    }  # fmt: skip
    return Finding(cell_of(setting, seed), results, (CODE,), ("feed",), **fields)


def found_of(study: Study, findings: list[Finding], **fields: Any) -> Found:
    cells = [cell_of(setting, seed) for seed in study.seeds for setting in study.settings]
    usual: dict[str, Any] = {
        "left_out": {}, "failed": {}, "notes": (), "code": CODE, "data": ("feed",), "command": "made",
        "written": "2026-01-01 00:00",
    }  # fmt: skip
    return Found(study=study, cells=cells, findings=findings, **(usual | fields))


def made() -> Found:
    findings = [
        finding_of(setting, seed, share) for setting in SETTINGS for seed, share in FIGURES[setting.name].items()
    ]
    return found_of(study_of(), findings)


def test_means_and_paired_intervals_are_those_of_their_definitions() -> None:
    rows = {row["setting"]: row for row in json.loads(as_json(made()))["rows"]}
    for name, figures in FIGURES.items():
        values = list(figures.values())
        assert rows[name]["summary"]["mean"] == pytest.approx(mean(values))
        assert rows[name]["summary"]["std"] == pytest.approx(stdev(values))
        assert rows[name]["summary"]["n"] == len(values)
        assert rows[name]["by_seed"] == {str(seed): share for seed, share in figures.items()}
        assert rows[name]["seconds"]["mean"] == pytest.approx(100 + mean(figures))
        assert rows[name]["figures"]["val/median_accuracy_ema"]["mean"] == pytest.approx(mean(values) / 4)
    assert rows["fixmatch"]["difference"] is None
    gaps = [FIGURES["layer | match"][seed] - FIGURES["fixmatch"][seed] for seed in (0, 1, 2)]  # seed 7 has no pair
    half = T[2] * stdev(gaps) / math.sqrt(3)
    difference = rows["layer | match"]["difference"]
    assert difference["mean"] == pytest.approx(mean(gaps))
    assert difference["interval"] == pytest.approx([mean(gaps) - half, mean(gaps) + half], rel=1e-4)
    assert (difference["wins"], difference["ties"], difference["n"]) == (2, 1, 3)


def test_the_markdown_has_the_same_numbers() -> None:
    lines = as_markdown(made()).splitlines()
    (ours,) = [line for line in lines if line.startswith("| layer")][:1]
    # Gaps of 15, 0 and 2 points: mean 5.667, standard deviation 8.145, so 4.303 * 8.145 / sqrt(3) = 20.23.
    assert ours == (
        "| layer \\| match | 77.3\N{NO-BREAK SPACE}% ± 10.8 | 3 | 85.0 65.0 82.0 | fixmatch | +5.7 | "
        "\N{MINUS SIGN}14.6 to +25.9 | 2 of 3, equal in 1 |"
    )
    assert "Each seed: seeds 0, 1, 2, 7, in this order; layer | match lacks seed 7." in "\n".join(lines).replace(
        "\\", ""
    )
    (beside,) = [line for line in lines if line.startswith("| layer")][1:]
    # The classes are not balanced: their mean is shown. No pseudo-label's truth is known: no column.
    assert beside.split(" | ")[2].startswith("67.3")
    assert "Pseudo-labels that count" in "\n".join(lines)
    assert "Counted, right" not in "\n".join(lines)


def test_the_csv_has_a_line_for_each_run() -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(made()), newline="")))
    assert [(row["setting"], int(row["seed"]), float(row["test/accuracy_ema"])) for row in rows] == [
        (name, seed, share) for name, figures in FIGURES.items() for seed, share in figures.items()
    ]
    assert {row["code"] for row in rows} == {str(CODE)}
    assert {row["data"] for row in rows} == {"feed"}


def test_a_run_that_was_interrupted_has_no_say_about_the_time() -> None:
    findings = [finding_of(SETTINGS[0], 0, 0.5, in_one_go=False), finding_of(SETTINGS[0], 1, 0.5)]
    (row,) = json.loads(as_json(found_of(study_of(), findings)))["rows"]
    assert row["seconds"] == {"mean": 101.0, "std": None, "n": 1}


def test_the_rule_is_said_in_words() -> None:
    assert "the weights of the last step; nothing was chosen on test images" in made().rule
    from layermatch.metrics import VAL_MEDIAN_EMA

    found = found_of(study_of(metric=VAL_MEDIAN_EMA), [finding_of(SETTINGS[1], 0, 0.8)])
    assert "with other seeds" in found.rule
    assert "The highest mean has layer | match with 10 labels." in as_markdown(found).replace("\\", "")


def test_text_of_users_is_no_markup() -> None:
    name = "<script>|`x`"
    setting = Setting(name, ("algorithm=fixmatch",))
    found = found_of(study_of(settings=(setting,), reference=name), [finding_of(setting, 0, 0.5)], failed={name: "<b>"})
    text = as_markdown(found)
    assert "<script>" not in text
    assert "<b>" not in text
    assert json.loads(as_json(found))["failed"] == {name: "<b>"}


def test_the_fingerprint_is_of_what_is_asked() -> None:
    same = made()
    assert made().fingerprint == same.fingerprint
    assert found_of(study_of(), []).fingerprint == same.fingerprint  # not of what was found
    assert found_of(study_of(title="Another title"), []).fingerprint == same.fingerprint
    others = [
        found_of(study_of(seeds=(0, 1, 2)), []),
        found_of(study_of(reference="layer | match"), []),
        found_of(study_of(settings=SETTINGS[:1]), []),
    ]
    cells = [cell_of(setting, seed, lr=0.1) for seed in (0, 1, 2, 7) for setting in SETTINGS]
    others.append(Found(**{**vars(same), "cells": cells}))  # the same words, and another file of conf
    assert len({same.fingerprint, *(other.fingerprint for other in others)}) == 5


CROSSED = {
    (name, data): Setting(f"{name}, {data}", (), {"algorithm": name, "data": data})
    for name in ("fixmatch", "layermatch")
    for data in ("clean", "noisy")
}


def crossed() -> Found:
    study = study_of(
        settings=tuple(CROSSED.values()),
        reference={"algorithm": "fixmatch"},
        change_from={"data": "clean"},
        seeds=(0, 1, 2, 3),
    )
    shares = {
        ("fixmatch", "clean"): {0: 0.70, 1: 0.60, 2: 0.80, 3: 0.50},
        ("layermatch", "clean"): {0: 0.75, 1: 0.70, 2: 0.80},  # seed 3 is not finished
        ("fixmatch", "noisy"): {0: 0.50, 1: 0.55, 2: 0.60, 3: 0.40},
        ("layermatch", "noisy"): {0: 0.65, 1: 0.65, 2: 0.72, 3: 0.90},
    }
    findings = [
        finding_of(CROSSED[key], seed, share) for key, figures in shares.items() for seed, share in figures.items()
    ]
    return found_of(study, findings)


def test_a_difference_is_compared_with_the_difference_elsewhere_by_seed() -> None:
    content = json.loads(as_json(crossed()))
    rows = {row["setting"]: row for row in content["rows"]}
    assert [name for name, row in rows.items() if "change" in row] == ["layermatch, noisy"]
    change = rows["layermatch, noisy"]["change"]
    # Noisy: 0.15, 0.10, 0.12; clean: 0.05, 0.10, 0.00. Seed 3 has no difference there.
    changes = [0.10, 0.00, 0.12]
    half = T[2] * stdev(changes) / math.sqrt(3)
    assert change["mean"] == pytest.approx(mean(changes))
    assert change["interval"] == pytest.approx([mean(changes) - half, mean(changes) + half], abs=1e-5)
    assert (change["wins"], change["ties"], change["n"]) == (2, 1, 3)
    assert content["asked"]["change_from"] == {"data": "clean"}
    (row,) = [row for row in rows_of_plain(content)[10] if row.changed_from]
    assert row.changed_from == "layermatch, clean"
    assert row.change == next(row for row in rows_of(crossed())[10] if row.changed_from).change


def test_the_table_of_changes_names_both_differences() -> None:
    text = as_markdown(crossed())
    (line,) = [line for line in text.splitlines() if line.startswith("| layermatch, noisy | fixmatch")]
    assert [cell.strip() for cell in line.strip("|").split("|")][:6] == [
        "layermatch, noisy", "fixmatch, noisy", "+21.8", "layermatch, clean", "+5.0", "+7.3"
    ]  # fmt: skip
    assert "Is the difference another one, 10 labels" in text
    assert "Is the difference another one" not in as_markdown(made())
