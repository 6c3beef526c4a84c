"""The catalogue of metrics: every name that a run logs, once, with all that is said of it anywhere.

Figures, report, watch, progress line, warnings, ``results.json`` and dashboards look here. A name with a star is a
family: ``loss/*`` stands for every part of the loss, whatever a method calls it, and what is not in the catalogue at
all is shown under its own name. So a method logs something new without an edit here. Where it wants better words, or
a place in the figures, it says so beside its equations::

    class Entropy(PseudoLabelling):
        metrics = (Metric("bank/age", VALUE, "Age of the memory bank, in steps", panel=Panel("bank", "Age")),)

Nothing is registered: the tuple is an attribute of the algorithm, of its policy or of its rule, and travels with the
run as ``metrics.json``. This module imports no torch.
"""

from __future__ import annotations

import sys
from typing import Any

from layermatch.catalogue import (
    ACCURACY,
    COSINE,
    COUNT,
    END,
    ENTROPY,
    EVALUATION,
    KINDS,
    LOSS,
    MEMORY,
    NOW,
    PICTURE,
    RATE,
    RATIO,
    SHARE,
    SIZE,
    TIME,
    VALUE,
    Catalogue,
    Kind,
    Metric,
    Panel,
    Place,
    Section,
)
from layermatch.errors import UserError

__all__ = [
    "ACCURACY", "CATALOGUE", "COSINE", "COUNT", "ENTROPY", "LOSS", "MEMORY", "PICTURE", "RATE", "SHARE", "SIZE", "TIME",
    "VALUE", "Catalogue", "Kind", "Metric", "Panel", "Place", "Section", "accuracies", "macro_accuracies",
    "of_all_images", "own_metrics",
]  # fmt: skip

GROUP_LOSSES = Panel("curves", "Loss of each layer group")
LOSS_PARTS = Panel("curves", "Its parts")
VALIDATION = Panel("curves", "Validation accuracy")
COUNTING = Panel("pseudo_labels", "Share of pseudo-labels that count")
RIGHT = Panel("pseudo_labels", "Share of pseudo-labels that are right")
BY_CLASS = Panel("pseudo_labels", "Accepted per step, by class")
SUPERVISED_NORM = Panel("layers", "Norm of the supervised gradient")
PSEUDO_NORM = Panel("layers", "Norm of the pseudo-label gradient")
ANGLE = Panel("layers", "Cosine between the two")
SCATTER = Panel("features", "Scatter of features")
COLLAPSE = Panel("features", "Neural collapse (0: collapsed)")
NEAREST = Panel("features", "Nearest class centre is right")
MOVEMENT = Panel("features", "Change of centres per log line")

WATCHED = (Place.RESULTS, Place.WATCH)
REPORTED = (Place.RESULTS, Place.TABLE, Place.WATCH)


def _loss(name: str, title: str, *, label: str = "", short: str = "", panel: Panel = LOSS_PARTS) -> Metric:
    return Metric(
        f"loss/{name}",
        LOSS,
        title,
        label=label,
        short=short,
        part="part" if name == "*" else "",
        section=Section.LOSSES,
        panel=panel,
        places=WATCHED,
    )


LOSS_FEATURES = _loss("features", "Loss of the extractor", label="extractor", short="L_feat", panel=GROUP_LOSSES)
LOSS_CLASSIFIER = _loss("classifier", "Loss of the classifier", label="classifier", short="L_cls", panel=GROUP_LOSSES)
LOSS_SUPERVISED = _loss("supervised", "Supervised part", label="supervised")
LOSS_PSEUDO = _loss("pseudo", "Pseudo-label part", label="pseudo-label")
LOSS_AVG_CLUSTERING = _loss("avg_clustering", "Avg-Clustering part", label="Avg-Clustering")
LOSS_SUPERVISED_HEAD = _loss("supervised_pseudo_head", "Supervised, second head", label="supervised, 2nd head")
LOSS_PSEUDO_HEAD = _loss("pseudo_pseudo_head", "Pseudo-label, second head", label="pseudo-label, 2nd head")
LOSS_PART = _loss("*", "* part")

