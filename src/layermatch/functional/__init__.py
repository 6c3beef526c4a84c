"""The equations: tensors in, tensors out. No state, no Lightning, no configuration."""

from layermatch.functional.annealing import (
    ANNEALING_FORMS,
    ANNEALING_SCHEDULES,
    annealed_supervised_loss,
    annealing_threshold,
)
from layermatch.functional.averaging import bias_corrected_ema, ema, relative_change, warmup_decay
from layermatch.functional.clustering import centroid_loss, class_sums, gradient_gap
from layermatch.functional.collapse import between_class_scatter, nc1, nearest_centre_accuracy, within_class_scatter
from layermatch.functional.consistency import squared_error_of_probabilities
from layermatch.functional.curriculum import CURRICULUM_MAPPINGS, curriculum_mapping, last_of_each, learning_status
from layermatch.functional.gradients import cosine_similarity, keep_agreeing, scale_for
from layermatch.functional.loss_threshold import cross_entropy_of_probabilities, falling_threshold
from layermatch.functional.losses import pseudo_label_loss, supervised_loss
from layermatch.functional.pseudo_labels import (
    confidence_mask,
    entropy,
    hard_pseudo_labels,
    probabilities,
    with_label_noise,
)
from layermatch.functional.schedules import constant, cosine, linear_ramp
from layermatch.functional.sharpening import sharpen

__all__ = [
    "ANNEALING_FORMS",
    "ANNEALING_SCHEDULES",
    "CURRICULUM_MAPPINGS",
    "annealed_supervised_loss",
    "annealing_threshold",
    "between_class_scatter",
    "bias_corrected_ema",
    "centroid_loss",
    "class_sums",
    "confidence_mask",
    "constant",
    "cosine",
    "cosine_similarity",
    "cross_entropy_of_probabilities",
    "curriculum_mapping",
    "ema",
    "entropy",
    "falling_threshold",
    "gradient_gap",
    "hard_pseudo_labels",
    "keep_agreeing",
    "last_of_each",
    "learning_status",
    "linear_ramp",
    "nc1",
    "nearest_centre_accuracy",
    "probabilities",
    "pseudo_label_loss",
    "relative_change",
    "scale_for",
    "sharpen",
    "squared_error_of_probabilities",
    "supervised_loss",
    "warmup_decay",
    "with_label_noise",
    "within_class_scatter",
]
