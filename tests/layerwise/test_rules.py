"""Each layer group's gradient of the one backward equals the gradient of that group's own loss, written out plainly."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layermatch.errors import UserError
from layermatch.layerwise import ForwardPass, LayerMatch, LayerwiseRule, Uniform
from layermatch.networks import Network
from layermatch.parts import PseudoLabels

B, N, D, K = 5, 12, 7, 4


class Problem(NamedTuple):
    network: Network
    labelled: Tensor
    strong: Tensor
    weak: Tensor
    label: Tensor
    pseudo_labels: PseudoLabels


def make_problem(*, seed: int = 0, pseudo_head: bool = False, mask: float = 0.5) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    extractor = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, D)).double()
    network = Network(extractor, num_features=D, num_classes=K, pseudo_head=pseudo_head).double()
    labelled, strong, weak = (torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (B, N, N))
    weight = (torch.rand(N, generator=generator) < mask).double()
    target = torch.randint(K, (N,), generator=generator)
    pseudo_labels = PseudoLabels(target, weight, target, weight)
    return Problem(network, labelled, strong, weak, torch.randint(K, (B,), generator=generator), pseudo_labels)


def run_rule(rule: LayerwiseRule, problem: Problem) -> dict[str, Tensor]:
    """Gradients of all parameters by the rule's one backward."""
    network = problem.network
    out = network(torch.cat([problem.labelled, problem.strong]))
    views = ForwardPass(out.features[:B], out.logits[:B], out.features[B:])
    rule.observe(network(problem.weak).features.detach(), problem.pseudo_labels)
    losses = rule(network, views, problem.label, problem.pseudo_labels)
    network.zero_grad()
    losses.total.backward()
    return {name: parameter.grad.clone() for name, parameter in network.named_parameters()}


def plain_losses(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """L_s, L_u and the strong features, without any stop-gradient."""
    network, pseudo_labels = problem.network, problem.pseudo_labels
    features = network.extractor(problem.strong)
    logits = features @ network.classifier.weight.T + network.classifier.bias
    losses = torch.stack(
        [F.cross_entropy(logits[i], pseudo_labels.target[i]) * pseudo_labels.weight[i] for i in range(N)]
    )
    supervised = F.cross_entropy(network(problem.labelled).logits, problem.label)
    return supervised, losses.sum() / N, features


def gradients(loss: Tensor, problem: Problem, group: str) -> dict[str, Tensor]:
    named = problem.network.parameter_groups()[group]
    grads = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True, retain_graph=True)
    return {name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(named, grads, strict=True)}