MASK_RATE = Metric(
    "pseudo_labels/mask_rate",
    SHARE,
    "Pseudo-labels that count (mask rate)",
    "the mean weight of the pseudo-labels",
    label="mask rate",
    row="Pseudo-labels that count",
    short="mask",
    section=Section.QUALITY,
    panel=COUNTING,
    places=REPORTED,
)
ACCURACY_ACCEPTED = Metric(
    "pseudo_labels/accuracy_accepted",
    SHARE,
    "Accuracy of those that count",
    "how many of the pseudo-labels that count are right, where the truth is known and the image is not a labelled one",
    label="of those that count",
    row="Of those, right",
    short="right",
    over_interval=RATIO,
    section=Section.QUALITY,
    panel=RIGHT,
    places=REPORTED,
)
PSEUDO_ACCURACY = Metric(
    "pseudo_labels/accuracy",
    SHARE,
    "Accuracy of all pseudo-labels",
    "how many of all pseudo-labels are right, where the truth is known and the image is not a labelled one",
    label="of all",
    row="Of all, right",
    over_interval=RATIO,
    section=Section.QUALITY,
    panel=RIGHT,
    places=WATCHED,
)
PSEUDO_ENTROPY = Metric(
    "pseudo_labels/entropy",
    ENTROPY,
    "Entropy",
    "how undecided the network is about the weak views",
    section=Section.QUALITY,
    places=(Place.RESULTS,),
)
CONFIDENCE = Metric(
    "pseudo_labels/confidence",
    SHARE,
    "Confidence",
    "how sure the network is of the pseudo-labels: their mean probability",
    label="mean confidence",
    section=Section.QUALITY,
    panel=COUNTING,
)
CLASS_COUNTS = Metric(
    "pseudo_labels/per_class_counts/*",
    COUNT,
    "Pseudo-labels per step that count, by class, at the last log line",
    "how many pseudo-labels of the class count in an optimizer step, of all processes",
    part="class",
    section=Section.CLASSES,
    panel=BY_CLASS,
    places=(Place.WATCH,),
)
THRESHOLDS = Metric(
    "pseudo_labels/thresholds/*",
    VALUE,
    "Threshold by class, at the last log line",
    "the confidence that a pseudo-label of the class needs to count",
    part="class",
    over_interval=NOW,
    section=Section.CLASSES,
)

VAL_ACCURACY_EMA = Metric(
    "val/accuracy_ema",
    ACCURACY,
    "Validation accuracy, EMA weights",
    label="EMA weights",
    row="Validation, EMA weights",
    short="ema",
    over_interval=EVALUATION,
    section=Section.ACCURACY,
    panel=VALIDATION,
    places=REPORTED,
)
VAL_ACCURACY = Metric(
    "val/accuracy",
    ACCURACY,
    "Validation accuracy, live weights",
    label="live weights",
    row="Validation, live weights",
    short="val",
    over_interval=EVALUATION,
    section=Section.ACCURACY,
    panel=VALIDATION,
    places=REPORTED,
)
VAL_MEDIAN_EMA = Metric(
    "val/median_accuracy_ema",
    SHARE,
    "Validation accuracy, EMA weights, median of the last 20 evaluations",
    label="EMA weights",
    row="Validation, EMA, median",
    over_interval=END,
    section=Section.NONE,
    places=(Place.RESULTS, Place.TABLE),
)
VAL_MEDIAN = Metric(
    "val/median_accuracy",
    SHARE,
    "Validation accuracy, live weights, median of the last 20 evaluations",
    label="live weights",
    over_interval=END,
    section=Section.NONE,
    places=(Place.RESULTS,),
)
VAL_MACRO_EMA = Metric(
    "val/macro_accuracy_ema",
    SHARE,
    "Validation accuracy, EMA weights, mean of the classes",
    "the mean over the classes of the share of their images that are recognised",
    label="EMA weights",
    row="Validation, EMA, classes",
    over_interval=END,
    section=Section.NONE,
    places=(Place.RESULTS, Place.TABLE),
)
VAL_MACRO = Metric(
    "val/macro_accuracy",
    SHARE,
    "Validation accuracy, live weights, mean of the classes",
    label="live weights",
    over_interval=END,
    section=Section.NONE,
    places=(Place.RESULTS,),
)
TEST_ACCURACY_EMA = Metric(
    "test/accuracy_ema",
    SHARE,
    "Test accuracy, EMA weights",
    label="EMA weights",
    row="Test, EMA weights",
    over_interval=EVALUATION,
    section=Section.NONE,
    places=REPORTED,
)
TEST_ACCURACY = Metric(
    "test/accuracy",
    SHARE,
    "Test accuracy, live weights",
    label="live weights",
    row="Test, live weights",
    over_interval=EVALUATION,
    section=Section.NONE,
    places=REPORTED,
)
TEST_MACRO_EMA = Metric(
    "test/macro_accuracy_ema",
    SHARE,
    "Test accuracy, EMA weights, mean of the classes",
    "the mean over the classes of the share of their images that are recognised",
    label="EMA weights",
    row="Test, EMA, classes",
    over_interval=END,
    section=Section.NONE,
    places=(Place.RESULTS, Place.TABLE),
)
TEST_MACRO = Metric(
    "test/macro_accuracy",
    SHARE,
    "Test accuracy, live weights, mean of the classes",
    label="live weights",
    over_interval=END,
    section=Section.NONE,
    places=(Place.RESULTS,),
)

