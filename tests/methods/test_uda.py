"""UDA against numbers of the peers' codes, and of the paper's formula where those depart from it."""

from __future__ import annotations

import pytest
import torch
from tests import oracle
from tests.given import batch_of_logits, network_of, problem_of, step_of
from tests.oracle import Worst

from layermatch.errors import UserError
from layermatch.functional import entropy
from layermatch.layerwise import SeparateLosses, Uniform
from layermatch.methods import UDA
from layermatch.policies import FixedThreshold, Predictions, SharpenedTargets

ORACLE = oracle.read("uda")
MAX_STEPS = ORACLE["inputs"]["num_train_iter"]


def form_of(code: str, tsa: str) -> str | None:
    """None is the paper's form; without annealing there is no other."""
    return "torchssl" if code != "paper" and tsa != "none" else None


@pytest.mark.oracle
@pytest.mark.parametrize("tsa", ["none", "linear", "log", "exp"])
@pytest.mark.parametrize("code", ["paper", "torchssl", "usb"])
@pytest.mark.parametrize("rule", [Uniform, SeparateLosses])
def test_every_step_is_that_of_the_oracle(code: str, tsa: str, rule: type) -> None:
    """Grad-ReLU gives the strong logits the same gradient, and the classifier that of labels."""
    variant, worst = f"{code}/{tsa}", Worst()
    config = ORACLE["config"].get(variant, ORACLE["config"][f"torchssl/{tsa}"])
    temperature = 1.0 if code == "usb" else config["T"]  # USB names one, and does not apply it
    policy = SharpenedTargets(threshold=config["p_cutoff"], temperature=temperature)
    method = UDA(
        policy=policy, rule=rule() if rule is Uniform else rule(avg_clustering="none"),
        tsa=tsa, tsa_form=form_of(code, tsa),
    )  # fmt: skip
    network = network_of(ORACLE["inputs"]["K"])
    method.prepare(network, problem_of(6, max_steps=MAX_STEPS))
    for recorded in ORACLE["steps"]:
        want, batch = oracle.expected(ORACLE, recorded, variant), batch_of_logits(recorded["inputs"])
        losses = method.losses(batch, step_of(network, recorded["inputs"]["it"], MAX_STEPS))
        losses.total.backward()
        worst.see(losses["supervised"].value, want["sup_loss"], "supervised")
        worst.see(losses["pseudo"].value, want["unsup_loss"], "pseudo")
        worst.see(losses.reaching("extractor"), want["total_loss"], "total")
        worst.see(batch.unlabelled.views["strong"].grad, want["grad_logits_s"], "gradient")
        if rule is not Uniform:
            worst.see(losses.reaching("classifier"), want["sup_loss"], "classifier")
        kept = batch.labelled.views["weak"].grad.abs().sum(dim=1) > 0
        assert kept.tolist() == [bool(mask) for mask in want["sup_mask"]]
        found = policy(Predictions(batch.unlabelled.views["weak"].detach().softmax(dim=1), batch.unlabelled.indices))
        if "mask" in want:
            assert found.weight.tolist() == want["mask"]
            worst.see(found.target, want["pseudo_label"], "target")
        if "unsup_kl" in want:  # the paper's divergence is less by the entropy of the targets
            divergence = losses["pseudo"].value - (found.weight * entropy(found.target)).mean()
            worst.see(divergence, want["unsup_kl"], "divergence")
    worst.say(f"uda {variant}, {rule.__name__}")


def test_the_classifier_learns_from_the_labels_that_count_alone_under_grad_relu() -> None:
    network, recorded = network_of(ORACLE["inputs"]["K"]), ORACLE["steps"][2]
    method = UDA(policy=SharpenedTargets(), rule=SeparateLosses(avg_clustering="none"), tsa="linear")
    method.prepare(network, problem_of(6))
    losses = method.losses(batch_of_logits(recorded["inputs"]), step_of(network, recorded["inputs"]["it"]))
    parameters = list(network.classifier.parameters())
    of_labels = torch.autograd.grad(losses.of("labels"), parameters, retain_graph=True)
    assert of_labels[0].abs().sum() > 0
    for found, expected in zip(torch.autograd.grad(losses.total, parameters), of_labels, strict=True):
        assert torch.equal(found, expected)


def test_without_annealing_it_is_pseudo_labelling() -> None:
    network = network_of(ORACLE["inputs"]["K"])
    method = UDA(policy=FixedThreshold(), rule=SeparateLosses(), forward="split")
    assert method.forward_mode == "split"
    method.prepare(network, problem_of(6))
    losses = method.losses(batch_of_logits(ORACLE["steps"][0]["inputs"]), step_of(network))
    assert losses["supervised"].value.item() == pytest.approx(ORACLE["steps"][0]["outputs"]["usb/none"]["sup_loss"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tsa": "cosine"}, "tsa='cosine' is not legal"),
        ({"tsa": "log", "tsa_form": "usb"}, "tsa_form='usb' is not legal"),
        ({"tsa_form": "paper"}, "tsa_form=paper needs tsa="),
        ({"forward": "both"}, "forward='both' is not legal"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        UDA(policy=SharpenedTargets(), rule=Uniform(), **options)  # type: ignore[arg-type]


def test_a_second_head_would_learn_from_all_labels() -> None:
    for tsa in ("none", "log"):
        method = UDA(policy=SharpenedTargets(), rule=SeparateLosses(decoupled=True), tsa=tsa)
        if tsa == "none":
            method.prepare(network_of(6), problem_of(6))
            continue
        with pytest.raises(UserError, match="tsa=log is not legal with a rule that has a head of its own"):
            method.prepare(network_of(6), problem_of(6))
