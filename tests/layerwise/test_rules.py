"""Each layer group's gradient of the one backward equals the gradient of that group's own loss, written out plainly."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layermatch.errors import UserError
from layermatch.layerwise import LayerwiseRule, ScaledGradients, SeparateLosses, Uniform
from layermatch.networks import Network, Output
from layermatch.parts import Losses, Problem, Step, StepState
from layermatch.policies import PseudoLabels

B, N, D, K = 5, 12, 7, 4


class Case(NamedTuple):
    network: Network
    labelled: Tensor
    strong: Tensor
    weak: Tensor
    label: Tensor
    pseudo_labels: PseudoLabels


def problem_of(num_unlabelled: int = 100) -> Problem:
    return Problem(
        num_classes=K,
        num_features=D,
        num_labelled=B,
        num_unlabelled=num_unlabelled,
        image_shape=(1, 2, 3),
        max_steps=100,
    )


def make_case(*, seed: int = 0, rule: LayerwiseRule | None = None, mask: float = 0.5) -> Case:
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    extractor = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, D)).double()
    network = Network(extractor, num_features=D, num_classes=K)
    for name, head in (rule.heads(problem_of()) if rule else {}).items():
        network.add_head(name, head)
    network.double()
    labelled, strong, weak = (torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (B, N, N))
    weight = (torch.rand(N, generator=generator) < mask).double()
    target = torch.randint(K, (N,), generator=generator)
    pseudo_labels = PseudoLabels(target, weight, target, weight)
    return Case(network, labelled, strong, weak, torch.randint(K, (B,), generator=generator), pseudo_labels)


def losses_of(rule: LayerwiseRule, case: Case) -> Losses:
    """The rule's losses of one pass of labelled and strong images."""
    out = case.network(torch.cat([case.labelled, case.strong]))
    labelled = Output(out.features[:B], {"classifier": out.logits[:B]})
    strong = Output(out.features[B:], {"classifier": out.logits[B:]})
    losses: Losses = rule(case.network, labelled, strong, label=case.label, pseudo_labels=case.pseudo_labels)
    return losses


def run_rule(rule: LayerwiseRule, case: Case) -> dict[str, Tensor]:
    """Gradients of all parameters by the rule's one backward."""
    network = case.network
    rule.observe(network(case.weak).features.detach(), case.pseudo_labels)
    losses = losses_of(rule, case)
    network.zero_grad()
    losses.total.backward()
    return {name: parameter.grad.clone() for name, parameter in network.named_parameters()}


def states_of(rule: LayerwiseRule) -> list[StepState]:
    """What the training module moves or has forget a step."""
    return [module for module in rule.modules() if isinstance(module, StepState)]


def apply_step(rule: LayerwiseRule, network: Network, number: int = 0) -> None:
    """The end of an optimizer step, as the training module has it."""
    step = Step(network, network, number, 100, lambda means, ratios=None: None, lambda name, tensor: None)
    for state in states_of(rule):
        state.after_step(step)


def discard_step(rule: LayerwiseRule) -> None:
    """The end of a step that is not applied."""
    for state in states_of(rule):
        state.discard_step()


def plain_losses(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """L_s, L_u and the strong features, without any stop-gradient."""
    network, pseudo_labels = case.network, case.pseudo_labels
    features = network.extractor(case.strong)
    logits = features @ network.classifier.weight.T + network.classifier.bias
    losses = torch.stack(
        [F.cross_entropy(logits[i], pseudo_labels.target[i]) * pseudo_labels.weight[i] for i in range(N)]
    )
    supervised = F.cross_entropy(network(case.labelled).logits, case.label)
    return supervised, losses.sum() / N, features


def gradients(loss: Tensor, case: Case, group: str) -> dict[str, Tensor]:
    named = case.network.parameter_groups()[group]
    grads = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True, retain_graph=True)
    return {name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(named, grads, strict=True)}


