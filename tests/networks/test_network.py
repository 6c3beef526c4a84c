"""The extractor / classifier boundary: outputs, dtypes, parameter groups, copies."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layermatch import UserError
from layermatch.networks import Network, WideResNet, linear_float32, linear_head, resnet50, wrn_small


def with_pseudo_head(network: Network) -> Network:
    network.add_head("pseudo_classifier", linear_head(network.num_features, network.num_classes))
    return network


def flat_network(*, pseudo_head: bool = False) -> Network:
    extractor = nn.Sequential(nn.Flatten(), nn.Linear(48, 20))
    network = Network(extractor, num_features=20, num_classes=5)
    return with_pseudo_head(network) if pseudo_head else network


def test_logits_are_the_linear_layer_of_the_features() -> None:
    network = wrn_small(num_classes=10)
    out = network(torch.randn(3, 3, 8, 8))
    expected = torch.einsum("bd,kd->bk", out.features, network.classifier.weight) + network.classifier.bias
    torch.testing.assert_close(out.logits, expected)
    assert out.features.shape == (3, 64)
    assert out.logits.shape == (3, 10)
    assert list(out.heads) == ["classifier"]


def test_features_are_the_extractors_output() -> None:
    network = flat_network()
    images = torch.randn(4, 3, 4, 4)
    assert torch.equal(network(images).features, network.extractor(images))


@pytest.mark.parametrize("pseudo_head", [False, True])
def test_parameter_groups_hold_every_parameter_once(pseudo_head: bool) -> None:
    network = flat_network(pseudo_head=pseudo_head)
    groups = network.parameter_groups()
    heads = ["classifier", "pseudo_classifier"] if pseudo_head else ["classifier"]
    assert list(groups) == ["extractor", *heads]
    for head in heads:
        assert [name for name, _ in groups[head]] == [f"{head}.weight", f"{head}.bias"]
    assert [name for name, _ in groups["extractor"]] == ["extractor.1.weight", "extractor.1.bias"]
    together = {name: id(parameter) for group in groups.values() for name, parameter in group}
    assert together == {name: id(parameter) for name, parameter in network.named_parameters()}


def test_heads_start_xavier_normal_with_zero_bias_and_differ() -> None:
    network = with_pseudo_head(Network(nn.Flatten(), num_features=300, num_classes=100))
    assert list(network.heads) == ["classifier", "pseudo_classifier"]
    for head in network.heads.values():
        assert head.weight.std().item() == pytest.approx(math.sqrt(2 / (300 + 100)), rel=0.03)
        assert head.weight.mean().item() == pytest.approx(0.0, abs=2e-3)
        # A normal distribution, not the uniform one of the same variance, which ends at sqrt(3) deviations.
        assert head.weight.abs().max() > 3 * head.weight.std()
        assert torch.count_nonzero(head.bias) == 0
    assert not torch.equal(network.classifier.weight, network.heads["pseudo_classifier"].weight)


def test_there_is_one_head_and_no_other_unless_it_is_added() -> None:
    network = flat_network()
    assert network.heads == {"classifier": network.classifier}
    assert not any("pseudo" in key for key in network.state_dict())


def test_an_output_has_the_heads_that_are_asked_for_and_no_others() -> None:
    network = flat_network(pseudo_head=True)
    network.add_head("projection", nn.Sequential(nn.Linear(20, 9), nn.ReLU(), nn.Linear(9, 3)))
    images = torch.randn(4, 3, 4, 4)
    features = network.extractor(images)
    for asked in ((), ("classifier",), ("projection",), ("pseudo_classifier", "classifier"), tuple(network.heads)):
        out = network(images, heads=asked)
        assert list(out.heads) == list(asked)
        assert torch.equal(out.features, features)
        for name, values in out.heads.items():
            torch.testing.assert_close(values, network.heads[name](features))


def test_a_name_that_is_taken_is_refused() -> None:
    network = flat_network(pseudo_head=True)
    for name in ("classifier", "pseudo_classifier", "extractor", "forward", "num_features"):
        with pytest.raises(UserError, match=f"the network has '{name}' already"):
            network.add_head(name, linear_head(20, 5))
    assert list(network.heads) == ["classifier", "pseudo_classifier"]


def test_a_classifier_for_other_classes_is_refused() -> None:
    network = flat_network()
    classifier = network.classifier
    network.add_classifier(5)  # there is one already
    assert network.classifier is classifier
    with pytest.raises(UserError, match="tells 5 classes apart and the data have 6: give num_classes=6"):
        network.add_classifier(6)
    assert network.classifier is classifier
    with pytest.raises(UserError, match=r"^num_classes=1 is not legal"):
        network.add_classifier(1)


def test_autocast_rounds_the_extractor_but_not_the_classifier() -> None:
    network = wrn_small(num_classes=10).eval()
    network.add_head("projection", nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4)))
    images = torch.randn(16, 3, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features, heads = network(images, heads=("classifier", "projection"))
        rounded = F.linear(features, network.classifier.weight, network.classifier.bias)
    logits = heads["classifier"]
    exact = F.linear(features, network.classifier.weight, network.classifier.bias)
    assert features.dtype == logits.dtype == heads["projection"].dtype == torch.float32
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
    network = with_pseudo_head(wrn_small(num_classes=4)).eval()
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
        ({"num_features": 0, "num_classes": 2}, "num_features=0 is not legal"),
        ({"num_features": 4, "num_classes": 1}, "num_classes=1 is not legal"),
        ({"num_features": 4, "num_classes": 2.5}, "num_classes=2.5 is not legal"),
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
