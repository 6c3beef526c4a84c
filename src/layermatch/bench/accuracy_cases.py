"""What is measured for the time to an accuracy: data sets, recipes, and the parts of the fast one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from layermatch.bench.accuracy_runs import compose_settings
from layermatch.errors import UserError

__all__ = ["ALGORITHMS", "LEFT_OUT", "PUT_IN", "RECIPES", "SETTINGS", "Case", "Setting", "variants_of"]

#: What is compared, in the order of the tables. The conventional code has FixMatch alone.
RECIPES = ("conventional", "published", "fast")
ALGORITHMS = ("fixmatch", "layermatch")
CONVENTIONAL_ALGORITHM = "fixmatch"

#: CIFAR-10's mean and deviation, as in TorchSSL, for its images as files.
_OF_CIFAR10 = ("data.mean=[0.4914,0.4822,0.4465]", "data.std=[0.2471,0.2435,0.2616]")

#: 2^20 steps of the papers, cut to a size that can be waited for; slow averages would still hold the random start.
_CUT = ("trainer.max_steps=20000",)


@dataclass(frozen=True)
class Setting:
    """A data set that the time to an accuracy is measured on.

    Attributes:
        experiment: The experiment of the published recipe; that of ours has ``_fast`` behind its name.
        labels: The numbers of labelled images.
        targets: The accuracies, in ``[0, 1]``.
        overrides: What else the command line says, in every recipe.
        cut: What it says to cut the published recipe to size.
    """

    experiment: str
    labels: tuple[int, ...]
    targets: tuple[float, ...]
    overrides: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()


SETTINGS: Mapping[str, Setting] = {
    "digits": Setting("digits", (10, 40), (0.7, 0.8, 0.9)),
    "fashion_mnist": Setting("fashion_mnist", (40, 100), (0.6, 0.7, 0.75)),
    "cifar10_folder": Setting("cifar10_folder", (250,), (0.3, 0.4, 0.5)),
    "cifar10": Setting("cifar10", (40, 250), (0.7, 0.8, 0.9), (), ("model=wrn_28_2_short", *_CUT)),
    "cifar10_jpeg": Setting(
        "cifar10", (250,), (0.7, 0.8, 0.9), ("data=folder", *_OF_CIFAR10), ("model=wrn_28_2_short", *_CUT)
    ),
    "stl10": Setting("stl10", (40,), (0.5, 0.6, 0.7), (), ("model=wrn_37_2_short", *_CUT)),
}

#: Parts of the fast recipe -> what the command line says to have the published recipe's in its place, of which the
#: settings are given.
LEFT_OUT: Mapping[str, Callable[[Mapping[str, Any]], tuple[str, ...]]] = {
    "learning-rate": lambda published: (f"optimizer.lr={published['optimizer']['lr']}",),
    "schedule": lambda _: ("schedule=cosine",),
    "ema-warmup": lambda _: ("algorithm.ema_warmup=false",),
    "batch-ramp": lambda _: ("data.ramp.batch_size=null",),
    "mu-ramp": lambda _: ("data.ramp.mu=null",),
    "side-ramp": lambda _: ("data.ramp.side=null",),
    "fused-optimizer": lambda _: ("optimizer=sgd",),
    "compile": lambda _: ("compile=false",),
    "storage": lambda published: (f"data.storage={published['data']['storage']}",),
    "measurements": lambda published: (
        f"algorithm.layer_gradients_every={published['algorithm']['layer_gradients_every']}",
    ),
    "short-run": lambda published: (f"trainer.max_steps={published['trainer']['max_steps']}",),
}


def _with_mu_late(fast: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a mu of 14 behind the recipe's ramp; without one, in the part where the others' ramps have ended."""
    data = fast["data"]
    ramp = () if (data["ramp"] or {}).get("mu") else (f"data.ramp.mu=[[0.6,{data['mu']}]]",)
    return (*ramp, "data.mu=14")


