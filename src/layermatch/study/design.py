"""What a study asks: settings, numbers of labels and seeds, and the runs that these come to."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layermatch.components import check_keys, check_present
from layermatch.errors import UserError, check_choice, check_number
from layermatch.metrics import (
    TEST_ACCURACY_EMA,
    TEST_MACRO_EMA,
    VAL_ACCURACY_EMA,
    VAL_MACRO_EMA,
    VAL_MEDIAN_EMA,
    Metric,
)
from layermatch.runs.identity import is_drawn_by, setting_of
from layermatch.runs.settings import flatten
from layermatch.text import printable

__all__ = ["METRICS", "Cell", "Draw", "Setting", "Study", "drawn_by", "fingerprint_of"]

#: What runs are paired by: a seed; with folds, a seed and a fold.
Draw = int | tuple[int, int]

#: What may be compared. None is the best of several evaluations on test images.
METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (TEST_ACCURACY_EMA, TEST_MACRO_EMA, VAL_ACCURACY_EMA, VAL_MACRO_EMA, VAL_MEDIAN_EMA)
}

#: What becomes of a setting that no run can have.
ILLEGAL = ("refuse", "leave_out")

#: Every file of a folder of conf, as the values of a grid.
ALL = "all"

#: What a study gives every run itself, and how to say it instead.
OWN = {
    "seed": "study.seeds=[0,1,2]",
    "data.num_labels": "study.num_labels=[10,40]",
    "run_dir": "run_dir=DIR, which is the study's",
    "ckpt_path": "the same command again, which goes on",
}

#: What a study with folds gives every run itself, too.
OWN_OF_FOLDS = ("data.split", "data.num_val", "data.val_from", "data.fold")

#: Bytes of a setting's name as part of a file's: a file system takes 255 of all.
LONGEST_SLUG = 100

#: Digits of a fingerprint.
DIGITS = 10


@dataclass(frozen=True)
class Setting:
    """What is compared.

    Args:
        name: The name in tables.
        words: What it adds to the command line of a run.
        choice: The value of each axis of the grid, by name; empty for a setting that was given by its name.
        fixed: What it adds after everything else, also after what the command line gives every run.
    """

    name: str
    words: tuple[str, ...]
    choice: Mapping[str, str] = field(default_factory=dict)
    fixed: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        """The name as that of a folder.

        Example:
            >>> Setting("freematch, layerwise=layermatch", ()).slug
            'freematch-layerwise-layermatch'
            >>> len(Setting("long " * 60, ()).slug)
            100
        """
        slug = re.sub(r"[^\w.+-]+", "-", self.name).strip("-.") or "setting"
        if len(slug.encode()) <= LONGEST_SLUG:
            return slug
        return f"{slug.encode()[: LONGEST_SLUG - 11].decode(errors='ignore')}-{fingerprint_of(self.name)}"


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Args:
        setting: The setting of the run.
        num_labels: The number of labelled images; None leaves it to the configuration.
        seed: The seed of the run.
        words: The command line of the run, without its directory.
        raw: The composed configuration of the run.
        study_dir: The directory of the study.
        fold: The fold that the run holds out, from 1; None in a study without folds.
        folds: The number of folds, which is part of paths: what other folds were held out of is no run of this study.
        undivided: The section ``data`` as it is without folds, by which the labelled images are drawn that the folds
            are made of; empty in a study without folds.
    """

    setting: Setting
    num_labels: int | None
    seed: int
    words: tuple[str, ...]
    raw: Mapping[str, Any]
    study_dir: Path
    fold: int | None = None
    folds: int | None = None
    undivided: Mapping[str, Any] = field(default_factory=dict)

    @property
    def draw(self) -> Draw:
        """What the run is paired with others by: its seed; with folds, seed and fold."""
        return self.seed if self.fold is None else (self.seed, self.fold)

    @property
    def repetition(self) -> str:
        """The same as part of a path."""
        fold = "" if self.fold is None else f"_fold-{self.fold}-of-{self.folds}"
        return f"seed-{self.seed}{fold}"

    @property
    def max_steps(self) -> int:
        """The optimizer steps that the run makes."""
        steps: int = self.raw["trainer"]["max_steps"]
        return steps

    @property
    def selection(self) -> str:
        """Which weights of the run are compared, ``last`` or ``best_val``."""
        return str(self.raw["checkpoint"]["selection"])

    @property
    def labels(self) -> str:
        """The number of labels as part of a path."""
        return labels_name(self.num_labels)

    @property
    def slug(self) -> str:
        """The name of its files."""
        return f"{self.setting.slug}_{self.labels}_{self.repetition}"

    @property
    def run_dir(self) -> Path:
        """The directory of the run."""
        return self.study_dir / "runs" / self.setting.slug / self.labels / self.repetition

    @property
    def title(self) -> str:
        """What it is called in lines of progress."""
        labels = "" if self.num_labels is None else f", {self.num_labels} labels"
        fold = "" if self.fold is None else f", fold {self.fold}"
        return f"{self.setting.name}{labels}, seed {self.seed}{fold}"

    @property
    def fingerprint(self) -> str:
        """The fingerprint of its setting: that of all its repetitions."""
        return fingerprint_of(setting_of(self.raw))


