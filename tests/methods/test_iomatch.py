"""IOMatch against numbers of the authors' code, and where each loss goes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from tests import oracle
from tests.given import batch_of, gradient, picking, problem_of, step_of
from tests.oracle import tensor
from torch import Tensor, nn

from layermatch.build import build_policy
from layermatch.cli import config_dir, plain
from layermatch.data.batch import Batch
from layermatch.errors import UserError
from layermatch.layerwise import LayerwiseRule, SeparateLosses, Uniform
from layermatch.methods import IOMatch
from layermatch.networks import Network
from layermatch.policies import FixedThreshold, Policy, Predictions, PseudoLabels
from layermatch.settings import Settings

ORACLE = oracle.read("iomatch")
START = ORACLE["inputs"]
K = START["K"]
#: Logits of the classifier, of "one_vs_all" and of "open", side by side.
WIDTH = K + 2 * K + K + 1


class Aligned(FixedThreshold):
    """The alignment of the authors' code: by a queue of batch means that starts at zeros."""

    def __init__(self, *, threshold: float) -> None:
        super().__init__(threshold=threshold)
        self.queue, self.place = torch.zeros(START["da_len"], K), 0

    def forward(self, predictions: Predictions) -> PseudoLabels:
        self.queue[self.place] = predictions.probs_weak.mean(dim=0)
        self.place = (self.place + 1) % len(self.queue)
        aligned = predictions.probs_weak * (1 / K + 1e-6) / (self.queue.mean(dim=0) + 1e-6)
        aligned = aligned / aligned.sum(dim=1, keepdim=True)
        return super().forward(predictions._replace(probs_weak=aligned))._replace(target=aligned)


def given_network() -> Network:
    network = Network(nn.Identity(), num_features=WIDTH).double()
    network.add_head("classifier", picking(0, K, of=WIDTH))
    network.add_head("projection", picking(K, WIDTH - K, of=WIDTH))
    network.add_head("one_vs_all", picking(0, 2 * K, of=WIDTH - K))
    network.add_head("open", picking(2 * K, K + 1, of=WIDTH - K))
    return network


def images(main: Any, *, pairs: Any = None, opened: Any = None) -> Tensor:
    empty = torch.zeros(len(main), WIDTH).double()
    pairs = empty[:, : 2 * K] if pairs is None else tensor(pairs)
    opened = empty[:, : K + 1] if opened is None else tensor(opened)
    return torch.cat([tensor(main), pairs, opened], dim=1).requires_grad_()


@pytest.mark.oracle
@pytest.mark.parametrize("forward", ["joint", "split", "shared"])
@pytest.mark.parametrize(("variant", "kind"), [("authors/no_DA", FixedThreshold), ("authors/DA_queue", Aligned)])
def test_every_step_is_that_of_the_authors_code(variant: str, kind: type[FixedThreshold], forward: str) -> None:
    network, policy = given_network(), kind(threshold=START["p_cutoff"])
    method = IOMatch(policy=policy, rule=Uniform(), open_threshold=START["q_cutoff"], forward=forward)
    method.prepare(network, problem_of(K, WIDTH))
    for recorded in ORACLE["steps"]:
        given, expected, seen = recorded["inputs"], recorded["outputs"][variant], {}
        labelled = images(given["logits_lb"], pairs=given["logits_mb_lb"])
        strong = images(given["logits_s"], opened=given["logits_open_s"])
        weak = images(given["logits_w"], pairs=given["logits_mb_w"])
        batch = batch_of(labelled, given["y_lb"], {"weak": weak, "strong": strong})
        losses = method.losses(batch, step_of(network, given["epoch"], seen=seen))
        assert losses["supervised"].value.item() == pytest.approx(expected["sup_closed_loss"], rel=1e-7)
        assert losses["one_vs_all"].value.item() == pytest.approx(expected["sup_mb_loss"], rel=1e-7)
        assert losses["pseudo"].value.item() == pytest.approx(expected["ui_loss"], rel=1e-7, abs=1e-8)
        assert losses["open"].weighted.item() == pytest.approx(expected["op_loss"], rel=1e-7)
        assert losses.total.item() == pytest.approx(expected["total_loss"], rel=1e-7)
        counted = (tensor(expected["in_mask"]) * tensor(expected["p_mask"])).mean().item()
        assert seen["pseudo_labels/mask_rate"].item() == pytest.approx(counted)
        losses.total.backward()
        torch.testing.assert_close(strong.grad[:, :K], tensor(expected["grad_logits_s"]), rtol=1e-7, atol=1e-8)
        found = labelled.grad[:, K : 3 * K]
        torch.testing.assert_close(found, tensor(expected["grad_logits_mb_lb"]), rtol=1e-7, atol=1e-8)
        assert weak.grad is None or not weak.grad.any()


