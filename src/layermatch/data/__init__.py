"""Sources, splits, step-indexed batches and the LightningDataModule."""

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