def drawn_by(data: Mapping[str, Any]) -> str:
    """Return ten digits of what decides which images are labelled: the same for runs that have the same ones.

    Long tails and classes without labels are drawn otherwise, and so are other data sets.

    Args:
        data: The section ``data`` of a composed configuration.
    """
    return fingerprint_of({key: value for key, value in flatten({"data": data}).items() if is_drawn_by(key)})


def labels_name(num_labels: int | None) -> str:
    """Return a number of labels as part of a path."""
    return "labels" if num_labels is None else f"labels-{num_labels}"


def fingerprint_of(content: object) -> str:
    """Return ten digits of a content that JSON can hold; they do not depend on the order of keys.

    Args:
        content: The content.

    Example:
        >>> fingerprint_of({"a": 1, "b": 2}) == fingerprint_of({"b": 2, "a": 1})
        True
    """
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS]


@dataclass(frozen=True)
class Study:
    """A question.

    Args:
        name: The name of its file in conf/study.
        title: The question, in a sentence.
        settings: What is compared.
        common: Overrides of every run.
        given: Overrides of every run that the command line gave.
        num_labels: The numbers of labelled images; None leaves it to the configuration.
        seeds: The seeds of every setting.
        reference: The name of the setting that the others are compared with, or the values of axes of the grid that
            make a setting's own reference.
        change_from: The values of other axes of the grid at which a difference is what it is compared with elsewhere;
            empty where differences are not compared with one another.
        metric: What is compared.
        illegal: What becomes of settings that no run can have: ``refuse`` or ``leave_out``.
        folds: The number of parts of the labelled images, of which each run holds one out; None holds out none.
        curves: The names of metrics whose curves are kept with the tables.
        is_pretrained: Whether all runs start from the same weights that were learnt elsewhere.
    """

    name: str
    title: str
    settings: tuple[Setting, ...]
    common: tuple[str, ...]
    given: tuple[str, ...]
    num_labels: tuple[int | None, ...]
    seeds: tuple[int, ...]
    reference: str | Mapping[str, str]
    metric: Metric
    illegal: str
    folds: int | None = None
    curves: tuple[str, ...] = ()
    is_pretrained: bool = False
    change_from: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_verdicts(self) -> bool:
        """Whether it is said of each method with a pool whether the pool helps."""
        return self.folds is not None or self.is_pretrained

    @property
    def overlap(self) -> float:
        """The images that a run holds out for each one that it learns from: runs of a seed share the others."""
        return 0.0 if self.folds is None else 1 / (self.folds - 1)

    @staticmethod
    def parse(
        name: str, section: Mapping[str, Any], *, given: Sequence[str] = (), files_of: Callable[[str], Sequence[str]]
    ) -> Study:
        """Return a study from its file.

        Args:
            name: The name of the file.
            section: The content of the file.
            given: Overrides of every run that the command line gave.
            files_of: A function that names the files of a folder of conf, in their order.

        Raises:
            UserError: A key or a value is not legal.
        """
        check_keys("study", section, LEGAL)
        check_present("study", section, LEGAL)
        settings = [*_named(section["settings"]), *_crossed(section["grid"], files_of)]
        if not settings:
            raise UserError(f"study={name} has no settings: give study.settings or study.grid")
        for one, other in itertools.combinations(settings, 2):
            if one.slug == other.slug:
                raise UserError(f"study.settings: {one.name!r} and {other.name!r} are one name: give two")
        check_choice("study.metric", section["metric"], METRICS)
        check_choice("study.illegal", section["illegal"], ILLEGAL)
        folds = _folds(section["folds"], METRICS[section["metric"]])
        for word in given:
            key = word.partition("=")[0].lstrip("+~")
            if key in OWN:
                raise UserError(f"{word}: a study gives {key} to each run itself: give {OWN[key]}")
            if folds is not None and key in OWN_OF_FOLDS:
                raise UserError(f"{word}: a study with folds gives {key} to each run itself: leave it away")
        return Study(
            name=name,
            title=printable(section["title"]),
            settings=tuple(settings),
            common=_words("study.common", section["common"]),
            given=tuple(given),
            num_labels=_whole_numbers("study.num_labels", section["num_labels"], low=1, may_be_null=True),
            seeds=tuple(s for s in _whole_numbers("study.seeds", section["seeds"], low=0) if s is not None),
            reference=_reference(section["reference"], settings),
            metric=METRICS[section["metric"]],
            illegal=section["illegal"],
            folds=folds,
            curves=_curves(section["curves"]),
            change_from=_change_from(section["change_from"], section["reference"], settings),
        )

    def words_of(self, setting: Setting) -> tuple[str, ...]:
        """Return what a setting's runs have on their command line, beside labels, seed and directory."""
        return (*self.common, *setting.words, *self.given, *setting.fixed)

    def reference_of(self, setting: Setting) -> Setting | None:
        """Return the setting that one is compared with; None where that is itself, or there is none.

        Args:
            setting: One of the study's settings.
        """
        if isinstance(self.reference, str):
            found = next(each for each in self.settings if each.name == self.reference)
            return None if found == setting else found
        return self._with_choice(setting, self.reference)

    def changed_from(self, setting: Setting) -> Setting | None:
        """Return the setting whose difference that of another one is compared with; None where there is none.

        Args:
            setting: One of the study's settings.
        """
        if not self.change_from or self.reference_of(setting) is None:
            return None
        return self._with_choice(setting, self.change_from)

    def _with_choice(self, setting: Setting, values: Mapping[str, str]) -> Setting | None:
        """Return another setting of the grid, which differs from one in these values alone."""
        choice = {**setting.choice, **values} if setting.choice else {}
        found = next((each for each in self.settings if choice and dict(each.choice) == choice), setting)
        return None if found == setting else found

    def plain(self) -> dict[str, Any]:
        """Return what is asked, as plain containers: by it two studies are told apart."""
        return (
            {
                "settings": {setting.name: [*setting.words, *setting.fixed] for setting in self.settings},
                "common": list(self.common),
                "command line": list(self.given),
                "num_labels": list(self.num_labels),
                "seeds": list(self.seeds),
                "reference": self.reference if isinstance(self.reference, str) else dict(self.reference),
                "metric": self.metric.name,
            }
            | ({} if self.folds is None else {"folds": self.folds})
            | ({"change_from": dict(self.change_from)} if self.change_from else {})
        )


