"""Which layers should learn from pseudo-labels? One block after another is kept from them, on digits.

    python benchmarks/layer_sweep.py --seeds 6 --out docs/layers.json

trains every cell of (setting, number of labels, rate of injected label noise, seed) that the file does not hold yet,
and writes it after every run; then it draws the figure beside the file and prints the tables. A cell is an ordinary
``python -m layermatch.run``, and :func:`overrides` gives its command line. The notebook
``do_pseudo_labels_benefit_all_layers`` reads the results.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import ttest_1samp
from sklearn.metrics import calinski_harabasz_score
from sklearn.neighbors import NearestCentroid

from layermatch.build import build_parts, build_trainer
from layermatch.cli import config_dir, plain
from layermatch.data import SemiSupervisedData
from layermatch.data.sources import ImageSet
from layermatch.quiet import quiet_libraries
from layermatch.settings import Settings
from layermatch.training import SemiSupervisedModule

Run = dict[str, Any]

#: Name -> what it adds to FixMatch's command line. wrn_small has a stem, three blocks (of two convolutions and a
#: projection each; the last BatchNorm goes with the third) and a classifier.
SETTINGS: dict[str, tuple[str, ...]] = {
    "every layer (FixMatch)": (),
    "all but the stem": ("algorithm.gradient_scale={extractor.stem: 0}",),
    "all but block 1": ("algorithm.gradient_scale={extractor.groups.0: 0}",),
    "all but block 2": ("algorithm.gradient_scale={extractor.groups.1: 0}",),
    "all but block 3": ("algorithm.gradient_scale={extractor.groups.2: 0, extractor.activation: 0}",),
    "all but the classifier (Grad-ReLU)": ("algorithm.gradient_scale={classifier: 0}",),
    "only the classifier": ("algorithm.gradient_scale={extractor: 0}",),
    "Grad-ReLU + Avg-Clustering (LayerMatch)": ("layerwise=layermatch",),
    "no layer": ("algorithm.gradient_scale={extractor: 0, classifier: 0}",),
}
BASELINE, NOTHING = "every layer (FixMatch)", "no layer"

#: What all cells share, beside conf/experiment/digits.yaml. FixMatch's threshold of 0.95 would hide what is asked for:
#: with errors at a rate of 0.4 hardly any confidence reaches it (the mask rate falls from 0.67 to 0.14).
RECIPE = (
    "algorithm=fixmatch",
    "algorithm.forward=split",  # as docs/layers.json was measured; joint statistics are still to be asked
    "pseudo_labels=noisy",
    "pseudo_labels.threshold=0.5",
    "data.num_val=0",
    "data.batch_size=16",
    "data.mu=4",
    "model.width=1",
    "eval_every=1000000",
    "logger=none",
    "trainer=cpu",
    "trainer.precision=32-true",
)
STEPS = 500
NUM_LABELS = (40, 10)
NOISE = (0.0, 0.2, 0.4)

#: What is compared, and its title.
METRICS = {
    "accuracy": "test accuracy",
    "centre_accuracy": "nearest-centre accuracy",
    "within": "within-class share of the features' variance",
}


@dataclass(frozen=True)
class Cell:
    """One run.

    Args:
        setting: a key of :data:`SETTINGS`.
        num_labels: labelled images in all.
        noise: share of pseudo-labels that get another class.
        seed: of everything.
        steps: optimizer steps.
    """

    setting: str
    num_labels: int
    noise: float
    seed: int
    steps: int = STEPS


def make_cells(
    *,
    seeds: Iterable[int],
    settings: Sequence[str] = tuple(SETTINGS),
    num_labels: Sequence[int] = NUM_LABELS,
    noise: Sequence[float] = NOISE,
    steps: int = STEPS,
) -> list[Cell]:
    """Every cell, seed by seed, so that a sweep that is stopped has all settings of the seeds it came to.

    Where no layer learns from pseudo-labels their noise makes no difference: that setting is run without.
    """
    return [
        Cell(setting, labels, rate, seed, steps)
        for seed in seeds
        for labels in num_labels
        for rate in noise
        for setting in settings
        if setting != NOTHING or rate == 0
    ]


def overrides(cell: Cell) -> list[str]:
    """The arguments of ``python -m layermatch.run`` that make this run."""
    return [
        *RECIPE,
        *SETTINGS[cell.setting],
        f"data.num_labels={cell.num_labels}",
        f"pseudo_labels.noise={cell.noise}",
        f"trainer.max_steps={cell.steps}",
        f"seed={cell.seed}",
    ]


# ------------------------------------------------------------------------------------------------------------- one run


def measure(cell: Cell) -> Run:
    """Train one cell and measure it at its last step, with the EMA weights."""
    started = time.perf_counter()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        settings = Settings.parse(plain(compose("run", overrides=["run_dir=unused", *overrides(cell)])))
    with tempfile.TemporaryDirectory() as folder, quiet_libraries():
        parts = build_parts(settings)
        trainer = build_trainer(settings, run_dir=Path(folder), callbacks=[], loggers=[])
        trainer.fit(parts.algorithm, datamodule=parts.data)
        trainer.test(parts.algorithm, datamodule=parts.data, verbose=False)
    latest = parts.algorithm.latest
    found = {
        "accuracy": latest["test/accuracy_ema"],
        "accuracy_live": latest["test/accuracy"],
        **clustering(parts.algorithm, parts.data),
        # Of the last log interval; the accuracy is of those that count, with the noise put in, and None if none does.
        "mask_rate": latest["pseudo_labels/mask_rate"],
        "pseudo_label_accuracy": latest.get("pseudo_labels/accuracy_accepted"),
        "seconds": time.perf_counter() - started,
    }
    return asdict(cell) | {name: None if value is None else round(value, 4) for name, value in found.items()}


def clustering(algorithm: SemiSupervisedModule, data: SemiSupervisedData) -> dict[str, float]:
    """How well the features of the EMA weights are clustered by true class, whatever the classifier makes of them.

    ``centre_accuracy``: share of test images nearest to the centre of their own class, centres being the class means
    over the whole training pool with its true labels. ``within``: share of the test features' variance that lies within
    classes, tr(S_W) / tr(S_T), from 0 (every class is a point) to 1.
    """
    train, test = (features_of(algorithm, data, images) for images in (data.content.labelled, data.content.test))
    num_classes, num_images = len(data.classes), len(test[1])
    # Calinski and Harabasz: (tr(S_B) / (K - 1)) / (tr(S_W) / (n - K)).
    ratio = calinski_harabasz_score(*test) * (num_classes - 1) / (num_images - num_classes)
    return {"centre_accuracy": NearestCentroid().fit(*train).score(*test), "within": 1 / (1 + ratio)}


@torch.no_grad()
def features_of(
    algorithm: SemiSupervisedModule, data: SemiSupervisedData, images: ImageSet
) -> tuple[np.ndarray, np.ndarray]:
    """Features ``(N, D)`` of the EMA weights, and the labels."""
    pixels = torch.from_numpy(images.images.read(np.arange(len(images))))
    return algorithm.ema.network(data.normalise(pixels)).features.numpy(), images.labels


# ------------------------------------------------------------------------------------------------------------ all runs


def read_runs(path: Path) -> list[Run]:
    """The runs in a file of :func:`sweep`; none where there is no file."""
    return json.loads(path.read_text())["runs"] if path.is_file() else []


def write_runs(path: Path, runs: Sequence[Run]) -> None:
    """Write the file in one move, with a line for each run."""
    about = {
        "command": f"python {' '.join(['benchmarks/layer_sweep.py', '--seeds', 'N', '--out', path.name])}",
        "recipe": ["experiment=digits", *RECIPE],
        "measured": "at the last step, EMA weights, 360 test images; nothing was selected",
        "machine": f"{platform.machine()}, {torch.get_num_threads()} thread",
        "versions": {"python": platform.python_version()} | {n: version(n) for n in ("torch", "lightning", "numpy")},
    }
    lines = ",\n".join(json.dumps(run) for run in runs)
    unfinished = path.with_suffix(".json.tmp")
    unfinished.write_text(f'{{"about": {json.dumps(about, indent=1)},\n"runs": [\n{lines}\n]}}\n')
    unfinished.replace(path)


def sweep(cells: Sequence[Cell], path: Path, *, log: Callable[[str], object] = str) -> list[Run]:
    """Run the cells that the file does not hold yet; give all that it holds then.

    Args:
        cells: from :func:`make_cells`.
        path: of the file.
        log: takes a line after each run; by default nobody reads it.
    """
    runs = read_runs(path)
    done = {Cell(**{name: run[name] for name in Cell.__dataclass_fields__}) for run in runs}
    left = [cell for cell in cells if cell not in done]
    for number, cell in enumerate(left, start=1):
        run = measure(cell)
        runs.append(run)
        write_runs(path, runs)
        place = f"{cell.num_labels} labels, noise {cell.noise}, seed {cell.seed}, {cell.setting}"
        log(f"{number}/{len(left)}  {place}: {run['accuracy']:.1%} ({run['seconds']:.0f} s)\n")
    return runs


# --------------------------------------------------------------------------------------------------------- comparisons


class Difference(NamedTuple):
    """A setting against FixMatch at the same seeds.

    Attributes:
        mean: over seeds, in points (hundredths).
        low: end of its 95 % interval (paired t).
        high: the other end.
        wins: seeds at which it was larger than FixMatch.
        num_seeds: that both have.
    """

    mean: float
    low: float
    high: float
    wins: int
    num_seeds: int

    def __str__(self) -> str:
        return f"{self.mean:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


def values(runs: Iterable[Run], metric: str, *, setting: str, num_labels: int, noise: float) -> dict[int, float]:
    """Seed -> value of one setting, in points, where there is one."""
    noise = 0.0 if setting == NOTHING else noise
    wanted = {"setting": setting, "num_labels": num_labels, "noise": noise}
    return {run["seed"]: 100 * run[metric] for run in runs if wanted.items() <= run.items() and run[metric] is not None}


def compare(
    runs: Sequence[Run], metric: str, *, setting: str, num_labels: int, noise: float, baseline: str = BASELINE
) -> Difference:
    """One setting against another, seed by seed. Needs two seeds that both have."""
    ours = values(runs, metric, setting=setting, num_labels=num_labels, noise=noise)
    theirs = values(runs, metric, setting=baseline, num_labels=num_labels, noise=noise)
    seeds = sorted(ours.keys() & theirs.keys())
    return paired([ours[seed] - theirs[seed] for seed in seeds])


def paired(gaps: Sequence[float]) -> Difference:
    """The mean of the seeds' differences, and its 95 % interval (Student's t)."""
    low, high = ttest_1samp(gaps, 0.0).confidence_interval(0.95)
    return Difference(np.mean(gaps), low, high, int((np.array(gaps) > 0).sum()), len(gaps))


def compare_overall(runs: Sequence[Run], metric: str, *, setting: str, baseline: str = BASELINE) -> Difference:
    """One setting against another, seed by seed, each seed's difference averaged over all budgets and noise rates.

    Seeds that lack a run are left out.
    """
    gaps: dict[int, list[float]] = {}
    places = sorted({(run["num_labels"], run["noise"]) for run in runs})
    for num_labels, noise in places:
        ours = values(runs, metric, setting=setting, num_labels=num_labels, noise=noise)
        theirs = values(runs, metric, setting=baseline, num_labels=num_labels, noise=noise)
        for seed in ours.keys() & theirs.keys():
            gaps.setdefault(seed, []).append(ours[seed] - theirs[seed])
    return paired([np.mean(found) for found in gaps.values() if len(found) == len(places)])


def summary(runs: Sequence[Run]) -> str:
    """A Markdown table of :func:`compare_overall`: the questions that one would ask first."""
    questions = [(setting, BASELINE) for setting in SETTINGS if setting != BASELINE]
    questions += [("only the classifier", NOTHING), ("all but the classifier (Grad-ReLU)", NOTHING)]
    lines = [
        f"| pseudo-labels teach | against | {' | '.join(METRICS.values())} |",
        "| --- | --- |" + " --- |" * len(METRICS),
    ]
    for setting, baseline in questions:
        found = (compare_overall(runs, metric, setting=setting, baseline=baseline) for metric in METRICS)
        lines.append(f"| {setting} | {baseline} | {' | '.join(map(str, found))} |")
    return "\n".join(lines)


def table(runs: Sequence[Run], *, num_labels: int, metric: str = "accuracy") -> str:
    """A Markdown table: the baseline's mean, and each setting's difference from it with its 95 % interval."""
    rates = sorted({run["noise"] for run in runs if run["num_labels"] == num_labels})
    there = {run["setting"] for run in runs if run["num_labels"] == num_labels}
    lines = [
        f"| pseudo-labels teach | {' | '.join(f'noise {rate:g}' for rate in rates)} |",
        "| --- |" + " --- |" * len(rates),
    ]
    for setting in (name for name in SETTINGS if name in there):
        where = [{"setting": setting, "num_labels": num_labels, "noise": rate} for rate in rates]
        if setting == BASELINE:
            found = [list(values(runs, metric, **place).values()) for place in where]
            shown = [f"{np.mean(each):.1f} ± {np.std(each, ddof=1):.1f} ({len(each)} seeds)" for each in found]
        else:
            shown = [str(compare(runs, metric, **place)) for place in where]
        lines.append(f"| {setting} | {' | '.join(shown)} |")
    return "\n".join(lines)


def quality_table(runs: Sequence[Run], *, num_labels: int) -> str:
    """A Markdown table: what FixMatch's pseudo-labels are like at the end, at each noise."""
    lines = ["| noise put in | pseudo-labels that count | of these right |", "| --- | --- | --- |"]
    for rate in sorted({run["noise"] for run in runs if run["num_labels"] == num_labels}):
        where = {"setting": BASELINE, "num_labels": num_labels, "noise": rate}
        mask, right = (
            np.mean(list(values(runs, metric, **where).values())) for metric in ("mask_rate", "pseudo_label_accuracy")
        )
        lines.append(f"| {rate:g} | {mask:.0f} % | {right:.0f} % |")
    return "\n".join(lines)


