"""What makes two runs the same but for the seed, and what makes a run the one that it was.

Every setting is of one kind. Reports, groups on dashboards, sweeps and what may change when a run goes on are all
derived from the kinds, so that they cannot disagree.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

from layermatch.runs.settings import flatten
from layermatch.text import printable

__all__ = [
    "ALL_DEVICES",
    "KINDS",
    "Draw",
    "Kind",
    "batch_of_all_devices",
    "differing",
    "draw_of",
    "fingerprint",
    "images_of_step",
    "is_drawn_by",
    "keys_of",
    "kind_of",
    "may_change",
    "setting_of",
    "shared_by_seeds",
    "trained_with",
]


class Kind(Enum):
    """What a setting says of a run."""

    OWN = "where this run is, and what it goes on from: another in every run"
    APART = "what it is called, where, how fast and how often; not what is trained"
    DRAW = "which draw of the same setting it is, of the images that are labelled among others"
    SEED = "another seed: which draw of something else"
    LABELS = "how many images are labelled and held out"
    SPREAD = "how a batch is spread over devices; only all of it together counts"
    LENGTH = "how long it is; it may be made longer"
    LEARNT = "what the weights were learnt with: with another it is another run, whatever it goes on from"
    TRAINED = "anything else of what is trained"


#: The kinds of settings that tell one setting from another.
COUNTED = frozenset({Kind.LABELS, Kind.LENGTH, Kind.LEARNT, Kind.TRAINED})

#: Name of a setting, or of a section with all below it -> its kind. The longest name that fits counts; what is not here
#: is :attr:`Kind.TRAINED`, so that a setting that nobody knows makes another setting.
KINDS: Mapping[str, Kind] = {
    "run_dir": Kind.OWN,
    "ckpt_path": Kind.OWN,
    "name": Kind.APART,
    "plugins": Kind.APART,
    "logger": Kind.APART,
    "compile": Kind.APART,
    "eval_every": Kind.APART,
    "figures": Kind.APART,
    "checkpoint.every_n_steps": Kind.APART,
    "checkpoint.keep": Kind.APART,
    "algorithm.layer_gradients_every": Kind.APART,
    "data.root": Kind.APART,
    "data.verify": Kind.APART,
    "data.download": Kind.APART,
    "data.cache_dir": Kind.APART,
    "data.num_workers": Kind.APART,
    "data.bad_shards": Kind.APART,
    "data.index_dir": Kind.APART,
    "data.eval_batch_size": Kind.APART,
    "trainer.accelerator": Kind.APART,
    "trainer.strategy": Kind.APART,
    "trainer.deterministic": Kind.APART,
    "trainer.exchange": Kind.APART,
    "trainer.log_every": Kind.APART,
    "trainer.wait": Kind.APART,
    "seed": Kind.DRAW,
    "data.split": Kind.DRAW,
    "data.fold": Kind.DRAW,
    "data.num_labels": Kind.LABELS,
    "data.num_val": Kind.LABELS,
    "data.val_from": Kind.LABELS,
    "data.imbalance": Kind.LABELS,
    "data.manifest": Kind.LABELS,
    "data.batch_size": Kind.SPREAD,
    "data.batch_of": Kind.SPREAD,
    "trainer.devices": Kind.SPREAD,
    "trainer.num_nodes": Kind.SPREAD,
    "trainer.max_steps": Kind.LENGTH,
    "algorithm._target_": Kind.LEARNT,
    "algorithm.imwa": Kind.LEARNT,
    "algorithm.name": Kind.LEARNT,
    "data.source": Kind.LEARNT,
    "data.image_size": Kind.LEARNT,
    "data.open_set": Kind.LEARNT,
    "data.ramp": Kind.LEARNT,
    "data.leaks": Kind.LEARNT,
    "data.label_noise": Kind.LEARNT,
    "data.pool_limit": Kind.LEARNT,
    "data.channels": Kind.LEARNT,
    "data.mean": Kind.LEARNT,
    "data.std": Kind.LEARNT,
    "data.storage": Kind.LEARNT,
    "data.feature_views": Kind.LEARNT,
    "data.feature_dtype": Kind.LEARNT,
    "data.feature_seed": Kind.LEARNT,
    "layerwise._target_": Kind.LEARNT,
    "model": Kind.LEARNT,
    "model.weights": Kind.TRAINED,
    "optimizer": Kind.LEARNT,
    "optimizer.lr": Kind.TRAINED,
    "pseudo_labels._target_": Kind.LEARNT,
}

#: What of the data is learnt with and decides of no image whether it is labelled: its pixels, and which label is wrong.
_DRAWS_NOTHING = ("data.mean", "data.std", "data.label_noise")

#: Values with which the same is trained as with another one, by the name of the setting.
SAME_VALUES: Mapping[str, Mapping[Any, Any]] = {
    "data.leaks": {"keep": "report"},
    "data.storage": dict.fromkeys(("device", "ram", "disk", "lazy"), "auto"),
}

#: What the settings of kind SPREAD come to, by a name of its own.
ALL_DEVICES = "data.batch_size of all devices"

#: From this number on, a float need not be the whole number that it was written as.
MAX_WHOLE = 2**53

Raw = Mapping[Any, Any]


def kind_of(key: str) -> Kind:
    """Return the kind of a setting.

    Args:
        key: The name of the setting, as on the command line.

    Example:
        >>> kind_of("optimizer.momentum").name, kind_of("optimizer.lr").name, kind_of("pseudo_labels.noise_seed").name
        ('LEARNT', 'TRAINED', 'SEED')
    """
    section = key
    while section:
        if section in KINDS:
            return KINDS[section]
        section = section.rpartition(".")[0]
    last = key.rpartition(".")[2]
    return Kind.SEED if last == "seed" or last.endswith("_seed") else Kind.TRAINED


def keys_of(*kinds: Kind) -> list[str]:
    """Return the names in :data:`KINDS` of some kinds."""
    return [key for key, kind in KINDS.items() if kind in kinds]


def is_drawn_by(key: str) -> bool:
    """Return whether a setting decides which images are labelled and held out.

    Args:
        key: The name of the setting, as on the command line.

    Example:
        >>> is_drawn_by("data.num_labels"), is_drawn_by("data.source.root"), is_drawn_by("data.mean")
        (True, True, False)
    """
    is_of_data = key.startswith("data.") and kind_of(key) in {Kind.DRAW, Kind.LABELS, Kind.LEARNT}
    return is_of_data and key not in _DRAWS_NOTHING


def shared_by_seeds(settings: Raw) -> dict[str, Any]:
    """Return all settings, flat, but for the seed and for where the run is.

    Unlike :func:`setting_of`, also those that change nothing of what is trained: they may be illegal, or slow.

    Args:
        settings: The settings, as :func:`setting_of` takes them.

    Example:
        >>> shared_by_seeds({"seed": 0, "run_dir": "runs/1", "data": {"mu": 7, "num_workers": 2}})
        {'data.mu': 7, 'data.num_workers': 2}
    """
    return {key: value for key, value in flatten(settings).items() if key != "seed" and kind_of(key) is not Kind.OWN}


def setting_of(settings: Raw) -> dict[str, Any]:
    """Return all that makes a run another setting: flat, in the order of the configuration.

    Two runs are repetitions of each other where these are equal.

    Args:
        settings: The composed configuration, or what ``config.yaml`` holds.

    Example:
        >>> one = {"seed": 0, "data": {"batch_size": 64, "mu": 7}, "trainer": {"devices": 1, "num_nodes": 1}}
        >>> two = {"seed": 1, "data": {"batch_size": 32, "mu": 7.0}, "trainer": {"devices": 2, "num_nodes": 1}}
        >>> setting_of(one)
        {'data.batch_size of all devices': 64, 'data.mu': 7}
        >>> setting_of(one) == setting_of(two)
        True
    """
    flat = flatten(settings)
    found: dict[str, Any] = {}
    for key, value in flat.items():
        kind = kind_of(key)
        if kind in COUNTED and not isinstance(value, Mapping):
            found[key] = _plain(trained_with(key, value))
        elif kind is Kind.SPREAD:
            found.setdefault(ALL_DEVICES, batch_of_all_devices(flat))
    return found


def trained_with(key: str, value: Any) -> Any:
    """Return the value of a setting, or that of another with which the same is trained.

    Args:
        key: The name of the setting.
        value: Its value.

    Example:
        >>> trained_with("data.leaks", "keep"), trained_with("data.leaks", "remove")
        ('report', 'remove')
    """
    same = SAME_VALUES.get(key)
    return same.get(value, value) if same and isinstance(value, str) else value


def _plain(value: object) -> Any:
    """Return one value for what is equal: 1 and 1.0, a list and a tuple."""
    if isinstance(value, float) and value.is_integer() and abs(value) < MAX_WHOLE:
        return int(value)
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    return value


def fingerprint(settings: Raw) -> str:
    """Return ten digits that are the same for all repetitions of a setting, and for no other setting.

    Args:
        settings: The settings, as :func:`setting_of` takes them.

    Example:
        >>> fingerprint({"seed": 0, "optimizer": {"lr": 0.1}}) == fingerprint({"seed": 1, "optimizer": {"lr": 0.1}})
        True
    """
    text = json.dumps(sorted(setting_of(settings).items()), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


class Draw(NamedTuple):
    """Which repetition of its setting a run is.

    Attributes:
        seed: The value of ``seed``.
        others: What else the run is drawn by, as text: a fold, a split, a second seed that is not the first one.
    """

    seed: int
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the draw in words, for people.

        Example:
            >>> f"seed {Draw(0)}", f"seed {Draw(0, ('fold=3',))}"
            ('seed 0', 'seed 0, fold=3')
        """
        return ", ".join([str(self.seed), *self.others])