LEGAL = frozenset(
    {
        "title", "settings", "grid", "reference", "common", "num_labels", "seeds", "metric", "illegal", "folds",
        "curves", "jobs", "change_from",
    }
)  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- settings


def _named(given: object) -> list[Setting]:
    if not isinstance(given, Mapping):
        raise UserError(f"study.settings={given!r} is not legal: give NAME: [OVERRIDE, ...] for each setting")
    return [Setting(printable(name), _words(f"study.settings.{name}", words)) for name, words in given.items()]


def _crossed(given: object, files_of: Callable[[str], Sequence[str]]) -> list[Setting]:
    """Return every choice of the grid with every other."""
    if not isinstance(given, Mapping):
        raise UserError(f"study.grid={given!r} is not legal: give SETTING: [VALUE, ...] for each axis")
    if not given:
        return []
    axes = {str(axis): _axis(str(axis), values, files_of) for axis, values in given.items()}
    settings = []
    for values in itertools.product(*(points.items() for points in axes.values())):
        choice = dict(zip(axes, (value for value, _ in values), strict=True))
        shown = [_shown(axis, value, is_named=isinstance(given[axis], Mapping)) for axis, value in choice.items()]
        words = tuple(itertools.chain.from_iterable(words for _, words in values))
        settings.append(Setting(", ".join(filter(None, shown)) or "as it is", words, choice))
    return settings


