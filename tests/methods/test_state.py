"""Everything that has state moves it once per optimizer step, not at all by a step that is not applied, and goes on.

The choices are those of the configuration, and what they are made of is found, not listed.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.methods.composed import composed, names
from torch import Tensor

import layermatch
from layermatch.build import build_parts, build_trainer
from layermatch.data.batch import Batch
from layermatch.layerwise.avg_clustering import READINGS
from layermatch.parts import Step, StepState
from layermatch.settings import Settings
from layermatch.training import SemiSupervisedModule

STEPS = 4
ALIGNMENTS = {
    "running": ["pseudo_labels.alignment=predictions"],
    "queue": ["pseudo_labels.alignment=labelled", "pseudo_labels.alignment_queue=2"],
}


#: Methods that no file of conf/algorithm has, as studies alone want them.
OF_STUDIES = [
    "layermatch.methods.weak_statistics.WeakByAverages",
    "layermatch.methods.weak_statistics.WeakNotAveraged",
    "layermatch.methods.with_truth.WithTruth",
]


def choices() -> dict[str, list[str]]:
    """Every method, every policy and every reading of Avg-Clustering, as command lines."""
    # `split` hides weak views that are no numbers behind the mask: nothing but the guard's own look rejects the step.
    family = ["algorithm=layermatch", "algorithm.forward=split"]
    lines = [[f"algorithm={name}"] for name in names("algorithm")]
    lines += [[*family, f"pseudo_labels={name}"] for name in names("pseudo_labels")]
    lines += [[*family, f"layerwise.avg_clustering={name}"] for name in READINGS]
    lines += [[*family, *words] for words in ALIGNMENTS.values()]
    lines += [[*family, f"algorithm._target_={target}"] for target in OF_STUDIES]
    return {line[-1]: line for line in lines}


CHOICES = choices()


class Watched(SemiSupervisedModule):
    """Poisons the weak views of one step, and notes what the method's state is after every batch."""

    bad_step = -1
    save_to: Path | None = None

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        if self.next_batch // self.accumulate == self.bad_step and batch.unlabelled is not None:
            batch.unlabelled.views["weak"][:] = float("nan")
        super().training_step(batch, batch_idx)
        self.seen.append((self.global_step, state_of(self)))
        if self.save_to is not None and self.global_step == STEPS // 2:
            self.trainer.save_checkpoint(self.save_to)

    def apply_step(self, step: Step) -> None:
        super().apply_step(step)
        self.num_applied += 1


def state_of(module: SemiSupervisedModule) -> dict[str, Tensor]:
    found = {name: value.clone() for name, value in module.method.state_dict().items()}
    return found | {f"ema.{name}": value.clone() for name, value in module.ema.state_dict().items()}


def make(choice: str, *, accumulate: int = 1) -> tuple[Any, Watched]:
    """The parts of a run, whose module is watched."""
    raw = composed(*CHOICES[choice])
    raw["trainer"]["max_steps"], raw["eval_every"] = STEPS, 1000
    raw["algorithm"] |= {"layer_gradients_every": 0, "accumulate": accumulate}
    if "threshold" in raw["pseudo_labels"]:
        raw["pseudo_labels"]["threshold"] = 0.12  # pseudo-labels count from the first step on
    settings = Settings.parse(raw)
    parts = build_parts(settings)
    parts.algorithm.__class__ = Watched
    parts.algorithm.seen, parts.algorithm.num_applied = [], 0
    return (settings, parts), parts.algorithm


def train(
    choice: str,
    folder: Path,
    *,
    accumulate: int = 1,
    bad_step: int = -1,
    save_to: Path | None = None,
    go_on: Path | None = None,
) -> Watched:
    (settings, parts), module = make(choice, accumulate=accumulate)
    module.bad_step, module.save_to = bad_step, save_to
    trainer = build_trainer(settings, run_dir=folder, callbacks=[], loggers=[])
    trainer.fit(module, datamodule=parts.data, ckpt_path=go_on, weights_only=True)
    return module


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[str]:
    """Names of what differs."""
    return [name for name, value in first.items() if not torch.equal(value, second[name])]


