"""What holds for every method of conf/algorithm, with every layer-wise rule that it may have; a new file is found here.

A method of one's own is tested by these as soon as it has a configuration.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from layermatch.build import build_parts
from layermatch.cli import config_dir, plain
from layermatch.errors import UserError
from layermatch.metrics import LOSS_PART
from layermatch.networks import CLASSIFIER, EXTRACTOR
from layermatch.parts import LABELS, PSEUDO_LABELS, Losses, Step
from layermatch.settings import Settings
from layermatch.training import SemiSupervisedModule

SMALL = (
    "run_dir=unused", "experiment=digits", "data.batch_size=8", "data.mu=2", "data.num_val=0", "model.width=1",
    "trainer=cpu", "trainer.precision=32-true", "trainer.max_steps=10",
)  # fmt: skip


def names(section: str) -> list[str]:
    return sorted(path.stem for path in (config_dir() / section).glob("*.yaml") if path.stem not in {"base", "none"})


METHODS, RULES, POLICIES = names("algorithm"), names("layerwise"), names("pseudo_labels")

#: Settings of policies, where they have them: a low threshold of the confidence, a high first threshold of the loss.
LENIENT = {"threshold": 0.12, "first": 10.0}

#: Their pseudo-label loss takes no layer-wise rule, or there is none.
WITHOUT_RULE = {"supervised"}


def compose_settings(*overrides: str) -> Settings:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        raw = plain(compose("run", overrides=[*SMALL, *overrides]))
    # Pseudo-labels count from the first step on.
    raw["pseudo_labels"] |= {key: value for key, value in LENIENT.items() if key in raw["pseudo_labels"]}
    return Settings.parse(raw)


def one_batch(*overrides: str) -> tuple[SemiSupervisedModule, Losses]:
    """The module, and the losses of a batch in the middle of a run, where no ramp is at 0."""
    parts = build_parts(compose_settings(*overrides))
    module, batch = parts.algorithm, parts.data.batch_of_step(0)
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
        build_parts(compose_settings(f"algorithm={method}", f"layerwise={rule}"))
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
def test_any_method_can_have_its_pseudo_label_gradient_scaled(method: str) -> None:
    settings: dict[str, Any] = compose_settings(f"algorithm={method}", "algorithm.gradient_scale={classifier: 0}").raw
    assert build_parts(Settings.parse(settings)).algorithm.gradient_rules
