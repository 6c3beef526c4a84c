"""The catalogue of metrics: each name once; and a method's own losses and metrics, in everything that shows a run."""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.dashboards.commands import SMALL, do_runs
from tests.dashboards.offline_file import WandbFile, wandb_files
from tests.report.html_page import Page
from tests.report.made_runs import make_run, rows_of, write_metrics

from layermatch import run
from layermatch.catalogue import (
    ACCURACY,
    KINDS,
    LOSS,
    ROW_LENGTH,
    SHARE,
    VALUE,
    Kind,
    Metric,
    Panel,
    Place,
    Section,
    dumps,
    loads,
)
from layermatch.dashboards.pictures import read_picture
from layermatch.errors import UserError
from layermatch.figures import draw_curves
from layermatch.layerwise import Uniform
from layermatch.methods import PseudoLabelling
from layermatch.metrics import CATALOGUE, CLASS_COUNTS, LOSS_PART, MASK_RATE, accuracies, own_metrics, page
from layermatch.networks import wrn_small
from layermatch.policies import FixedThreshold
from layermatch.report.groups import choose_baseline, group_runs
from layermatch.report.page import render_html
from layermatch.report.runs import read_run
from layermatch.runs.layout import OWN_METRICS
from layermatch.training import SemiSupervisedModule
from layermatch.watch.frame import draw
from layermatch.watch.watcher import Watcher

ROOT = Path(__file__).parents[1]

# ---------------------------------------------------------------------------------------------------------- catalogue


def test_every_entry_can_be_shown() -> None:
    names = [metric.name for metric in CATALOGUE.metrics]
    assert len(names) == len(set(names))
    assert all(name.count("*") <= 1 for name in names)
    shorts = [metric.short for metric in CATALOGUE.metrics if metric.short]
    assert len(shorts) == len(set(shorts))
    for metric in CATALOGUE.metrics:
        assert metric.kind in KINDS.values(), metric.name
        assert bool(metric.part) == ("*" in metric.name), metric.name
        if {Place.TABLE, Place.WATCH} & set(metric.places) and metric.part != "class":
            assert len(metric.in_row) <= ROW_LENGTH, metric.name
        if Place.RESULTS in metric.places:
            assert len(metric.path) == 2, metric.name
    for panel in {metric.panel for metric in CATALOGUE.metrics if metric.panel}:
        scales = {metric.kind.scale for metric in CATALOGUE.metrics if metric.panel == panel}
        assert len(scales) == 1, panel


def test_the_page_of_metrics_is_up_to_date() -> None:
    assert (ROOT / "docs" / "metrics.md").read_text() == page(CATALOGUE), (
        "python -m layermatch.metrics > docs/metrics.md"
    )


def test_the_catalogue_needs_no_torch() -> None:
    code = "import sys, layermatch.metrics; print({'torch', 'numpy', 'lightning'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def _texts_of_code(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and value of every text that is no docstring, no error and no help."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, documented) and
                  node.body and isinstance(node.body[0], ast.Expr)}  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


#: Keys of accuracies and of pseudo-labels' quality in ``results.json``. Parts of the loss are named by their method.
KEYS = {
    metric.path[-1]: metric for metric in CATALOGUE.in_place(Place.RESULTS) if metric.kind != LOSS and not metric.part
}
SECTIONS = {metric.path[0] for metric in CATALOGUE.in_place(Place.RESULTS)}
#: What the two sets of weights are called in tables and figures; in a sentence they have an article.
WEIGHTS = re.compile("|".join(f"(?<!the ){metric.label}" for metric in accuracies("test").values()))


def _catalogued(text: str) -> str | None:
    """What of the catalogue a text is, or is made with: a name, the beginning of one, a key, a title, a label."""
    for metric in CATALOGUE.metrics:
        start, star, _ = metric.name.partition("*")
        is_name = "/" in text and text in {metric.name, metric.vector}
        is_start = bool(re.fullmatch(r"\w+/", text)) and metric.name.startswith(text)
        has_title = " " in metric.title and "*" not in metric.title and metric.title in text
        if is_name or is_start or has_title or (star and text.startswith(start) and not text.endswith(".png")):
            return metric.name
    if "_" in text and text in KEYS:
        return KEYS[text].name
    return "accuracies(split)" if WEIGHTS.search(text) else None


