"""The configuration: every experiment composes and builds, every leaf is consumed, every unknown key is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from tests.data import stand_ins

from layermatch.build import RunParts, build_loggers, build_method, build_parts, build_trainer
from layermatch.cli import config_dir, plain
from layermatch.errors import UserError
from layermatch.layerwise import ScaledGradients
from layermatch.runs.settings import flatten
from layermatch.settings import Settings, check_sections

EXPERIMENTS = sorted(path.stem for path in (config_dir() / "experiment").glob("*.yaml"))
#: The recipes for the least time: other values of the same settings, on the same data.
FAST = [name for name in EXPERIMENTS if name.endswith("_fast")]
PLAIN = [name for name in EXPERIMENTS if name not in FAST]
ALGORITHMS = sorted(path.stem for path in (config_dir() / "algorithm").glob("*.yaml") if path.stem != "base")
#: Those that are built with every experiment and every one of whose leaves is looked at; all others share most of them.
IN_FULL = ("supervised", "fixmatch", "layermatch", "mean_teacher")
BUILT = [
    (experiment, algorithm)
    for experiment in EXPERIMENTS
    for algorithm in (ALGORITHMS if experiment == "digits" else ("layermatch",) if experiment in FAST else IN_FULL)
]


def settings_of(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return plain(compose("run", overrides=["run_dir=run", *overrides]))


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """A small stand-in for every experiment's data, and what to say on the command line to use it."""
    root = tmp_path_factory.mktemp("data")
    stand_ins.write_stl10(root / "stl10", num_labelled=600, num_folds=10, fold_size=20)
    stand_ins.write_cifar10(root / "cifar10", num_train=1500)
    stand_ins.write_cifar100(root / "cifar100", num_train=1500)
    stand_ins.write_svhn(root / "svhn", num_train=1000, num_extra=200)
    stand_ins.write_imagenet100(root / "imagenet100")
    stand_ins.write_folder(root / "folder")
    stand_ins.write_folder(root / "cifar10_folder", classes=stand_ins.CIFAR10_CLASSES, per_class=40, size=32)
    stand_ins.write_mnist(root / "fashion_mnist", name="FashionMNIST", num_train=1500)
    published = ("stl10", "cifar10", "cifar100", "svhn", "fashion_mnist")
    unverified = {name: [f"data.root={root / name}", "data.verify=false"] for name in published}
    few = ["data.num_labels=100", "data.num_val=100"]
    given = unverified | {
        "digits": [],
        "cifar10_folder": [f"data.root={root / 'cifar10_folder'}", *few],
        "folder": [f"data.root={root / 'folder'}"],
        "imagenet100": [f"data.root={root / 'imagenet100'}", "data.class_list=classes.txt", *few],
    }
    return given | {name: given[name.removesuffix("_fast")] for name in FAST}


def assemble(settings: dict[str, Any], run_dir: Path) -> RunParts:
    """All that a run builds before it starts."""
    parsed = Settings.parse(settings)
    parts = build_parts(parsed)
    loggers = build_loggers(parsed, run_dir=run_dir, first_step=0)
    build_trainer(parsed, run_dir=run_dir, callbacks=[], loggers=loggers)
    return parts


def test_every_experiment_has_a_stand_in(roots: dict[str, list[str]]) -> None:
    assert set(roots) == set(EXPERIMENTS)


@pytest.mark.parametrize(("experiment", "algorithm"), BUILT)
def test_every_experiment_composes_and_builds(
    experiment: str, algorithm: str, roots: dict[str, list[str]], tmp_path: Path
) -> None:
    settings = settings_of(f"experiment={experiment}", f"algorithm={algorithm}", *roots[experiment])
    parts = assemble(settings, tmp_path)
    assert settings["name"] == experiment
    assert parts.algorithm.network.classifier.out_features == len(parts.data.classes)
    assert parts.algorithm.uses_unlabelled == (algorithm not in {"linear_probe", "supervised"})
    batch = parts.data.batch_of_step(3)
    assert {len(view) for view in batch.labelled.views.values()} == {settings["data"]["batch_size"]}


