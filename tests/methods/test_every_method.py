"""What holds for every method of conf/algorithm, with every layer-wise rule that it may have; a new file is found here.

A method of one's own is tested by these as soon as it has a configuration.
"""

from __future__ import annotations

import json

import pytest
import torch
from tests.methods.composed import composed, names
from torch import Tensor

from layermatch.build import build_algorithm, build_data, build_device, build_method
from layermatch.components import option_names
from layermatch.data import SemiSupervisedData
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
    batch = data.batch_of_step(0)
    torch.manual_seed(0)
    step = Step(module.network, module.ema.network, 5, 10, module.lines.meter.add, module.guard.watch)
    module.network.train()
    return module, module.method.losses(batch, step)


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
    module, losses = one_batch(f"algorithm={method}", "layerwise=grad_relu")
    assert any(term.source == PSEUDO_LABELS for term in losses.values())
    total, labels, pseudo = (
        gradients(loss, module, CLASSIFIER) for loss in (losses.total, losses.of(LABELS), losses.of(PSEUDO_LABELS))
    )
    for name in total:
        assert not pseudo[name].any(), name
        torch.testing.assert_close(total[name], labels[name], rtol=1e-5, atol=1e-8)
    assert any(grad.any() for grad in gradients(losses.of(PSEUDO_LABELS), module, EXTRACTOR).values())


@pytest.mark.parametrize("method", sorted(set(METHODS) - WITHOUT_RULE))
def test_every_rule_is_legal_or_refused_with_the_reason(method: str) -> None:
    refused = {rule: reason for rule in RULES if (reason := refusal(method, rule))}
    assert set(refused) in (set(), set(RULES) - {"uniform", "grad_relu"})
    for reason in refused.values():
        assert "is not legal with" in reason
        assert "\n" not in reason


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_goes_with_layermatch(policy: str) -> None:
    module, losses = one_batch("algorithm=layermatch", f"pseudo_labels={policy}")
    for name, grad in gradients(losses.of(PSEUDO_LABELS), module, CLASSIFIER).items():
        assert not grad.any(), name
    assert any(grad.any() for grad in gradients(losses.of(PSEUDO_LABELS), module, EXTRACTOR).values())


@pytest.mark.parametrize("method", METHODS)
def test_the_policy_of_any_method_can_be_aligned(method: str) -> None:
    if "policy" not in option_names(build_method(compose_settings(f"algorithm={method}")).__class__):
        return  # it has none
    aligned = build_method(compose_settings(f"algorithm={method}", "pseudo_labels.alignment=uniform"))
    assert isinstance(aligned.policy, Aligned)


@pytest.mark.parametrize("method", METHODS)
def test_any_method_can_have_its_pseudo_label_gradient_scaled(method: str) -> None:
    settings = compose_settings(f"algorithm={method}", gradient_scale={"classifier": 0})
    assert build(settings)[0].gradient_rules
