"""Weak, strong and local views of a whole batch, on the batch's device.

Layers: pixel operations (:mod:`~layermatch.augment.ops`) and geometric ones
(:mod:`~layermatch.augment.geometry`) as pure batched functions, the named table with their ranges and the
dispatcher (:mod:`~layermatch.augment.randaugment`), and the views made of them
(:mod:`~layermatch.augment.views`). A local view (:mod:`~layermatch.augment.local_view`) is resampled
(:mod:`~layermatch.augment.resampling`) and recoloured (:mod:`~layermatch.augment.jitter`).
:mod:`~layermatch.augment.normalise` makes a network's input of a view.
"""

from layermatch.augment.local_view import LocalView
from layermatch.augment.normalise import normalise
from layermatch.augment.randaugment import OPERATIONS, RANDAUGMENT, Operation, apply_operation
from layermatch.augment.views import PlainView, StrongView, WeakView

__all__ = [
    "OPERATIONS",
    "RANDAUGMENT",
    "LocalView",
    "Operation",
    "PlainView",
    "StrongView",
    "WeakView",
    "apply_operation",
    "normalise",
]