LEARNING_RATE = Metric("lr", RATE, "Learning rate", over_interval=NOW)
STEPS_NOT_APPLIED = Metric(
    "steps_not_applied",
    COUNT,
    "Steps that were not applied",
    "how many steps so far had a loss or gradient that is not finite; logged from the first one on",
    over_interval=NOW,
)
LOSS_GAP = Metric(
    "avg_clustering/loss_gap",
    VALUE,
    "Avg-Clustering's loss: distance from the pseudo-label loss",
    "how far the two losses are apart, as a share of the pseudo-label loss",
    over_interval=RATIO,
)
GRADIENT_GAP = Metric(
    "avg_clustering/gradient_gap",
    VALUE,
    "Avg-Clustering's gradient: distance from the pseudo-label gradient",
    "how far the two gradients at the features are apart, as a share of the pseudo-label gradient's length",
    over_interval=RATIO,
)

NORM_SUPERVISED = Metric(
    "layers/*/grad_norm_supervised",
    SIZE,
    "Norm of the supervised gradient, *",
    "how strongly labels pull the layer",
    part="layer",
    section=Section.NONE,
    panel=SUPERVISED_NORM,
)
NORM_PSEUDO = Metric(
    "layers/*/grad_norm_pseudo",
    SIZE,
    "Norm of the pseudo-label gradient, *",
    "how strongly pseudo-labels pull the layer, as the rule lets them",
    part="layer",
    section=Section.NONE,
    panel=PSEUDO_NORM,
)
LAYER_COSINE = Metric(
    "layers/*/cosine",
    COSINE,
    "Cosine of the two gradients, *",
    "whether labels and pseudo-labels pull the layer the same way: below 0 the two work against each other",
    part="layer",
    section=Section.LAYERS,
    panel=ANGLE,
)

WITHIN = Metric(
    "features/within",
    SIZE,
    "Scatter of features within classes",
    label="within classes",
    over_interval=EVALUATION,
    panel=SCATTER,
)
BETWEEN = Metric(
    "features/between",
    SIZE,
    "Scatter of features between classes",
    label="between them",
    over_interval=EVALUATION,
    panel=SCATTER,
)
NC1 = Metric(
    "features/nc1",
    SIZE,
    "Neural collapse, NC1",
    "the scatter within classes in units of that between them; 0: collapsed",
    label="NC1",
    over_interval=EVALUATION,
    panel=COLLAPSE,
)
NEAREST_CENTRE = Metric(
    "features/nearest_centre_accuracy",
    SHARE,
    "Accuracy of the nearest class centre",
    label="accuracy",
    over_interval=EVALUATION,
    panel=NEAREST,
)
DRIFT = Metric(
    "centres/drift",
    SIZE,
    "Change of centres per log line",
    "how far the rule's centres, else the classifier's rows, moved since the last line, as a share of their length",
    label="relative change",
    over_interval=NOW,
    panel=MOVEMENT,
)

