"""When checkpoints are written, and which are kept."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_only

from layermatch.callbacks.stop_signals import StopSignals
from layermatch.distributed import is_rank_zero
from layermatch.errors import StoppedError
from layermatch.files import replacing
from layermatch.metrics import VAL_ACCURACY_EMA
from layermatch.runs.layout import BEST_CHECKPOINT, checkpoint_name, step_of, unfinished_checkpoints_in

__all__ = ["CheckpointWriter"]

_log = logging.getLogger(__name__)


class CheckpointWriter(Checkpoint):
    """Writes ``step-0001000.ckpt`` and so on, at the end of training, and when the run is asked to stop.

    Not Lightning's ModelCheckpoint, which remembers what it wrote: after a kill or a disk that was full it would leave
    files behind or remove a good one. This one looks at the folder. Where an evaluation is due at the same step, the
    checkpoint is written after it, so that a run that goes on from it has the evaluation behind it.

    Args:
        folder: The folder that the checkpoints are written to.
        every_n_steps: Optimizer steps between two checkpoints, at least 1.
        keep: Newest checkpoints kept, at least 1, beside the last step's. Those of later steps, of a run that was set
            back, are left alone until they are written again.
        track_best: Whether ``best_val.ckpt`` is kept, of the best validation accuracy of the EMA weights.
        signals: The signals that ask the run to stop.
    """

    def __init__(
        self, folder: Path, *, every_n_steps: int, keep: int, track_best: bool, signals: StopSignals | None = None
    ) -> None:
        self.folder = folder
        self.every_n_steps = every_n_steps
        self.keep = keep
        self.track_best = track_best
        self.signals = signals or StopSignals()
        #: Best validation accuracy of the EMA weights so far.
        self.best = -1.0
        #: The checkpoint of that evaluation.
        self.best_path = self.folder / BEST_CHECKPOINT
        self._seen = -1

    def path_of(self, step: int) -> Path:
        """Return the checkpoint of a step."""
        return self.folder / checkpoint_name(step)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals, which Lightning has taken just before, and remove what a kill left behind."""
        self._seen = trainer.global_step
        self.signals.install()
        self._remove_unfinished()

    @rank_zero_only
    def _remove_unfinished(self) -> None:
        for path in unfinished_checkpoints_in(self.folder):
            path.unlink(missing_ok=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look whether a checkpoint is due, unless an evaluation comes first."""
        made_step = trainer.global_step != self._seen
        self._seen = trainer.global_step
        # Between accumulated batches, gradients that no checkpoint holds would be lost.
        if made_step and not _evaluation_follows(trainer, batch_idx):
            self._save_if_due(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the best, and look whether a checkpoint is due."""
        if trainer.state.fn != "fit":
            return
        if self.track_best:
            accuracy = float(trainer.callback_metrics[VAL_ACCURACY_EMA.name])
            if accuracy > self.best:
                self.best, self.best_path = accuracy, self.folder / BEST_CHECKPOINT
                trainer.save_checkpoint(self.best_path)
        self._save_if_due(trainer, pl_module)

    def _save_if_due(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step = trainer.global_step
        stop = step < trainer.max_steps and self.signals.agreed(pl_module.device)
        is_due = step % self.every_n_steps == 0
        if stop or is_due or step == trainer.max_steps:
            trainer.save_checkpoint(self.path_of(step))
        if is_due:
            self._remove_old(step)
        if stop:
            name = self.signals.received or "a signal to another process"
            raise StoppedError(
                f"stopped by {name} at step {step}, checkpoint {self.path_of(step)}: go on with ckpt_path=last"
            )

    @rank_zero_only
    def _remove_old(self, step: int) -> None:
        steps = [made for path in self.folder.iterdir() if (made := step_of(path.name)) is not None]
        for old in sorted(s for s in steps if s <= step)[: -self.keep]:
            self.path_of(old).unlink(missing_ok=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back."""
        self.signals.remove()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self.signals.remove()

    def state_dict(self) -> dict[str, Any]:
        """Return the best accuracy so far, and where its checkpoint is."""
        return {"best": self.best, "best_path": str(self.best_path.absolute())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with it; without the checkpoint, which somebody removed, the next evaluation is the best.

        A run that goes on in another directory takes a copy: what it reports lies in its own.
        """
        path = self.found_again(state_dict, folder=self.folder)
        if path is not None:
            self.best = float(state_dict["best"])
            self._take_over(path)
        elif self.track_best and state_dict["best"] >= 0 and is_rank_zero():
            _log.warning("%s is gone: the best evaluation from here on is chosen", state_dict["best_path"])

    @rank_zero_only
    def _take_over(self, path: Path) -> None:
        if not self.track_best or path.absolute() == self.best_path.absolute():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.best_path) as unfinished:
            shutil.copyfile(path, unfinished)

    @staticmethod
    def found_again(state_dict: Mapping[str, Any], *, folder: Path) -> Path | None:
        """Find the best checkpoint that a state speaks of, also in a run directory that was moved; None if it is gone.

        Args:
            state_dict: The state of such a callback; may be empty.
            folder: The folder of the checkpoints of the run that goes on.
        """
        if state_dict.get("best", -1.0) < 0:
            return None
        places = (Path(state_dict["best_path"]), folder / BEST_CHECKPOINT)
        return next((path for path in places if path.is_file()), None)


def _evaluation_follows(trainer: Trainer, batch_idx: int) -> bool:
    every = trainer.val_check_batch
    return every is not None and sum(trainer.num_val_batches) > 0 and (batch_idx + 1) % every == 0
