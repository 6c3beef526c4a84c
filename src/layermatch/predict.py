"""``python -m layermatch.predict ckpt_path=FILE input=DIR``: label any images, and go on after a kill."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from layermatch import __version__
from layermatch.cli import plain, run_app
from layermatch.components import check_keys
from layermatch.console import Reporter, table
from layermatch.data.sources.files import unused_text
from layermatch.data.wording import name_text
from layermatch.errors import RunError, StoppedError, UserError, check_bool, check_choice, check_number
from layermatch.evaluate import check_debug
from layermatch.launch import find_launch, take_rank
from layermatch.paths import PATHS, expand
from layermatch.prediction import Computation, Job, Result, compute, list_input, results_of
from layermatch.prediction.gallery import Gallery
from layermatch.prediction.job import GO_ON, told_of_disk
from layermatch.prediction.results import ErrorList, FeatureFile, Table, Writer, check_table, errors_path
from layermatch.prediction.sorting import SortedPictures, check_folder
from layermatch.predictor import WEIGHTS, Predictor, resolve_checkpoint_file
from layermatch.quiet import quiet_libraries
from layermatch.settings import parse_plugins

__all__ = ["Request", "Summary", "UnreadError", "main", "predict"]

#: Classes that are counted on the terminal.
_COUNTED = 12


class UnreadError(RunError):
    """The work is done, but for files that cannot be read: one line, exit status 3."""

    status = 3


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to predict, and what to write; the settings of ``conf/predict.yaml``.

    Args:
        ckpt_path: A checkpoint, or a run directory.
        input: A folder of images, a manifest, a list of files or an image.
        root: The folder that paths are relative to; None is that of the input.
        output: A ``.csv`` or ``.parquet`` file.
        features: A ``.npy`` file for features; None writes none.
        gallery: An ``.html`` file; None writes none.
        gallery_per_class: The most pictures of a class in it, at least 2.
        copy_to: A folder for copies by class; None copies none.
        link_to: A folder for links by class; None links none.
        top_k: The most probable classes in the output, at least 1.
        probabilities: Whether the output has a column for every class.
        threshold: The confidence that a label needs, in ``[0, 1]``.
        weights: ``ema`` or ``live``.
        precision: See :meth:`~layermatch.predictor.Predictor.load`; None computes as the run did.
        batch_size: The images that are computed at a time; None is as in the evaluations of the run.
        num_workers: The number of reading processes of each device; None chooses it.
        device: The kind of device, see :meth:`~layermatch.predictor.Predictor.load`.
        devices: The number of devices.
        plugins: Packages that the checkpoint's settings may name.

    Raises:
        UserError: A value is not legal.
    """

    ckpt_path: Path
    input: Path
    root: Path | None = None
    output: Path = Path("labels.csv")
    features: Path | None = None
    gallery: Path | None = None
    gallery_per_class: int = 24
    copy_to: Path | None = None
    link_to: Path | None = None
    top_k: int = 1
    probabilities: bool = False
    threshold: float = 0
    weights: str = "ema"
    precision: str | None = None
    batch_size: int | None = None
    num_workers: int | None = None
    device: str = "auto"
    devices: int = 1
    plugins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_number("top_k", self.top_k, low=1, integer=True)
        check_bool("probabilities", self.probabilities)
        check_number("threshold", self.threshold, low=0, high=1)
        check_choice("weights", self.weights, WEIGHTS)
        check_number("gallery_per_class", self.gallery_per_class, low=2, integer=True)
        check_number("devices", self.devices, low=1, integer=True)
        if self.batch_size is not None:
            check_number("batch_size", self.batch_size, low=1, integer=True)
        if self.num_workers is not None:
            check_number("num_workers", self.num_workers, low=0, integer=True)
        if self.copy_to is not None and self.link_to is not None:
            raise UserError("copy_to and link_to both say where pictures go: give one of them")
        for name, endings in (("features", (".npy",)), ("gallery", (".html", ".htm"))):
            path = getattr(self, name)
            if path is not None and path.suffix.lower() not in endings:
                raise UserError(f"{name}={path} is not legal: give a file that ends with {endings[0]}")
        check_table(self.output)

    @property
    def targets(self) -> list[Path]:
        """The files that are written."""
        others = (path for path in (self.features, self.gallery) if path is not None)
        return [self.output, errors_path(self.output), *others]


