"""Warnings about what goes wrong without a sign in the loss."""

from __future__ import annotations

import time
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from layermatch.console import Reporter
from layermatch.data import SemiSupervisedData
from layermatch.metrics import ACCURACY_ACCEPTED, CLASS_COUNTS, CONFIDENCE, MASK_RATE
from layermatch.training import SemiSupervisedModule

__all__ = ["Guards"]


class Guards(Callback):
    """Says once, in one line, when a run has gone blind in a way that its loss does not show.

    - ``mask_at_0``, ``mask_at_1``: no pseudo-label, or every one, has counted for ``patience`` steps;
    - ``one_class``: one class has had more than ``largest_share`` of the accepted pseudo-labels for as long. Not looked
      at while the mask rate is below ``few``, as the first few of a run are often of one class;
    - ``averages_part``: validation accuracies of live and EMA weights are more than ``largest_gap`` apart, with the
      same sign, in ``num_evaluations`` evaluations in a row;
    - ``labels_repeat``: the labelled set is gone over more than ``most_repeats`` times in each step, and more than
      ``most_per_second`` times a second.

    The limits are ours: far from what healthy runs on digits do, and wide enough for the published budgets (40 labels,
    64 labelled images a step). What has been said is kept in the checkpoint: a resumed run does not say it again.

    Args:
        reporter: The reporter that the lines are written to.
        patience: The optimizer steps that a condition must hold for; None is a fifth of the run, at least 200 and at
            most 1,000.
        largest_share: The largest share of one class, in ``(0, 1)``; None is 0.5, with fewer than four classes
            ``2 / K``, at most 0.95.
        few: The mask rate below which the classes are not looked at, in ``[0, 1]``.
        largest_gap: The largest gap between the two accuracies, in ``[0, 1]``.
        num_evaluations: The number of evaluations in a row, at least 1.
        most_repeats: The most times that the labelled set is gone over in a step.
        most_per_second: The most times that the labelled set is gone over in a second.
    """

    def __init__(
        self,
        reporter: Reporter,
        *,
        patience: int | None = None,
        largest_share: float | None = None,
        few: float = 0.05,
        largest_gap: float = 0.2,
        num_evaluations: int = 3,
        most_repeats: float = 2.0,
        most_per_second: float = 20.0,
    ) -> None:
        self.reporter = reporter
        self.patience = patience
        self.largest_share = largest_share
        self.few = few
        self.largest_gap = largest_gap
        self.num_evaluations = num_evaluations
        self.most_repeats = most_repeats
        self.most_per_second = most_per_second
        #: Guards that have spoken.
        self.said: set[str] = set()
        #: Guard -> the step since which its condition holds.
        self._since: dict[str, int] = {}
        self._last_line = (0, 0.0)

    # ------------------------------------------------------------------------------------------------------- when

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._last_line = (trainer.global_step, time.monotonic())

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Look at each log line."""
        algorithm = cast("SemiSupervisedModule", pl_module)
        step, (last_step, last_time) = trainer.global_step, self._last_line
        if step == last_step or step % algorithm.log_every != 0:
            return
        now = time.monotonic()
        self._last_line = (step, now)
        patience = self.patience or min(max(trainer.max_steps // 5, 200), 1000)
        self._check_mask(algorithm, step, last_step, patience)
        self._check_classes(algorithm, step, last_step, patience)
        self._check_repeats(trainer, algorithm, steps_per_second=(step - last_step) / max(now - last_time, 1e-9))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at each evaluation during training."""
        if trainer.state.fn == "fit":
            self._check_averages(cast("SemiSupervisedModule", pl_module))

    # ------------------------------------------------------------------------------------------------------- what

    def _check_mask(self, algorithm: SemiSupervisedModule, step: int, last_step: int, patience: int) -> None:
        rate = algorithm.latest.get(MASK_RATE.name)
        if rate is None:
            return
        confidence = algorithm.latest.get(CONFIDENCE.name, float("nan"))
        if self._holds("mask_at_0", rate == 0, step, last_step, patience):
            self._say(
                "mask_at_0",
                f"no pseudo-label has counted for {patience:,} steps, so only labels teach: the network's confidence, "
                f"{confidence:.2f} on average, does not reach pseudo_labels.threshold: lower it, or check "
                f"optimizer.lr and data.mean",
            )
        if self._holds("mask_at_1", rate == 1, step, last_step, patience):
            self._say(
                "mask_at_1",
                f"every pseudo-label has counted for {patience:,} steps, wrong ones too{_accuracy(algorithm)}: raise "
                f"pseudo_labels.threshold, unless the data are that easy",
            )

    def _check_classes(self, algorithm: SemiSupervisedModule, step: int, last_step: int, patience: int) -> None:
        parts = {CLASS_COUNTS.part_of(name): value for name, value in algorithm.latest.items()}
        counts = {name: value for name, value in parts.items() if name is not None}
        rate = algorithm.latest.get(MASK_RATE.name, 0.0)
        if not counts:
            return
        largest = max(counts, key=lambda name: counts[name])
        share = counts[largest] / max(sum(counts.values()), 1e-12)
        limit = self.largest_share or max(0.5, min(2 / len(counts), 0.95))
        if self._holds("one_class", rate >= self.few and share > limit, step, last_step, patience):
            self._say(
                "one_class",
                f"{share:.0%} of the accepted pseudo-labels are of class {largest!r}, for "
                f"{patience:,} steps{_accuracy(algorithm)}: unless the images are that uneven, the network collapses "
                f"to it: raise pseudo_labels.threshold, lower optimizer.lr or layerwise.lambda_u",
            )

    def _check_averages(self, algorithm: SemiSupervisedModule) -> None:
        last = list(algorithm.evaluations)[-self.num_evaluations :]
        gaps = [live - averaged for live, averaged in last]
        if len(gaps) < self.num_evaluations or min(abs(gap) for gap in gaps) <= self.largest_gap:
            return
        if min(gaps) > 0:
            self._say(
                "averages_part",
                f"the EMA weights, which are reported, have been at least {min(gaps):.0%} less accurate than the live "
                f"ones in {len(gaps)} evaluations: the average is too slow for this run: lower algorithm.ema_decay or "
                f"set algorithm.ema_warmup=true",
            )
        elif max(gaps) < 0:
            self._say(
                "averages_part",
                f"the live weights have been at least {-max(gaps):.0%} less accurate than their average in {len(gaps)} "
                f"evaluations: they jump about: lower optimizer.lr, or set algorithm.clip_norm",
            )

    def _check_repeats(self, trainer: Trainer, algorithm: SemiSupervisedModule, *, steps_per_second: float) -> None:
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, SemiSupervisedData):
            return
        repeats = (
            data.batch_on_each(trainer.world_size) * trainer.world_size * algorithm.accumulate / len(data.labelled)
        )
        per_second = repeats * steps_per_second
        if repeats > self.most_repeats and per_second > self.most_per_second:
            self._say(
                "labels_repeat",
                f"each step goes over all {len(data.labelled):,} labelled images {repeats:.1f} times, "
                f"{per_second:.0f} times a second: they are learnt by heart at once: lower data.batch_size and raise "
                f"data.mu, or give more data.num_labels",
            )

    # -------------------------------------------------------------------------------------------------------- how

    def _holds(self, guard: str, is_so: bool, step: int, last_step: int, patience: int) -> bool:
        """Return whether a condition has held for long; each log line stands for the steps since the one before."""
        if not is_so:
            self._since.pop(guard, None)
            return False
        return step - self._since.setdefault(guard, last_step) >= patience

    def _say(self, guard: str, text: str) -> None:
        if guard not in self.said:
            self.said.add(guard)
            self.reporter.warn(text)

    def state_dict(self) -> dict[str, Any]:
        """Return what has been said, and since when conditions hold."""
        return {"said": sorted(self.said), "since": dict(self._since)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.said, self._since = set(state_dict["said"]), dict(state_dict["since"])


def _accuracy(algorithm: SemiSupervisedModule) -> str:
    accuracy = algorithm.latest.get(ACCURACY_ACCEPTED.name)
    return "" if accuracy is None else f" ({accuracy:.0%} of them are right)"
