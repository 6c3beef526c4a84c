"""Policies: which unlabelled samples count, with what target and weight."""

from layermatch.pseudo_labels.fixed import FixedThreshold
from layermatch.pseudo_labels.noisy import NoisyThreshold
from layermatch.pseudo_labels.policy import PseudoLabelPolicy, PseudoLabels

__all__ = ["FixedThreshold", "NoisyThreshold", "PseudoLabelPolicy", "PseudoLabels"]