def assert_equal(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-12) -> None:
    assert expected
    for name, grad in expected.items():
        torch.testing.assert_close(actual[name], grad, rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("lambda_u", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("mask", [0.0, 0.5, 1.0])
def test_uniform_is_fixmatch(lambda_u: float, mask: float) -> None:
    problem = make_problem(mask=mask)
    actual = run_rule(Uniform(lambda_u=lambda_u), problem)
    supervised, pseudo, _ = plain_losses(problem)
    for group in ("extractor", "classifier"):
        assert_equal(actual, gradients(supervised + lambda_u * pseudo, problem, group))


@pytest.mark.parametrize("lambda_u", [1.0, 2.5])
def test_grad_relu_gives_the_classifier_the_supervised_and_the_extractor_the_fixmatch_gradient(lambda_u: float) -> None:
    problem = make_problem()
    actual = run_rule(LayerMatch(lambda_u=lambda_u, avg_clustering="none"), problem)
    supervised, pseudo, _ = plain_losses(problem)
    assert_equal(actual, gradients(supervised, problem, "classifier"))
    assert_equal(actual, gradients(supervised + lambda_u * pseudo, problem, "extractor"))
    # Without Grad-ReLU the classifier's gradient is another one, so the equality above says something.
    fixmatch = gradients(supervised + lambda_u * pseudo, problem, "classifier")
    assert (actual["classifier.weight"] - fixmatch["classifier.weight"]).abs().max() > 1e-3


def test_off_and_none_is_fixmatch_to_the_bit() -> None:
    problem = make_problem()
    ours, fixmatch = LayerMatch(grad_relu="off", avg_clustering="none"), Uniform()
    a, b = run_rule(ours, problem), run_rule(fixmatch, problem)
    assert all(torch.equal(a[name], b[name]) for name in b)


@pytest.mark.parametrize("grad_relu", ["block", "off"])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_ema_classifier(grad_relu: str, share: float) -> None:
    problem = make_problem()
    rule = LayerMatch(grad_relu=grad_relu, avg_clustering="ema_classifier", weight=share)
    rule.prepare(problem.network, num_unlabelled=100)
    with torch.no_grad():  # centres of their own, so that they differ from the classifier
        rule.avg_clustering.centre_weight.normal_(generator=torch.Generator().manual_seed(3))
        rule.avg_clustering.centre_bias.fill_(0.1)
    actual = run_rule(rule, problem)
    supervised, pseudo, features = plain_losses(problem)
    centres, bias = rule.avg_clustering.centre_weight, rule.avg_clustering.centre_bias
    clustering = sum(
        problem.pseudo_labels.weight[i] * F.cross_entropy(centres @ features[i] + bias, problem.pseudo_labels.target[i])
        for i in range(N)
    )
    of_features = supervised + (1 - share) * pseudo + share * clustering / N
    of_classifier = supervised + (pseudo if grad_relu == "off" else 0)
    assert_equal(actual, gradients(of_features, problem, "extractor"))
    assert_equal(actual, gradients(of_classifier, problem, "classifier"))


def test_ema_centroids_learn_from_weak_features_and_pull_strong_ones() -> None:
    problem = make_problem()
    rule = LayerMatch(avg_clustering="ema_centroids", weight=0.5, decay=0.9, temperature=0.5)
    rule.prepare(problem.network, num_unlabelled=100)
    run_rule(rule, problem)
    rule.after_step(problem.network, num_updates=0)
    weak = problem.network(problem.weak).features.detach()
    counted = problem.pseudo_labels.weight > 0
    for k in range(K):
        members = weak[counted & (problem.pseudo_labels.label == k)]
        expected = members.mean(dim=0) if len(members) else torch.zeros(D, dtype=torch.float64)
        torch.testing.assert_close(rule.avg_clustering.centroids[k], expected)

    actual = run_rule(rule, problem)
    supervised, pseudo, features = plain_losses(problem)
    known = rule.avg_clustering.centroids.norm(dim=1) > 0
    clustering = torch.zeros((), dtype=torch.float64)
    for i in range(N):
        if problem.pseudo_labels.weight[i] and known[problem.pseudo_labels.label[i]]:
            cosine = F.cosine_similarity(features[i][None], rule.avg_clustering.centroids)[known] / 0.5
            target = torch.nonzero(torch.nonzero(known)[:, 0] == problem.pseudo_labels.label[i])[0]
            clustering = clustering + F.cross_entropy(cosine[None], target)
    assert_equal(actual, gradients(supervised + 0.5 * pseudo + 0.5 * clustering / N, problem, "extractor"), 1e-10)
    assert_equal(actual, gradients(supervised, problem, "classifier"))

    first = rule.avg_clustering.centroids.clone()
    rule.after_step(problem.network, num_updates=1)  # the same features again: means, and so centres, stay
    torch.testing.assert_close(rule.avg_clustering.centroids, first)


def test_ema_classifier_follows_the_classifier_with_warm_up() -> None:
    problem = make_problem()
    rule = LayerMatch(avg_clustering="ema_classifier", decay=0.5)
    rule.prepare(problem.network, num_unlabelled=100)
    average = problem.network.classifier.weight.detach().clone().numpy()
    for step in range(5):
        with torch.no_grad():
            problem.network.classifier.weight.add_(1.0)
        rule.after_step(problem.network, num_updates=step)
        decay = min(0.5, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * problem.network.classifier.weight.detach().numpy()
        torch.testing.assert_close(rule.avg_clustering.centre_weight, torch.from_numpy(average))


def test_ema_outputs_average_each_sample_and_correct_the_start() -> None:
    problem = make_problem()
    rule = LayerMatch(avg_clustering="ema_outputs", decay=0.8)
    rule.prepare(problem.network, num_unlabelled=6)
    first = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25]])
    seen = rule.average_outputs(first, torch.tensor([4, 2]))
    torch.testing.assert_close(seen, first)  # the first average is the output itself
    second = torch.tensor([[0.1, 0.7, 0.1, 0.1]])
    average = (0.8 * 0.2 * first[0] + 0.2 * second[0]) / (1 - 0.8**2)
    torch.testing.assert_close(rule.average_outputs(second, torch.tensor([4]))[0], (second[0] + average) / 2)
    # A sample that is twice in a batch counts once, with its mean.
    twice = torch.tensor([[0.8, 0.2, 0.0, 0.0], [0.2, 0.8, 0.0, 0.0]])
    torch.testing.assert_close(
        rule.average_outputs(twice, torch.tensor([5, 5])), (twice + torch.tensor([0.5, 0.5, 0.0, 0.0])) / 2
    )
    assert rule.avg_clustering.num_updates.tolist() == [0, 0, 1, 0, 2, 1]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_ema_outputs_mix_the_average_with_this_output(share: float) -> None:
    rule = LayerMatch(avg_clustering="ema_outputs", decay=0.8, weight=share)
    rule.prepare(make_problem().network, num_unlabelled=1)
    outputs = torch.tensor([[[0.7, 0.1, 0.1, 0.1]], [[0.1, 0.7, 0.1, 0.1]]])
    for number, output in enumerate(outputs, start=1):
        found = rule.average_outputs(output, torch.tensor([0]))
        weights = [0.2 * 0.8 ** (number - 1 - k) for k in range(number)]
        average = sum(w * outputs[k] for k, w in enumerate(weights)) / sum(weights)
        torch.testing.assert_close(found, (1 - share) * output + share * average)


