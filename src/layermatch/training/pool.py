"""What the network says of every image of a set, in the middle of training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from layermatch.data import SemiSupervisedData
from layermatch.data.batch import EvalBatch
from layermatch.data.steps import RawEvalBatch
from layermatch.distributed import all_gather_uneven_rows
from layermatch.errors import UserError
from layermatch.methods import Method
from layermatch.networks import Network
from layermatch.parts import OpenTeacher, Step, Teacher

__all__ = ["PoolImages", "evaluating", "predict_in_order"]


class PoolImages:
    """The images of a run's pool, and its labelled ones, for a method whose stage begins.

    Args:
        find_data: Gives the data module, set up. It is asked where images are looked at: most methods do not.
        step: The first step of the stage.
        device: The network's device.
        predict: Gives the logits of the live network for the whole pool.
        share_buffers: Makes the networks the same on every rank, as BatchNorm's running statistics are not.
        open_teacher: Reads the network of another run; None where nobody has said how.
    """

    def __init__(
        self,
        find_data: Callable[[], SemiSupervisedData],
        *,
        step: Step,
        device: torch.device,
        predict: Callable[[], Tensor],
        share_buffers: Callable[[], None],
        open_teacher: OpenTeacher | None = None,
    ) -> None:
        self.step = step
        self._find_data = find_data
        self._device = device
        self._predict = predict
        self._share_buffers = share_buffers
        self._open_teacher = open_teacher

    @property
    def _data(self) -> SemiSupervisedData:
        return self._find_data()

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self._data.classes

    @property
    def labels(self) -> Tensor:
        """The labels of the labelled images, ``(num_labelled,)`` int64."""
        return torch.as_tensor(self._data.labelled.labels, dtype=torch.int64, device=self._device)

    def open_teacher(self, path: str | Path) -> Teacher:
        """Read the network of another run; see :class:`~layermatch.parts.Pool`."""
        if self._open_teacher is None:
            raise UserError(
                f"ckpt_path={path} cannot be read in training: give SemiSupervisedModule "
                "open_teacher=layermatch.predictor.open_teacher"
            )
        return self._open_teacher(path, self._device)

    def __call__(self) -> Tensor:
        """Return the live network's logits for the pool; see :class:`~layermatch.parts.Pool`."""
        return self._predict()

    @torch.no_grad()
    def look(
        self,
        what: Callable[[Tensor], Tensor],
        *,
        labelled: bool = False,
        weak_pass: int | None = None,
        normalised: bool = True,
    ) -> Tensor:
        """Return what a function makes of every image, in the order of the set; see :class:`~layermatch.parts.Pool`."""
        data = self._data
        self._share_buffers()
        draws = None if weak_pass is None else data.draws_of_pass(weak_pass)
        found = []
        with evaluating(self.step.network), evaluating(self.step.average):
            for batch in data.image_dataloader(labelled=labelled):
                images = self._images(batch, draws)
                found.append((batch.indices.to(self._device), what(data.normalise(images) if normalised else images)))
        # Autocast keeps its bf16 copies of the weights, and those made under no_grad carry no gradient.
        torch.clear_autocast_cache()
        return _in_order(found, count=len(data.labelled if labelled else data.unlabelled))

    def _images(self, batch: RawEvalBatch, draws: Tensor | None) -> Tensor:
        images = batch.images.to(self._device)
        if draws is None:
            return images
        view: Tensor = self._data.kinds["weak"](images, draws[batch.indices].to(self._device))
        return view


@torch.no_grad()
def predict_in_order(method: Method, network: Network, batches: Iterable[EvalBatch], *, count: int) -> Tensor:
    """Return the logits of all images of a set, in the set's order; every rank gets those of all ranks.

    Args:
        method: Says which head is evaluated.
        network: The network, which is evaluated here, and is left in the modes that it was in.
        batches: This rank's part of the images, on its device; at least one batch, which may be empty.
        count: The number of images in the set.

    Returns:
        ``(count, K)``, at least float32.
    """
    with evaluating(network):
        found = [(batch.indices, method.outputs(network, batch.image).logits) for batch in batches]
    # Autocast keeps its bf16 copies of the weights, and those made under no_grad carry no gradient.
    torch.clear_autocast_cache()
    return _in_order(found, count=count)


def _in_order(found: list[tuple[Tensor, Tensor]], *, count: int) -> Tensor:
    """Return the rows of all ranks by their indices."""
    indices, rows = (all_gather_uneven_rows(torch.cat(parts)) for parts in zip(*found, strict=True))
    return torch.empty(count, *rows.shape[1:], dtype=rows.dtype, device=rows.device).index_copy_(0, indices, rows)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Have a network in evaluation mode within, and each of its modules in its own mode again afterwards.

    Args:
        network: The network.
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
