"""The equations: tensors in, tensors out. No state, no Lightning, no configuration."""

from layermatch.functional.accuracy import macro_accuracy
from layermatch.functional.adversarial import avoidance_loss, reversal_factor, reverse_gradient
from layermatch.functional.annealing import (
    ANNEALING_FORMS,
    ANNEALING_SCHEDULES,
    annealed_supervised_loss,
    annealing_threshold,
)
from layermatch.functional.averaging import bias_corrected_ema, ema, relative_change, warmup_decay
from layermatch.functional.balanced import annealed_rates, balancing_rates
from layermatch.functional.balanced_margin import balanced_margins, smoothed_loss_of_accepted, with_margin
from layermatch.functional.clustering import centroid_loss, class_sums, gradient_gap
from layermatch.functional.collapse import between_class_scatter, nc1, nearest_centre_accuracy, within_class_scatter
from layermatch.functional.consistency import squared_error_of_probabilities
from layermatch.functional.contrast import graph_contrast_loss, memory_smoothed, pseudo_label_graph, scaled_similarities
from layermatch.functional.crest import alignment_power, tempered_distribution
from layermatch.functional.curriculum import CURRICULUM_MAPPINGS, curriculum_mapping, last_of_each, learning_status
from layermatch.functional.debiasing import debiased_probabilities
from layermatch.functional.decipher import label_divergence, label_gradient, prediction_entropy
from layermatch.functional.distillation import class_means, distillation_loss, mixed_log_probabilities
from layermatch.functional.distribution_alignment import align_distribution
from layermatch.functional.divergence import divergence_loss
from layermatch.functional.equivariance import feature_distance_loss
from layermatch.functional.gaussian_weight import truncated_gaussian
from layermatch.functional.gradients import cosine_similarity, keep_agreeing, scale_for
from layermatch.functional.latent_shaping import (
    repulsion_loss,
    shaping_degree,
    sketched_gaussian_loss,
    view_spread,
)
from layermatch.functional.logistic import LogisticRegression, logistic_regression
from layermatch.functional.loss_threshold import cross_entropy_of_probabilities, falling_threshold, loss_of_labels
from layermatch.functional.losses import pseudo_label_loss, supervised_loss
from layermatch.functional.mixing import larger_part, mix, soft_cross_entropy
from layermatch.functional.open_set import one_vs_all_loss, one_vs_all_probabilities, open_set_targets
from layermatch.functional.perturbations import divergence, fisher_product, unit_directions
from layermatch.functional.product import product_float32
from layermatch.functional.prototypes import blend, blending_weights, prototype_logits
from layermatch.functional.pseudo_labels import (
    confidence_mask,
    entropy,
    hard_pseudo_labels,
    probabilities,
    with_label_noise,
)
from layermatch.functional.relative_threshold import interpolate_logits, relative_threshold
from layermatch.functional.resize_mixing import (
    Box,
    own_share,
    partners_of_class,
    paste_resized,
    resize_box,
    weighted_squared_error,
)
from layermatch.functional.rotations import quarter_turns
from layermatch.functional.schedules import constant, cosine, cosine_ramp, linear_ramp, warmup_cosine
from layermatch.functional.self_adaptive import class_histogram, fairness_loss, self_adaptive_thresholds
from layermatch.functional.sharpening import sharpen
from layermatch.functional.shrinking import shrink_loss, shrunk_classes
from layermatch.functional.similarity_matching import (
    aggregated,
    instance_similarity_loss,
    similarity_distribution,
    unfolded,
)
from layermatch.functional.voting import VOTE_TARGETS, target_of_votes, votes_of

__all__ = [
    "ANNEALING_FORMS",
    "ANNEALING_SCHEDULES",
    "CURRICULUM_MAPPINGS",
    "VOTE_TARGETS",
    "Box",
    "LogisticRegression",
    "aggregated",
    "align_distribution",
    "alignment_power",
    "annealed_rates",
    "annealed_supervised_loss",
    "annealing_threshold",
    "avoidance_loss",
    "balanced_margins",
    "balancing_rates",
    "between_class_scatter",
    "bias_corrected_ema",
    "blend",
    "blending_weights",
    "centroid_loss",
    "class_histogram",
    "class_means",
    "class_sums",
    "confidence_mask",
    "constant",
    "cosine",
    "cosine_ramp",
    "cosine_similarity",
    "cross_entropy_of_probabilities",
    "curriculum_mapping",
    "debiased_probabilities",
    "distillation_loss",
    "divergence",
    "divergence_loss",
    "ema",
    "entropy",
    "fairness_loss",
    "falling_threshold",
    "feature_distance_loss",
    "fisher_product",
    "gradient_gap",
    "graph_contrast_loss",
    "hard_pseudo_labels",
    "instance_similarity_loss",
    "interpolate_logits",
    "keep_agreeing",
    "label_divergence",
    "label_gradient",
    "larger_part",
    "last_of_each",
    "learning_status",
    "linear_ramp",
    "logistic_regression",
    "loss_of_labels",
    "macro_accuracy",
    "memory_smoothed",
    "mix",
    "mixed_log_probabilities",
    "nc1",
    "nearest_centre_accuracy",
    "one_vs_all_loss",
    "one_vs_all_probabilities",
    "open_set_targets",
    "own_share",
    "partners_of_class",
    "paste_resized",
    "prediction_entropy",
    "probabilities",
    "product_float32",
    "prototype_logits",
    "pseudo_label_graph",
    "pseudo_label_loss",
    "quarter_turns",
    "relative_change",
    "relative_threshold",
    "repulsion_loss",
    "resize_box",
    "reversal_factor",
    "reverse_gradient",
    "scale_for",
    "scaled_similarities",
    "self_adaptive_thresholds",
    "shaping_degree",
    "sharpen",
    "shrink_loss",
    "shrunk_classes",
    "similarity_distribution",
    "sketched_gaussian_loss",
    "smoothed_loss_of_accepted",
    "soft_cross_entropy",
    "squared_error_of_probabilities",
    "supervised_loss",
    "target_of_votes",
    "tempered_distribution",
    "truncated_gaussian",
    "unfolded",
    "unit_directions",
    "view_spread",
    "votes_of",
    "warmup_cosine",
    "warmup_decay",
    "weighted_squared_error",
    "with_label_noise",
    "with_margin",
    "within_class_scatter",
]
