"""Which images should BatchNorm's statistics be of? Runs of each ``algorithm.forward``, paired by seed.

    python benchmarks/forwards.py --seeds 10 --jobs 2 --out docs/forwards.json

trains every cell of (algorithm, forward, number of labels, seed) that the file does not hold yet, each on one thread,
and writes the file after every run, so the command may be stopped at any time and given again. Then it draws the figure
beside the file and prints a table in Markdown: test accuracy of the EMA weights at the last step, and each forward's
difference from ``joint``. A cell is an ordinary run of ``conf/experiment/digits.yaml``, and :func:`overrides` gives its
command line; ``--set KEY=VALUE`` changes all of them, and wants a file of its own.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.layer_sweep import paired

from layermatch.build import build_loggers, build_parts, build_trainer
from layermatch.cli import config_dir, plain
from layermatch.methods import PseudoLabelling
from layermatch.networks import Network, Output
from layermatch.quiet import quiet_libraries
from layermatch.settings import Settings

Run = dict[str, Any]

#: Name -> what it adds to the command line. Those with a module of their own are trials of one statistic alone, and
#: not settings of the package.
FORWARDS: dict[str, tuple[str, ...]] = {
    "joint": ("algorithm.forward=joint",),
    "shared": ("algorithm.forward=shared",),
    "shared, share 0": ("algorithm.forward=shared", "algorithm.weak_share=0"),
    "split": ("algorithm.forward=split",),
    "split, weak not averaged": (
        "algorithm.forward=split",
        "algorithm._target_=benchmarks.forwards.WeakNotAveraged",
        "plugins=[benchmarks]",
    ),
    "weak by the averages": (
        "algorithm.forward=split",
        "algorithm._target_=benchmarks.forwards.WeakByAverages",
        "plugins=[benchmarks]",
    ),
}
ASKED = ("joint", "shared", "split")
REFERENCE = "joint"
ALGORITHMS = ("fixmatch", "layermatch")

#: What all cells share, beside conf/experiment/digits.yaml. The images held out are not looked at on the way.
RECIPE = ("eval_every=1000000", "trainer=cpu", "trainer.precision=32-true")

#: Of a run's curve: what is kept of each log interval.
CURVE = ("mask_rate", "accuracy", "accuracy_accepted")


class WeakNotAveraged(PseudoLabelling):
    """``split``, but the running statistics see labelled and strong views only."""

    def send_weak(self, weak: Tensor, network: Network) -> Output:
        """Weak views by their own statistics, which are then forgotten."""
        norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 0.0
        try:
            return super().send_weak(weak, network)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum


class WeakByAverages(PseudoLabelling):
    """``split``, but weak views are normalised by the running statistics, as images are after training."""

    def send_weak(self, weak: Tensor, network: Network) -> Output:
        """Weak views in evaluation mode."""
        network.eval()
        try:
            return super().send_weak(weak, network)
        finally:
            network.train()


@dataclass(frozen=True)
class Cell:
    """One run.

    Args:
        algorithm: ``supervised``, ``fixmatch`` or ``layermatch``.
        forward: a key of :data:`FORWARDS`; ``None`` with ``supervised``, which has no choice.
        num_labels: labelled images in all.
        seed: of everything.
    """

    algorithm: str
    forward: str | None
    num_labels: int
    seed: int


def make_cells(
    *,
    seeds: Sequence[int],
    num_labels: Sequence[int],
    algorithms: Sequence[str] = ALGORITHMS,
    forwards: Sequence[str] = ASKED,
) -> list[Cell]:
    """Every cell, seed by seed, so that what is stopped has all settings of the seeds it came to."""
    settings = [("supervised", None), *((name, forward) for name in algorithms for forward in forwards)]
    return [Cell(*setting, labels, seed) for seed in seeds for labels in num_labels for setting in settings]


def overrides(cell: Cell, more: Sequence[str] = ()) -> list[str]:
    """The arguments of ``python -m layermatch.run`` that make this run."""
    chosen = [f"algorithm={cell.algorithm}", f"data.num_labels={cell.num_labels}", f"seed={cell.seed}"]
    return [*RECIPE, *chosen, *(FORWARDS[cell.forward] if cell.forward else ()), *more]


# ------------------------------------------------------------------------------------------------------------- one run


def measure(cell: Cell, more: Sequence[str] = ()) -> Run:
    """Train one cell on one thread and test it at its last step."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        settings = Settings.parse(plain(compose("run", overrides=["run_dir=unused", *overrides(cell, more)])))
    with tempfile.TemporaryDirectory() as folder, quiet_libraries():
        parts = build_parts(settings)
        loggers = build_loggers(settings, run_dir=Path(folder), first_step=0)
        trainer = build_trainer(settings, run_dir=Path(folder), callbacks=[], loggers=loggers)
        trainer.fit(parts.algorithm, datamodule=parts.data)
        trainer.test(parts.algorithm, datamodule=parts.data, verbose=False)
        curve = read_curve(Path(folder) / "metrics.csv")
    latest = parts.algorithm.latest
    found = {"accuracy": round(latest["test/accuracy_ema"], 4), "accuracy_live": round(latest["test/accuracy"], 4)}
    return asdict(cell) | found | {"seconds": round(time.perf_counter() - started, 1), "curve": curve}