def _sections_of_results(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and code of every list of the sections of ``results.json``; the two splits alone are none."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Tuple | ast.List | ast.Set) and len(node.elts) > 1:
            found = {each.value for each in node.elts if isinstance(each, ast.Constant)}
            if len(found) == len(node.elts) and found <= SECTIONS and not found <= {"val", "test"}:
                yield node.lineno, ast.unparse(node)


def _exported(tree: ast.Module) -> set[str]:
    """Functions, some of which are called as what they compute."""
    return {
        each.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        for each in ast.walk(node.value)
        if isinstance(each, ast.Constant)
    }


def _written_twice(source: str) -> list[tuple[int, str, str]]:
    """Line, text and what to take of the catalogue instead."""
    tree = ast.parse(source)
    texts = [(line, text, _catalogued(text)) for line, text in _texts_of_code(tree) if text not in _exported(tree)]
    sections = [(line, text, "in_place(Place.RESULTS)") for line, text in _sections_of_results(tree)]
    return sorted((line, text, name) for line, text, name in [*texts, *sections] if name is not None)


def test_no_name_is_written_anywhere_else() -> None:
    found = []
    for path in sorted((ROOT / "src" / "layermatch").rglob("*.py")):
        if path.name == "metrics.py" and path.parent.name == "layermatch":
            continue
        for line, text, name in _written_twice(path.read_text()):
            found.append(f"{path.relative_to(ROOT)}:{line}: {text!r}: take {name!r} from layermatch.metrics")
    assert found == []


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ('name = "val/accuracy"', "val/accuracy"),
        ('f"layers/{layer}/x"', "layers/*/grad_norm_supervised"),
        ('name.startswith("val/")', "val/accuracy_ema"),
        ('{"median_accuracy": live}', "val/median_accuracy"),
        ('judged.get("accuracy_ema")', "test/accuracy_ema"),
        ('bar(table, title="Test accuracy of each class")', "test/per_class"),
        ('axis.set_title("Test set, EMA weights")', "accuracies(split)"),
        ('f"EMA weights {averaged}"', "accuracies(split)"),
        ('{"live weights": live}', "accuracies(split)"),
        ('for section in ("test", "val", "pseudo_labels"): ...', "in_place(Place.RESULTS)"),
    ],
)
def test_what_is_written_twice_is_found(code: str, name: str) -> None:
    assert [found for _, _, found in _written_twice(code)] == [name]


@pytest.mark.parametrize(
    "code", ['("val", "test")', '"the EMA weights, which are reported"', '"accuracy"', '__all__ = ["macro_accuracy"]']
)
def test_what_only_sounds_alike_is_not(code: str) -> None:
    assert _written_twice(code) == []


@pytest.mark.parametrize(
    ("name", "title", "legend", "row"),
    [
        ("loss/entropy_bonus", "Entropy bonus part", "entropy bonus", "Entropy bonus part"),
        ("loss/x/y", "X/y part", "x/y", "X/y part"),
        ("loss/", "loss/", "loss/", "loss/"),
        ("layers/block_1.0/cosine", "Cosine of the two gradients, block_1.0", "block_1.0", None),
        ("pseudo_labels/per_class_counts/a*b", None, "a*b", None),
        ("mine/own_*", "mine/own_*", "mine/own_*", "mine/own_*"),
        ("", "", "", ""),
    ],
)
def test_names_that_nobody_listed_have_words(name: str, title: str | None, legend: str, row: str | None) -> None:
    (metric,) = CATALOGUE.arrange([name])
    assert (metric.name, metric.in_legend) == (name, legend)
    assert title is None or metric.title == title
    assert row is None or metric.in_row == row