PHASE_TIME = Metric(
    "time/*",
    TIME,
    "Time of a step: *, s",
    "what goes into `data`, `augment`, `network` and `other`; together the time that passed",
    part="phase",
)
MEMORY_USE = Metric(
    "memory/*",
    MEMORY,
    "Memory of the *, GiB",
    "what the `process` has in memory, and what PyTorch holds of the GPU (`device`)",
    part="place",
    over_interval=NOW,
)

# What only dashboards are sent.
OBJECTIVE = Metric(
    "objective",
    SHARE,
    "What a sweep maximises: validation accuracy, EMA weights",
    over_interval=END,
    section=Section.NONE,
)
SHOWN_PAIRS = Metric(
    "panels/pseudo_labels", PICTURE, "Weak and strong views, and the pseudo-labels between them", section=Section.NONE
)
FIGURE = Metric("figures/*", PICTURE, "The pictures in the run directory, and each class's accuracy", part="picture")
CONFUSION = Metric("test/confusion", PICTURE, "Confusion matrix of the test set, EMA weights", section=Section.NONE)
CLASS_ACCURACY = Metric("test/per_class", PICTURE, "Test accuracy of each class", section=Section.NONE)

#: Losses first, as displays show them in this order; of two sets of weights first those that are reported.
CATALOGUE = Catalogue(
    (
        LOSS_FEATURES, LOSS_CLASSIFIER, LOSS_SUPERVISED, LOSS_PSEUDO, LOSS_AVG_CLUSTERING, LOSS_SUPERVISED_HEAD,
        LOSS_PSEUDO_HEAD, LOSS_PART,
        MASK_RATE, ACCURACY_ACCEPTED, PSEUDO_ACCURACY, PSEUDO_ENTROPY, CONFIDENCE, CLASS_COUNTS, THRESHOLDS,
        VAL_ACCURACY_EMA, VAL_ACCURACY, VAL_MEDIAN_EMA, VAL_MEDIAN, VAL_MACRO_EMA, VAL_MACRO,
        TEST_ACCURACY_EMA, TEST_ACCURACY, TEST_MACRO_EMA, TEST_MACRO,
        LEARNING_RATE, STEPS_NOT_APPLIED, LOSS_GAP, GRADIENT_GAP,
        NORM_SUPERVISED, NORM_PSEUDO, LAYER_COSINE,
        WITHIN, BETWEEN, NC1, NEAREST_CENTRE, DRIFT,
        PHASE_TIME, MEMORY_USE,
        OBJECTIVE, SHOWN_PAIRS, FIGURE, CONFUSION, CLASS_ACCURACY,
    )
)  # fmt: skip

#: Weights that are evaluated -> their accuracy on a set of images.
_ACCURACIES = {
    "val": {"live": VAL_ACCURACY, "ema": VAL_ACCURACY_EMA},
    "test": {"live": TEST_ACCURACY, "ema": TEST_ACCURACY_EMA},
}

#: The same, as means over the classes.
_MACRO_ACCURACIES = {
    "val": {"live": VAL_MACRO, "ema": VAL_MACRO_EMA},
    "test": {"live": TEST_MACRO, "ema": TEST_MACRO_EMA},
}


def accuracies(split: str) -> dict[str, Metric]:
    """Return the weights, ``live`` or ``ema``, and their accuracy.

    Args:
        split: The images: ``val`` or ``test``.
    """
    return _ACCURACIES[split]


def macro_accuracies(split: str) -> dict[str, Metric]:
    """Return the weights, ``live`` or ``ema``, and the mean over the classes of their accuracies.

    Args:
        split: The images: ``val`` or ``test``.
    """
    return _MACRO_ACCURACIES[split]