def read_curve(path: Path) -> dict[str, list[float | None]]:
    """The pseudo-labels' quality at each log interval, from a run's metrics.csv; None where no label counted."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("pseudo_labels/mask_rate")]
    curve: dict[str, list[float | None]] = {"step": [int(row["step"]) for row in rows]}
    for name in CURVE:
        values = [row.get(f"pseudo_labels/{name}") for row in rows]
        curve[name] = [round(float(value), 4) if value else None for value in values]
    return curve if rows else {}


# ------------------------------------------------------------------------------------------------------------ all runs


def read_runs(path: Path, more: Sequence[str] = ()) -> list[Run]:
    """The runs in a file of :func:`sweep`; none where there is no file.

    Raises:
        SystemExit: the file's runs had other settings.
    """
    if not path.is_file():
        return []
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["about"]["recipe"] != recipe(more):
        raise SystemExit(f"{path} is of {content['about']['recipe']}, not of {recipe(more)}: give another --out")
    return list(content["runs"])


def recipe(more: Sequence[str]) -> list[str]:
    """What all runs of a file share."""
    return ["experiment=digits", *RECIPE, *more]


def write_runs(path: Path, runs: Sequence[Run], more: Sequence[str] = ()) -> None:
    """Write the file in one move, with a line for each run."""
    about = {
        "command": f"python benchmarks/forwards.py --seeds N --out {path.name} {' '.join(more)}".strip(),
        "recipe": recipe(more),
        "measured": "at the last step, EMA weights, 360 test images; nothing was selected",
        "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, 1 thread each",
        "versions": {"python": platform.python_version()} | {n: version(n) for n in ("torch", "lightning", "numpy")},
    }
    ordered = sorted(runs, key=lambda run: (run["num_labels"], run["algorithm"], run["forward"] or "", run["seed"]))
    lines = ",\n".join(json.dumps(run) for run in ordered)
    unfinished = path.with_suffix(".json.tmp")
    unfinished.write_text(f'{{"about": {json.dumps(about, indent=1)},\n"runs": [\n{lines}\n]}}\n', encoding="utf-8")
    unfinished.replace(path)


def cell_of(run: Run) -> Cell:
    """Which cell a run is of."""
    return Cell(**{name: run[name] for name in Cell.__dataclass_fields__})


def sweep(cells: Sequence[Cell], path: Path, *, jobs: int = 1, more: Sequence[str] = ()) -> list[Run]:
    """Run the cells that the file does not hold yet; give all that it holds then.

    Args:
        cells: from :func:`make_cells`.
        path: of the file.
        jobs: processes at once; with 1 the runs are made in this one.
        more: settings that all runs get.
    """
    runs = read_runs(path, more)
    done = {cell_of(run) for run in runs}
    left = [cell for cell in cells if cell not in done]

    def keep(run: Run) -> None:
        runs.append(run)
        write_runs(path, runs, more)
        what = ", ".join(str(each) for each in asdict(cell_of(run)).values() if each is not None)
        sys.stderr.write(f"{what}: {run['accuracy']:.1%} ({run['seconds']:.0f} s)\n")

    if jobs == 1:
        for cell in left:
            keep(measure(cell, more))
        return runs
    # Not forked: torch's threads do not survive it.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting: set[Future[Run]] = {pool.submit(measure, cell, more) for cell in left}
        while waiting:
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for each in finished:
                keep(each.result())
    return runs


# --------------------------------------------------------------------------------------------------------- comparisons


def accuracies(runs: Sequence[Run], *, algorithm: str, forward: str | None, num_labels: int) -> dict[int, float]:
    """Seed -> test accuracy in points of one setting."""
    wanted = {"algorithm": algorithm, "forward": forward, "num_labels": num_labels}
    return {run["seed"]: 100 * run["accuracy"] for run in runs if wanted.items() <= run.items()}


def table(runs: Sequence[Run]) -> str:
    """A Markdown table: each setting's mean, its seeds, and its difference from the joint forward."""
    lines = [
        "| labels | algorithm | forward | mean ± std | difference from joint [95 %] | wins | seeds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    order = {"supervised": 0, "fixmatch": 1, "layermatch": 2}
    settings = {(run["num_labels"], run["algorithm"], run["forward"]) for run in runs}
    for labels, algorithm, forward in sorted(
        settings, key=lambda each: (each[0], order[each[1]], list(FORWARDS).index(each[2]) if each[2] else -1)
    ):
        by_seed = accuracies(runs, algorithm=algorithm, forward=forward, num_labels=labels)
        joint = accuracies(runs, algorithm=algorithm, forward=REFERENCE, num_labels=labels)
        both = sorted(by_seed.keys() & joint.keys()) if forward not in {None, REFERENCE} else []
        gap = paired([by_seed[seed] - joint[seed] for seed in both]) if len(both) > 1 else None
        spread = f" ± {np.std(list(by_seed.values()), ddof=1):.1f}" if len(by_seed) > 1 else ""
        compared = f"{gap} | {gap.wins} of {gap.num_seeds}" if gap else " | "
        each = " ".join(f"{by_seed[seed]:.1f}" for seed in sorted(by_seed))
        mean = np.mean(list(by_seed.values()))
        lines.append(f"| {labels} | {algorithm} | {forward or ''} | {mean:.1f}{spread} | {compared} | {each} |")
    return "\n".join(lines)


def draw(runs: Sequence[Run]) -> Figure:
    """How many pseudo-labels count and how many of these are right, over the run, for each forward."""
    budgets = sorted({run["num_labels"] for run in runs if run["curve"]})
    algorithms = [name for name in ALGORITHMS if any(run["algorithm"] == name for run in runs)]
    figure = Figure(figsize=(4 * len(algorithms), 0.6 + 3.6 * len(budgets)), layout="constrained")
    panels = figure.subplots(2 * len(budgets), len(algorithms), squeeze=False, sharex=True, sharey="row")
    for column, algorithm in enumerate(algorithms):
        for row, (budget, metric) in enumerate((b, m) for b in budgets for m in ("accuracy_accepted", "mask_rate")):
            axis = panels[row, column]
            _draw_curves(axis, [r for r in runs if (r["num_labels"], r["algorithm"]) == (budget, algorithm)], metric)
            axis.set_title(f"{algorithm}, {budget} labels", fontsize=10)
            axis.set_ylabel({"accuracy_accepted": "% right of those that count", "mask_rate": "% that count"}[metric])
    for axis in panels[-1]:
        axis.set_xlabel("step")
    figure.legend(*panels[0, -1].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def _draw_curves(axis: Axes, runs: Sequence[Run], metric: str) -> None:
    for number, forward in enumerate(FORWARDS):
        curves = [run["curve"] for run in runs if run["forward"] == forward and run["curve"]]
        if not curves:
            continue
        # A seed of which no label counted yet has no say.
        each = np.ma.masked_invalid([[np.nan if v is None else 100 * v for v in curve[metric]] for curve in curves])
        mean, steps = each.mean(axis=0), curves[0]["step"]
        axis.plot(steps, mean, color=f"C{number}", label=f"{forward} ({len(curves)} seeds)", linewidth=1.5)
        if len(curves) > 1:
            error = each.std(axis=0, ddof=1) / np.sqrt(each.count(axis=0))
            axis.fill_between(steps, mean - error, mean + error, color=f"C{number}", alpha=0.2, linewidth=0)
    axis.grid(alpha=0.3)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them")
    parser.add_argument("--num-labels", type=int, nargs="+", default=[10, 40], help="labelled images in all")
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=list(ALGORITHMS), metavar="NAME")
    parser.add_argument("--forwards", nargs="+", choices=list(FORWARDS), default=list(ASKED), metavar="NAME")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at once, one thread each")
    parser.add_argument("--out", type=Path, default=Path("docs/forwards.json"), help="results; the figure goes beside")
    parser.add_argument("--set", dest="more", nargs="*", default=[], metavar="KEY=VALUE", help="settings of every run")
    given = parser.parse_args(arguments)
    cells = make_cells(
        seeds=range(given.first_seed, given.first_seed + given.seeds),
        num_labels=given.num_labels,
        algorithms=given.algorithms,
        forwards=given.forwards,
    )
    given.out.parent.mkdir(parents=True, exist_ok=True)
    runs = sweep(cells, given.out, jobs=given.jobs, more=given.more)
    if any(run["curve"] for run in runs):
        draw(runs).savefig(given.out.with_suffix(".png"), dpi=100)
    sys.stdout.write(table(runs) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