def assert_equal(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-12) -> None:
    assert expected
    for name, grad in expected.items():
        torch.testing.assert_close(actual[name], grad, rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("lambda_u", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("mask", [0.0, 0.5, 1.0])
def test_uniform_is_fixmatch(lambda_u: float, mask: float) -> None:
    case = make_case(mask=mask)
    actual = run_rule(Uniform(lambda_u=lambda_u), case)
    supervised, pseudo, _ = plain_losses(case)
    for group in ("extractor", "classifier"):
        assert_equal(actual, gradients(supervised + lambda_u * pseudo, case, group))


@pytest.mark.parametrize("lambda_u", [1.0, 2.5])
def test_grad_relu_gives_the_classifier_the_supervised_and_the_extractor_the_fixmatch_gradient(lambda_u: float) -> None:
    case = make_case()
    actual = run_rule(SeparateLosses(lambda_u=lambda_u, avg_clustering="none"), case)
    supervised, pseudo, _ = plain_losses(case)
    assert_equal(actual, gradients(supervised, case, "classifier"))
    assert_equal(actual, gradients(supervised + lambda_u * pseudo, case, "extractor"))
    # Without Grad-ReLU the classifier's gradient is another one, so the equality above says something.
    fixmatch = gradients(supervised + lambda_u * pseudo, case, "classifier")
    assert (actual["classifier.weight"] - fixmatch["classifier.weight"]).abs().max() > 1e-3


def test_off_and_none_is_fixmatch_to_the_bit() -> None:
    case = make_case()
    ours, fixmatch = SeparateLosses(grad_relu="off", avg_clustering="none"), Uniform()
    a, b = run_rule(ours, case), run_rule(fixmatch, case)
    assert all(torch.equal(a[name], b[name]) for name in b)


@pytest.mark.parametrize("grad_relu", ["block", "off"])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_ema_classifier(grad_relu: str, share: float) -> None:
    case = make_case()
    rule = SeparateLosses(grad_relu=grad_relu, avg_clustering="ema_classifier", weight=share)
    rule.prepare(case.network, problem_of())
    with torch.no_grad():  # centres of their own, so that they differ from the classifier
        rule.avg_clustering.centre_weight.normal_(generator=torch.Generator().manual_seed(3))
        rule.avg_clustering.centre_bias.fill_(0.1)
    actual = run_rule(rule, case)
    supervised, pseudo, features = plain_losses(case)
    centres, bias = rule.avg_clustering.centre_weight, rule.avg_clustering.centre_bias
    clustering = sum(
        case.pseudo_labels.weight[i] * F.cross_entropy(centres @ features[i] + bias, case.pseudo_labels.target[i])
        for i in range(N)
    )
    of_features = supervised + (1 - share) * pseudo + share * clustering / N
    of_classifier = supervised + (pseudo if grad_relu == "off" else 0)
    assert_equal(actual, gradients(of_features, case, "extractor"))
    assert_equal(actual, gradients(of_classifier, case, "classifier"))


def test_ema_centroids_learn_from_weak_features_and_pull_strong_ones() -> None:
    case = make_case()
    rule = SeparateLosses(avg_clustering="ema_centroids", weight=0.5, decay=0.9, temperature=0.5)
    rule.prepare(case.network, problem_of())
    run_rule(rule, case)
    apply_step(rule, case.network, 0)
    weak = case.network(case.weak).features.detach()
    counted = case.pseudo_labels.weight > 0
    for k in range(K):
        members = weak[counted & (case.pseudo_labels.label == k)]
        expected = members.mean(dim=0) if len(members) else torch.zeros(D, dtype=torch.float64)
        torch.testing.assert_close(rule.avg_clustering.centroids[k], expected)

    actual = run_rule(rule, case)
    supervised, pseudo, features = plain_losses(case)
    known = rule.avg_clustering.centroids.norm(dim=1) > 0
    clustering = torch.zeros((), dtype=torch.float64)
    for i in range(N):
        if case.pseudo_labels.weight[i] and known[case.pseudo_labels.label[i]]:
            cosine = F.cosine_similarity(features[i][None], rule.avg_clustering.centroids)[known] / 0.5
            target = torch.nonzero(torch.nonzero(known)[:, 0] == case.pseudo_labels.label[i])[0]
            clustering = clustering + F.cross_entropy(cosine[None], target)
    assert_equal(actual, gradients(supervised + 0.5 * pseudo + 0.5 * clustering / N, case, "extractor"), 1e-10)
    assert_equal(actual, gradients(supervised, case, "classifier"))

    first = rule.avg_clustering.centroids.clone()
    apply_step(rule, case.network, 1)  # the same features again: means, and so centres, stay
    torch.testing.assert_close(rule.avg_clustering.centroids, first)


def test_ema_classifier_follows_the_classifier_with_warm_up() -> None:
    case = make_case()
    rule = SeparateLosses(avg_clustering="ema_classifier", decay=0.5)
    rule.prepare(case.network, problem_of())
    average = case.network.classifier.weight.detach().clone().numpy()
    for step in range(5):
        with torch.no_grad():
            case.network.classifier.weight.add_(1.0)
        apply_step(rule, case.network, step)
        decay = min(0.5, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * case.network.classifier.weight.detach().numpy()
        torch.testing.assert_close(rule.avg_clustering.centre_weight, torch.from_numpy(average))


def test_ema_outputs_average_each_sample_and_correct_the_start() -> None:
    case = make_case()
    rule = SeparateLosses(avg_clustering="ema_outputs", decay=0.8)
    rule.prepare(case.network, problem_of(6))
    first = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25]])
    seen = rule.average_outputs(first, torch.tensor([4, 2]))
    torch.testing.assert_close(seen, first)  # the first average is the output itself
    apply_step(rule, case.network)
    second = torch.tensor([[0.1, 0.7, 0.1, 0.1]])
    average = (0.8 * 0.2 * first[0] + 0.2 * second[0]) / (1 - 0.8**2)
    torch.testing.assert_close(rule.average_outputs(second, torch.tensor([4]))[0], (second[0] + average) / 2)
    apply_step(rule, case.network, 1)
    # A sample that is twice in a batch counts once, with its mean.
    twice = torch.tensor([[0.8, 0.2, 0.0, 0.0], [0.2, 0.8, 0.0, 0.0]])
    torch.testing.assert_close(
        rule.average_outputs(twice, torch.tensor([5, 5])), (twice + torch.tensor([0.5, 0.5, 0.0, 0.0])) / 2
    )
    apply_step(rule, case.network, 2)
    assert rule.avg_clustering.outputs.num_updates.tolist() == [0, 0, 1, 0, 2, 1]