@dataclass
class Summary:
    """What became of the images.

    Attributes:
        images: How many are in the output.
        unread: How many files could not be read.
        labels: How many have each label; the empty one is of those that are not certain enough.
        given: How many a manifest had a label for, and how many of these the network predicts.
        right: See ``given``.
        not_used: What lies below the input and is no image; empty where there is nothing.
        has_changed: Whether the work went on, and the files are others than when it began.
        seconds: How long it took.
        computed: How many images were computed in that time; fewer than all where the work went on.
    """

    images: int
    unread: int
    labels: Counter[str]
    given: int
    right: int
    not_used: str
    has_changed: bool
    seconds: float
    computed: int


def predict(request: Request) -> Summary:
    """Label images.

    Args:
        request: What to predict, and what to write.

    Raises:
        UserError: Something given is not legal, or something to be written is there already.
        RunError: The work was stopped by something: what is done is kept for the same request again.
    """
    take_rank(find_launch(devices=1, num_nodes=1, is_fixed=True))
    started = time.monotonic()
    computation = Computation(
        ckpt_path=resolve_checkpoint_file(request.ckpt_path),
        options={"weights": request.weights, "precision": request.precision, "plugins": request.plugins},
        top_k=request.top_k,
        probabilities=request.probabilities,
        features=request.features is not None,
        num_workers=request.num_workers,
    )
    listing = list_input(request.input, request.root)
    predictor = computation.load(request.device)
    if request.top_k > (count := len(predictor.class_names)):
        raise UserError(
            f"top_k={request.top_k} is not legal: give a whole number, at most {count}, the number of classes"
        )
    chunk_size = request.batch_size or predictor.batch_size
    predictor.batch_size = chunk_size
    job = Job(request.output, identity=_identity(request, predictor), chunk_size=chunk_size)
    with job.held(request.targets):
        if (folder := request.copy_to or request.link_to) is not None:
            setting = "copy_to" if request.copy_to else "link_to"
            check_folder(setting, folder, job=job, source=request.input, targets=request.targets)
        with told_of_disk(job.folder):
            job.list_files(listing)
        left = job.left()
        compute(job, computation, predictor, devices=request.devices)
        summary = _write(request, job, predictor)
        summary.computed = min(len(left) * chunk_size, job.files.count)
        job.remove()
    summary.seconds = time.monotonic() - started
    return summary


def _identity(request: Request, predictor: Predictor) -> dict[str, Any]:
    """Return everything that the bytes of the output depend on."""
    own = ("input", "root", "features", "gallery", "gallery_per_class", "copy_to", "link_to", "top_k", "probabilities")
    given = {name: getattr(request, name) for name in (*own, "threshold", "weights")}
    return {
        **{name: str(value) if isinstance(value, Path) else value for name, value in given.items()},
        "ckpt_path": f"{predictor.checkpoint.path.name} ({predictor.checkpoint.digest})",
        "temperature": predictor.temperature,
        "batch_size": predictor.batch_size,
        "device": predictor.device.type,
        "precision": predictor.precision,
        "layermatch": __version__,
    }


def _write(request: Request, job: Job, predictor: Predictor) -> Summary:
    """Return everything that is asked for; the table comes last to its place."""
    names = predictor.class_names
    with told_of_disk(request.output):
        errors = ErrorList(errors_path(request.output))
        writers: list[Writer] = [errors]
        with ExitStack() as made:
            made.callback(errors.drop)
            for writer in _writers(request, job, predictor):
                made.callback(writer.drop)
                writers.append(writer)
            summary = _summary(job)
            for result in results_of(job, names, threshold=request.threshold):
                for writer in writers:
                    writer.add(result)
                _count(result, summary)
            for writer in writers:
                writer.close(job)
            made.pop_all()
    return summary


