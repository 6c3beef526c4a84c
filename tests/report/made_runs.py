"""Run directories in the form that a run writes them, made in a moment: the real composed configuration, the real
logger and table of the plan, figures that are made up."""

from __future__ import annotations

import copy
import csv
import io
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hydra import compose, initialize_config_dir
from matplotlib.figure import Figure

from layermatch import loggers
from layermatch.cli import config_dir, plain
from layermatch.console import Reporter, table
from layermatch.runs.plan import write_plan

DIGITS = tuple(str(number) for number in range(10))
PLAN = {
    "images": "8x8, 1 channel, 10 classes",
    "validation": "200, held out of the training pool (their labels are used for evaluation only), and so on " * 2,
    "device": "1 x CPU, 1 thread, bf16-mixed, channels last",
}


@cache
def _composed(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return plain(compose("run", overrides=["run_dir=run", *overrides]))


def settings_of(*overrides: str, seed: int = 0, run_dir: Path = Path("run")) -> dict[str, Any]:
    return copy.deepcopy(_composed(*overrides)) | {"seed": seed, "run_dir": str(run_dir)}


def write_metrics(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Rows with a ``step`` each, through the logger of a run."""
    (logger,) = loggers.csv(run_dir=path, first_step=0)
    for row in rows:
        logger.log_metrics({name: value for name, value in row.items() if name != "step"}, step=int(row["step"]))


def rows_of(
    accuracy: float, *, steps: Sequence[int] = (10, 20, 30), classes: Sequence[str] = ()
) -> list[dict[str, float]]:
    """Log lines of a run that reaches an accuracy."""
    rows: list[dict[str, float]] = []
    for step in steps:
        share = step / steps[-1]
        rows.append(
            {
                "step": step,
                "loss/features": 2 - share,
                "loss/classifier": 1 / step,
                "pseudo_labels/mask_rate": 0.5 * share,
                "pseudo_labels/accuracy_accepted": 0.9,
                "pseudo_labels/accuracy": 0.7,
                "pseudo_labels/entropy": 1 - 0.9 * share,
                "layers/stem/cosine": 0.5 - share,
                "layers/block1/cosine": -0.2,
                "features/nc1": 3 - share,
                "time/network": 0.1,
                "time/data": 0.1,
                **{f"pseudo_labels/per_class_counts/{name}": 1.0 + place for place, name in enumerate(classes)},
            }
        )
        rows.append({"step": step, "val/accuracy": accuracy * share, "val/accuracy_ema": accuracy * share})
    return rows


def png() -> bytes:
    file = io.BytesIO()
    figure = Figure(figsize=(1, 1))
    figure.text(0.5, 0.5, "8")
    figure.savefig(file, dpi=20)
    return file.getvalue()


def results_of(
    settings: Mapping[str, Any], accuracy: float, *, steps: int, classes: Sequence[str] | None
) -> dict[str, Any]:
    results: dict[str, Any] = {
        "algorithm": settings["algorithm"]["name"],
        "experiment": settings["name"],
        "seed": settings["seed"],
        "num_labels": 40,
        "steps": steps,
        "test": {"accuracy": accuracy - 0.01, "accuracy_ema": accuracy, "selection": "last step"},
        "val": {"accuracy": accuracy, "accuracy_ema": accuracy, "median_accuracy_ema": accuracy, "num_evaluations": 3},
        "pseudo_labels": {"mask_rate": 0.5, "accuracy_accepted": 0.9},
        "seconds": 12.5,
        "versions": {"python": "3.11.7", "layermatch": "0.1.0"},
    }
    if classes is not None:
        right = round(100 * accuracy)
        counts = np.diag(np.full(len(classes), right))
        counts[np.arange(len(classes)), (np.arange(len(classes)) + 1) % len(classes)] = 100 - right
        results |= {"classes": list(classes), "confusion": counts.tolist(), "status": "finished"}
    return results


def make_run(
    path: Path,
    *overrides: str,
    seed: int = 0,
    accuracy: float = 0.9,
    steps: Sequence[int] = (10, 20, 30),
    classes: Sequence[str] | None = DIGITS,
    labelled: Sequence[int] = (1, 2, 3),
    is_finished: bool = True,
) -> Path:
    """A run directory; without classes there is no test set that they are known of."""
    settings = settings_of(f"trainer.max_steps={steps[-1]}", *overrides, seed=seed, run_dir=path)
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    (path / "split.json").write_text(json.dumps({"labelled": list(labelled), "validation": []}))
    reporter = Reporter(path / "run.log")
    reporter.log("layermatch 0.1.0")
    reporter.log(table("Plan", PLAN))
    write_plan(path, PLAN)
    reporter.log("step 10/30  ETA 0:00:02")
    reporter.close()
    write_metrics(path, rows_of(accuracy, steps=steps, classes=classes or ()))
    if not is_finished:
        return path
    if classes is not None:
        (path / "figures").mkdir()
        (path / "figures" / "mistakes.png").write_bytes(png())
        with (path / "predictions.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("index", "label", "prediction", "confidence"))
            writer.writerows([(0, 0, 0, 0.99), (1, 1, 0, 0.8), (2, 0, 1, 0.95), (3, -1, 1, 0.9)])
    results = results_of(settings, accuracy, steps=steps[-1], classes=classes)
    (path / "results.json").write_text(json.dumps(results, indent=2))
    return path
