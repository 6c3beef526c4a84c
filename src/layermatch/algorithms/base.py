"""The LightningModule under every algorithm: it owns the manual-optimization step."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from statistics import median
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from layermatch.algorithms.guard import StepGuard
from layermatch.algorithms.layer_gradients import measure_layer_gradients
from layermatch.algorithms.meter import IntervalMeter
from layermatch.data.batch import Batch, EvalBatch
from layermatch.distributed import broadcast_from_zero_
from layermatch.ema import WeightAverage
from layermatch.errors import check_number
from layermatch.functional import constant, relative_change
from layermatch.layerwise import LayerLosses
from layermatch.metrics import (
    DRIFT,
    LEARNING_RATE,
    LOSS_CLASSIFIER,
    LOSS_FEATURES,
    LOSS_PART,
    STEPS_NOT_APPLIED,
    VAL_ACCURACY,
    VAL_ACCURACY_EMA,
    accuracies,
)
from layermatch.models import Network, NetworkOutput

__all__ = ["Algorithm", "OptimizerFactory", "Schedule"]

#: The weights that are evaluated, side by side.
WEIGHTS = ("live", "ema")

#: FixMatch reports the median of its last 20 checkpoints.
NUM_EVALUATIONS = 20

OptimizerFactory = Callable[[list[dict[str, Any]]], Optimizer]
Schedule = Callable[[int, int], float]


class Algorithm(LightningModule):
    """One training step by manual optimization, and evaluation of the live and the averaged weights.

    A subclass gives :meth:`losses`, one loss for each layer group. They are routed by stop-gradients, so that one
    backward serves all groups (and DistributedDataParallel sees each parameter once). The order of a step is

        backward -> accumulate -> clip -> optimizer step -> schedule -> zero -> weight average -> :meth:`after_step`

    A step with a loss or gradient that is not finite is not applied (:class:`~layermatch.algorithms.guard.StepGuard`).

    Lightning refuses ``gradient_clip_val`` and ``accumulate_grad_batches`` under manual optimization, so ``clip_norm``
    and ``accumulate`` do the same here. One optimizer holds all parameters: ``trainer.global_step`` counts its steps.

    Args:
        network: extractor and classifier.
        optimizer: takes parameter groups, gives the optimizer, for example ``partial(torch.optim.SGD, lr=...)``.
            Each group has a ``name``; groups ``*/no_decay`` (biases and BatchNorm) carry ``weight_decay`` 0.
        schedule: ``(step, max_steps) -> factor`` of the initial learning rate.
        ema_decay: decay of the weight average, in ``[0, 1)``.
        ema_warmup: see :class:`~layermatch.ema.WeightAverage`.
        clip_norm: largest L2 norm of the gradient of all parameters together, above 0; None does not clip.
        accumulate: batches whose mean gradient makes one optimizer step, at least 1.
        max_nonfinite: a step whose loss or gradient is not finite is not applied; the run ends when so many come one
            after another, at least 1.
        log_every: optimizer steps between two log lines, at least 1.
        layer_gradients_every: optimizer steps between two measurements of ``layers/*``, see
            :func:`~layermatch.algorithms.layer_gradients.measure_layer_gradients`; 0 or None measures none. Training
            is the same to the bit. Each costs two backward passes: the time of 1.1 to 1.3 steps (CPU time, small and
            wide networks), so about 0.6 percent at 200.

    Raises:
        UserError: a value is out of range.
    """

    #: Whether :meth:`losses` reads ``batch.unlabelled``.
    uses_unlabelled = True

    def __init__(
        self,
        network: Network,
        *,
        optimizer: OptimizerFactory,
        schedule: Schedule = constant,
        ema_decay: float = 0.999,
        ema_warmup: bool = False,
        clip_norm: float | None = None,
        accumulate: int = 1,
        max_nonfinite: int = 10,
        log_every: int = 50,
        layer_gradients_every: int | None = 200,
    ) -> None:
        super().__init__()
        if clip_norm is not None:
            check_number("algorithm.clip_norm", clip_norm, low=0, low_open=True)
        check_number("algorithm.accumulate", accumulate, low=1, integer=True)
        check_number("trainer.log_every", log_every, low=1, integer=True)
        if layer_gradients_every is not None:
            check_number("algorithm.layer_gradients_every", layer_gradients_every, low=0, integer=True)
        self.automatic_optimization = False
        self.network = network
        self.ema = WeightAverage(network, decay=ema_decay, warmup=ema_warmup)
        self.make_optimizer = optimizer
        self.schedule = schedule
        self.clip_norm = clip_norm
        self.accumulate = accumulate
        self.log_every = log_every
        #: Of layers that draw random numbers; what torch was seeded with when this was made.
        self.noise_seed = torch.initial_seed()
        self.guard = StepGuard(max_nonfinite=max_nonfinite)
        self.layer_gradients_every = layer_gradients_every or 0
        self.meter = IntervalMeter()
        #: Values that callbacks want in the next log line.
        self._with_next_line: dict[str, float] = {}
        self._last_centres: Tensor | None = None
        #: Of each parameter group, as the optimizer was made with.
        self._initial_rates: list[float] = []
        #: The last logged means, by name; what the progress display shows.
        self.latest: dict[str, float] = {}
        self.accuracies = nn.ModuleDict({f"{s}_{w}": self._accuracy() for s in ("val", "test") for w in WEIGHTS})
        self.confusion = MulticlassConfusionMatrix(network.classifier.out_features)
        #: ``(K, K)``, true class by prediction, of the EMA weights on the test set; after a test.
        self.test_confusion: Tensor | None = None
        #: (live, EMA) accuracy of the last evaluations during training.
        self.evaluations: deque[tuple[float, float]] = deque(maxlen=NUM_EVALUATIONS)

    def _accuracy(self) -> MulticlassAccuracy:
        return MulticlassAccuracy(self.network.classifier.out_features, average="micro")

    # ------------------------------------------------------------------------------------------------ training step

    @abstractmethod
    def losses(self, batch: Batch) -> LayerLosses:
        """The losses of one batch, by layer group, with their graph."""

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One batch: backward, and an optimizer step on every ``accumulate``-th."""
        is_step = (batch_idx + 1) % self.accumulate == 0
        self._seed_noise(batch_idx)
        losses = self.losses(batch)
        if is_step and self.layer_gradients_every and (self.global_step + 1) % self.layer_gradients_every == 0:
            self.record_layer_gradients(losses)
        self.backward_by_group(losses, sync=is_step)
        self.record(losses)
        self.guard.see(losses)
        if is_step and self.guard.accepts(self.network, step=self.global_step, lr=self._learning_rate()):
            self.optimizer_step_and_after()
            if self.global_step % self.log_every == 0:
                self.log_interval()
        elif is_step:
            self.discard_step()

    def _seed_noise(self, batch_idx: int) -> None:
        """Let layers that draw random numbers, as dropout does, draw those of (seed, batch, rank).

        A resumed run then draws what it would have drawn, and each rank its own.
        """
        number = self.next_batch + batch_idx % self.accumulate
        sequence = np.random.SeedSequence([self.noise_seed, number, self.global_rank])
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))

    def discard_step(self) -> None:
        """Forget a step that is not applied: its gradients, and what its forward did to BatchNorm's statistics."""
        cast("Optimizer", self.optimizers()).zero_grad()
        with torch.no_grad():
            # The average holds the buffers of the last step that was applied.
            for live, kept in zip(self.network.buffers(), self.ema.network.buffers(), strict=True):
                live.copy_(kept)

    def backward_by_group(self, losses: LayerLosses, *, sync: bool) -> None:
        """Add each parameter's gradient of its own group's loss to ``.grad``.

        Args:
            losses: of one batch.
            sync: whether an optimizer step follows, so that ranks must average their gradients now.
        """
        with nullcontext() if sync else self._no_sync():
            self.manual_backward(losses.total / self.accumulate)

    def optimizer_step_and_after(self) -> None:
        """Clip, step, schedule, zero, average, and what the algorithm adds."""
        optimizer = cast("Optimizer", self.optimizers())
        num_updates = self.global_step
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.clip_norm)
        optimizer.step()
        self._set_learning_rate(optimizer, num_updates + 1)
        optimizer.zero_grad()
        self.ema.update(self.network, num_updates=num_updates)
        self.after_step(num_updates=num_updates)

    def after_step(self, *, num_updates: int) -> None:
        """What an algorithm updates after each optimizer step; by default nothing."""

    def _no_sync(self) -> AbstractContextManager[None]:
        model = self.trainer.strategy.model
        return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()

    def _set_learning_rate(self, optimizer: Optimizer, step: int) -> None:
        factor = self.schedule(step, self.trainer.max_steps)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def configure_optimizers(self) -> Optimizer:
        """One optimizer with the groups {extractor, classifier} x {decay, no decay}."""
        groups: list[dict[str, Any]] = []
        for group_name, named in self.network.parameter_groups().items():
            # Biases and BatchNorm have one dimension; kernels have more.
            decayed = [p for _, p in named if p.ndim > 1]
            undecayed = [p for _, p in named if p.ndim <= 1]
            groups.append({"name": f"{group_name}/decay", "params": decayed})
            groups.append({"name": f"{group_name}/no_decay", "params": undecayed, "weight_decay": 0.0})
        optimizer = self.make_optimizer([group for group in groups if group["params"]])
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        self._initial_rates = [float(group["lr"]) for group in optimizer.param_groups]
        self._set_learning_rate(optimizer, 0)
        return optimizer

    @property
    def next_batch(self) -> int:
        """Number of the batch that training goes on with: one after those of every step, applied or not."""
        return (self.trainer.global_step + self.guard.num_rejected) * self.accumulate

    # ------------------------------------------------------------------------------------------------ what is logged

    def record(self, losses: LayerLosses) -> None:
        """Add one batch's losses to the interval's means."""
        values = {LOSS_FEATURES.name: losses.features, LOSS_CLASSIFIER.name: losses.classifier}
        self.meter.add(values | {LOSS_PART.of(name): value for name, value in losses.parts.items()})

    def record_layer_gradients(self, losses: LayerLosses) -> None:
        """Add ``layers/*`` of one batch to the interval's means."""
        self.meter.add(measure_layer_gradients(self.network, losses))

    def centres(self) -> Tensor:
        """The cluster centres whose movement is logged, ``(K, D)``: here the classifier's rows."""
        return self.network.classifier.weight

    def on_train_start(self) -> None:
        """See where the centres start; a resumed run goes on from those of its last log line."""
        if self.global_step:
            self._use_given_learning_rate()
        self.meter.move_to(self.device)
        centres = self.centres().detach().clone() if self._last_centres is None else self._last_centres
        self._last_centres = centres.to(self.device)

    def _use_given_learning_rate(self) -> None:
        """Have the learning rate of this run's settings, which the optimizer's state of a checkpoint has replaced."""
        optimizer = cast("Optimizer", self.optimizers())
        for group, rate in zip(optimizer.param_groups, self._initial_rates, strict=True):
            group["initial_lr"] = rate
        self._set_learning_rate(optimizer, self.global_step)

    @torch.no_grad()
    def _record_drift(self) -> None:
        if self._last_centres is not None:
            self.meter.add({DRIFT.name: relative_change(self._last_centres, self.centres())})
        self._last_centres = self.centres().detach().clone()

    def _learning_rate(self) -> float:
        return float(cast("Optimizer", self.optimizers()).param_groups[0]["lr"])

    def log_interval(self) -> None:
        """Send the interval's means to the loggers."""
        self._record_drift()
        self._forget_what_is_unknown()
        means = self.meter.read_out(self.class_names())
        means[LEARNING_RATE.name] = self._learning_rate()
        if self.guard.num_rejected:
            means[STEPS_NOT_APPLIED.name] = float(self.guard.num_rejected)
        self.log_values(means)

    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, as the data module has them; their numbers where it has none."""
        names = getattr(getattr(self.trainer, "datamodule", None), "classes", None)
        return tuple(names or map(str, range(self.network.classifier.out_features)))

    def on_train_end(self) -> None:
        """Show the steps since the last log line. They stay in the meter: a resumed run's next line has them too."""
        self._forget_what_is_unknown()
        self.latest |= self.meter.look(self.class_names())

    def _forget_what_is_unknown(self) -> None:
        """Have no value of earlier steps stand beside those of these steps: a ratio of nothing is unknown."""
        for name in self.meter.names(self.class_names()):
            self.latest.pop(name, None)

    def log_with_next(self, values: dict[str, float]) -> None:
        """Have these values in the next log line; for callbacks."""
        self._with_next_line |= values

    def log_values(self, values: dict[str, float]) -> None:
        """Write a log line of this step. What is not finite has no value, and is left out."""
        values = {name: value for name, value in (values | self._with_next_line).items() if math.isfinite(value)}
        self._with_next_line = {}
        self.latest |= values
        for logger in self.loggers:
            logger.log_metrics(values, step=self.global_step)

    # ---------------------------------------------------------------------------------------------------- evaluation

    def evaluation_output(self, network: Network, images: Tensor) -> NetworkOutput:
        """Features, and logits ``(B, K)`` of the head that is evaluated, of the live network or its average."""
        return cast("NetworkOutput", network(images))

    def _metric(self, split: str, weights: str) -> MulticlassAccuracy:
        return cast("MulticlassAccuracy", self.accuracies[f"{split}_{weights}"])

    def _evaluate(self, batch: EvalBatch, split: str) -> dict[str, NetworkOutput]:
        outputs = {}
        for weights, network in (("live", self.network), ("ema", self.ema.network)):
            out = outputs[weights] = self.evaluation_output(network, batch.image)
            if not len(batch.label):  # a rank beyond a small set: torchmetrics takes no empty batch
                continue
            self._metric(split, weights).update(out.logits, batch.label)
            if split == "test" and weights == "ema":
                self.confusion.update(out.logits, batch.label)
        return outputs

    def _log_accuracies(self, split: str) -> None:
        values = {}
        for weights, logged in accuracies(split).items():
            metric = self._metric(split, weights)
            values[logged.name] = float(metric.compute())
            metric.reset()
        # Lightning's own table is for checkpoint callbacks; its step would count batches, not optimizer steps.
        self.log_dict(values, logger=False, sync_dist=False, rank_zero_only=False)
        self.log_values(values)

    def _share_buffers(self) -> None:
        # BatchNorm's running statistics differ between ranks; rank 0's are saved, so rank 0's are evaluated.
        broadcast_from_zero_([*self.network.buffers(), *self.ema.network.buffers()])

    def on_validation_epoch_start(self) -> None:
        """See that all ranks evaluate the same network."""
        self._share_buffers()

    def validation_step(self, batch: EvalBatch, batch_idx: int) -> dict[str, NetworkOutput]:  # noqa: ARG002
        """Evaluate one batch; gives callbacks the outputs of the ``live`` and the ``ema`` weights."""
        return self._evaluate(batch, "val")

    def on_validation_epoch_end(self) -> None:
        """Log ``val/accuracy`` and ``val/accuracy_ema``."""
        self._log_accuracies("val")
        if self.trainer.state.fn == "fit":
            self.evaluations.append((self.latest[VAL_ACCURACY.name], self.latest[VAL_ACCURACY_EMA.name]))

    def median_of_last_evaluations(self) -> dict[str, float]:
        """Median accuracy of the last 20 evaluations during training, as FixMatch reports it; empty without any."""
        if not self.evaluations:
            return {}
        live, averaged = (median(values) for values in zip(*self.evaluations, strict=True))
        return {
            "median_accuracy": live,
            "median_accuracy_ema": averaged,
            "num_evaluations": len(self.evaluations),
        }

    def on_test_epoch_start(self) -> None:
        """See that all ranks evaluate the same network."""
        self._share_buffers()
        self.confusion.reset()

    def test_step(self, batch: EvalBatch, batch_idx: int) -> dict[str, NetworkOutput]:  # noqa: ARG002
        """Evaluate one batch; gives callbacks the outputs of the ``live`` and the ``ema`` weights."""
        return self._evaluate(batch, "test")

    def on_test_epoch_end(self) -> None:
        """Log ``test/accuracy`` and ``test/accuracy_ema``, and keep the confusion matrix."""
        self._log_accuracies("test")
        self.test_confusion = self.confusion.compute().cpu()

    # ----------------------------------------------------------------------------------------------------- checkpoint

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the means and the centres since the last log line, and the last evaluations."""
        checkpoint["meter"] = self.meter.state_dict()
        checkpoint["guard"] = self.guard.state_dict()
        checkpoint["noise_seed"] = self.noise_seed
        checkpoint["last_centres"] = self._last_centres
        checkpoint["evaluations"] = list(self.evaluations)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the means and the centres since the last log line, and the last evaluations."""
        self.meter.load_state_dict(checkpoint["meter"])
        self.guard.load_state_dict(checkpoint.get("guard", self.guard.state_dict()))
        self.noise_seed = checkpoint.get("noise_seed", self.noise_seed)
        self._last_centres = checkpoint.get("last_centres")
        self.evaluations.extend(tuple(pair) for pair in checkpoint["evaluations"])
