"""What is measured against the truth is what the truth says, and nothing is learnt from it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from layermatch import SemiSupervisedData, UserError
from layermatch.data.sources import Digits
from layermatch.layerwise import SeparateLosses, Uniform
from layermatch.methods import PseudoLabelling
from layermatch.methods.with_truth import TRUTH_COSINE, WithTruth, true_loss
from layermatch.networks import Network, wrn_small
from layermatch.parts import Step
from layermatch.policies import FixedThreshold

RULES = {"fixmatch": Uniform, "grad_relu": lambda: SeparateLosses(avg_clustering="none")}


@pytest.fixture(scope="module")
def batch() -> object:
    data = SemiSupervisedData(Digits(), num_labels=10, batch_size=8, mu=4, seed=0)
    data.setup()
    return data.batch_of_step(3)


def network_of() -> Network:
    torch.manual_seed(0)
    return wrn_small(num_classes=10, in_channels=1).double().train()


def doubled(batch: object) -> object:
    """The same batch with views in float64."""
    parts = {}
    for name in ("labelled", "unlabelled"):
        part = getattr(batch, name)
        parts[name] = part._replace(views={key: view.double() for key, view in part.views.items()})
    return batch._replace(**parts)


def measured(kind: type[PseudoLabelling], rule: str, batch: object) -> tuple[Network, PseudoLabelling, object, dict]:
    seen: dict[str, object] = {}

    def record(means: dict[str, Tensor], ratios: dict[str, tuple[Tensor, Tensor]] | None = None) -> None:
        seen.update(means)
        seen.update(ratios or {})

    network = network_of()
    method = kind(policy=FixedThreshold(threshold=0.11), rule=RULES[rule](), forward="joint")
    step = Step(network, network, number=0, max_steps=12, record=record, watch=lambda *_: None)
    return network, method, method.losses(doubled(batch), step), seen


@pytest.mark.parametrize("rule", RULES)
def test_the_cosine_is_that_of_plain_autograd(rule: str, batch: object) -> None:
    network, method, losses, _ = measured(WithTruth, rule, batch)
    found = method.diagnose(losses)
    hidden = batch.unlabelled.hidden_label
    rows = hidden >= 0
    assert rows.sum() > 20
    truth = F.cross_entropy(method._strong.logits[rows], hidden[rows])
    pseudo = losses["pseudo"].weighted
    for group, prefix in {
        "stem": "extractor.stem",
        "groups.1": "extractor.groups.1",
        "classifier": "classifier",
    }.items():
        parameters = [each for name, each in network.named_parameters() if name.startswith(prefix)]
        one, other = (
            np.concatenate(
                [
                    g.numpy().ravel()
                    for g in torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
                ]
            )
            for loss in (pseudo, truth)
        )
        value, weight = found[TRUTH_COSINE.of(group)]
        assert weight.item() == 1
        if rule == "grad_relu" and group == "classifier":
            assert value.isnan()
        else:
            assert value.item() == pytest.approx(
                (one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum()), abs=1e-9
            )


def test_wrong_pseudo_labels_are_counted_by_class(batch: object) -> None:
    _, _, _, seen = measured(WithTruth, "fixmatch", batch)
    wrong, counted = seen["truth/per_class_wrong"]
    right, known = seen["pseudo_labels/accuracy_accepted"]
    assert float(wrong.sum()) == pytest.approx(float(known - right))
    assert float(counted.sum()) == pytest.approx(float(known))
    assert (wrong <= counted).all()
    assert wrong.sum() > 0


@pytest.mark.parametrize("rule", RULES)
def test_nothing_is_learnt_from_it(rule: str, batch: object) -> None:
    results = []
    for kind in (PseudoLabelling, WithTruth):
        network, method, losses, _ = measured(kind, rule, batch)
        method.diagnose(losses)
        losses.total.backward()
        results.append((losses.total.detach(), [parameter.grad.clone() for parameter in network.parameters()]))
    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.equal(one, other) for one, other in zip(results[0][1], results[1][1], strict=True))


def test_no_known_class_gives_no_direction(batch: object) -> None:
    unknown = batch._replace(
        unlabelled=batch.unlabelled._replace(hidden_label=torch.full_like(batch.unlabelled.hidden_label, -1))
    )
    _, method, losses, _ = measured(WithTruth, "fixmatch", unknown)
    assert all(value.isnan() for name, (value, _) in method.diagnose(losses).items() if name.startswith("truth/"))
    assert true_loss(torch.zeros(2, 3), torch.tensor([-1, -1])).item() == 0


def test_masked_views_must_be_sent(batch: object) -> None:
    method = WithTruth(policy=FixedThreshold(), rule=Uniform(), forward="split", skip_masked=True)
    network = network_of()
    step = Step(network, network, number=0, max_steps=12, record=lambda *_: None, watch=lambda *_: None)
    with pytest.raises(UserError, match="skip_masked=true is not legal with WithTruth"):
        method.losses(doubled(batch), step)