def test_ema_outputs_of_a_steps_batches_count_as_those_of_one() -> None:
    case = make_case()
    outputs, indices = torch.rand(6, K).softmax(dim=1), torch.tensor([4, 2, 0, 4, 1, 2])  # two samples are there twice
    tables = []
    for sizes in ((6,), (3, 3), (1, 2, 3)):
        rule = SeparateLosses(avg_clustering="ema_outputs", decay=0.8)
        rule.prepare(case.network, problem_of(6))
        for step in range(2):
            for part, index in zip(outputs.split(sizes), indices.split(sizes), strict=True):
                before = rule.avg_clustering.outputs.average.clone()
                rule.average_outputs(part, index)
                assert torch.equal(rule.avg_clustering.outputs.average, before)  # it moves with the step
            apply_step(rule, case.network, step)
        assert rule.avg_clustering.outputs.num_updates.tolist() == [2, 2, 2, 0, 2, 0]
        tables.append(rule.avg_clustering.outputs.average)
    for table in tables[1:]:
        torch.testing.assert_close(table, tables[0])


@pytest.mark.parametrize("reading", ["ema_classifier", "ema_outputs", "ema_centroids"])
def test_a_step_that_is_discarded_leaves_no_trace(reading: str) -> None:
    case, other = make_case(), make_case(seed=1)
    found = []
    for with_discarded in (False, True):
        rule = SeparateLosses(avg_clustering=reading)
        rule.prepare(case.network, problem_of(N))
        number = 0
        for batch in [case, other, case] if with_discarded else [case, case]:
            probs = case.network(batch.weak).logits.detach().softmax(dim=1).float()
            rule.average_outputs(probs, torch.arange(N))
            rule.observe(case.network(batch.weak).features.detach(), batch.pseudo_labels)
            if batch is other:
                before = {name: value.clone() for name, value in rule.state_dict().items()}
                discard_step(rule)
                assert all(torch.equal(value, before[name]) for name, value in rule.state_dict().items())
            else:
                apply_step(rule, case.network, number)
                number += 1
        found.append(rule.state_dict())
    assert found[0]
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_ema_outputs_mix_the_average_with_this_output(share: float) -> None:
    rule = SeparateLosses(avg_clustering="ema_outputs", decay=0.8, weight=share)
    network = make_case().network
    rule.prepare(network, problem_of(1))
    outputs = torch.tensor([[[0.7, 0.1, 0.1, 0.1]], [[0.1, 0.7, 0.1, 0.1]]])
    for number, output in enumerate(outputs, start=1):
        found = rule.average_outputs(output, torch.tensor([0]))
        apply_step(rule, network, number - 1)
        weights = [0.2 * 0.8 ** (number - 1 - k) for k in range(number)]
        average = sum(w * outputs[k] for k, w in enumerate(weights)) / sum(weights)
        torch.testing.assert_close(found, (1 - share) * output + share * average)


def test_decoupled_gives_each_head_its_own_loss() -> None:
    rule = SeparateLosses(avg_clustering="none", decoupled=True)
    case = make_case(rule=rule)
    actual = run_rule(rule, case)
    supervised, pseudo, features = plain_losses(case)
    head = case.network.heads["pseudo_classifier"]
    labelled = case.network.extractor(case.labelled)
    second = F.cross_entropy(head(labelled), case.label)
    losses = F.cross_entropy(head(features), case.pseudo_labels.target, reduction="none")
    second_pseudo = (losses * case.pseudo_labels.weight).mean()
    assert_equal(actual, gradients(supervised + pseudo + second + second_pseudo, case, "extractor"))
    # The clean head learns from labels alone, the second as in FixMatch.
    of_heads = supervised + second + second_pseudo
    assert_equal(actual, gradients(of_heads, case, "classifier"))
    assert_equal(actual, gradients(of_heads, case, "pseudo_classifier"))