def draw(runs: Sequence[Run], metrics: Mapping[str, str] | None = None) -> Figure:
    """Differences from FixMatch with their 95 % intervals: a row of panels for each number of labels."""
    metrics = metrics or {name: METRICS[name] for name in ("accuracy", "centre_accuracy")}
    budgets = sorted({run["num_labels"] for run in runs}, reverse=True)
    settings = [name for name in SETTINGS if name != BASELINE and any(run["setting"] == name for run in runs)]
    figure = Figure(figsize=(8, 1.1 + (0.9 + 0.32 * len(settings)) * len(budgets)), layout="constrained")
    panels = figure.subplots(len(budgets), len(metrics), squeeze=False, sharey=True, sharex="row")
    for row, num_labels in zip(panels, budgets, strict=True):
        for axis, (metric, title) in zip(row, metrics.items(), strict=True):
            _draw_panel(axis, runs, metric, settings, num_labels)
            axis.set_title(f"{title}, {num_labels} labels", fontsize=10)
        row[0].set_yticks(range(len(settings)), [_two_lines(name) for name in settings], fontsize=8)
    panels[0, 0].invert_yaxis()
    for axis in panels[-1]:
        axis.set_xlabel("difference from FixMatch, points")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    title = "share of pseudo-labels made wrong"
    figure.legend(handles, labels, title=title, loc="outside upper center", ncols=len(handles), frameon=False)
    return figure


