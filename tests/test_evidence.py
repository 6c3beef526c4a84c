"""benchmarks/evidence.py: the page says what the results say, and nothing of a machine; figures show what is there."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from benchmarks import evidence
from benchmarks.study_figures import FIGURES, draw_curves, draw_differences, draw_each_seed, draw_why
from tests.study.test_tables import CODE, cell_of, found_of, study_of

from layermatch.cli import config_dir
from layermatch.metrics import TEST_ACCURACY_EMA
from layermatch.runs.metrics_file import Curve
from layermatch.study.design import Setting
from layermatch.study.formats import as_json
from layermatch.study.rows import Finding
from layermatch.study.tables import as_markdown

ROOT = Path(__file__).parents[1]
STUDIES = {path.stem for path in (config_dir() / "study").glob("*.yaml")}
CURVES = {
    "pseudo_labels/accuracy_accepted": ([100, 200], [0.5, 0.9]),
    "pseudo_labels/mask_rate": ([50, 100, 200], [0.1, 0.3, 0.6]),
    "truth/stem/cosine": ([100, 200], [0.2, 0.4]), "truth/groups.0/cosine": ([100], [-0.1]),
    "truth/per_class_wrong/cat": ([100, 200], [0.5, 0.25]),
    "truth/per_class_wrong/dog": ([200], [0.75]),
}  # fmt: skip


def content_of(name: str = "made", *settings: str, seeds: tuple[int, ...] = (0, 1)) -> dict[str, Any]:
    """What a study of two seeds would write."""
    made = tuple(Setting(each, (f"algorithm={each}", "data.root=/home/me/my pictures")) for each in settings)
    study = study_of(name=name, settings=made, seeds=seeds, reference=settings[0], metric=TEST_ACCURACY_EMA)
    findings = []
    for number, setting in enumerate(made):
        for seed in seeds:
            results = {
                "num_labels": 10, "seconds": 9.0, "steps": 30,
                "test": {"accuracy_ema": 0.5 + 0.1 * number + 0.01 * seed},
                "pseudo_labels": {"mask_rate": 0.5, "accuracy_accepted": 0.8}, "versions": {"torch": "2.15.0"},
            }  # fmt: skip
            curves = {
                key: Curve(list(steps), [value * (1 - 0.1 * seed) for value in values])
                for key, (steps, values) in CURVES.items()
            }
            findings.append(
                Finding(cell_of(setting, seed), results, (CODE,), ("feed",), True, ("One core",), 61.0, curves)
            )
    found = found_of(study, findings, command="python -m layermatch.study study=made data.root=/home/me/pictures")
    content: dict[str, Any] = json.loads(as_json(found))
    content["markdown"] = as_markdown(found)
    return content


def test_the_page_is_what_its_results_make_of_it() -> None:
    text = evidence.PAGE.read_text(encoding="utf-8")
    assert evidence.page_of(text, ROOT / "docs" / "evidence") == text, (
        "make evidence-page: the page is not of its results"
    )


def test_every_result_has_a_place_on_the_page_and_every_place_a_study() -> None:
    names = evidence.names_in(evidence.PAGE.read_text(encoding="utf-8"))
    assert len(set(names)) == len(names)
    assert set(names) <= STUDIES
    assert {path.stem for path in (ROOT / "docs" / "evidence").glob("*.json")} <= set(names)
    assert set(FIGURES) <= set(names)


def test_nothing_published_is_of_a_machine() -> None:
    for path in [evidence.PAGE, *(ROOT / "docs" / "evidence").glob("*.json")]:
        assert not re.search(r"(?<![\w.])/(home|root|tmp|work|Users|mnt|opt|usr|var)/|run_dir\"", path.read_text()), (
            path
        )


def test_a_study_is_published_with_its_tables_and_facts(tmp_path: Path) -> None:
    study_dir = tmp_path / "runs" / "digits10"
    study_dir.mkdir(parents=True)
    content = content_of("digits10", "fixmatch", "layermatch")
    (study_dir / "study.json").write_text(json.dumps(content))
    page = tmp_path / "page.md"
    page.write_text(f"# Mine\n\nBefore.\n\n{evidence.block_of('digits10', tmp_path)}\n\nAfter.\n")
    assert "Not run yet: `python -m layermatch.study study=digits10`." in page.read_text()
    assert evidence.main([str(study_dir), "--page", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("# Mine\n\nBefore.\n\n<!-- The study digits10 begins. -->")
    assert text.endswith("<!-- The study digits10 ends. -->\n\nAfter.\n")
    # The same lines as in the study's own table.
    rows = [line for line in content["markdown"].splitlines() if line.startswith("| layermatch")]
    assert len(rows) == 2
    assert all(row in text for row in rows)
    assert "| 1 min 1 s |" in rows[1]
    for fact in (
        "data.root=pictures",
        "Machine: One core.",
        str(CODE),
        "torch 2.15.0",
        "seeds 0, 1;",
        "nothing was chosen",
    ):
        assert fact in text
    stored = json.loads((tmp_path / "evidence" / "digits10.json").read_text())
    assert all("run_dir" not in cell for cell in stored["cells"])
    assert stored["rows"] == content["rows"]
    assert evidence.main(["--page", str(page)]) == 0
    assert page.read_text() == text


def test_a_study_without_a_place_gets_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Mine\n")
    (tmp_path / "study.json").write_text(json.dumps(content_of("smoke", "fixmatch", "layermatch")))
    evidence.main([str(tmp_path), "--page", str(page)])
    assert "smoke had no place in page.md" in capsys.readouterr().err
    assert page.read_text().startswith("# Mine\n\n## smoke\n\n<!-- The study smoke begins. -->\n\n`python")


@pytest.mark.parametrize("text", [None, "{}", "[]", '{"study": "digits", "finished": 0, "cells": []}'])
def test_what_is_no_result_changes_nothing(text: str | None, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Mine\n")
    if text is not None:
        (tmp_path / "study.json").write_text(text)
    with pytest.raises(SystemExit, match="study"):
        evidence.main([str(tmp_path), "--page", str(page)])
    assert page.read_text() == "# Mine\n"


def test_paths_lose_their_folders_and_nothing_else_does() -> None:
    kept = "(1/n + 1/(k - 1)) s², val/accuracy_ema, runs/studies/x, a / b, https://example.org/x"
    given = {"cells": [], "a": [kept, "x='/home/me/fashion'", "~/pictures/birds and /tmp/y"]}
    assert evidence.published(given)["a"] == [kept, "x='fashion'", "pictures/birds and y"]


def test_the_family_has_a_line_for_each_method() -> None:
    content = content_of("family", "fixmatch", "fixmatch, layerwise=layermatch", "supervised")
    # A study's own reference here is the first setting; of the family it is each method itself.
    (alone,) = [row for row in content["rows"] if row["setting"] == "supervised"]
    alone |= {"reference": None, "difference": None, "by_seed": {"0": 0.4, "1": 0.43}}
    lines = "\n".join(evidence.parts_of(content, has_figure=False)).splitlines()
    (line,) = [line for line in lines if line.startswith("| fixmatch")]
    cells = [cell.strip().replace("\N{NO-BREAK SPACE}", " ") for cell in line.strip("|").split("|")]
    # 50 and 51 % against 40 and 43 %: 10 and 8 points, and Student's t of two, 12.706 times 1.
    assert cells[:4] == ["fixmatch", "50.5 % ± 0.7", "+9.0", "\N{MINUS SIGN}3.7 to +21.7"]
    assert cells[4:7] == ["60.5 % ± 0.7", "+10.0", "+10.0 to +10.0"]
    assert cells[7:11] == ["50.0 %", "50.0 %", "80.0 %", "80.0 %"]
    assert cells[11:] == ["1 min 1 s", "1 min 1 s"]
    (line,) = [line for line in lines if line.startswith("| supervised")]
    assert [cell.strip() for cell in line.strip("|").split("|")][2:7] == ["\N{EN DASH}"] * 5


def test_the_curves_are_means_over_seeds() -> None:
    content = content_of("forwards", "fixmatch, joint", "fixmatch, split", "supervised")
    figure = draw_curves(content)
    right, counting = figure.axes[0], figure.axes[2]
    assert [line.get_label() for line in right.lines][:2] == ["joint (2 seeds)", "split (2 seeds)"]
    assert counting.lines[0].get_xdata().tolist() == [50, 100, 200]
    assert counting.lines[0].get_ydata().tolist() == pytest.approx([9.5, 28.5, 57.0])


def test_the_differences_are_those_of_the_rows() -> None:
    content = content_of("layers", "every layer (FixMatch)", "no layer", "the stem")
    (axis,) = draw_differences(content).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["no layer", "the stem"]
    points = [line.get_xdata()[0] for line in axis.lines if line.get_marker() == "o"]
    assert points == pytest.approx([10.0, 20.0])


def test_each_seed_is_a_line_across_the_settings_and_the_mean_is_written() -> None:
    (axis,) = draw_each_seed(content_of("digits10", "supervised", "fixmatch", "layermatch")).axes
    assert [label.get_text() for label in axis.get_xticklabels()] == ["supervised", "fixmatch", "layermatch"]
    across = [line.get_ydata().tolist() for line in axis.lines if len(line.get_xdata()) == 3]
    assert across == [pytest.approx([50.0, 60.0, 70.0]), pytest.approx([51.0, 61.0, 71.0])]
    assert [text.get_text() for text in axis.texts] == ["50.5", "60.5", "70.5"]
    assert axis.get_ylabel() == "Test accuracy, EMA weights, %"


def test_the_figure_of_why_has_a_panel_for_each_layer() -> None:
    figure = draw_why(content_of("why", "fixmatch", "layermatch"))
    titles = [axis.get_title() for axis in figure.get_axes()]
    assert {"stem", "groups.0"} <= set(titles)
    bias = figure.get_axes()[-1]
    assert [label.get_text() for label in bias.get_xticklabels()] == ["cat", "dog"]
    # The last tenth: of cat a quarter is wrong (less a tenth of it at seed 1), of dog three quarters.
    assert [patch.get_height() for patch in bias.patches] == pytest.approx([23.75, 71.25, 23.75, 71.25])


def test_classes_stand_in_their_own_order() -> None:
    content = content_of("why", "fixmatch", "layermatch")
    for cell in content["cells"]:
        curves = cell["curves"]
        for old, new in (("dog", "2"), ("cat", "10")):
            curves[f"truth/per_class_wrong/{new}"] = curves.pop(f"truth/per_class_wrong/{old}")
        cell["curves"] = dict(sorted(curves.items()))
    bias = draw_why(content).get_axes()[-1]
    assert [label.get_text() for label in bias.get_xticklabels()] == ["2", "10"]


def test_figures_are_published_beside_the_page(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text(json.dumps(content_of("layers", "every layer (FixMatch)", "no layer")))
    page = tmp_path / "page.md"
    shutil.copy(evidence.PAGE, page)
    evidence.main([str(tmp_path), "--page", str(page)])
    assert (tmp_path / "evidence" / "layers.png").read_bytes().startswith(b"\x89PNG")
    assert "](evidence/layers.png)" in page.read_text()