def test_metrics_stand_in_the_order_of_the_catalogue() -> None:
    given = ["val/accuracy", "mine", "loss/zeta", "loss/alpha", MASK_RATE.name, "loss/classifier", "loss/features"]
    assert [metric.name for metric in CATALOGUE.arrange(given)] == [
        "loss/features", "loss/classifier", "loss/zeta", "loss/alpha", MASK_RATE.name, "val/accuracy", "mine",
    ]  # fmt: skip


def test_what_a_method_adds_stands_beside_its_kin() -> None:
    own = (Metric("loss/zeta", LOSS, "Own words"), Metric("bank/*", VALUE, "Bank *", part="slot"))
    catalogue = CATALOGUE.plus(own)
    assert [metric.title for metric in catalogue.arrange(["bank/a_b", "val/accuracy", "loss/other", "loss/zeta"])] == [
        "Own words", "Other part", "Validation accuracy, live weights", "Bank a b",
    ]  # fmt: skip
    assert catalogue.plus([replace(MASK_RATE, title="Mine")]) == catalogue  # what there is stays
    assert CATALOGUE.find("loss/zeta").title == "Zeta part"  # nothing is registered


def test_longer_patterns_say_more() -> None:
    catalogue = CATALOGUE.plus([Metric("layers/*", VALUE, "Of layer *", part="layer")])
    assert catalogue.find("layers/stem/cosine").section == Section.LAYERS
    assert catalogue.find("layers/stem").title == "Of layer stem"


# ------------------------------------------------------------------------------------------------------ own and others


def algorithm_with(*metrics: Metric) -> SemiSupervisedModule:
    """Whose policy adds metrics, not the method itself."""
    policy = FixedThreshold(threshold=0.9)
    policy.metrics = metrics  # type: ignore[assignment]
    return SemiSupervisedModule(wrn_small(in_channels=1), PseudoLabelling(policy=policy, rule=Uniform()))


def test_metrics_of_a_policy_are_found() -> None:
    own = (Metric("bank/age", VALUE, "Age"), Metric("loss/fair", LOSS, "Fairness"))
    assert own_metrics(algorithm_with(*own)) == own
    assert own_metrics(algorithm_with()) == ()


@pytest.mark.parametrize(
    ("metrics", "line"),
    [
        ([replace(MASK_RATE, title="Mine")], r"'pseudo_labels/mask_rate': the name is taken: give another one"),
        ([Metric("", VALUE, "Nothing")], "'': give a name"),
        ([Metric("a/*/*", VALUE, "Stars")], "give a name of two parts with at most one star"),
        ([Metric("age", VALUE, "Age")], "give a name of two parts with at most one star, GROUP/NAME"),
        ([Metric("bank/age", VALUE, "")], "'bank/age': give a title"),
        ([Metric("bank/age", Kind("mine"), "Age")], "kind mine is not legal: choose one of loss, accuracy, share"),
        ([Metric("bank/age", VALUE, "A"), Metric("bank/age", VALUE, "B")], "'bank/age' is there twice"),
    ],
)
def test_a_metric_that_cannot_be_shown_is_refused(metrics: list[Metric], line: str) -> None:
    with pytest.raises(UserError, match=rf"^FixedThreshold\.metrics: .*{line}"):
        own_metrics(algorithm_with(*metrics))


def test_metrics_travel_as_text() -> None:
    own = (
        Metric("bank/é", ACCURACY, "Größe", "what", "l", "r", "s", panel=Panel("f", "t"), places=(Place.WATCH,)),
        LOSS_PART,
        CLASS_COUNTS,
    )
    assert loads(dumps(own)) == own
    assert all(isinstance(place, Place) for metric in loads(dumps(own)) for place in metric.places)


GOOD = json.loads(dumps([Metric("bank/age", VALUE, "Age", panel=Panel("f", "t"))]))[0]


