"""Sources, splits, step-indexed batches and the LightningDataModule."""

from layermatch.data.batch import Batch, EvalBatch, LabelledBatch, UnlabelledBatch
from layermatch.data.datamodule import SemiSupervisedData
from layermatch.data.splits import Split, make_split

__all__ = [
    "Batch",
    "EvalBatch",
    "LabelledBatch",
    "SemiSupervisedData",
    "Split",
    "UnlabelledBatch",
    "make_split",
]