def _axis(axis: str, values: object, files_of: Callable[[str], Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Return the values of an axis by name, and what each adds to the command line."""
    if isinstance(values, Mapping):
        return {printable(name): _words(f"study.grid.{axis}.{name}", words) for name, words in values.items()}
    if values == ALL:
        values = list(files_of(axis))
    if not isinstance(values, list) or not values:
        raise UserError(f"study.grid.{axis}={values!r} is not legal: give a list of values, {ALL}, or NAME: [OVERRIDE]")
    return {_text(value): () if value is None else (f"{axis}={_text(value)}",) for value in values}


def _shown(axis: str, value: str, *, is_named: bool) -> str:
    """Return a value of an axis as part of a setting's name."""
    if is_named or axis == "algorithm":
        return value
    return "" if value == "null" else f"{axis.rpartition('.')[2]}={value}"


def _text(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if not isinstance(value, str | int | float):
        raise UserError(f"study.grid: {value!r} is no value of an axis: give text, a number, true, false or null")
    return str(value)


def _words(name: str, given: object) -> tuple[str, ...]:
    if not isinstance(given, list) or not all(
        (isinstance(word, str) and "=" in word.lstrip("~")) or (isinstance(word, str) and word.startswith("~"))
        for word in given
    ):
        raise UserError(f"{name}={given!r} is not legal: give a list of overrides, [KEY=VALUE, ...]")
    return tuple(given)


def _whole_numbers(name: str, given: object, *, low: int, may_be_null: bool = False) -> tuple[int | None, ...]:
    values = given if isinstance(given, list) else [given]
    if not values:
        raise UserError(f"{name}=[] is not legal: give at least one")
    for value in values:
        if value is not None or not may_be_null:
            check_number(name, value, low=low, integer=True)
    if len(set(values)) < len(values):
        raise UserError(f"{name}={values} is not legal: give each once")
    return tuple(values)


def _folds(given: object, metric: Metric) -> int | None:
    if given is None:
        return None
    check_number("study.folds", given, low=2, integer=True)
    if not metric.is_of_validation:
        raise UserError(
            f"study.metric={metric.name} is not legal with study.folds, whose images are validation images: give "
            f"study.metric={VAL_ACCURACY_EMA.name} or {VAL_MACRO_EMA.name}"
        )
    return int(str(given))


def _curves(given: object) -> tuple[str, ...]:
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise UserError(
            f"study.curves={given!r} is not legal: give a list of metrics' names, [pseudo_labels/mask_rate]"
        )
    return tuple(given)


def _change_from(given: object, reference: object, settings: Sequence[Setting]) -> dict[str, str]:
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not given:
        raise UserError(f"study.change_from={given!r} is not legal: give values of axes of study.grid, or null")
    choice = _choice("study.change_from", given, settings)
    if not isinstance(reference, Mapping) or set(map(str, reference)) & set(choice):
        raise UserError(f"study.change_from={choice} needs a study.reference of values of other axes of study.grid")
    return choice


def _choice(name: str, given: Mapping[object, object], settings: Sequence[Setting]) -> dict[str, str]:
    choice = {str(axis): _text(value) for axis, value in given.items()}
    if any(choice.items() <= setting.choice.items() for setting in settings):
        return choice
    axes = next((list(setting.choice) for setting in settings if setting.choice), [])
    raise UserError(f"{name}={choice} is no choice of study.grid: give values of {', '.join(axes) or 'one'}")


def _reference(given: object, settings: Sequence[Setting]) -> str | dict[str, str]:
    names = [setting.name for setting in settings]
    if given is None:
        return names[0]
    if isinstance(given, Mapping):
        return _choice("study.reference", given, settings)
    if given not in names:
        raise UserError(f"study.reference={given!r} is no setting: choose one of {', '.join(names)}")
    return str(given)