def test_decoupled_gives_each_head_its_own_loss() -> None:
    problem = make_problem(pseudo_head=True)
    rule = LayerMatch(avg_clustering="none", decoupled=True)
    actual = run_rule(rule, problem)
    supervised, pseudo, features = plain_losses(problem)
    head = problem.network.pseudo_classifier
    assert head is not None
    labelled = problem.network.extractor(problem.labelled)
    second = F.cross_entropy(head(labelled), problem.label)
    losses = F.cross_entropy(head(features), problem.pseudo_labels.target, reduction="none")
    second_pseudo = (losses * problem.pseudo_labels.weight).mean()
    assert_equal(actual, gradients(supervised + pseudo + second + second_pseudo, problem, "extractor"))
    # The clean head learns from labels alone, the second as in FixMatch.
    assert_equal(actual, gradients(supervised + second + second_pseudo, problem, "classifier"))


def test_evaluate_head_chooses_the_head() -> None:
    problem = make_problem(pseudo_head=True)
    features = problem.network(problem.weak).features
    clean = LayerMatch(decoupled=True, evaluate_head="clean").evaluation_logits(problem.network, features)
    pseudo = LayerMatch(decoupled=True, evaluate_head="pseudo").evaluation_logits(problem.network, features)
    torch.testing.assert_close(clean, problem.network.classifier(features))
    torch.testing.assert_close(pseudo, problem.network.pseudo_classifier(features))
    assert not torch.allclose(clean, pseudo)


def test_losses_report_the_value_that_each_group_learns_from() -> None:
    problem = make_problem()
    network = problem.network
    out = network(torch.cat([problem.labelled, problem.strong]))
    views = ForwardPass(out.features[:B], out.logits[:B], out.features[B:])
    losses = LayerMatch(avg_clustering="none", lambda_u=2.0)(network, views, problem.label, problem.pseudo_labels)
    supervised, pseudo, _ = plain_losses(problem)
    torch.testing.assert_close(losses.features, supervised + 2 * pseudo)
    torch.testing.assert_close(losses.classifier, supervised)
    torch.testing.assert_close(losses.parts["pseudo"], pseudo)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grad_relu": "half"}, "layerwise.grad_relu='half'"),
        ({"avg_clustering": "mean"}, "layerwise.avg_clustering='mean'"),
        ({"lambda_u": -1}, "layerwise.lambda_u=-1"),
        ({"weight": 1.5}, "layerwise.weight=1.5"),
        ({"decay": 1.0}, "layerwise.decay=1.0"),
        ({"avg_clustering": "ema_centroids", "temperature": 0}, "layerwise.temperature=0"),
        ({"temperature": 0.1}, "layerwise.temperature=0.1 has no effect"),
        ({"avg_clustering": "none", "weight": 0.5}, "layerwise.weight=0.5 has no effect"),
        ({"avg_clustering": "ema_teacher", "weight": 0.5}, "layerwise.weight=0.5 has no effect"),
        ({"avg_clustering": "ema_outputs", "temperature": 0.5}, "layerwise.temperature=0.5 has no effect"),
        ({"evaluate_head": "pseudo"}, "needs layerwise.decoupled=true"),
        ({"decoupled": 1}, "layerwise.decoupled=1"),
        ({"gradient_scale": {"classifier": 2}}, "layerwise.gradient_scale.classifier=2"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        LayerMatch(**options)  # type: ignore[arg-type]


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    rule = Uniform(gradient_scale={"clasifier": 0.0})
    with pytest.raises(UserError, match="'clasifier' matches no parameter"):
        rule.prepare(make_problem().network, num_unlabelled=10)