@pytest.mark.parametrize(
    "broken",
    [
        "{", "{}", "null", "[1]", "[[]]", "[{}]", '[{"name": "a"}]',
        *(json.dumps([GOOD | change]) for change in (
            {"kind": "none"}, {"kind": []}, {"section": "x"}, {"places": 3}, {"places": ["x"]}, {"panel": {}},
            {"panel": {"figure": 1, "title": "t"}}, {"title": 3}, {"name": ""}, {"own": "x"}, {"row": None},
        )),
    ],
)  # fmt: skip
def test_a_broken_file_of_metrics_is_a_problem_of_its_run(broken: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- of many kinds
        loads(broken)
    path = make_run(tmp_path / "run")
    (path / OWN_METRICS).write_text(broken)
    assert [problem.partition(":")[0] for problem in read_run(path).problems] == [f"{OWN_METRICS} cannot be read"]
    assert any(OWN_METRICS in problem for problem in Watcher(path).look().problems)


def test_markup_in_a_strangers_metrics_is_text(tmp_path: Path) -> None:
    evil = "<script>x</script>\x1b[2J"
    own = (
        Metric("bank/age", VALUE, evil, evil, evil, evil, places=(Place.TABLE, Place.WATCH)),
        Metric("bank/by/*", VALUE, evil, part=evil, section=Section.CLASSES),
        Metric("deep/*", VALUE, evil, part=evil, section=Section.LAYERS),
    )
    path = make_run(tmp_path / "run")
    (path / "metrics.csv").unlink()
    extra = {"bank/age": 2.0, "bank/by/cat": 1.0, "deep/stem": 1.0}
    write_metrics(path, [row | extra for row in rows_of(0.9)])
    (path / OWN_METRICS).write_text(dumps(own))
    results = json.loads((path / "results.json").read_text())
    (path / "results.json").write_text(json.dumps(results | {"bank": {"age": 2.0}}))
    html, frame = shown_in_report(path), shown_in_watch(path)
    assert read_run(path).problems == []
    assert Page(html).faults == []
    assert "<script>" not in html
    assert Page(html).text.count("<script>x</script>") >= 4
    assert "\x1b" not in html + frame


# ---------------------------------------------------------------------------------------------------------- a real run

PLUGIN = '''
"""FixMatch with a loss more, and a share that it wants to be seen."""

from layermatch.methods import PseudoLabelling
from layermatch.parts import Term
from layermatch.metrics import SHARE, Metric, Panel, Place


class Fair(PseudoLabelling):
    metrics = (
        Metric(
            "balance/largest", SHARE, "Share of the largest class", label="largest", row="Largest class", short="big",
            panel=Panel("balance", "Balance"), places=(Place.RESULTS, Place.TABLE, Place.WATCH),
        ),
    )

    def losses(self, batch, step):
        found = super().losses(batch, step)
        bonus = 0.1 * found["supervised"].value
        step.record({"balance/largest": bonus.detach() * 0 + 0.25})
        found["entropy_bonus"] = Term(bonus)
        return found
'''

SETTINGS = (
    "run_dir=out", "trainer.max_steps=4", "algorithm=fixmatch", "algorithm._target_=fair_plugin.Fair",
    "plugins=[fair_plugin]", *SMALL,
)  # fmt: skip


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The run directory of four steps of a method from outside, on TensorBoard."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "fair_plugin.py").write_text(PLUGIN)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        patch.setattr(sys, "argv", ["layermatch.run", "logger=tensorboard", *SETTINGS])
        run.main()
    yield folder / "out"
    sys.modules.pop("fair_plugin", None)


def shown_in_report(run_dir: Path) -> str:
    runs = [read_run(run_dir)]
    groups = group_runs(runs)
    return render_html(runs, groups, choose_baseline(groups, None), written=datetime(2026, 1, 2, 3, 4))


def shown_in_watch(run_dir: Path) -> str:
    file = io.StringIO()
    Console(file=file, width=120).print(draw(Watcher(run_dir).look(), width=120, height=None))
    return file.getvalue()


def rows_in(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["loss/entropy_bonus"]]


@pytest.mark.slow
@pytest.mark.xdist_group("own_metrics")
class TestAMethodFromOutside:
    def test_csv_and_results(self, out: Path) -> None:
        rows = rows_in(out)
        assert [row["step"] for row in rows] == ["2", "4"]
        for row in rows:
            assert float(row["loss/entropy_bonus"]) == pytest.approx(0.1 * float(row["loss/supervised"]), rel=1e-5)
        results = json.loads((out / "results.json").read_text())
        assert results["loss"]["entropy_bonus"] == pytest.approx(float(rows[-1]["loss/entropy_bonus"]))
        assert results["balance"] == {"largest": pytest.approx(0.25)}

    @pytest.mark.pictures
    def test_figures(self, out: Path, tmp_path: Path) -> None:
        assert (out / "figures" / "balance.png").is_file()
        with (out / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        names = [name for name in rows[0] if (panel := CATALOGUE.find(name).panel) and panel.figure == "curves"]
        assert "loss/entropy_bonus" in names
        for folder, left_out in {"again": "", "without": "loss/entropy_bonus"}.items():
            columns = [name for name in names if name != left_out]
            with (tmp_path / f"{folder}.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, ["step", *columns], extrasaction="ignore")
                writer.writeheader()
                writer.writerows(rows)
            draw_curves(tmp_path / f"{folder}.csv", tmp_path / folder)
        drawn, again, without = (
            read_picture(folder / "curves.png")
            for folder in (out / "figures", tmp_path / "again", tmp_path / "without")
        )
        assert np.array_equal(drawn, again)
        assert not np.array_equal(drawn, without)

    def test_report_and_watch(self, out: Path) -> None:
        text = Page(shown_in_report(out)).text
        assert "Entropy bonus part" in text
        assert "Share of the largest class" in text
        assert "Largest class" in text  # in the table of results
        frame = shown_in_watch(out).replace("\N{NO-BREAK SPACE}", " ")
        assert "Entropy bonus part" in frame
        assert re.search(r"^Largest class +25\.0 % +25\.0 % +25\.0 %", frame, re.MULTILINE)

    def test_one_line_display(self, out: Path) -> None:
        assert " big 25%" in (out / "run.log").read_text()

    def test_tensorboard(self, out: Path) -> None:
        events = EventAccumulator(str(out / "tensorboard"))
        events.Reload()
        for name in ("loss/entropy_bonus", "balance/largest"):
            assert [event.step for event in events.Scalars(name)] == [2, 4]
        assert "figures/balance" in events.Tags()["images"]

    def test_wandb(self, out: Path, tmp_path: Path) -> None:
        path = os.pathsep.join([str(out.parent), os.environ.get("PYTHONPATH", "")])
        do_runs(("logger=wandb", "logger.offline=true", *SETTINGS), folder=tmp_path, environment={"PYTHONPATH": path})
        (read,) = wandb_files(tmp_path / "out")
        assert isinstance(read, WandbFile)
        bonuses = [row["loss/entropy_bonus"] for row in read.history if "loss/entropy_bonus" in row]
        assert len(bonuses) == 2
        summary: dict[str, Any] = read.summary
        assert summary["loss/entropy_bonus"]["min"] == pytest.approx(min(bonuses))
        assert summary["balance/largest"] == pytest.approx(0.25)


@pytest.mark.slow
@pytest.mark.xdist_group("own_metrics")
def test_a_run_that_goes_on_without_own_metrics_leaves_none_behind(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert loads((out / OWN_METRICS).read_text())[0].kind == SHARE
    start, end = PLUGIN.index("    metrics = ("), PLUGIN.index("    def losses")
    (out.parent / "fair_plugin.py").write_text(PLUGIN[:start] + PLUGIN[end:])
    sys.modules.pop("fair_plugin", None)
    monkeypatch.syspath_prepend(out.parent)
    monkeypatch.chdir(out.parent)
    monkeypatch.setattr(sys, "argv", ["layermatch.run", *SETTINGS, "trainer.max_steps=5", "ckpt_path=last"])
    run.main()
    assert not (out / OWN_METRICS).exists()
    assert "Entropy bonus part" in shown_in_watch(out)