#: What the fast recipe could have and has not -> what the command line says to have it, of which the recipe's own
#: settings are given.
PUT_IN: Mapping[str, Callable[[Mapping[str, Any]], tuple[str, ...]]] = {
    "batch-ramp": lambda _: ("data.ramp.batch_size=[[0.3,0.5]]",),
    "side-ramp": lambda _: ("data.ramp.side=[[0.4,0.75]]",),
    "mu-late": _with_mu_late,
    "shared-forward": lambda _: ("algorithm.forward=shared",),
    "skip-masked": lambda _: ("algorithm.forward=split", "algorithm.skip_masked=true"),
    "compile": lambda _: ("compile=true",),
    "larger-rate": lambda _: ("optimizer.lr=0.12",),
    "clipping": lambda _: ("algorithm.clip_norm=1",),
}


@dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        setting: The name of its setting.
        labels: The number of labelled images.
        recipe: One of :data:`RECIPES`.
        algorithm: One of :data:`ALGORITHMS`.
        seed: The seed.
        change: What of the recipe is changed, in words; empty for the recipe itself.
        overrides: What its command line says.
    """

    setting: str
    labels: int
    recipe: str
    algorithm: str
    seed: int
    change: str
    overrides: tuple[str, ...]

    @property
    def variant(self) -> str:
        """The recipe in words, without its data and its seed."""
        return ", ".join(filter(None, (f"{self.recipe} {self.algorithm}", self.change)))

    @property
    def name(self) -> str:
        """The run in words."""
        return f"{self.setting}, {self.labels} labels: {self.variant}, seed {self.seed}"


def variants_of(
    setting: str,
    *,
    recipes: Sequence[str],
    left_out: Sequence[str] = (),
    put_in: Sequence[str] = (),
    more: Sequence[str] = (),
    is_cut: bool = True,
) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return what is compared on a data set: recipe, what is changed of it, and what the command line says.

    Args:
        setting: The name of the setting.
        recipes: Some of :data:`RECIPES`.
        left_out: The names of parts of the fast recipe that are left out, one at a time; a part that this fast recipe
            does not have is passed over.
        put_in: The names of what is put into it, one at a time; what it has already is passed over.
        more: What the command line says beside it, in every recipe.
        is_cut: Whether the published recipe is cut to size.

    Raises:
        UserError: A setting is not legal.
    """
    about = SETTINGS[setting]
    shared = (*about.overrides, *more)
    published = (f"experiment={about.experiment}", *(about.cut if is_cut else ()), *shared)
    fast = (f"experiment={about.experiment}_fast", *shared)
    variants = [(recipe, "", fast if recipe == "fast" else published) for recipe in RECIPES if recipe in recipes]
    if not (left_out or put_in):
        return variants
    its, theirs = compose_settings(fast), compose_settings(published)
    changes = [(f"without {name}", LEFT_OUT[name](theirs)) for name in left_out]
    for name in put_in:
        has_some = name in LEFT_OUT and compose_settings((*fast, *LEFT_OUT[name](theirs))) != its
        changes += [] if has_some else [(f"with {name}", PUT_IN[name](its))]
    for words, overrides in changes:
        changed = (*fast, *overrides)
        if compose_settings(changed) != its:
            variants.append(("fast", words, changed))
    return variants


def check_names(option: str, given: Sequence[str], legal: Mapping[str, object]) -> tuple[str, ...]:
    """Return names that were given on the command line; ``each`` is all of them.

    Args:
        option: The option that they were given with, for errors.
        given: The names.
        legal: The legal ones.

    Raises:
        UserError: A name is not legal.
    """
    if "each" in given:
        return tuple(legal)
    for name in given:
        if name not in legal:
            raise UserError(f"{option} {name} is not legal: choose each or some of {', '.join(legal)}")
    return tuple(dict.fromkeys(given))