def small(rule: LayerwiseRule, policy: Policy | None = None, **options: Any) -> tuple[Network, IOMatch, Batch]:
    torch.manual_seed(1)
    network = Network(nn.Linear(5, 4), num_features=4, num_classes=3).double()
    method = IOMatch(policy=policy or FixedThreshold(threshold=0.4), rule=rule, width=7, **options)
    problem = problem_of(3, 4, num_labelled=6, num_unlabelled=30)
    for name, head in method.heads(problem).items():
        network.add_head(name, head.double())
    method.prepare(network, problem)
    views = {"weak": 2 * torch.randn(30, 5).double(), "strong": 2 * torch.randn(30, 5).double()}
    return network, method, batch_of(torch.randn(6, 5).double(), torch.arange(6) % 3, views)


def test_the_heads_learn_from_the_terms_that_say_so_and_grad_relu_holds() -> None:
    network, method, batch = small(SeparateLosses(avg_clustering="none"), open_threshold=0.2)
    losses = method.losses(batch, step_of(network, 50))
    assert all(term.value > 0 for term in losses.values())
    for term in losses.values():
        for group in network.parameter_groups():
            assert gradient(term.value, network, group).any() == (group in term.reaches)
    supervised = gradient(losses["supervised"].value, network, "classifier")
    torch.testing.assert_close(gradient(losses.total, network, "classifier"), supervised, rtol=1e-12, atol=0)


def test_the_heads_are_those_of_the_authors_code() -> None:
    network, _, _ = small(Uniform())
    assert network.heads["one_vs_all"].weight.shape == (6, 7)
    assert network.heads["one_vs_all"].bias is None
    assert network.heads["open"].weight.shape == (4, 7)
    assert not network.heads["open"].bias.any()


def test_the_open_set_head_waits_and_nobody_is_taken_in_where_all_are_outside() -> None:
    network, method, batch = small(Uniform(), open_after=0.5)
    assert method.losses(batch, step_of(network, 49))["open"].weight == 0
    assert method.losses(batch, step_of(network, 50))["open"].weight == 1
    last, head = network.heads["projection"][2], network.heads["one_vs_all"]
    with torch.no_grad():  # every image is of none of the classes
        last.weight.zero_()
        last.bias.fill_(1)
        head.weight[:3], head.weight[3:] = 1, -1
    losses = method.losses(batch, step_of(network, 50))
    assert losses["pseudo"].value == 0
    assert losses["open"].value > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"open_threshold": 0}, "open_threshold=0"),
        ({"open_after": 2}, "open_after=2"),
        ({"one_vs_all_weight": -1}, "one_vs_all_weight=-1"),
        ({"open_weight": -1}, "open_weight=-1"),
        ({"width": 0}, "width=0"),
        ({"forward": "split", "skip_masked": True}, "skip_masked=true is not legal with IOMatch"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        IOMatch(policy=FixedThreshold(), rule=Uniform(), **options)


def test_the_policy_of_its_file_hands_on_aligned_probabilities() -> None:
    """Mask, target and the heads' targets are of the same probabilities, as in the authors' ``dist_align``."""
    words = ["algorithm=iomatch", "pseudo_labels.alignment=uniform", "pseudo_labels.alignment_queue=4"]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        settings = Settings.parse(plain(compose("run", [*words, "run_dir=run"])))
    policy = build_policy(settings.pseudo_labels)
    policy.prepare(problem_of(num_classes=3))
    probs = torch.tensor([[0.6, 0.3, 0.1], [0.7, 0.2, 0.1]])
    found = policy(Predictions(probs_weak=probs, indices=torch.arange(2)))
    expected = probs / probs.mean(dim=0)
    torch.testing.assert_close(found.target, expected / expected.sum(dim=1, keepdim=True), rtol=0, atol=1e-4)
