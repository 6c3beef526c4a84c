"""The LightningModule that every method runs in: it owns the manual-optimization step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from layermatch.data import SemiSupervisedData
from layermatch.data.batch import Batch, EvalBatch, Views
from layermatch.distributed import all_gather_uneven_rows, broadcast_from_zero_, world_size
from layermatch.errors import UserError, check_number
from layermatch.functional import cosine
from layermatch.layerwise import GradientRule, ScaledGradients
from layermatch.methods import Method
from layermatch.metrics import LEARNING_RATE, LOSS_CLASSIFIER, LOSS_FEATURES, LOSS_PART, STEPS_NOT_APPLIED
from layermatch.networks import CLASSIFIER, EXTRACTOR, Network, Output
from layermatch.parts import Losses, OpenTeacher, Problem, Step, StepState, WeightAverage
from layermatch.parts.stages import check_stages
from layermatch.quiet import quiet_warnings
from layermatch.training.by_source import GradientsBySource
from layermatch.training.current_stage import CurrentStage
from layermatch.training.episodes import Episodes, place_in_run
from layermatch.training.evaluation import Evaluation
from layermatch.training.features import check_same_extractor, learn_from_features
from layermatch.training.guard import StepGuard
from layermatch.training.layer_gradients import measure_layer_gradients
from layermatch.training.learning_rate import LearningRate, Schedule, groups_to_optimize, rate_of, scale_rates
from layermatch.training.log_lines import LogLines, by_class
from layermatch.training.noise import seed_generators
from layermatch.training.own_line import OwnLine
from layermatch.training.pool import PoolImages, evaluating, predict_in_order
from layermatch.training.recipe import BASE_KEY, RECIPE_KEY, Recipe

__all__ = ["OptimizerFactory", "Schedule", "SemiSupervisedModule", "problem_of"]

OptimizerFactory = Callable[[list[dict[str, Any]]], Optimizer]

#: FixMatch (Sohn et al. 2020, table 4).
FIXMATCH_SGD = partial(torch.optim.SGD, lr=0.03, momentum=0.9, nesterov=True, weight_decay=5e-4)


class SemiSupervisedModule(LightningModule):
    """Trains a network by a method, by manual optimization, and evaluates the live and the averaged weights.

    The method gives losses that are routed by stop-gradients, so that one backward serves all parameter groups (and
    DistributedDataParallel sees each parameter once). The order of a step is

        backward -> accumulate -> clip -> optimizer step -> schedule -> zero -> weight average -> state of the method

    A step with a loss or gradient that is not finite is not applied (:class:`~layermatch.training.StepGuard`).

    Lightning refuses ``gradient_clip_val`` and ``accumulate_grad_batches`` under manual optimization, so ``clip_norm``
    and ``accumulate`` do the same here. One optimizer holds all parameters: ``trainer.global_step`` counts its steps.

    Args:
        network: The extractor, and its classifier or none yet: the classes are those of the data.
        method: What the losses are.
        optimizer: Takes parameter groups, gives the optimizer, for example ``partial(torch.optim.SGD, lr=...)``.
            Each group has a ``name``; groups ``*/no_decay`` (biases and BatchNorm) carry ``weight_decay`` 0.
        schedule: ``(step, max_steps) -> factor`` of the initial learning rate; a method with stages multiplies it.
        ema_decay: The decay of the weight average, in ``[0, 1)``.
        ema_warmup: See :class:`~layermatch.parts.WeightAverage`.
        clip_norm: The largest L2 norm of the gradient of all parameters together, above 0; None does not clip.
        accumulate: The batches whose mean gradient makes one optimizer step, at least 1.
        max_nonfinite: A step whose loss or gradient is not finite is not applied; the run ends when so many come one
            after another, at least 1.
        log_every: The optimizer steps between two log lines, at least 1.
        layer_gradients_every: The optimizer steps between two measurements of ``layers/*``, see
            :func:`~layermatch.training.layer_gradients.measure_layer_gradients`; 0 or None measures none. Training
            is the same to the bit. Each costs two backward passes: the time of 1.1 to 1.3 steps (CPU time, small and
            wide networks), so about 0.6 percent at 200.
        gradient_scale: A mapping for study: ``{parameter-name pattern: scale in [0, 1]}`` multiplies the pseudo-label
            gradient of the matching parameters, whatever the method; see
            :class:`~layermatch.layerwise.ScaledGradients`. It costs a second backward pass.
        imwa: IMWA, which trains several models from the same weights and goes on with their mean, whatever the method:
            ``{"members": M, "episode": STEPS}``; see :class:`~layermatch.training.episodes.Episodes`. None is one
            model.
        layer_decay: The factor in ``(0, 1]`` by which the learning rate falls from one layer to the one before it: see
            :func:`~layermatch.training.learning_rate.groups_to_optimize`. None has one rate for all.
        open_teacher: Reads the network of another run, for methods that learn from one:
            :func:`layermatch.predictor.open_teacher`. None lets them learn from this run alone.

    Raises:
        UserError: A value is out of range, or the network or the method is none.
    """

    def __init__(
        self,
        network: Network,
        method: Method,
        *,
        optimizer: OptimizerFactory = FIXMATCH_SGD,
        schedule: Schedule = cosine,
        ema_decay: float = 0.999,
        ema_warmup: bool = False,
        clip_norm: float | None = None,
        accumulate: int = 1,
        max_nonfinite: int = 10,
        log_every: int = 50,
        layer_gradients_every: int | None = 200,
        gradient_scale: Mapping[str, float] | None = None,
        imwa: Mapping[str, int] | None = None,
        layer_decay: float | None = None,
        open_teacher: OpenTeacher | None = None,
    ) -> None:
        super().__init__()
        _check_parts(network, method)
        if clip_norm is not None:
            check_number("clip_norm", clip_norm, low=0, low_open=True)
        check_number("accumulate", accumulate, low=1, integer=True)
        check_number("log_every", log_every, low=1, integer=True)
        if layer_gradients_every is not None:
            check_number("layer_gradients_every", layer_gradients_every, low=0, integer=True)
        if layer_decay is not None:
            check_number("layer_decay", layer_decay, low=0, low_open=True, high=1)
        WeightAverage.check(decay=ema_decay, warmup=ema_warmup)
        check_stages(method.stages)
        self.automatic_optimization = False
        self.network = network
        self.method = method
        self.make_optimizer = optimizer
        self.rate = LearningRate(schedule, method.stages)
        self.ema_decay = ema_decay
        self.ema_warmup = ema_warmup
        self.clip_norm = clip_norm
        self.accumulate = accumulate
        self.layer_decay = layer_decay
        self.open_teacher = open_teacher
        self.log_every = log_every
        self.layer_gradients_every = layer_gradients_every or 0
        rules = [method.gradient_rule, ScaledGradients(gradient_scale) if gradient_scale else None]
        #: What each parameter's pseudo-label gradient goes through; none leaves both sources in one backward.
        self.gradient_rules: list[GradientRule] = [rule for rule in rules if rule is not None]
        self.episodes = Episodes.of(imwa)
        self.guard = StepGuard(max_nonfinite=max_nonfinite)
        self.lines = LogLines()
        #: The seed of the layers that draw random numbers: what torch was seeded with when this was made.
        self.noise_seed = torch.initial_seed()
        #: What keeps warnings that do not fit away while Lightning runs the module.
        self._quiet = ExitStack()
        self.stage = CurrentStage()
        #: What the method knows of the data and of the run; None until :meth:`prepare`.
        self.problem: Problem | None = None

    # ------------------------------------------------------------------------------------------------------- beginning

    def prepare(self, problem: Problem) -> None:
        """Add the heads, and make the state of the method, the weight average and the evaluation.

        Args:
            problem: What is known of the data and of the run. It is asked for once; Lightning's :meth:`setup` takes it
                from the data module where nobody has given it.

        Raises:
            UserError: The network or the method does not fit it.
        """
        if self.episodes is not None:
            self.episodes.check(max_steps=problem.max_steps, num_stages=len(self.method.stages))
        self.network.add_classifier(problem.num_classes)
        for name, head in self.method.heads(problem).items():
            self.network.add_head(name, head)
        for rule in self.gradient_rules:
            rule.check(self.network)
        _, max_steps = place_in_run(0, problem.max_steps, self.episodes)  # with IMWA those of one model
        self.method.prepare(self.network, replace(problem, max_steps=max_steps))
        self.ema = WeightAverage(self.network, decay=self.ema_decay, warmup=self.ema_warmup)
        self.evaluation = Evaluation(problem.num_classes)
        self.problem = problem

    def setup(self, stage: str) -> None:  # noqa: ARG002 -- every stage needs the same
        """Make ready for the data of the trainer, where :meth:`prepare` has not been called."""
        self._quiet.enter_context(quiet_warnings())
        if self.problem is None:
            self.prepare(problem_of(self._data(), self.network, self.method, max_steps=self.trainer.max_steps))
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, SemiSupervisedData):
            device = self.trainer.strategy.root_device
            learn_from_features(self.network, self.ema.network, self.method, data, device=device)

    def _data(self) -> SemiSupervisedData:
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, SemiSupervisedData):
            raise UserError("the trainer has no data: give fit(module, datamodule=SemiSupervisedData(...))")
        return data

    def teardown(self, stage: str) -> None:  # noqa: ARG002
        """Let Lightning warn as before."""
        self._quiet.close()

    def configure_optimizers(self) -> Optimizer:
        """Return one optimizer with the groups {extractor, each head} x {decay, no decay}, or those of each layer."""
        if self.trainer.max_steps < 1:
            raise UserError(f"max_steps={self.trainer.max_steps}: batches have no end, give Trainer(max_steps=NUMBER)")
        optimizer = self.make_optimizer(groups_to_optimize(self.network, layer_decay=self.layer_decay))
        scale_rates(optimizer)
        self.rate.start(optimizer)
        self._set_learning_rate(optimizer, 0)
        return optimizer

    def on_train_start(self) -> None:
        """See where the run starts: its learning rate, its cluster centres, and whose features it learns from."""
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, SemiSupervisedData):
            check_same_extractor(self.network, data)
        if self.global_step:
            optimizer = cast("Optimizer", self.optimizers())
            self.rate.restore(optimizer)
            self._set_learning_rate(optimizer, self.global_step)
        self.lines.start(self.method.centres(self.network))

    # --------------------------------------------------------------------------------------------------- training step

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Go backward through one batch, and make an optimizer step on every ``accumulate``-th."""
        is_step = (batch_idx + 1) % self.accumulate == 0
        self._seed_noise(batch_idx)
        step = self.step
        if self.stage.begin(self.method, step, self.pool_of(step)):
            self._seed_noise(batch_idx)  # a run that goes on from here does not begin the stage again
            if self.episodes is not None:
                self.episodes.begin(self._parts, self.trainer.optimizers[0])  # with what the stage made ready
        losses = self.method.losses(batch, step)
        self.stage.check_losses(losses, network=self.network, method=self.method)
        if is_step and self.layer_gradients_every and (self.global_step + 1) % self.layer_gradients_every == 0:
            self._measure_gradients(losses)
        self.add_gradients(losses, sync=is_step)
        self._record(losses)
        if not is_step:
            return
        if self.guard.accepts(self.network, step=self.global_step, lr=self._learning_rate()):
            self.apply_step(step)
            if self.global_step % self.log_every == 0:
                self._log_interval()
        else:
            self._discard()

    @property
    def step(self) -> Step:
        """What a method is told of the step that is made now."""
        number, max_steps = self.place_in_run(self.global_step)
        return Step(
            network=self.network,
            average=self.ema.network,
            number=number,
            max_steps=max_steps,
            record=self.lines.meter.add,
            watch=self.guard.watch,
            batches=world_size() * self.accumulate,
        )

    def place_in_run(self, step: int) -> tuple[int, int]:
        """Return where a run stands for its method and schedule: the steps made so far, of how many.

        Args:
            step: The optimizer steps made so far; with ``imwa`` several models have made them.
        """
        return place_in_run(step, self.trainer.max_steps, self.episodes)

    @property
    def _parts(self) -> dict[str, nn.Module]:
        return {"network": self.network, "average": self.ema, "method": self.method}

    def predict_pool(self) -> Tensor:
        """Return the logits of the live network for the whole unlabelled pool; see :meth:`Method.begin_stage`.

        Raises:
            UserError: The trainer's data module is not one of this package.
        """
        data = self._data()
        self._share_buffers()
        batches = map(self.trainer.strategy.batch_to_device, data.pool_dataloader())
        return predict_in_order(self.method, self.network, batches, count=len(data.unlabelled))

    def pool_of(self, step: Step) -> PoolImages:
        """Return what a method whose stage begins may look at; see :meth:`Method.begin_stage`.

        Args:
            step: The first step of the stage.
        """
        return PoolImages(
            self._data,
            step=step,
            device=self.device,
            predict=self.predict_pool,
            share_buffers=self._share_buffers,
            open_teacher=self.open_teacher,
        )

    @property
    def by_source(self) -> GradientsBySource | None:
        """What takes the gradients of both sources apart, where there are gradient rules."""
        return GradientsBySource(self.network, self.gradient_rules) if self.gradient_rules else None

    @property
    def states(self) -> list[StepState]:
        """Everything whose state moves once per optimizer step, in the order that it moves."""
        return [self.ema, *(module for module in self.method.modules() if isinstance(module, StepState))]

    @property
    def next_batch(self) -> int:
        """Number of the batch that training goes on with: one after those of every step, applied or not."""
        return (self.trainer.global_step + self.guard.num_rejected) * self.accumulate

    def _seed_noise(self, batch_idx: int) -> None:
        """Let layers that draw random numbers, as dropout does, draw those of (seed, batch, rank).

        A resumed run then draws what it would have drawn, and each rank its own.
        """
        number = self.next_batch + batch_idx % self.accumulate
        sequence = np.random.SeedSequence([self.noise_seed, number, self.global_rank])
        seed_generators(int(sequence.generate_state(1, np.uint64)[0]), device=self.device)

    def add_gradients(self, losses: Losses, *, sync: bool) -> None:
        """Add each parameter's gradient of its own group's losses to ``.grad``.

        One backward serves all groups; with gradient rules each source has one of its own.

        Args:
            losses: The losses of one batch.
            sync: Whether an optimizer step follows, so that ranks must average their gradients now.
        """
        by_source = self.by_source
        if by_source is not None:
            with self._no_sync():  # these are averaged there, one loss at a time
                by_source.add(losses, run_backward=self._run_backward)
            return
        with nullcontext() if sync else self._no_sync():
            self._run_backward(losses.total)

    def _run_backward(self, loss: Tensor, *, retain_graph: bool = False) -> None:
        self.manual_backward(loss / self.accumulate, retain_graph=retain_graph)

    def _no_sync(self) -> AbstractContextManager[None]:
        model = self.trainer.strategy.model
        return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()

    def apply_step(self, step: Step) -> None:
        """Clip, step, schedule, zero, average, and the state of the method."""
        optimizer = cast("Optimizer", self.optimizers())
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.clip_norm)
        optimizer.step()
        self._set_learning_rate(optimizer, self.global_step)
        optimizer.zero_grad()
        self._share_statistics()
        for state in self.states:
            state.after_step(step)
        if self.episodes is not None:
            self.episodes.after_step(self._parts, self.trainer.optimizers[0], step=self.global_step)
        if self.method.solves and self.global_step == self.trainer.max_steps:
            self._solve()

    @torch.no_grad()
    def _solve(self) -> None:
        """Have the classifier that the method computes, in the live network and in the average."""
        data = self._data()
        steps = data.eval_steps(data.labelled)
        with evaluating(self.network):
            batches = [self.trainer.strategy.batch_to_device(steps[number]) for number in range(len(steps))]
            found = [(each.indices, self.network(each.image, heads=()).features, each.label) for each in batches]
        indices, features, label = (all_gather_uneven_rows(torch.cat(parts)) for parts in zip(*found, strict=True))
        order = indices.argsort()  # as they lie in the set, however many ranks there are
        weight, bias = self.method.solve(features[order].cpu(), label[order].cpu(), self.network.num_classes)
        for network in (self.network, self.ema.network):
            network.classifier.weight.copy_(weight)
            network.classifier.bias.copy_(bias)
        broadcast_from_zero_([self.network.classifier.weight, self.network.classifier.bias])
        broadcast_from_zero_([self.ema.network.classifier.weight, self.ema.network.classifier.bias])

    def _discard(self) -> None:
        """Forget a step: its gradients, what its forward did to BatchNorm's statistics, and what its batches showed."""
        cast("Optimizer", self.optimizers()).zero_grad()
        with torch.no_grad():
            # The average holds the buffers of the last step that was applied.
            for live, kept in zip(self.network.buffers(), self.ema.network.buffers(), strict=True):
                live.copy_(kept)
        for state in self.states:
            state.discard_step()

    def _set_learning_rate(self, optimizer: Optimizer, step: int) -> None:
        number, max_steps = self.place_in_run(step)
        self.rate.set(optimizer, step=number, max_steps=max_steps)

    def _learning_rate(self) -> float:
        return rate_of(cast("Optimizer", self.optimizers()).param_groups)

    # -------------------------------------------------------------------------------------------------- what is logged

    @property
    def latest(self) -> dict[str, float]:
        """The last logged values, by name."""
        return self.lines.latest

    def log_with_next(self, values: dict[str, float]) -> None:
        """Have these values in the next log line; for callbacks."""
        self.lines.add_to_next(values)

    def log_values(self, values: dict[str, float]) -> None:
        """Write a log line of this step. What is not finite has no value, and is left out."""
        self.lines.write(values, loggers=self.loggers, step=self.global_step)

    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes, as the data module has them; their numbers where it has none."""
        names = getattr(getattr(self.trainer, "datamodule", None), "classes", None)
        return tuple(names or map(str, range(self.network.num_classes)))

    def _record(self, losses: Losses) -> None:
        """Add one batch's losses to the interval's means, and show them to the guard."""
        values = {LOSS_FEATURES.name: losses.reaching(EXTRACTOR), LOSS_CLASSIFIER.name: losses.reaching(CLASSIFIER)}
        values |= {LOSS_PART.of(name): term.value for name, term in losses.items()}
        self.lines.meter.add(values)
        self.guard.see({str(LOSS_PART.part_of(name)): value for name, value in values.items()})

    def _measure_gradients(self, losses: Losses) -> None:
        """Add ``layers/*`` of one batch to the interval's means, and what the method says of its losses."""
        by_source = self.by_source
        combine = None if by_source is None else by_source.combine
        layers = measure_layer_gradients(self.network, losses, combine=combine)
        self.lines.meter.add(layers, self.method.diagnose(losses))

    def _log_interval(self) -> None:
        """Send the interval's means to the loggers, and what the method's state says."""
        names = self.class_names()
        means = self.lines.read_interval(self.method.centres(self.network), names)
        means |= by_class(self.method.readings(), names)
        means[LEARNING_RATE.name] = self._learning_rate()
        if self.guard.num_rejected:
            means[STEPS_NOT_APPLIED.name] = float(self.guard.num_rejected)
        self.log_values(means)

    def on_train_end(self) -> None:
        """Show the steps since the last log line."""
        self.lines.show_unfinished(self.class_names())

    # ------------------------------------------------------------------------------------------------------ evaluation

    @property
    def evaluations(self) -> deque[tuple[float, float]]:
        """(live, EMA) accuracy of the last evaluations during training."""
        return self.evaluation.evaluations

    @property
    def uses_unlabelled(self) -> bool:
        """Whether the method reads unlabelled images."""
        return self.method.views.uses_unlabelled

    def _evaluate(self, batch: EvalBatch, split: str) -> dict[str, Output]:
        outputs = {}
        for weights, network in (("live", self.network), ("ema", self.ema.network)):
            out = outputs[weights] = self.method.outputs(network, batch.image)
            self.evaluation.see(split, weights, out.logits, batch.label)
        return outputs

    def _conclude(self, split: str) -> None:
        is_trial = self.trainer.sanity_checking  # a few batches before training, which are to be in no figure
        in_training = split == "val" and self.trainer.state.fn == "fit" and not is_trial
        values = self.evaluation.conclude(split, in_training=in_training)
        if is_trial:
            return
        self.log_values(values)
        # Checkpoint callbacks read what is logged; trainer.test and trainer.validate return what goes to loggers too.
        is_returned = self.trainer.state.fn != "fit"
        self.log_dict(values, logger=is_returned, sync_dist=False, rank_zero_only=False)
        if is_returned:
            OwnLine.stand_in(self.trainer)

    def _share_statistics(self) -> None:
        # BatchNorm's running statistics are of each rank's own images. Rank 0's are saved and evaluated; a network that
        # teaches by other ranks' would learn otherwise after a resume or an evaluation. Counts are alike on all ranks.
        if world_size() == 1:
            return
        moving = [value for name, value in self.network.named_buffers() if name not in self.network.resting]
        broadcast_from_zero_([value for value in moving if value.is_floating_point()])

    def _share_buffers(self) -> None:
        broadcast_from_zero_([*self.network.buffers(), *self.ema.network.buffers()])

    def on_validation_epoch_start(self) -> None:
        """See that all ranks evaluate the same network."""
        self._share_buffers()
        self.evaluation.start("val")

    def validation_step(self, batch: EvalBatch, batch_idx: int) -> dict[str, Output]:  # noqa: ARG002
        """Evaluate one batch; gives callbacks the outputs of the ``live`` and the ``ema`` weights."""
        return self._evaluate(batch, "val")

    def on_validation_epoch_end(self) -> None:
        """Log ``val/accuracy`` and ``val/accuracy_ema``."""
        self._conclude("val")

    def on_test_epoch_start(self) -> None:
        """See that all ranks evaluate the same network."""
        self._share_buffers()
        self.evaluation.start("test")

    def test_step(self, batch: EvalBatch, batch_idx: int) -> dict[str, Output]:  # noqa: ARG002
        """Evaluate one batch; gives callbacks the outputs of the ``live`` and the ``ema`` weights."""
        return self._evaluate(batch, "test")

    def on_test_epoch_end(self) -> None:
        """Log ``test/accuracy`` and ``test/accuracy_ema``, and keep the confusion matrix."""
        self._conclude("test")

    # ------------------------------------------------------------------------------------------------------ checkpoint

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the means and the centres since the last log line, the last evaluations, and what predicting needs."""
        checkpoint["lines"] = self.lines.state_dict()
        checkpoint["guard"] = self.guard.state_dict()
        checkpoint["noise_seed"] = self.noise_seed
        checkpoint["stage_begun"] = self.stage.number
        if self.episodes is not None:
            checkpoint["imwa"] = self.episodes.state_dict()
        checkpoint["evaluations"] = list(self.evaluations)
        if self.network.base is not None:
            checkpoint[BASE_KEY] = dict(self.network.base)
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, SemiSupervisedData) and self.problem is not None:
            recipe = Recipe.of(data, self.method, self.problem, precision=str(self.trainer.precision))
            checkpoint[RECIPE_KEY] = recipe.plain()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the means and the centres since the last log line, and the last evaluations."""
        self.lines.load_state_dict(checkpoint["lines"])
        self.guard.load_state_dict(checkpoint["guard"])
        self.noise_seed = checkpoint["noise_seed"]
        self.stage.number = checkpoint["stage_begun"]
        if self.episodes is not None:
            self.episodes.load_state_dict(checkpoint["imwa"])
        self.evaluations.extend(tuple(pair) for pair in checkpoint["evaluations"])


def _check_parts(network: object, method: object) -> None:
    """Refuse what is no network or no method; types are not looked at by those who write scripts."""
    if not isinstance(network, Network):
        what = network.__name__ if isinstance(network, type) else f"a {type(network).__name__}"
        raise UserError(
            f"the network is {what}: give Network(module, num_features=D), D being the width of its features"
        )
    if not isinstance(method, Method):
        what = f"the class {method.__name__}" if isinstance(method, type) else f"a {type(method).__name__}"
        raise UserError(f"the method is {what}: give an object of a subclass of layermatch.methods.Method")
    if not isinstance(method.views, Views):
        raise UserError(
            f"{type(method).__name__}.views is a {type(method.views).__name__}: give layermatch.data.Views(...)"
        )


def problem_of(data: SemiSupervisedData, network: Network, method: Method, *, max_steps: int) -> Problem:
    """Return what a method may know of the data and of the run.

    Args:
        data: The data module, set up.
        network: Gives the width of the features.
        method: Says whether it reads unlabelled images.
        max_steps: The optimizer steps of the run.
    """
    return Problem(
        num_classes=len(data.classes),
        num_features=network.num_features,
        num_labelled=len(data.labelled),
        num_unlabelled=len(data.unlabelled) if method.views.uses_unlabelled else 0,
        image_shape=data.image_shape,
        max_steps=max_steps,
        label_counts=tuple(np.bincount(data.labelled.labels, minlength=len(data.classes)).tolist()),
        pool_labels=data.pool_labels if _reads_pool_labels(data, method) else None,
    )


def _reads_pool_labels(data: SemiSupervisedData, method: Method) -> bool:
    """Return whether a method is told which images of the pool are labelled: of a streamed pool it is a large table."""
    return method.views.uses_unlabelled and (len(method.stages) > 1 or not data.is_streamed)
