"""Layer-wise semi-supervised image classification for PyTorch Lightning.

``import layermatch`` is light: it reads no data, touches no network and sets no global state. It only drops rank
variables that are no numbers, on which Lightning would end as it is imported. What it offers is imported when it is
asked for.

Example:
    >>> from lightning.pytorch import Trainer
    >>> from layermatch import LayerMatch, Network, SemiSupervisedData
    >>> from layermatch.data.sources import Digits
    >>> from torch import nn
    >>> data = SemiSupervisedData(Digits(), num_labels=10, batch_size=8, mu=2)
    >>> extractor = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
    >>> model = LayerMatch(Network(extractor, num_features=288))
    >>> trainer = Trainer(max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False,
    ...     enable_progress_bar=False, enable_model_summary=False)
    >>> trainer.fit(model, datamodule=data)
    >>> model.network.num_classes
    10
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from layermatch.errors import UserError
from layermatch.rank_variables import drop_unreadable_ranks

if TYPE_CHECKING:
    from layermatch.data import SemiSupervisedData
    from layermatch.networks import Network
    from layermatch.predictor import Predictor
    from layermatch.presets import FixMatch, LayerMatch, MeanTeacher, Supervised, create
    from layermatch.training import SemiSupervisedModule

__all__ = [
    "FixMatch",
    "LayerMatch",
    "MeanTeacher",
    "Network",
    "Predictor",
    "SemiSupervisedData",
    "SemiSupervisedModule",
    "Supervised",
    "UserError",
    "__version__",
    "create",
]

#: What is imported when it is asked for, and from where.
_LAZY = {
    "FixMatch": "layermatch.presets",
    "LayerMatch": "layermatch.presets",
    "MeanTeacher": "layermatch.presets",
    "Network": "layermatch.networks",
    "Predictor": "layermatch.predictor",
    "SemiSupervisedData": "layermatch.data",
    "SemiSupervisedModule": "layermatch.training",
    "Supervised": "layermatch.presets",
    "create": "layermatch.presets",
}

try:
    __version__ = version("layermatch")
except PackageNotFoundError:  # the source tree on the path, not installed
    __version__ = "0+unknown"

drop_unreadable_ranks()


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'layermatch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