def draw_of(settings: Raw) -> Draw | None:
    """Return which repetition of its setting a run is; None where it has no seed.

    Args:
        settings: The settings, as :func:`setting_of` takes them.

    Example:
        >>> str(draw_of({"seed": 2, "data": {"fold": 3, "split": None}, "pseudo_labels": {"noise_seed": 2}}))
        '2, fold=3'
    """
    flat = flatten(settings)
    seed = flat.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool):
        return None
    others = []
    for key, value in flat.items():
        kind = kind_of(key)
        follows = kind is Kind.SEED and value == seed
        if key != "seed" and kind in {Kind.DRAW, Kind.SEED} and value is not None and not follows:
            others.append(printable(f"{key.rpartition('.')[2]}={value}"))
    return Draw(seed, tuple(others))


def batch_of_all_devices(flat: Mapping[str, Any]) -> int | str:
    """Return the labelled images of a batch, over all devices: 8 on 2 devices are as many as 16 on one.

    Args:
        flat: The settings, flat as :func:`~layermatch.runs.settings.flatten` gives them.

    Returns:
        The number of images; the factors as text where one is no whole number.
    """
    if flat.get("data.batch_of") == "all":
        factors = [flat.get("data.batch_size")]
    else:
        factors = [flat.get(key) for key in keys_of(Kind.SPREAD) if key != "data.batch_of"]
    whole = [factor for factor in factors if isinstance(factor, int)]
    return math.prod(whole) if len(whole) == len(factors) else " x ".join(map(str, factors))


