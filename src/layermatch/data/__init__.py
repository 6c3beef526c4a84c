"""Sources, splits, step-indexed batches and the LightningDataModule.

What needs torch is imported when it is asked for, so that :mod:`layermatch.data.manifest` starts at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layermatch.data.batch import Batch, EvalBatch, Samples, Unlabelled, Views
    from layermatch.data.datamodule import SemiSupervisedData
    from layermatch.data.imbalance import Imbalance
    from layermatch.data.splits import Split, make_split

__all__ = [
    "Batch",
    "EvalBatch",
    "Imbalance",
    "Samples",
    "SemiSupervisedData",
    "Split",
    "Unlabelled",
    "Views",
    "make_split",
]

#: What is imported when it is asked for, and from where.
_LAZY = {
    "Batch": "layermatch.data.batch",
    "EvalBatch": "layermatch.data.batch",
    "Imbalance": "layermatch.data.imbalance",
    "Samples": "layermatch.data.batch",
    "SemiSupervisedData": "layermatch.data.datamodule",
    "Split": "layermatch.data.splits",
    "Unlabelled": "layermatch.data.batch",
    "Views": "layermatch.data.batch",
    "make_split": "layermatch.data.splits",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'layermatch.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
