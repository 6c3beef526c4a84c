"""``python -m layermatch.select RUN_DIR ...``: choose among runs without a label, by what they make of the pool."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from layermatch.arguments import OneLineParser, start_command
from layermatch.console import table
from layermatch.errors import UserError, check_number
from layermatch.paths import argument_path
from layermatch.runs.search import read_entries
from layermatch.text import printable

if TYPE_CHECKING:
    from layermatch.data import SemiSupervisedData
    from layermatch.predictor import Predictor

__all__ = ["MEASURES", "Measured", "main", "measure_run", "measures_of", "select"]

#: The measures, of each of which more is better, and what stands above their columns.
MEASURES: Mapping[str, str] = {
    "rankme": "RankMe",
    "ami": "AMI",
    "ari": "ARI",
    "v_measure": "V",
    "fmi": "FMI",
    "calinski_harabasz": "CH",
    "bnm": "BNM",
}

#: The starts of k-means, of which the best is taken, and the images that are looked at unless more are asked for.
KMEANS_STARTS, MAX_IMAGES = 10, 10_000

#: The status of a command that chose among the runs that it could measure, and had to leave others out.
LEFT_OUT = 1


@dataclass(frozen=True)
class Measured:
    """A run, and how good its features and predictions look without a label.

    Args:
        path: The run directory or the checkpoint.
        checkpoint: The checkpoint that was measured.
        scores: A value for each of :data:`MEASURES`; NaN where it has none.
        classes: The names of the classes.
        num_images: The images of the pool that were looked at.
        pool: What tells pools apart: the number of images, and which of the data set's they are.
    """

    path: Path
    checkpoint: Path
    scores: Mapping[str, float]
    classes: tuple[str, ...]
    num_images: int
    pool: tuple[int, int]


def measures_of(
    features: NDArray[np.floating[Any]], probs: NDArray[np.floating[Any]], *, seed: int = 0
) -> dict[str, float]:
    """Return the measures of features and predictions.

    Features are scaled to length 1. They are divided into K clusters by k-means; AMI, ARI, V-measure and FMI say how
    well the predicted classes agree with the clusters, Calinski-Harabasz how well the clusters stand apart. RankMe is
    :func:`~layermatch.functional.label_free.smooth_rank`, BNM
    :func:`~layermatch.functional.label_free.nuclear_norm_per_image`.

    Source: V-PET (Zhang et al. 2025, arXiv 2503.09707) and its code; the measures of clusters are scikit-learn's.

    Args:
        features: ``(N, D)``; N is at least K.
        probs: ``(N, K)``, rows sum to 1.
        seed: The seed of k-means.

    Returns:
        A value for each of :data:`MEASURES`; NaN where it is not defined, as Calinski-Harabasz is not for one cluster.

    Raises:
        UserError: There are fewer images than classes, or a feature or probability is not finite.
    """
    import torch
    from sklearn import metrics
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    from layermatch.functional.label_free import nuclear_norm_per_image, smooth_rank

    features, probs = np.asarray(features, np.float64), np.asarray(probs, np.float64)
    num_images, num_classes = probs.shape
    if num_images < num_classes:
        raise UserError(f"there are {num_images} images for {num_classes} classes: clusters need as many")
    if not (np.isfinite(features).all() and np.isfinite(probs).all()):
        raise UserError("its features or predictions are not finite")
    scaled = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    predicted = probs.argmax(axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of points that are the same, and so make fewer clusters
        clusters = KMeans(num_classes, n_init=KMEANS_STARTS, random_state=seed).fit_predict(scaled)
    stand_apart = 2 <= len(np.unique(clusters)) < num_images
    return {
        "rankme": float(smooth_rank(torch.from_numpy(scaled))),
        "ami": float(metrics.adjusted_mutual_info_score(predicted, clusters)),
        "ari": float(metrics.adjusted_rand_score(predicted, clusters)),
        "v_measure": float(metrics.v_measure_score(predicted, clusters)),
        "fmi": float(metrics.fowlkes_mallows_score(predicted, clusters)),
        "calinski_harabasz": float(metrics.calinski_harabasz_score(scaled, clusters)) if stand_apart else float("nan"),
        "bnm": float(nuclear_norm_per_image(torch.from_numpy(probs))),
    }


def measure_run(
    path: Path,
    *,
    weights: str = "ema",
    max_images: int = MAX_IMAGES,
    seed: int = 0,
    device: str = "auto",
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    plugins: tuple[str, ...] = (),
) -> Measured:
    """Measure the checkpoint of a run on its own unlabelled pool. No label and no test image is read for it.

    Args:
        path: A run directory, of which the checkpoint is taken that the run reports, or a checkpoint.
        weights: ``ema``, the average of the weights, or ``live``.
        max_images: The most images that are looked at, evenly spread over the pool; 0 looks at all.
        seed: The seed of k-means.
        device: See :meth:`~layermatch.Predictor.load`.
        overrides: Section -> key -> value, in the place of the run's own settings, for example where the data lie.
        plugins: Packages that the run's settings may name, beside this one and ``torch.optim``.

    Raises:
        UserError: The checkpoint or its data cannot be read, or they have no measures.
    """
    from layermatch.predictor import Predictor

    predictor = Predictor.load(path, device=device, weights=weights, temperature=1.0, plugins=plugins)
    data = _data_of(predictor, overrides or {}, plugins)
    rows = _spread(len(data.unlabelled), max_images)
    features, probs = _look(predictor, data, rows)
    return Measured(
        path=path,
        checkpoint=predictor.checkpoint.path,
        scores=measures_of(features, probs, seed=seed),
        classes=tuple(predictor.class_names),
        num_images=len(rows),
        pool=(len(data.unlabelled), hash(data.split.in_pool.tobytes())),
    )


def _data_of(
    predictor: Predictor, overrides: Mapping[str, Mapping[str, Any]], plugins: tuple[str, ...]
) -> SemiSupervisedData:
    """Return the data of a run, with the pool that it had."""
    from layermatch.build import build_data, build_device
    from layermatch.data import Split, Views
    from layermatch.evaluate import settings_of_run
    from layermatch.rebuilding import left_to_weights
    from layermatch.settings import Settings

    trained = predictor.checkpoint
    if trained.settings is None or trained.split is None:
        raise UserError(f"{trained.path} is of a script, which does not say where its images are")
    raw = settings_of_run(trained.settings, overrides, plugins)
    recipe = {"mean": predictor.mean, "std": predictor.std, "image_shape": predictor.image_shape}
    settings = Settings.parse({**raw, "data": {**raw["data"], **left_to_weights(raw["data"], recipe)}})
    split = Split.of_plain(trained.split, origin=f"ckpt_path={trained.path}")
    views = Views(unlabelled={"weak": "weak"})
    with settings.data.named_in_errors():
        data = build_data(settings, device=build_device(settings), views=views, split=split)
        data.setup()
    return data


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """Return rows that are evenly spread, as a set may be sorted by class."""
    if not most or count <= most:
        return np.arange(count)
    return np.linspace(0, count - 1, most).round().astype(np.int64)


def _look(
    predictor: Predictor, data: SemiSupervisedData, rows: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the features and the probabilities of some images of the pool."""
    import torch

    found = []
    for first in range(0, len(rows), predictor.batch_size):
        images = data.unlabelled.images.read(rows[first : first + predictor.batch_size])
        found.append(predictor(torch.from_numpy(images)))
    return (
        torch.cat([part.features for part in found]).numpy(),
        torch.cat([part.probabilities for part in found]).numpy(),
    )


