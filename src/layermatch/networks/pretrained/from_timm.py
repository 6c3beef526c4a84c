"""Backbones of timm by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from layermatch.errors import UserError
from layermatch.networks.pretrained.backbone import CACHE, HUB, Options, Wanted, refused_by, unknown_name
from layermatch.networks.pretrained.network import PretrainedNetwork
from layermatch.networks.pretrained.tuning import Tuning
from layermatch.networks.pretrained.weight_files import WeightFile, in_torch_hub, read_weights

__all__ = ["find_timm_weights", "import_timm", "timm_backbone", "timm_cfg", "wanted_of_cfg"]


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
        >>> timm_backbone(name="vit_tiny_patch61_224")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        layermatch.errors.UserError: name='vit_tiny_patch61_224' is not legal: timm has no such backbone: it has \
... and others
    """
    timm, cfg = timm_cfg(name)
    options = Options(
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
    with refused_by("timm", name, channels=in_channels, side=side, weights=None if origin is None else weights):
        if origin is None:
            extractor = make(num_classes=0)
        else:
            tensors = dict(origin.tensors)
            _check_stem(cfg, tensors, name=name, channels=in_channels)
            classes = _num_classes(tensors, cfg.classifier)
            overlay = {"state_dict": tensors, "num_classes": classes, "label_offset": 0}
            extractor = make(num_classes=classes, pretrained=True, pretrained_cfg_overlay=overlay)
            if classes:
                extractor.reset_classifier(0)
    wanted = None if origin is None else wanted_of_cfg(cfg)
    return options.network(extractor, library="timm", wanted=wanted, origin=origin, side=side)


def _check_stem(cfg: Any, tensors: Mapping[str, Tensor], *, name: str, channels: int) -> None:
    """Refuse channels for which timm would leave the first layer random, and say so in a log alone."""
    first = cfg.first_conv or ()
    for layer in (first,) if isinstance(first, str) else first:
        weight = tensors.get(f"{layer}.weight")
        if weight is not None and weight.ndim != 4 and channels != 3:
            raise UserError(
                f"name={name} with weights reads images of 3 channels, not of {channels}: its first layer is no "
                "convolution: give images of 3 channels, or weights=null"
            )


def import_timm() -> Any:
    """Return the package timm.

    Raises:
        UserError: It is not installed.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        raise UserError(f"model=timm needs the package {error.name}: pip install 'layermatch[pretrained]'") from error
    return timm


def timm_cfg(name: object) -> tuple[Any, Any]:
    """Return the package timm, and what it says of the weights of a backbone.

    Args:
        name: The name of the backbone, ``NAME`` or ``NAME.TAG``.

    Raises:
        UserError: There is no such backbone, or timm is not installed.
    """
    timm = import_timm()
    if not isinstance(name, str) or not timm.is_model(name):
        raise unknown_name("timm", name, timm.list_models())
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
    if weights not in (HUB, CACHE):
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
    return in_torch_hub(cfg.url or "")


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


def wanted_of_cfg(cfg: Any) -> Wanted:
    """Return what weights of timm want images to be.

    Args:
        cfg: What timm says of the weights.
    """
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
