"""Backbones of torchvision by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layermatch.errors import UserError
from layermatch.networks.pretrained.backbone import CACHE, HUB, Options, Wanted, refused_by, stem_for, unknown_name
from layermatch.networks.pretrained.network import PretrainedNetwork
from layermatch.networks.pretrained.tuning import Tuning
from layermatch.networks.pretrained.weight_files import WeightFile, in_torch_hub, read_weights
from layermatch.networks.state import as_state_of

__all__ = ["torchvision_backbone", "torchvision_enum", "url_of_enum", "wanted_of_enum"]

WITH_AUXILIARY = ("googlenet", "inception_v3")
#: Names of layers in the published files of DenseNet, norm.1 for norm1.
OLD_DENSE = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var))$")


def torchvision_backbone(
    *,
    name: str,
    num_classes: int | None = None,
    in_channels: int = 3,
    image_size: int | None = None,
    weights: str | Path | None = None,
    tune: str = "full",
    num_last: int = 1,
    lora: Mapping[str, Any] | None = None,
    adaptformer: Mapping[str, Any] | None = None,
    resize: int | None = None,
) -> PretrainedNetwork:
    """Make any classifier of torchvision with its last linear layer taken off, with weights or without.

    Args:
        name: The name of torchvision's, for example ``resnet18``.
        num_classes: K, at least 2; None leaves the classifier to the training module.
        in_channels: Channels C of the images, at least 1; see :func:`timm_backbone`.
        image_size: The height and width of the images in pixels; None is the size of the weights.
        weights: None: random. A file, ``.pth`` or ``.safetensors``. ``hub``: torchvision's best weights, or the name of
            others such as ``IMAGENET1K_V1``, from the cache of ``torch.hub`` or downloaded to it; ``cache``: the best
            ones, from the cache and with no download.
        tune: What learns; see :func:`timm_backbone`.
        num_last: The blocks that learn with ``tune="last_n"``, at least 1.
        lora: See :func:`timm_backbone`; attention layers of torchvision do not call their linear layers.
        adaptformer: See :func:`timm_backbone`.
        resize: The height and width that images are resized to inside the network, at least 1; None leaves them.

    Returns:
        A network whose ``mean``, ``std`` and ``image_size`` are what its weights want.

    Raises:
        UserError: An argument is not legal, a file is missing, or the weights do not fit.

    Example:
        >>> network = torchvision_backbone(name="resnet18", num_classes=10, image_size=32)
        >>> network.num_features, list(network.layer_groups())
        (512, ['conv1', 'bn1', 'layer1', 'layer2', 'layer3', 'layer4', 'classifier'])
    """
    enum = torchvision_enum(name)
    options = Options(
        name=name,
        num_classes=num_classes,
        in_channels=in_channels,
        image_size=image_size,
        weights=weights,
        resize=resize,
        tuning=Tuning.of(tune=tune, num_last=num_last, lora=lora, adaptformer=adaptformer),
    )
    wanted = wanted_of_enum(enum, weights)
    side = options.side or wanted.image_size
    origin = _torchvision_weights(name, enum, weights)
    refusing = partial(refused_by, "torchvision", name, channels=in_channels, side=side)
    with refusing(weights=None):
        extractor = _torchvision_model(name, side)
        head = _take_head_off(extractor, name)
        stem = _set_channels(extractor, in_channels)
    if origin is not None:
        tensors = {
            key: value for key, value in origin.tensors.items() if not key.startswith((f"{head}.", "aux", "Aux"))
        }
        with refusing(weights=weights):
            _put_by_name(extractor, tensors, name=name, side=side, stem=stem, weights=weights)
    return options.network(
        extractor, library="torchvision", wanted=None if origin is None else wanted, origin=origin, side=side
    )


def torchvision_enum(name: object) -> Any:
    """Return the weights that torchvision has for a backbone.

    Args:
        name: The name of the backbone.

    Raises:
        UserError: There is no such backbone.
    """
    from torchvision import models

    legal = models.list_models(module=models)
    if name not in legal:
        raise unknown_name("torchvision", name, legal)
    return models.get_model_weights(name)


def wanted_of_enum(enum: Any, weights: object) -> Wanted:
    """Return what weights of torchvision want images to be.

    Args:
        enum: The weights that torchvision has for the backbone.
        weights: The name of one of them; anything else stands for the best.
    """
    from torchvision.models import GoogLeNet_Weights, Inception_V3_Weights

    preset = _chosen(enum, weights).transforms()
    if enum in (GoogLeNet_Weights, Inception_V3_Weights):
        # Upon weights, torchvision makes these two with transform_input=True, which turns ImageNet's normalisation,
        # that of the preset, into (p - 0.5) / 0.5. Here they are made without, and read that at once.
        return Wanted((0.5,) * 3, (0.5,) * 3, int(preset.crop_size[0]))
    return Wanted(tuple(preset.mean), tuple(preset.std), int(preset.crop_size[0]))


def url_of_enum(enum: Any, weights: object) -> str:
    """Return where weights of torchvision are.

    Args:
        enum: The weights that torchvision has for the backbone.
        weights: The name of one of them; anything else stands for the best.
    """
    return str(_chosen(enum, weights).url)


def _chosen(enum: Any, weights: object) -> Any:
    return enum[weights] if isinstance(weights, str) and weights in enum.__members__ else enum.DEFAULT


def _torchvision_weights(name: str, enum: Any, weights: object) -> WeightFile | None:
    if weights is None:
        return None
    title = f"torchvision's {name}"
    if weights not in (HUB, CACHE, *enum.__members__):
        return read_weights(weights, of=title)  # type: ignore[arg-type]
    url = url_of_enum(enum, weights)
    found = in_torch_hub(url)
    file = url.rpartition("/")[2]
    if found is None and weights != CACHE:
        try:
            torch.hub.load_state_dict_from_url(url, progress=False, map_location="cpu", check_hash=True)
        except (OSError, RuntimeError) as error:
            line = " ".join(str(error).split())[:120]
            raise UserError(
                f"weights={weights}: {file} of {title} cannot be downloaded ({line}): bring the file here by other "
                "means and give weights=FILE"
            ) from error
        found = in_torch_hub(url)
    if found is None:
        raise UserError(f"weights={weights}: {file} of {title} is not in the cache: bring it and give weights=FILE")
    return read_weights(found, of=title)


def _torchvision_model(name: str, side: int) -> nn.Module:
    from torchvision.models import get_model

    more: dict[str, Any] = {}
    if name.startswith("vit_"):
        more = {"image_size": side}
    elif name in WITH_AUXILIARY:
        more = {"aux_logits": False, "init_weights": True}
    made: nn.Module = get_model(name, weights=None, **more)
    return made


def _take_head_off(model: nn.Module, name: str) -> str:
    """Put nothing in the place of the last linear layer; its name."""
    linear = [key for key, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear or linear[-1].count(".") > 1:
        raise UserError(f"name={name} is not legal: it does not end in a linear classifier: give another")
    head = str(linear[-1])
    above, _, last = head.rpartition(".")
    setattr(model.get_submodule(above), last, nn.Identity())
    return head


def _set_channels(model: nn.Module, channels: int) -> str:
    """Have the first convolution read images of other channels, with random weights; its name."""
    name, stem = next((key, module) for key, module in model.named_modules() if isinstance(module, nn.Conv2d))
    if stem.in_channels != channels:
        options: dict[str, Any] = {key: getattr(stem, key) for key in ("kernel_size", "stride", "padding")}
        made = nn.Conv2d(channels, stem.out_channels, bias=stem.bias is not None, **options)
        nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
        above, _, last = name.rpartition(".")
        setattr(model.get_submodule(above), last, made)
    return f"{name}.weight"


def _put_by_name(
    model: nn.Module, tensors: dict[str, Tensor], *, name: str, side: int, stem: str, weights: object
) -> None:
    """Give a model of torchvision its weights, all of them."""
    wanted = model.state_dict()
    if name.startswith("vit_") and "encoder.pos_embedding" in tensors:
        from torchvision.models.vision_transformer import interpolate_embeddings

        tensors = dict(interpolate_embeddings(side, int(name.rpartition("_")[2]), tensors))
    if name.startswith("densenet"):  # the published files are of before a rename, which torchvision repeats as well
        tensors = {OLD_DENSE.sub(r"\1\2", key): value for key, value in tensors.items()}
    if stem in tensors:
        tensors[stem] = stem_for(tensors[stem], wanted[stem])
    needed = {key: value for key, value in wanted.items() if not key.endswith("num_batches_tracked")}
    wrong = [key for key, value in needed.items() if key not in tensors or tensors[key].shape != value.shape]
    if wrong:
        raise UserError(
            f"weights={weights} does not fit torchvision's {name}: {len(wrong)} tensors are missing or of other "
            f"shapes, the first {wrong[0]}"
        )
    model.load_state_dict(as_state_of(model, tensors), strict=False)