def test_evaluate_head_chooses_the_head() -> None:
    case = make_case(rule=SeparateLosses(decoupled=True))
    features = case.network(case.weak).features
    clean = SeparateLosses(decoupled=True, evaluate_head="clean").evaluation_logits(case.network, features)
    pseudo = SeparateLosses(decoupled=True, evaluate_head="pseudo").evaluation_logits(case.network, features)
    torch.testing.assert_close(clean, case.network.classifier(features))
    torch.testing.assert_close(pseudo, case.network.heads["pseudo_classifier"](features))
    assert not torch.allclose(clean, pseudo)


def test_losses_report_the_value_that_each_group_learns_from() -> None:
    case = make_case()
    losses = losses_of(SeparateLosses(avg_clustering="none", lambda_u=2.0), case)
    supervised, pseudo, _ = plain_losses(case)
    torch.testing.assert_close(losses.reaching("extractor"), supervised + 2 * pseudo)
    torch.testing.assert_close(losses.reaching("classifier"), supervised)
    torch.testing.assert_close(losses["pseudo"].value, pseudo)
    torch.testing.assert_close(losses.of("labels"), supervised)
    torch.testing.assert_close(losses.of("pseudo_labels"), 2 * pseudo)


RULES = {
    "uniform": lambda: Uniform(lambda_u=2.5),
    "ema_centroids": lambda: SeparateLosses(lambda_u=2.5, avg_clustering="ema_centroids"),
    "off": lambda: SeparateLosses(lambda_u=2.5, grad_relu="off", avg_clustering="ema_centroids"),
    "conflict": lambda: SeparateLosses(lambda_u=2.5, grad_relu="conflict", avg_clustering="ema_centroids"),
    "ema_classifier": lambda: SeparateLosses(lambda_u=2.5, avg_clustering="ema_classifier"),
    "none": lambda: SeparateLosses(lambda_u=2.5, avg_clustering="none"),
    "decoupled": lambda: SeparateLosses(lambda_u=2.5, decoupled=True, avg_clustering="ema_centroids"),
    "decoupled, off": lambda: SeparateLosses(
        lambda_u=2.5, grad_relu="off", decoupled=True, avg_clustering="ema_centroids"
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_each_term_reaches_what_it_says_and_nothing_else(name: str) -> None:
    rule = RULES[name]()
    case = make_case(rule=rule)
    rule.prepare(case.network, problem_of())
    rule.observe(case.network(case.weak).features.detach(), case.pseudo_labels)
    apply_step(rule, case.network)
    losses = losses_of(rule, case)
    groups = list(case.network.parameter_groups())
    for term, loss in losses.items():
        reached = {
            group
            for group in groups
            if any(grad.abs().max() > 0 for grad in gradients(loss.value, case, group).values())
        }
        assert reached == set(groups if loss.reaches is None else loss.reaches), term
    for group in groups:  # so the loss that a group is said to learn from has the gradient that it receives
        assert_equal(gradients(losses.total, case, group), gradients(losses.reaching(group), case, group))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grad_relu": "half"}, "grad_relu='half'"),
        ({"avg_clustering": "mean"}, "avg_clustering='mean'"),
        ({"lambda_u": -1}, "lambda_u=-1"),
        ({"weight": 1.5}, "weight=1.5"),
        ({"decay": 1.0}, "decay=1.0"),
        ({"avg_clustering": "ema_centroids", "temperature": 0}, "temperature=0"),
        ({"avg_clustering": "ema_classifier", "temperature": 0.1}, "temperature=0.1 has no effect"),
        ({"avg_clustering": "none", "weight": 0.5}, "weight=0.5 has no effect"),
        ({"avg_clustering": "ema_teacher", "weight": 0.5}, "weight=0.5 has no effect"),
        ({"avg_clustering": "ema_outputs", "temperature": 0.5}, "temperature=0.5 has no effect"),
        ({"evaluate_head": "pseudo"}, "needs decoupled=true"),
        ({"decoupled": 1}, "decoupled=1"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        SeparateLosses(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ({"classifier": 2}, r"gradient_scale\.classifier=2"),
        ({"classifier": "0"}, r"gradient_scale\.classifier='0'"),
        (["classifier"], r"gradient_scale=\['classifier'\] is not legal: give {PATTERN: SCALE"),
    ],
)
def test_wrong_scales_are_refused(scales: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ScaledGradients(scales)


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    network = make_case().network
    ScaledGradients({"classifier": 0.0}).check(network)
    with pytest.raises(UserError, match="'clasifier' matches no parameter"):
        ScaledGradients({"clasifier": 0.0}).check(network)
