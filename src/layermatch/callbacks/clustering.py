"""How clustered the features are, at every evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from layermatch.data import SemiSupervisedData
from layermatch.data.batch import EvalBatch
from layermatch.distributed import all_gather_uneven_rows
from layermatch.functional import between_class_scatter, nc1, nearest_centre_accuracy, within_class_scatter
from layermatch.metrics import BETWEEN, NC1, NEAREST_CENTRE, WITHIN
from layermatch.networks import Output
from layermatch.training import SemiSupervisedModule

__all__ = ["FeatureClustering", "clustering_measures"]

#: Images that are measured at most, over all ranks: evaluation batches are spread over their set, so the first ones
#: stand for all of it, and the features of these fit anywhere (80 MB at 2,048 features).
MAX_IMAGES = 10_000


class FeatureClustering(Callback):
    """Logs ``features/{within,between,nc1,nearest_centre_accuracy}`` of the live network at every evaluation.

    They are measured on validation images, not augmented. Where none are held out they are measured on the labelled
    images, every ``eval_every`` steps and at the end: those are trained on, and look better clustered than others do.
    Never on test images.

    Args:
        eval_every: Optimizer steps between two evaluations; used where there are no validation images.
        max_images: The images that are measured at most, over all ranks.
    """

    def __init__(self, *, eval_every: int, max_images: int = MAX_IMAGES) -> None:
        self.eval_every = eval_every
        self.max_images = max_images
        self._seen: list[tuple[Tensor, Tensor]] = []
        self._last_step = -1

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget an evaluation that was interrupted."""
        self._seen = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: EvalBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the features of a batch."""
        self._keep(outputs["live"], batch, trainer)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure; the values are in the log line of the accuracies, which follows."""
        algorithm = cast("SemiSupervisedModule", pl_module)
        algorithm.log_with_next(self._measure(algorithm))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See where the run starts: that step has been evaluated, or is not one."""
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Evaluate the labelled images where there are no others."""
        if trainer.global_step % self.eval_every == 0:
            self._evaluate_labelled(trainer, cast("SemiSupervisedModule", pl_module))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate the labelled images at the last step, where there are no others."""
        self._evaluate_labelled(trainer, cast("SemiSupervisedModule", pl_module))

    def _evaluate_labelled(self, trainer: Trainer, algorithm: SemiSupervisedModule) -> None:
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, SemiSupervisedData) or data.validation is not None:
            return
        if trainer.global_step == self._last_step:
            return  # with accumulated batches a step is seen several times
        self._last_step = trainer.global_step
        steps = data.eval_steps(data.labelled)
        with _evaluation_mode(algorithm.network), torch.no_grad(), trainer.precision_plugin.forward_context():
            for number in range(len(steps)):
                batch = trainer.strategy.batch_to_device(steps[number])
                self._keep(algorithm.method.outputs(algorithm.network, batch.image), batch, trainer)
        algorithm.log_values(self._measure(algorithm))

    def _keep(self, out: Output, batch: EvalBatch, trainer: Trainer) -> None:
        room = self.max_images // trainer.world_size - sum(len(label) for _, label in self._seen)
        if room > 0:
            self._seen.append((out.features[:room], batch.label[:room]))

    def _measure(self, algorithm: SemiSupervisedModule) -> dict[str, float]:
        # A rank may have no image of a small set.
        none = torch.zeros(0, algorithm.network.num_features, device=algorithm.device)
        features = torch.cat([none, *(part for part, _ in self._seen)])
        label = torch.cat([none.new_zeros(0, dtype=torch.int64), *(part for _, part in self._seen)])
        self._seen = []
        return clustering_measures(all_gather_uneven_rows(features), all_gather_uneven_rows(label))


def clustering_measures(features: Tensor, label: Tensor) -> dict[str, float]:
    """Return the measures of :mod:`layermatch.functional.collapse` under the names that they are logged with.

    Args:
        features: ``(N, D)`` float.
        label: ``(N,)`` int64.

    Returns:
        Name to value; empty where a feature is not finite, as of a run that has diverged.
    """
    features, label = features.cpu().double(), label.cpu()
    if not bool(features.isfinite().all()):
        return {}
    measures = {
        WITHIN: within_class_scatter,
        BETWEEN: between_class_scatter,
        NC1: nc1,
        NEAREST_CENTRE: nearest_centre_accuracy,
    }
    return {metric.name: float(measure(features, label)) for metric, measure in measures.items()}


@contextmanager
def _evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Give a network in evaluation mode; afterwards each of its modules is in the mode that it was in."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