@pytest.mark.parametrize("choice", CHOICES)
class TestState:
    def test_a_step_with_weak_views_that_are_not_finite_leaves_it_as_it_was(self, choice: str, tmp_path: Path) -> None:
        module = train(choice, tmp_path, bad_step=2)
        if not module.uses_unlabelled:
            assert module.guard.num_rejected == 0
            return
        assert module.guard.num_rejected == 1
        before, after = (state for step, state in module.seen if step == 2)
        assert not equal(before, after)
        final = module.seen[-1][1]
        assert all(value.isfinite().all() for value in final.values() if value.is_floating_point())
        # What comes next moves on from there.
        assert module.num_applied == STEPS

    def test_it_moves_once_per_optimizer_step(self, choice: str, tmp_path: Path) -> None:
        module = train(choice, tmp_path, accumulate=3)
        assert len(module.seen) == 3 * STEPS
        start = module.seen[0][1]
        for number, (step, state) in enumerate(module.seen):
            first_of_step = module.seen[number - number % 3][1]
            if number % 3 != 2:
                assert step == number // 3
                assert not equal(state, first_of_step)
        assert equal(start, module.seen[-1][1])  # the averages at least have moved


@pytest.mark.parametrize("choice", CHOICES)
def test_it_goes_on_to_the_bit(choice: str, tmp_path: Path) -> None:
    """From a checkpoint in the middle of the run, which holds all that the rest depends on."""
    middle = tmp_path / "middle.ckpt"
    whole = train(choice, tmp_path, save_to=middle)
    resumed = train(choice, tmp_path, go_on=middle)
    assert len(resumed.seen) == STEPS - STEPS // 2
    assert not equal(whole.state_dict(), resumed.state_dict())


def test_every_kind_of_state_is_in_some_choice() -> None:
    """A new policy, bank or average that no choice of the configuration has would not be tested above."""
    for module in pkgutil.walk_packages(layermatch.__path__, "layermatch."):
        if module.name.split(".")[1] in {"methods", "parts", "policies", "layerwise"}:
            importlib.import_module(module.name)
    kinds, unseen = set(), [StepState]
    while unseen:
        found = unseen.pop().__subclasses__()
        kinds |= {kind for kind in found if kind.__module__.startswith("layermatch.")}
        unseen += found
    concrete = {kind for kind in kinds if not getattr(kind, "__abstractmethods__", None)}
    used: set[type] = set()
    for choice in CHOICES:
        used |= {type(state) for state in make(choice)[1].states}
    assert concrete - used == set()


def _poison_labelled(module: Watched) -> None:
    """Let the embeddings of the labelled images, which no loss reads, overflow once."""

    def overflow(head: object, given: object, out: Tensor) -> Tensor | None:
        if module.next_batch != 2:
            return None
        is_labelled = torch.arange(len(out)) < 8  # they come first
        return torch.where(is_labelled[:, None], torch.inf, out)

    module.network.heads["projection"].register_forward_hook(overflow)


def _poison_weak(module: Watched) -> None:
    """Let the features of the weak views overflow, of which the averaged network makes the pseudo-labels."""

    def overflow(extractor: object, given: object, out: Tensor) -> Tensor | None:
        return out.fill_(torch.inf) if module.next_batch == 2 and not torch.is_grad_enabled() else None

    module.network.extractor.register_forward_hook(overflow)


@pytest.mark.parametrize(
    ("words", "poison"),
    [
        (["algorithm=comatch"], _poison_labelled),
        (["algorithm=simmatch"], _poison_labelled),
        (["algorithm=layermatch", "algorithm.forward=split", "pseudo_labels=ema_teacher"], _poison_weak),
    ],
)
def test_state_takes_nothing_that_no_loss_has_seen(
    words: list[str], poison: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CHOICES, "made", words)
    (settings, parts), module = make("made")
    poison(module)
    trainer = build_trainer(settings, run_dir=tmp_path, callbacks=[], loggers=[])
    trainer.fit(module, datamodule=parts.data)
    assert module.guard.num_rejected == 1
    assert all(value.isfinite().all() for value in module.seen[-1][1].values() if value.is_floating_point())