def _draw_panel(axis: Axes, runs: Sequence[Run], metric: str, settings: Sequence[str], num_labels: int) -> None:
    rates = sorted({run["noise"] for run in runs if run["num_labels"] == num_labels})
    for number, rate in enumerate(rates):
        found = [compare(runs, metric, setting=name, num_labels=num_labels, noise=rate) for name in settings]
        mean = np.array([each.mean for each in found])
        error = [mean - [each.low for each in found], [each.high for each in found] - mean]
        place = np.arange(len(settings)) + 0.22 * (number - (len(rates) - 1) / 2)
        axis.errorbar(
            mean, place, xerr=error, fmt="os^"[number % 3], color=f"C{number}", markersize=4, linewidth=1.3, capsize=2,
            label=f"{100 * rate:g} %",
        )  # fmt: skip
    axis.axvline(0, color="black", linewidth=0.8)
    axis.grid(axis="x", alpha=0.3)


def _two_lines(name: str) -> str:
    return name.replace(" (", "\n(")


def main() -> None:
    """Entry point of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seeds", type=int, default=6, help="seeds 0, 1, ... of every cell")
    parser.add_argument("--out", type=Path, default=Path("docs/layers.json"), help="results; the figure goes beside it")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the images are small: a second thread would cost more than it gives
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    runs = sweep(make_cells(seeds=range(arguments.seeds)), arguments.out, log=sys.stderr.write)
    draw(runs).savefig(arguments.out.with_suffix(".png"), dpi=100)
    sys.stdout.write(f"over all numbers of labels and noise rates:\n\n{summary(runs)}\n")
    for num_labels in NUM_LABELS:
        sys.stdout.write(f"\n{num_labels} labels, {quality_table(runs, num_labels=num_labels)}\n")
        for metric, title in METRICS.items():
            sys.stdout.write(
                f"\n{num_labels} labels, {title}:\n\n{table(runs, num_labels=num_labels, metric=metric)}\n"
            )


if __name__ == "__main__":
    main()