# ------------------------------------------------------------------------------------------------------ command line


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="python -m layermatch.select",
        description="Choose among runs without a label: by RankMe, agreement of predictions with clusters, and others.",
        epilog="more is better in every column, less in the last; status 1: some runs were left out",
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN_DIR",
        help="directory of a run, folder with runs in it, pattern, or .ckpt file",
    )
    parser.add_argument(
        "--where", action="append", default=[], metavar="CONDITION", help="only runs for which it holds"
    )
    parser.add_argument("--weights", choices=("ema", "live"), default="ema", help="the weights (%(default)s)")
    parser.add_argument(
        "--images", type=int, default=MAX_IMAGES, metavar="N", help="images of the pool that are looked at; 0: all"
    )
    parser.add_argument("--seed", type=int, default=0, help="of k-means (%(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (%(default)s)")
    parser.add_argument("--root", type=argument_path, metavar="FOLDER", help="where the data lie now (data.root)")
    parser.add_argument(
        "--plugins", action="append", default=[], metavar="PACKAGE", help="package that the runs' settings may name"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON, for scripts")
    return parser


def select(arguments: Sequence[str] | None, console: Console) -> None:
    """Measure the runs, and print them, the chosen one first.

    Args:
        arguments: The arguments of the command line; None takes the process's.
        console: The console that prints.

    Raises:
        UserError: An argument is not legal, or no run can be measured.
        SystemExit: Some runs were left out; the status is 1.
    """
    from layermatch.data.loader import loader_errors
    from layermatch.quiet import quiet_libraries
    from layermatch.settings import parse_plugins

    given = _parser().parse_args(arguments)
    check_number("--images", given.images, low=0, integer=True)
    check_number("--seed", given.seed, low=0, high=2**32 - 1, integer=True)
    paths, plugins = _paths(given), parse_plugins(given.plugins)
    overrides = {} if given.root is None else {"data": {"root": str(given.root)}}

    def measure(path: Path) -> Measured:
        return measure_run(
            path,
            weights=given.weights,
            max_images=given.images,
            seed=given.seed,
            device=given.device,
            overrides=overrides,
            plugins=plugins,
        )

    with quiet_libraries(), loader_errors():
        measured, left_out = _measured(paths, measure)
    _check_classes(measured)
    ranks = _ranks(measured)
    order = sorted(range(len(measured)), key=lambda i: (ranks[i], i))
    show = _show_json if given.json else _show_table
    show([measured[i] for i in order], [float(ranks[i]) for i in order], console)
    if left_out:
        sys.exit(LEFT_OUT)


def _paths(given: argparse.Namespace) -> list[Path]:
    """Return every run directory and checkpoint once."""
    named: list[Path] = []
    for text in given.runs:
        path = argument_path(text)
        named += _fitting(path) or [path]
    files = [path for path in named if path.suffix == ".ckpt"]
    folders = [path for path in named if path.suffix != ".ckpt"]
    found = [entry.path for entry in read_entries(folders, given.where)]
    if not found and not files:
        which = " for which all conditions hold" if given.where else ""
        raise UserError(f"no run{which} in {', '.join(map(printable, folders))}")
    return [*found, *files]


def _fitting(path: Path) -> list[Path]:
    """Return what fits a pattern: the shell has replaced it already, but where it is quoted."""
    if path.exists() or not set("*?[") & set(str(path)):
        return []
    return sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))


