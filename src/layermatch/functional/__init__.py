"""The equations: tensors in, tensors out. No state, no Lightning, no configuration."""

from layermatch.functional.averaging import bias_corrected_ema, ema, warmup_decay
from layermatch.functional.clustering import centroid_loss, class_sums
from layermatch.functional.gradients import keep_agreeing, scale_for
from layermatch.functional.losses import pseudo_label_loss, supervised_loss
from layermatch.functional.pseudo_labels import confidence_mask, hard_pseudo_labels, probabilities, with_label_noise
from layermatch.functional.schedules import constant, cosine

__all__ = [
    "bias_corrected_ema",
    "centroid_loss",
    "class_sums",
    "confidence_mask",
    "constant",
    "cosine",
    "ema",
    "hard_pseudo_labels",
    "keep_agreeing",
    "probabilities",
    "pseudo_label_loss",
    "scale_for",
    "supervised_loss",
    "warmup_decay",
    "with_label_noise",
]
