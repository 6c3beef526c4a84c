"""Pictures of what the network is taught, on the dashboards, and the id of the W&B run in the checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from layermatch.checkpoints import CHECKPOINT_KEY
from layermatch.dashboards import RUN_ID, Dashboard, WandbDashboard
from layermatch.dashboards.pictures import Pairs, views_panel
from layermatch.data.batch import Batch
from layermatch.metrics import SHOWN_PAIRS
from layermatch.policies import Policy, PseudoLabels

__all__ = ["KeepRunId", "Panels"]

#: Pairs in a panel.
NUM_PAIRS = 16

TITLE = (
    "Step {step}: the pseudo-label of the weak view (above), its confidence, and whether it is right; the strong view "
    "(below) is taught it.\nIn brackets: masked."
)


class _Seen(NamedTuple):
    """The first images of a batch, on their device."""

    weak: Tensor
    strong: Tensor
    truth: Tensor
    labels: PseudoLabels


class Panels(Callback):
    """Shows the last training batch before each evaluation: weak and strong views, and the pseudo-labels between them.

    What is shown is what the step really used: the policy's own output is looked at, nothing is computed again, and
    neither the weights, the policy's state nor a random generator is touched.

    Args:
        dashboards: The dashboards that the panels are shown on.
        classes: The names of the classes.
        mean: The mean of each channel that the views were normalised by.
        std: The standard deviation of each channel that they were normalised by.
    """

    def __init__(
        self, dashboards: Sequence[Dashboard], *, classes: Sequence[str], mean: Sequence[float], std: Sequence[float]
    ) -> None:
        self.dashboards = tuple(dashboards)
        self.classes = tuple(classes)
        self.mean, self.std = (torch.tensor(list(values)).view(-1, 1, 1) for values in (mean, std))
        self._hook: RemovableHandle | None = None
        self._labels: PseudoLabels | None = None
        self._seen: _Seen | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to the policy, where the algorithm has one."""
        policy = next((module for module in pl_module.modules() if isinstance(module, Policy)), None)
        if policy is not None and trainer.is_global_zero:
            self._hook = policy.register_forward_hook(self._keep)

    def _keep(self, policy: nn.Module, given: tuple[Any, ...], output: PseudoLabels) -> None:
        self._labels = output.rows(slice(NUM_PAIRS))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the first pairs: an evaluation may follow."""
        if self._labels is None or not isinstance(batch, Batch) or batch.unlabelled is None:
            return
        views = batch.unlabelled  # of a method with a policy: the weak view first
        # Copies: a slice would keep the whole batch in memory.
        weak, strong, truth = (t[:NUM_PAIRS].clone() for t in (*list(views.views.values())[:2], views.hidden_label))
        self._seen = _Seen(weak, strong, truth, self._labels)

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw them."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or self._seen is None:
            return
        step = trainer.global_step
        pixels = views_panel(self._pairs(self._seen), self.classes, title=TITLE.format(step=step))
        for dashboard in self.dashboards:
            dashboard.show_picture(SHOWN_PAIRS.name, pixels, step=step, caption=f"step {step}")

    def _pairs(self, seen: _Seen) -> Pairs:
        labels = seen.labels
        return Pairs(
            weak=self._pixels(seen.weak),
            strong=self._pixels(seen.strong),
            label=labels.label.cpu().numpy(),
            confidence=labels.confidence.double().cpu().numpy(),
            weight=labels.weight.double().cpu().numpy(),
            truth=seen.truth.cpu().numpy(),
        )

    def _pixels(self, images: Tensor) -> NDArray[np.uint8]:
        """Return what was normalised, ``(N, C, H, W)``, as ``(N, H, W, C)`` uint8."""
        scaled = (images.float().cpu() * self.std + self.mean).mul(255).round().clamp(0, 255)
        pixels: NDArray[np.uint8] = scaled.to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return pixels

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop listening."""
        if stage == "fit" and self._hook is not None:
            self._hook.remove()
            self._hook = self._labels = self._seen = None


class KeepRunId(Callback):
    """Writes the id of the W&B run into every checkpoint, so that a resumed run goes on with it.

    Args:
        dashboard: The dashboard that has the W&B run.
    """

    def __init__(self, dashboard: WandbDashboard) -> None:
        self.dashboard = dashboard

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add it beside what :class:`~layermatch.callbacks.Provenance` wrote, which must have come first."""
        if self.dashboard.version:
            checkpoint[CHECKPOINT_KEY] = {**checkpoint.get(CHECKPOINT_KEY, {}), RUN_ID: self.dashboard.version}