def of_all_images(metric: Metric) -> Metric | None:
    """Return the accuracy over all images that a mean over the classes stands beside; None for another metric.

    Example:
        >>> of_all_images(TEST_MACRO_EMA).name, of_all_images(TEST_ACCURACY)
        ('test/accuracy_ema', None)
    """
    pairs = {
        macro.name: _ACCURACIES[split][weights]
        for split, macros in _MACRO_ACCURACIES.items()
        for weights, macro in macros.items()
    }
    return pairs.get(metric.name)


# ------------------------------------------------------------------------------------------------ metrics of a method


def own_metrics(algorithm: Any) -> tuple[Metric, ...]:
    """Return the metrics that an algorithm adds, and its policy and rule: ``metrics`` of every module in it.

    Args:
        algorithm: A module with others in it.

    Raises:
        UserError: One of them cannot be shown, or has a name that is taken.
    """
    own: dict[str, Metric] = {}
    for module in algorithm.modules():
        added = getattr(module, "metrics", ())
        for metric in added if isinstance(added, tuple) else ():
            if isinstance(metric, Metric):
                where = f"{type(module).__name__}.metrics: {metric.name!r}"
                try:
                    _check(metric)
                except ValueError as error:
                    raise UserError(f"{where}: {error}") from error
                if own.setdefault(metric.name, metric) != metric:
                    raise UserError(f"{where} is there twice with different words: give one of the two another name")
    return tuple(own.values())


def _check(metric: Metric) -> None:
    if not all(metric.path) or len(metric.path) < 2 or metric.name.count("*") > 1:
        raise ValueError("give a name of two parts with at most one star, GROUP/NAME")
    if not metric.title:
        raise ValueError("give a title")
    if KINDS.get(metric.kind.name) != metric.kind:
        raise ValueError(f"kind {metric.kind.name} is not legal: choose one of {', '.join(KINDS)}")
    if any(metric.name == other.name for other in CATALOGUE.metrics):
        raise ValueError("the name is taken: give another one")


# --------------------------------------------------------------------------------------------------------------- page

_HEAD = """# Metrics

Every logger gets the same values; training is the same to the bit whether they are looked at or not. Over the seeds of
a setting, the report shows mean ± standard deviation (n - 1) and n: shares in per cent, their differences in percentage
points. `python -m layermatch.metrics` prints this page.
"""

_FOOT = """
A `*` stands for what only the run knows: a class, a layer, a part of the loss. What a method logs beside these is shown
under its own name; `metrics` of an algorithm, a policy or a rule, a tuple of `layermatch.metrics.Metric`, gives it
better words and a place in the figures. `features/*` are measured on validation images, on labelled ones where none are
held out. A value that is not finite is left out.

A run warns once when no pseudo-label or every one counts for long, when one class takes most of them, when EMA and live
accuracy part, and when the labelled set is repeated many times a second.
"""


def page(catalogue: Catalogue) -> str:
    """Return the catalogue as Markdown."""
    head = "| logged | what it is | kind | in a log line | kept of a run | shown in |"
    rows = [head, "| --- " * 6 + "|", *map(_page_row, catalogue.metrics)]
    return "\n".join([_HEAD, *rows, _FOOT])


def _page_row(metric: Metric) -> str:
    kind = metric.kind.name + (f", {metric.kind.unit}" if metric.kind.unit else "")
    words = metric.title.replace("*", f"*{metric.part}*")
    says = f"{words}: {metric.meaning}" if metric.meaning else words
    shown = [*metric.places, *(["progress"] if metric.short else [])]
    shown += [f"report: {metric.section}"] if metric.section and metric.kind is not PICTURE else []
    shown += [f"figures/{metric.panel.figure}.png"] if metric.panel else []
    is_picture = metric.kind is PICTURE
    cells = ("", "") if is_picture else (metric.over_interval, ", ".join(metric.kind.over_run))
    return f"| `{metric.name}` | {says} | {kind} | {' | '.join(cells)} | {', '.join(shown) or 'dashboards'} |"


if __name__ == "__main__":
    sys.stdout.write(page(CATALOGUE))
