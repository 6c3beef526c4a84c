"""What holds for every method of conf/algorithm, with every layer-wise rule that it may have; a new file is found here.

A method of one's own is tested by these as soon as it has a configuration.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import yaml
from tests.methods.composed import composed, names
from torch import Tensor, nn

from layermatch.build import build_algorithm, build_data, build_device, build_method
from layermatch.cli import config_dir
from layermatch.components import option_names
from layermatch.data import SemiSupervisedData
from layermatch.data.batch import Batch
from layermatch.errors import UserError
from layermatch.metrics import LOSS_PART
from layermatch.networks import CLASSIFIER, EXTRACTOR
from layermatch.parts import LABELS, PSEUDO_LABELS, Losses, Step
from layermatch.policies import Aligned
from layermatch.settings import Settings
from layermatch.training import SemiSupervisedModule

METHODS, RULES, POLICIES = names("algorithm"), names("layerwise"), names("pseudo_labels")

#: Settings of policies, where they have them: a low threshold of the confidence, a high first threshold of the loss.
LENIENT = {"threshold": 0.12, "first": 10.0}

#: Their pseudo-label loss takes no layer-wise rule, or there is none.
WITHOUT_RULE = {"linear_probe", "supervised"}


#: Attributes of policies and methods by which images are accepted, and values of them by which none is and all are. The
#: settings end at 1, which a prediction in float32 may reach; AdaMatch's is a share of another confidence.
NONE_ACCEPTED: dict[str, float] = {
    "threshold": 100.0, "balanced_threshold": 1.1, "min_threshold": 1.1, "mix_threshold": 1.1, "open_threshold": 1.1,
    "low": 1.1, "high": 1.1, "first": 1e-9, "lowest": 1e-9,
}  # fmt: skip
ALL_ACCEPTED: dict[str, float] = {
    name: {"first": 1e3, "lowest": 1e3, "low": 0.0, "min_threshold": 0.0}.get(name, 0.05) for name in NONE_ACCEPTED
}

#: Methods without a threshold: all images count, and SoftMatch weighs each by how sure it is.
WITHOUT_THRESHOLD = {
    "dho", "linear_probe", "mean_teacher", "mixmatch", "pi_model", "r2d2", "remixmatch", "softmatch", "supervised",
    "vat", "vpet",
}  # fmt: skip

#: Where another share counts than the threshold asks for.
OTHERWISE: dict[tuple[str, int], str] = {
    **dict.fromkeys(
        [("flexmatch", 0), ("jepamatch", 0), ("sequencematch", 0)],
        "FlexMatch's thresholds are 0 until a class is learnt",
    ),
    ("finessl", 1): "an image counts by its confidence",
    ("iomatch", 1): "an image that is taken for an outlier does not count",
}


#: Data modules, which methods share that ask for the same views of the same data.
DATA: dict[str, SemiSupervisedData] = {}


def compose_settings(*overrides: str, **of_algorithm: object) -> Settings:
    raw = composed(*overrides)
    if not any(override.startswith("trainer.max_steps=") for override in overrides):
        raw["trainer"]["max_steps"] = 10
    # Pseudo-labels count from the first step on.
    raw["pseudo_labels"] |= {key: value for key, value in LENIENT.items() if key in raw["pseudo_labels"]}
    assert raw["algorithm"].keys() >= of_algorithm.keys()
    raw["algorithm"] |= of_algorithm
    return Settings.parse(raw)


def build(settings: Settings) -> tuple[SemiSupervisedModule, SemiSupervisedData]:
    """The module and the data of a run."""
    method, raw = build_method(settings), settings.raw
    views = method.views.labelled, method.views.unlabelled
    # Not sorted: a view's place decides its random numbers.
    key = json.dumps([views, raw["data"], raw["views"], raw["seed"]], default=str)
    if key not in DATA:
        DATA[key] = build_data(settings, device=build_device(settings), views=method.views)
        DATA[key].setup()
    torch.manual_seed(settings.seed)
    return build_algorithm(settings, data=DATA[key], method=method), DATA[key]


def one_batch(*overrides: str) -> tuple[SemiSupervisedModule, Losses]:
    """The module, and the losses of a batch in the middle of a run, where no ramp is at 0."""
    module, data = build(compose_settings(*overrides))
    return module, losses_of(module, data.batch_of_step(0))


def losses_of(module: SemiSupervisedModule, batch: Batch, *, record: Callable[..., None] | None = None) -> Losses:
    torch.manual_seed(0)
    step = Step(module.network, module.ema.network, 5, 10, record or module.lines.meter.add, module.guard.watch)
    module.network.train()
    return module.method.losses(batch, step)


def gradients(loss: Tensor, module: SemiSupervisedModule, group: str) -> dict[str, Tensor]:
    """The gradient of a loss in each parameter of a group; 0 where there is none."""
    named = module.network.parameter_groups()[group]
    if not loss.requires_grad:
        return {name: torch.zeros_like(parameter) for name, parameter in named}
    found = torch.autograd.grad(loss, [p for _, p in named], retain_graph=True, allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if grad is None else grad
        for (name, parameter), grad in zip(named, found, strict=True)
    }


def refusal(method: str, rule: str) -> str:
    """Why a pair does not build; empty where it does."""
    try:
        raw = compose_settings(f"algorithm={method}").raw
        build(Settings.parse(raw | {"layerwise": composed(f"layerwise={rule}")["layerwise"]}))
    except UserError as error:
        return str(error)
    return ""


def check_grad_relu(module: SemiSupervisedModule, losses: Losses) -> None:
    """The classifier has the gradient of the labels alone, and the extractor learns from the pseudo-labels."""
    assert any(term.source == PSEUDO_LABELS for term in losses.values())
    total, labels, pseudo = (
        gradients(loss, module, CLASSIFIER) for loss in (losses.total, losses.of(LABELS), losses.of(PSEUDO_LABELS))
    )
    for name in total:
        assert not pseudo[name].any(), name
        torch.testing.assert_close(total[name], labels[name], rtol=1e-5, atol=1e-8)
    assert any(grad.any() for grad in gradients(losses.of(PSEUDO_LABELS), module, EXTRACTOR).values())


def takes_a_policy(settings: Settings) -> bool:
    return "policy" in option_names(build_method(settings).__class__)


def distinct_methods() -> list[str]:
    """Those that differ in more than their policy and their rule, which a file of conf/algorithm picks."""
    found: dict[str, str] = {}
    for method in METHODS:
        content = yaml.safe_load((config_dir() / "algorithm" / f"{method}.yaml").read_text())
        own = {key: value for key, value in content["algorithm"].items() if key != "name"}
        bases = [each for each in content["defaults"] if isinstance(each, str)]
        found.setdefault(json.dumps([bases, own]), method)
    return sorted(set(found.values()) - WITHOUT_RULE)


CHOICES = distinct_methods()


@pytest.mark.parametrize("method", METHODS)
def test_each_term_reaches_what_it_says(method: str) -> None:
    """And each parameter group's gradient of the one backward is that of the losses that reach it."""
    module, losses = one_batch(f"algorithm={method}")
    groups = module.network.parameter_groups()
    for name, term in losses.items():
        assert term.source in {LABELS, PSEUDO_LABELS}, name
        assert term.value.isfinite(), name
        assert LOSS_PART.of(name)
        for group in set(groups) - set(groups if term.reaches is None else term.reaches):
            assert all(not grad.any() for grad in gradients(term.weighted, module, group).values()), (name, group)
    for group in groups:
        own, total = (gradients(loss, module, group) for loss in (losses.reaching(group), losses.total))
        for name, grad in own.items():
            torch.testing.assert_close(total[name], grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("method", sorted(set(METHODS) - WITHOUT_RULE))
def test_under_grad_relu_the_classifier_learns_from_labels_alone(method: str) -> None:
    check_grad_relu(*one_batch(f"algorithm={method}", "layerwise=grad_relu"))


@pytest.mark.parametrize("method", CHOICES)
def test_under_grad_relu_the_classifier_learns_from_labels_alone_with_every_policy(method: str) -> None:
    settings = compose_settings(f"algorithm={method}", "layerwise=grad_relu")
    if not takes_a_policy(settings):
        return
    for policy in POLICIES:
        section = composed(f"pseudo_labels={policy}")["pseudo_labels"]
        section |= {key: value for key, value in LENIENT.items() if key in section}
        module, data = build(Settings.parse(settings.raw | {"pseudo_labels": section}))
        check_grad_relu(module, losses_of(module, data.batch_of_step(0)))


@pytest.mark.parametrize("method", sorted(set(METHODS) - WITHOUT_RULE))
def test_every_rule_is_legal_or_refused_with_the_reason(method: str) -> None:
    refused = {rule: reason for rule in RULES if (reason := refusal(method, rule))}
    assert set(refused) in (set(), set(RULES) - {"uniform", "grad_relu", "layermatch"})
    for reason in refused.values():
        assert "is not legal with" in reason
        assert "\n" not in reason


@pytest.mark.parametrize("reading", ["none", "ema_centroids"])
@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_goes_with_layermatch(policy: str, reading: str) -> None:
    module, losses = one_batch("algorithm=layermatch", f"pseudo_labels={policy}", f"layerwise.avg_clustering={reading}")
    for name, grad in gradients(losses.of(PSEUDO_LABELS), module, CLASSIFIER).items():
        assert not grad.any(), name
    assert any(grad.any() for grad in gradients(losses.of(PSEUDO_LABELS), module, EXTRACTOR).values())


@pytest.mark.parametrize("method", METHODS)
def test_the_policy_of_any_method_can_be_aligned(method: str) -> None:
    if not takes_a_policy(compose_settings(f"algorithm={method}")):
        return
    aligned = build_method(compose_settings(f"algorithm={method}", "pseudo_labels.alignment=uniform"))
    assert isinstance(aligned.policy, Aligned)


@pytest.mark.parametrize("method", METHODS)
def test_any_method_can_have_its_pseudo_label_gradient_scaled(method: str) -> None:
    settings = compose_settings(f"algorithm={method}", gradient_scale={"classifier": 0})
    assert build(settings)[0].gradient_rules


def set_thresholds(method: nn.Module, values: dict[str, float]) -> bool:
    """Give a method and its policy other thresholds than the settings allow; whether they have any."""
    has_some = False
    for part in method.modules():
        for name in vars(part).keys() & values.keys():
            setattr(part, name, values[name])
            has_some = True
    return has_some


def check_finite(module: SemiSupervisedModule, losses: Losses) -> None:
    learn = {name: parameter for name, parameter in module.network.named_parameters() if parameter.requires_grad}
    for name, term in losses.items():
        assert term.value.isfinite(), name
    found = torch.autograd.grad(losses.total, list(learn.values()), allow_unused=True)
    for name, gradient in zip(learn, found, strict=True):
        assert gradient is None or gradient.isfinite().all(), name


@pytest.mark.parametrize(("share", "values"), [(0, NONE_ACCEPTED), (1, ALL_ACCEPTED)], ids=["none", "all"])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_is_finite_where_none_or_all_are_accepted(method: str, share: int, values: dict[str, float]) -> None:
    module, data = build(compose_settings(f"algorithm={method}"))
    assert set_thresholds(module.method, values) == (method not in WITHOUT_THRESHOLD)
    seen: dict[str, Any] = {}
    losses = losses_of(module, data.batch_of_step(0), record=lambda means, _=None: seen.update(means))
    if method not in WITHOUT_THRESHOLD:
        assert (seen["pseudo_labels/mask_rate"] == share) == ((method, share) not in OTHERWISE)
    check_finite(module, losses)


#: What a method must be given where there are two classes.
OF_TWO_CLASSES = {"finessl": ("algorithm.smoothing=0.3",)}


@pytest.mark.parametrize("method", METHODS)
def test_a_step_is_finite_with_two_classes(method: str) -> None:
    raw = compose_settings(f"algorithm={method}", *OF_TWO_CLASSES.get(method, ())).raw
    module, data = build(Settings.parse(raw | {"data": raw["data"] | {"open_set": 2}}))
    assert module.network.num_classes == 2
    check_finite(module, losses_of(module, data.batch_of_step(0)))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_is_finite_with_images_of_one_class_alone(method: str, precision: str) -> None:
    """A batch without images of all the other classes, as it is and in the lower precision."""
    module, data = build(compose_settings(f"algorithm={method}"))
    batch = data.batch_of_step(0)
    batch = batch._replace(labelled=batch.labelled._replace(label=torch.zeros_like(batch.labelled.label)))
    with torch.autocast("cpu", torch.bfloat16) if precision == "bf16-mixed" else nullcontext():
        check_finite(module, losses_of(module, batch))