def images_of_step(flat: Mapping[str, Any]) -> str:
    """Return what places a run in its sequence of batches, for people.

    Args:
        flat: The settings, flat as :func:`~layermatch.runs.settings.flatten` gives them.
    """
    accumulate, mu = flat.get("algorithm.accumulate"), flat.get("data.mu")
    return f"{accumulate} x {batch_of_all_devices(flat)} labelled images a step and mu={mu}"


def may_change(key: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether a run is still the same one with a setting that is not as it was.

    Args:
        key: The name of the setting.
        before: All settings as they were, flat.
        now: All settings as they are now, flat.

    Example:
        >>> may_change("trainer.max_steps", {"trainer.max_steps": 10}, {"trainer.max_steps": 20})
        True
    """
    kind, old, new = kind_of(key), before.get(key), now.get(key)
    if kind is Kind.LENGTH:
        return isinstance(old, int) and isinstance(new, int) and old < new
    if kind is Kind.SPREAD:
        return batch_of_all_devices(before) == batch_of_all_devices(now)
    return kind in {Kind.OWN, Kind.APART} or trained_with(key, old) == trained_with(key, new)


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the settings that are not the same in all, in the order in which they first come.

    Args:
        settings: The settings of each run, flat.

    Example:
        >>> differing([{"seed": 0, "lr": 0.1}, {"seed": 0, "lr": 0.2, "mu": 7}])
        ['lr', 'mu']
    """
    names = dict.fromkeys(name for each in settings for name in each)
    missing = object()
    return [
        name for name in names if any(each.get(name, missing) != settings[0].get(name, missing) for each in settings)
    ]
