"""The equations: tensors in, tensors out. No state, no Lightning, no configuration."""

from layermatch.functional.averaging import bias_corrected_ema, ema, relative_change, warmup_decay
from layermatch.functional.clustering import centroid_loss, class_sums, gradient_gap
from layermatch.functional.collapse import between_class_scatter, nc1, nearest_centre_accuracy, within_class_scatter
from layermatch.functional.consistency import squared_error_of_probabilities
from layermatch.functional.distribution_alignment import align_distribution
from layermatch.functional.gradients import cosine_similarity, keep_agreeing, scale_for
from layermatch.functional.losses import pseudo_label_loss, supervised_loss
from layermatch.functional.mixing import larger_part, mix, sharpen, soft_cross_entropy
from layermatch.functional.perturbations import divergence, fisher_product, unit_directions
from layermatch.functional.pseudo_labels import (
    confidence_mask,
    entropy,
    hard_pseudo_labels,
    probabilities,
    with_label_noise,
)
from layermatch.functional.rotations import quarter_turns
from layermatch.functional.schedules import constant, cosine, linear_ramp

__all__ = [
    "align_distribution",
    "between_class_scatter",
    "bias_corrected_ema",
    "centroid_loss",
    "class_sums",
    "confidence_mask",
    "constant",
    "cosine",
    "cosine_similarity",
    "divergence",
    "ema",
    "entropy",
    "fisher_product",
    "gradient_gap",
    "hard_pseudo_labels",
    "keep_agreeing",
    "larger_part",
    "linear_ramp",
    "mix",
    "nc1",
    "nearest_centre_accuracy",
    "probabilities",
    "pseudo_label_loss",
    "quarter_turns",
    "relative_change",
    "scale_for",
    "sharpen",
    "soft_cross_entropy",
    "squared_error_of_probabilities",
    "supervised_loss",
    "unit_directions",
    "warmup_decay",
    "with_label_noise",
    "within_class_scatter",
]