@pytest.mark.parametrize("experiment", FAST)
def test_a_fast_recipe_differs_from_its_experiment_in_what_makes_it_fast(experiment: str) -> None:
    root = [] if experiment.startswith("digits") else ["data.root=x"]
    fast, published = (
        flatten(settings_of(f"experiment={name}", *root)) for name in (experiment, experiment.removesuffix("_fast"))
    )
    differing = {name for name in {**fast, **published} if fast.get(name) != published.get(name)}
    assert differing <= {
        "name", "eval_every", "checkpoint.every_n_steps", "compile", "trainer.max_steps", "optimizer.lr",
        "optimizer.fused", "schedule._target_", "schedule.cycles", "schedule.warmup", "model.batch_norm_momentum",
        "data.storage", "data.ramp.mu", "data.ramp.side", "algorithm.ema_warmup", "algorithm.layer_gradients_every",
    }  # fmt: skip
    assert {"optimizer.lr", "trainer.max_steps", "algorithm.ema_warmup"} <= differing
    assert ("data.ramp.mu" in differing) == (experiment != "digits_fast")  # whose mu is small from the start


def test_the_recipes_are_the_published_ones() -> None:
    """FixMatch (Sohn et al. 2020, table 4), TorchSSL's configurations: written out once more, by hand."""
    published = {
        "stl10": ("layermatch.networks.wrn_37_2", 40, 64, 7, 5e-4, 2**20),
        "cifar10": ("layermatch.networks.wrn_28_2", 40, 64, 7, 5e-4, 2**20),
        "cifar100": ("layermatch.networks.wrn_28_8", 400, 64, 7, 1e-3, 2**20),
        "svhn": ("layermatch.networks.wrn_28_2", 40, 64, 7, 5e-4, 2**20),
        "imagenet100": ("layermatch.networks.resnet50", 10_000, 32, 7, 3e-4, 2_000_000),
    }
    for experiment, (model, num_labels, batch_size, mu, weight_decay, max_steps) in published.items():
        settings = settings_of(f"experiment={experiment}", "data.root=x")
        assert settings["model"]["_target_"] == model
        data = settings["data"]
        assert (data["num_labels"], data["batch_size"], data["mu"]) == (num_labels, batch_size, mu)
        assert settings["trainer"]["max_steps"] == max_steps
        assert settings["optimizer"] == {
            "_target_": "torch.optim.SGD", "lr": 0.03, "momentum": 0.9, "nesterov": True, "weight_decay": weight_decay,
            "layer_decay": None,
        }  # fmt: skip
        assert settings["schedule"] == {"_target_": "layermatch.functional.cosine", "cycles": 7 / 16}
        assert settings["pseudo_labels"]["threshold"] == 0.95
        assert settings["layerwise"]["lambda_u"] == 1.0
        assert settings["algorithm"]["ema_decay"] == 0.999


@pytest.mark.parametrize("algorithm", ["fixmatch", "layermatch"])
def test_a_gradient_scale_can_be_given_on_the_command_line(algorithm: str) -> None:
    settings = settings_of(
        f"algorithm={algorithm}", "algorithm.gradient_scale={extractor.groups.0: 0.5, classifier: 0}"
    )
    scales = {"extractor.groups.0": 0.5, "classifier": 0}
    assert settings["algorithm"]["gradient_scale"] == scales
    (rule,) = build_parts(Settings.parse(settings)).algorithm.gradient_rules
    assert isinstance(rule, ScaledGradients)
    assert rule.scales == scales
    assert not build_parts(Settings.parse(settings_of(f"algorithm={algorithm}"))).algorithm.gradient_rules