def _writers(request: Request, job: Job, predictor: Predictor) -> Iterable[Writer]:
    names = predictor.class_names
    if request.features is not None:
        yield FeatureFile(request.features, width=predictor.network.num_features)
    if (folder := request.copy_to or request.link_to) is not None:
        yield SortedPictures(folder, job=job, class_names=names, links=request.link_to is not None)
    if request.gallery is not None:
        title = f"{request.input} as {predictor.checkpoint.path.name} sees it"
        yield Gallery(
            request.gallery, root=job.root, class_names=names, per_class=request.gallery_per_class, title=title
        )
    yield Table(request.output, class_names=names, top_k=request.top_k, probabilities=request.probabilities)


def _summary(job: Job) -> Summary:
    counts, named = job.unused
    not_used = unused_text(named) if named else ""
    if sum(counts.values()) > len(named):
        not_used += f" ({sum(counts.values()):,} in all)"
    return Summary(0, 0, Counter(), 0, 0, not_used, job.has_changed, 0.0, 0)


def _count(result: Result, summary: Summary) -> None:
    if result.reason:
        summary.unread += 1
        return
    summary.images += 1
    summary.labels[result.label] += 1
    if result.record.label:
        summary.given += 1
        summary.right += result.record.label == result.classes[0]


# ------------------------------------------------------------------------------------------------------ command line


def _request(settings: Mapping[str, Any]) -> Request:
    names = [field.name for field in fields(Request)]
    check_keys("", settings, names)
    for name in names:
        if name not in settings:
            raise UserError(f"{name} is missing: give {name}=VALUE; ~{name} takes it away")
    given: dict[str, Any] = {**settings, "plugins": parse_plugins(settings["plugins"])}
    for name in PATHS.keys() & given.keys():
        needed = name in {"ckpt_path", "input", "output"}
        if given[name] is not None or needed:
            given[name] = expand(name, given[name], PATHS[name])
    return Request(**given)


def _predict(config: DictConfig) -> None:
    settings = plain(config)
    check_debug(HydraConfig.get().runtime.choices.get("debug"))
    request = _request(settings)
    try:
        with quiet_libraries():
            summary = predict(request)
    except KeyboardInterrupt as error:
        raise StoppedError(f"stopped: what is done is kept: {GO_ON}") from error
    _report(request, summary)
    if summary.unread:
        total = summary.images + summary.unread
        raise UnreadError(
            f"{summary.unread:,} of {total:,} files cannot be read: {errors_path(request.output)} has the reasons; the "
            f"others are in {request.output}"
        )


def _report(request: Request, summary: Summary) -> None:
    reporter = Reporter()
    if summary.has_changed:
        reporter.warn(
            f"the files of {request.input} have changed since this work began: {request.output} is of those of then"
        )
    rows = {"images": f"{summary.images:,}"}
    rows |= {name_text(name): f"{count:,}" for name, count in summary.labels.most_common(_COUNTED) if name}
    if len(summary.labels) > _COUNTED:
        rows["other classes"] = f"{sum(count for _, count in summary.labels.most_common()[_COUNTED:]):,}"
    if summary.labels[""]:
        rows["without a label"] = f"{summary.labels['']:,}, confidence below {request.threshold:g}"
    if summary.given:
        rows["labels of the manifest"] = f"{summary.given:,}, predicted {summary.right / summary.given:.4%}"
    if summary.not_used:
        rows["not used"] = summary.not_used
    rows["time"] = f"{summary.seconds:.1f} s, {summary.computed / max(summary.seconds, 1e-9):,.0f} images/s"
    reporter.show(table(f"Written to {request.output}", rows))


def main() -> None:
    """Start the command."""
    run_app(_predict, "predict")


if __name__ == "__main__":
    main()
