"""``python -m layermatch.bench``: how fast the augmentation, the training step and the data are on this machine."""