@pytest.mark.parametrize("path", sorted((config_dir() / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_experiment_names_its_source(path: Path) -> None:
    comments = "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    assert any(word in comments for word in ("Recipe: ", "recipe of", "TorchSSL", "ours"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["pseudo_labels.threshold=2"], "pseudo_labels.threshold=2 is not legal"),
        (["pseudo_labels=noisy", "pseudo_labels.noise=2"], "pseudo_labels.noise=2 is not legal"),
        (["layerwise.avg_clustering=ema_centroids", "layerwise.weight=2"], "layerwise.weight=2 is not legal"),
        (["layerwise.evaluate_head=clean"], "layerwise.evaluate_head=clean needs layerwise.decoupled=true"),
        (["model.depth=11"], "model.depth=11 is not legal"),
        (["schedule.cycles=-1"], "schedule.cycles=-1 is not legal"),
        (["schedule=warmup_cosine", "schedule.warmup=1"], "schedule.warmup=1 is not legal"),
        (["data.ramp.side=[[0.5,2]]"], "data.ramp.side=2 is not legal"),
        (["views.cutout=2"], "views.cutout=2 is not legal"),
        (["+views.operations=[blur]"], "views.operations='blur' is not legal"),
        (["views.pad=0.95"], "images of 8x8 are too small for views.pad=0.95: "),
        (["algorithm.ema_decay=1"], "algorithm.ema_decay=1 is not legal"),
        (["algorithm.forward=both"], "algorithm.forward='both' is not legal"),
        (["algorithm.weak_share=1"], "algorithm.weak_share=1 needs algorithm.forward=shared, not joint"),
        (["algorithm.skip_masked=true"], "algorithm.skip_masked=true needs algorithm.forward=split: with joint "),
        (["algorithm.gradient_scale={stem: 2}"], "algorithm.gradient_scale.stem=2 is not legal"),
        (["algorithm.gradient_scale={stem: 0}"], "algorithm.gradient_scale: 'stem' matches no parameter: "),
        (["algorithm=mean_teacher", "algorithm.ramp=2"], "algorithm.ramp=2 is not legal"),
    ],
)
def test_an_error_names_the_setting_as_the_command_line_does(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        build_parts(Settings.parse(settings_of(*overrides)))
    assert str(caught.value).startswith(message)


# -------------------------------------------------------------------------------------------------------------- leaves


def leaves(settings: dict[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*prefix, key))
        else:
            yield (*prefix, key)


def replaced(settings: dict[str, Any], path: tuple[str, ...], value: object) -> dict[str, Any]:
    changed = copy.deepcopy(settings)
    section = changed
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    return changed


#: Leaves where any text is legal, and what shows that the text arrives.
FREE_TEXT: dict[str, Callable[[RunParts, dict[str, Any]], bool]] = {
    "optimizer.nesterov": lambda parts, _: parts.algorithm.make_optimizer.keywords["nesterov"] == "poison",
    # A path is looked at when training begins: evaluation needs no teacher.
    "algorithm.teacher": lambda parts, _: parts.algorithm.method.teacher == "poison",
}
#: Leaves that the command line consumes, tested in tests/cli (run_dir, ckpt_path) or that name the run in results.json.
BY_COMMAND = {"run_dir", "ckpt_path", "name", "algorithm.name"}

POISONED = [(experiment, []) for experiment in PLAIN if experiment != "digits"]
POISONED += [("digits", [f"algorithm={name}"]) for name in IN_FULL]
POISONED += [("digits", ["schedule=constant", "trainer=cpu"]), ("digits", ["pseudo_labels=noisy"])]
POISONED += [("digits", ["layerwise=avg_clustering"])]


@pytest.mark.parametrize(("experiment", "overrides"), POISONED)
def test_every_leaf_is_consumed(
    experiment: str, overrides: list[str], roots: dict[str, list[str]], tmp_path: Path
) -> None:
    """A value that is legal nowhere is refused wherever it is put: so each leaf's value is looked at."""
    settings = settings_of(f"experiment={experiment}", *overrides, *roots[experiment])
    # What other experiments share is tested with digits, whose network and data are small.
    only = None if experiment == "digits" else {"data", "model"}
    ignored = []
    for path in leaves(settings):
        name = ".".join(path)
        if name in BY_COMMAND or (only and path[0] not in only):
            continue
        changed = replaced(settings, path, "poison")
        try:
            parts = assemble(changed, tmp_path)
        except UserError:
            continue
        if name in FREE_TEXT and FREE_TEXT[name](parts, changed):
            continue
        ignored.append(name)
    assert not ignored


@pytest.mark.parametrize("algorithm", sorted(set(ALGORITHMS) - set(IN_FULL)))
def test_every_leaf_of_a_method_is_consumed(algorithm: str, tmp_path: Path) -> None:
    """What a method has beside the settings of every run, which the test above looks at."""
    settings = settings_of(f"algorithm={algorithm}")
    shared = set(leaves(settings_of("algorithm=layermatch")))
    targets = {(section, "_target_") for section in ("algorithm", "pseudo_labels", "layerwise") if settings[section]}
    looked_at = (set(leaves(settings)) - shared) | targets
    ignored = []
    for path in sorted(looked_at):
        changed = replaced(settings, path, "poison")
        try:
            build_method(Settings.parse(changed))  # which most of them do not pass; the rest takes long
            parts = assemble(changed, tmp_path)
        except UserError:
            continue
        name = ".".join(path)
        if name not in FREE_TEXT or not FREE_TEXT[name](parts, changed):
            ignored.append(name)
    assert not ignored


def test_no_leaf_can_be_taken_away_with_a_traceback(tmp_path: Path) -> None:
    """A setting that is not there is missing, or its component has a value for it."""
    settings = settings_of("trainer=cpu")
    for path in [*leaves(settings), *((section,) for section in settings)]:
        changed, section = replaced(settings, path, None), path[:-1]
        holder = changed
        for key in section:
            holder = holder[key]
        del holder[path[-1]]
        with suppress(UserError):
            check_sections(changed)
            assemble(changed, tmp_path)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_changes_nothing_of_another_choice(experiment: str) -> None:
    """What it says of a component would be merged into whichever one is named on the command line."""
    stated = yaml.safe_load((config_dir() / "experiment" / f"{experiment}.yaml").read_text())
    assert not stated.keys() & {"model", "pseudo_labels", "layerwise", "schedule", "logger"}


@pytest.mark.parametrize(
    ("experiment", "model"), [("digits", "wrn_28_8"), ("digits", "resnet50"), ("folder", "resnet50")]
)
def test_a_named_network_is_the_one_of_its_file(experiment: str, model: str) -> None:
    chosen = settings_of(
        f"experiment={experiment}", f"model={model}", *(["data.root=x"] if experiment == "folder" else [])
    )
    assert chosen["model"] == yaml.safe_load((config_dir() / "model" / f"{model}.yaml").read_text())


def test_the_default_network_can_be_given_another_width() -> None:
    assert settings_of("model.width=1")["model"]["width"] == 1
    assert settings_of()["model"] == {
        "_target_": "layermatch.networks.wrn_small", "depth": 10, "width": 2, "batch_norm_eps": 1e-3,
        "batch_norm_momentum": 1e-2,
    }  # fmt: skip


@pytest.mark.parametrize("experiment", PLAIN)
def test_unknown_keys_are_refused_in_every_section(
    experiment: str, roots: dict[str, list[str]], tmp_path: Path
) -> None:
    settings = settings_of(f"experiment={experiment}", *roots[experiment])
    sections = [()] + [(key,) for key, value in settings.items() if isinstance(value, dict)]
    assert len(sections) > 10
    for section in sections:
        changed = copy.deepcopy(settings)
        (changed[section[0]] if section else changed)["bogus"] = 1
        with pytest.raises(UserError, match=r"unknown setting .*bogus: choose one of"):
            assemble(changed, tmp_path)


#: Files that are no choice of a run: W&B's, see tests/dashboards, and those of studies, see tests/study.
OTHERS = {"sweep", "study"}


def test_every_yaml_file_can_be_chosen() -> None:
    """No file of conf/ is a dead one: each is loaded by some choice."""
    groups = {path.parent.name for path in config_dir().glob("*/*.yaml")} - OTHERS
    chosen = set()
    for group in groups:
        for path in (config_dir() / group).glob("*.yaml"):
            if path.stem == "base":
                continue
            more = (
                ["algorithm=supervised"]
                if (group, path.stem) in {("pseudo_labels", "none"), ("layerwise", "none")}
                else []
            )
            more += ["data.root=x"] if path.stem.removesuffix("_fast").endswith(("folder", "shards")) else []
            more += ["data.manifest=x"] if path.stem == "manifest" else []
            settings_of(f"{group}={path.stem}", *more)
            chosen.add(path)
    files = {path for path in config_dir().glob("*/*.yaml") if path.stem != "base" and path.parent.name not in OTHERS}
    assert chosen == files
    for base in config_dir().glob("*/base.yaml"):
        assert yaml.safe_load(base.read_text())
