"""The equations: tensors in, tensors out. No state, no Lightning, no configuration."""

from layermatch.functional.averaging import bias_corrected_ema, ema, relative_change, warmup_decay
from layermatch.functional.clustering import centroid_loss, class_sums, gradient_gap
from layermatch.functional.collapse import between_class_scatter, nc1, nearest_centre_accuracy, within_class_scatter
from layermatch.functional.consistency import squared_error_of_probabilities
from layermatch.functional.contrast import (
    graph_contrast_loss,
    memory_smoothed,
    pseudo_label_graph,
    scaled_similarities,
)
from layermatch.functional.distribution_alignment import align_distribution
from layermatch.functional.equivariance import feature_distance_loss
from layermatch.functional.gradients import cosine_similarity, keep_agreeing, scale_for
from layermatch.functional.losses import pseudo_label_loss, supervised_loss
from layermatch.functional.pseudo_labels import (
    confidence_mask,
    entropy,
    hard_pseudo_labels,
    probabilities,
    with_label_noise,
)
from layermatch.functional.rotations import quarter_turns
from layermatch.functional.schedules import constant, cosine, linear_ramp
from layermatch.functional.shrinking import shrink_loss, shrunk_classes
from layermatch.functional.similarity_matching import (
    aggregated,
    instance_similarity_loss,
    similarity_distribution,
    unfolded,
)

__all__ = [
    "aggregated",
    "align_distribution",
    "between_class_scatter",
    "bias_corrected_ema",
    "centroid_loss",
    "class_sums",
    "confidence_mask",
    "constant",
    "cosine",
    "cosine_similarity",
    "ema",
    "entropy",
    "feature_distance_loss",
    "gradient_gap",
    "graph_contrast_loss",
    "hard_pseudo_labels",
    "instance_similarity_loss",
    "keep_agreeing",
    "linear_ramp",
    "memory_smoothed",
    "nc1",
    "nearest_centre_accuracy",
    "probabilities",
    "pseudo_label_graph",
    "pseudo_label_loss",
    "quarter_turns",
    "relative_change",
    "scale_for",
    "scaled_similarities",
    "shrink_loss",
    "shrunk_classes",
    "similarity_distribution",
    "squared_error_of_probabilities",
    "supervised_loss",
    "unfolded",
    "warmup_decay",
    "with_label_noise",
    "within_class_scatter",
]