def _measured(paths: Sequence[Path], measure: Callable[[Path], Measured]) -> tuple[list[Measured], int]:
    """Return the runs that can be measured, and how many cannot, each of which is told of on standard error."""
    measured, reasons = [], []
    for path in paths:
        try:
            measured.append(measure(path))
        except UserError as error:
            reasons.append(f"{printable(path)}: {printable(error)}")
    if not measured:
        raise UserError(f"no run can be measured: {reasons[0]}")
    for reason in reasons:
        sys.stderr.write(f"left out: {reason}\n")
    if len({one.pool for one in measured}) > 1:
        sys.stderr.write("warning: the runs have different pools, and each is measured on its own\n")
    return measured, len(reasons)


def _check_classes(measured: Sequence[Measured]) -> None:
    first = measured[0]
    for other in measured[1:]:
        if other.classes != first.classes:
            raise UserError(
                f"{printable(first.path)} and {printable(other.path)} tell other classes apart: give runs on the same "
                f"classes"
            )


def _ranks(measured: Sequence[Measured]) -> NDArray[np.float64]:
    from layermatch.functional.label_free import mean_squared_ranks

    return mean_squared_ranks(np.array([[one.scores[name] for name in MEASURES] for one in measured]))


def _show_table(measured: Sequence[Measured], ranks: Sequence[float], console: Console) -> None:
    rows = [
        (str(one.path), *(f"{one.scores[name]:.4g}" for name in MEASURES), f"{rank:.2f}")
        for one, rank in zip(measured, ranks, strict=True)
    ]
    header = ("run", *MEASURES.values(), "mean squared rank")
    console.print(table(f"{measured[0].num_images:,} images of the pool, no label", rows, header=header))
    chosen = f"chosen: {printable(measured[0].path)}"
    console.print(chosen, markup=False, highlight=False, soft_wrap=True)


def _show_json(measured: Sequence[Measured], ranks: Sequence[float], console: Console) -> None:
    runs = [
        {
            "run": str(one.path),
            "checkpoint": str(one.checkpoint),
            "num_images": one.num_images,
            "mean_squared_rank": rank,
            # JSON has no NaN.
            "scores": {name: value if np.isfinite(value) else None for name, value in one.scores.items()},
        }
        for one, rank in zip(measured, ranks, strict=True)
    ]
    text = json.dumps({"chosen": runs[0]["run"], "runs": runs}, indent=2)
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; a mistake of the user is one line on standard error and status 2.

    Args:
        arguments: The arguments of the command line; None takes the process's.
    """
    start_command(select, arguments)


if __name__ == "__main__":
    main()
