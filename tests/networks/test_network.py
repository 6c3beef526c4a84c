"""The extractor / classifier boundary: outputs, dtypes, parameter groups, copies."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layermatch import UserError
from layermatch.networks import Network, WideResNet, linear_float32, resnet50, wrn_small


def flat_network(*, pseudo_head: bool = False) -> Network:
    extractor = nn.Sequential(nn.Flatten(), nn.Linear(48, 20))
    return Network(extractor, num_features=20, num_classes=5, pseudo_head=pseudo_head)


def test_logits_are_the_linear_layer_of_the_features() -> None:
    network = wrn_small(num_classes=10)
    features, logits = network(torch.randn(3, 3, 8, 8))
    expected = torch.einsum("bd,kd->bk", features, network.classifier.weight) + network.classifier.bias
    torch.testing.assert_close(logits, expected)
    assert features.shape == (3, 64)
    assert logits.shape == (3, 10)


def test_features_are_the_extractors_output() -> None:
    network = flat_network()
    images = torch.randn(4, 3, 4, 4)
    assert torch.equal(network(images).features, network.extractor(images))


@pytest.mark.parametrize("pseudo_head", [False, True])
def test_parameter_groups_hold_every_parameter_once(pseudo_head: bool) -> None:
    network = flat_network(pseudo_head=pseudo_head)
    groups = network.parameter_groups()
    heads = ["classifier.weight", "classifier.bias"]
    if pseudo_head:
        heads += ["pseudo_classifier.weight", "pseudo_classifier.bias"]
    assert list(groups) == ["extractor", "classifier"]
    assert [name for name, _ in groups["classifier"]] == heads
    assert [name for name, _ in groups["extractor"]] == ["extractor.1.weight", "extractor.1.bias"]
    together = {name: id(parameter) for group in groups.values() for name, parameter in group}
    assert together == {name: id(parameter) for name, parameter in network.named_parameters()}


def test_heads_start_xavier_normal_with_zero_bias_and_differ() -> None:
    network = Network(nn.Flatten(), num_features=300, num_classes=100, pseudo_head=True)
    assert network.pseudo_classifier is not None
    for head in (network.classifier, network.pseudo_classifier):
        assert head.weight.std().item() == pytest.approx(math.sqrt(2 / (300 + 100)), rel=0.03)
        assert head.weight.mean().item() == pytest.approx(0.0, abs=2e-3)
        # A normal distribution, not the uniform one of the same variance, which ends at sqrt(3) deviations.
        assert head.weight.abs().max() > 3 * head.weight.std()
        assert torch.count_nonzero(head.bias) == 0
    assert not torch.equal(network.classifier.weight, network.pseudo_classifier.weight)


def test_without_a_pseudo_head_there_is_none() -> None:
    network = flat_network()
    assert network.pseudo_classifier is None
    assert not any("pseudo" in key for key in network.state_dict())


def test_autocast_rounds_the_extractor_but_not_the_classifier() -> None:
    network = wrn_small(num_classes=10).eval()
    images = torch.randn(16, 3, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features, logits = network(images)
        rounded = F.linear(features, network.classifier.weight, network.classifier.bias)
    exact = F.linear(features, network.classifier.weight, network.classifier.bias)
    assert features.dtype == logits.dtype == torch.float32
    assert rounded.dtype == torch.bfloat16
    assert torch.equal(logits, exact)
    assert not torch.equal(logits, rounded.float())
    assert not torch.equal(features, network(images).features)  # autocast did reach the extractor


def test_linear_float32_keeps_a_confidence_on_its_side_of_the_threshold() -> None:
    """A confidence of 0.95003 is above 0.95; a bfloat16 logit makes it 0.9497."""
    margin = math.log(0.95003 / 0.04997)
    features = torch.tensor([[margin]])
    weight, bias = torch.tensor([[1.0], [0.0]]), torch.zeros(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = linear_float32(features, weight, bias)
        rounded = F.linear(features, weight, bias)
    assert logits.softmax(dim=1).max() > 0.95
    assert rounded.float().softmax(dim=1).max() < 0.95


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_linear_float32_result_dtype_and_value(dtype: torch.dtype) -> None:
    features, weight, bias = (torch.randn(shape).to(dtype) for shape in ((6, 7), (4, 7), (4,)))
    logits = linear_float32(features, weight, bias)
    assert logits.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expected = F.linear(features.double(), weight.double(), bias.double())
    torch.testing.assert_close(logits.double(), expected, rtol=1e-5, atol=1e-5)


def test_linear_float32_without_bias() -> None:
    features, weight = torch.randn(2, 3), torch.randn(4, 3)
    torch.testing.assert_close(linear_float32(features, weight, None), features @ weight.T)


def test_linear_float32_gradient() -> None:
    arguments = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((3, 4), (5, 4), (5,))]
    assert torch.autograd.gradcheck(linear_float32, arguments)


def test_deepcopy_is_equal_and_independent() -> None:
    network = wrn_small(num_classes=4, pseudo_head=True).eval()
    images = torch.randn(2, 3, 8, 8)
    before = network(images).logits
    twin = copy.deepcopy(network)
    assert torch.equal(twin(images).logits, before)
    with torch.no_grad():
        for tensor in (*twin.parameters(), *twin.buffers()):
            tensor.zero_()
    assert torch.equal(network(images).logits, before)
    assert torch.count_nonzero(twin(images).logits) == 0


def test_channels_last_gives_the_same_outputs_and_gradients() -> None:
    network = wrn_small(num_classes=4)
    images = torch.randn(4, 3, 16, 16)
    twin = copy.deepcopy(network).to(memory_format=torch.channels_last)
    inner = "extractor.groups.1.0.conv1.weight"
    assert twin.get_parameter(inner).is_contiguous(memory_format=torch.channels_last)
    assert not network.get_parameter(inner).is_contiguous(memory_format=torch.channels_last)

    def outputs_and_gradients(model: Network, batch: Tensor) -> list[Tensor]:
        logits = model(batch).logits
        return [logits, *torch.autograd.grad(logits.square().sum(), list(model.parameters()))]

    ours = outputs_and_gradients(network, images)
    theirs = outputs_and_gradients(twin, images.to(memory_format=torch.channels_last))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_features": 0, "num_classes": 2}, "model.num_features=0 is not legal"),
        ({"num_features": 4, "num_classes": 1}, "model.num_classes=1 is not legal"),
        ({"num_features": 4, "num_classes": 2.5}, "model.num_classes=2.5 is not legal"),
        ({"num_features": 4, "num_classes": 2, "pseudo_head": 1}, "model.pseudo_head=1 is not legal"),
    ],
)
def test_illegal_values_are_refused_in_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as error:
        Network(nn.Flatten(), **options)  # type: ignore[arg-type]
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


class OwnParameters(nn.Module):
    """Parameters beside those of its children, one of which has the name of a head."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(3))
        self.classifier = nn.Linear(4, 4)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(4, 4)) for _ in range(11)])
        self.norm = nn.Sequential(nn.BatchNorm1d(4), nn.ReLU())


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (wrn_small(num_classes=5), ["stem", "groups.0", "groups.1", "groups.2", "activation", "classifier"]),
        (resnet50(num_classes=5), ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "classifier"]),
        (flat_network(pseudo_head=True), ["1", "classifier", "pseudo_classifier"]),
        (Network(nn.Flatten(), num_features=12, num_classes=5), ["classifier"]),
        (Network(nn.Sequential(WideResNet(depth=10)), num_features=128, num_classes=5), [
            "0.stem", "0.groups.0", "0.groups.1", "0.groups.2", "0.activation", "classifier",
        ]),
        (Network(OwnParameters(), num_features=4, num_classes=5), [
            "extractor", "extractor.classifier", *(f"blocks.{n}" for n in range(11)), "norm", "classifier",
        ]),
    ],
)  # fmt: skip
def test_layer_groups_hold_every_parameter_once(network: Network, expected: list[str]) -> None:
    groups = network.layer_groups()
    assert list(groups) == expected
    found = [pair for named in groups.values() for pair in named]
    parameters = dict(network.named_parameters())
    assert len(found) == len(parameters)
    assert all(parameter is parameters[name] for name, parameter in found)
    for group, named in groups.items():
        own = [name for name, _ in named]
        if group not in {"extractor", "classifier", "pseudo_classifier"}:
            assert all(name.startswith(f"extractor.{group.removeprefix('extractor.')}.") for name in own), (group, own)
