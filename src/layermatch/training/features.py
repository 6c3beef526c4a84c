"""Learning from features that were computed once, in the place of images."""

from __future__ import annotations

import torch

from layermatch.data import SemiSupervisedData
from layermatch.data.features import check_can_be_kept, extractor_digest
from layermatch.errors import UserError
from layermatch.methods import Method
from layermatch.networks import Network

__all__ = ["check_learns_from_features", "check_same_extractor", "learn_from_features"]


def check_learns_from_features(network: Network, method: Method, data: SemiSupervisedData) -> None:
    """Refuse features in the place of images where they would not be the same, before any is computed.

    Args:
        network: The network.
        method: The method that is trained.
        data: The data module.

    Raises:
        UserError: The extractor learns, or the method changes images itself.
    """
    if data.storage.kind != "features":
        return
    check_can_be_kept(network.extractor)
    if method.changes_images:
        name = method.changes_images
        raise UserError(
            f"storage=features is not legal with {name}={getattr(method, name)}, for which {type(method).__name__} "
            f"changes images itself: give {name}=0, or storage=auto"
        )


def learn_from_features(
    network: Network, average: Network, method: Method, data: SemiSupervisedData, *, device: torch.device
) -> None:
    """Compute the features that are missing, and have batches made of them, where the data module is asked for that.

    Args:
        network: The live network. What it is given as images still goes through its extractor.
        average: The network of averaged weights, with the same extractor.
        method: The method that is trained.
        data: The data module, set up.
        device: The device to compute on.

    Raises:
        UserError: The extractor learns, the method changes images itself, or there is no room.
    """
    if data.storage.kind != "features":
        return
    check_learns_from_features(network, method, data)
    # Whoever has stages may ask for what the network says of the whole pool.
    of_pool = type(method).begin_stage is not Method.begin_stage
    data.keep_features(network, device=device, of_pool=of_pool)
    network.reads_features = average.reads_features = True


def check_same_extractor(network: Network, data: SemiSupervisedData) -> None:
    """Refuse to go on from a checkpoint whose extractor is not the one that the features are of.

    Args:
        network: The network, with the weights that training goes on with.
        data: The data module.

    Raises:
        UserError: The weights are others.
    """
    if data.features is not None and data.features.weights != extractor_digest(network.extractor):
        raise UserError(
            "the checkpoint has another extractor than the one that the features were computed with: give the model "
            "and the weights that its run had"
        )
