"""IMWA: models trained one after another are those trained at once, and their mean is gone on with."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from tests.conftest import digits_data, fit, small_algorithm, small_module
from torch import Tensor, nn

from layermatch.build import build_parts, learning_rate_at
from layermatch.cli import config_dir, plain
from layermatch.data.batch import Batch
from layermatch.errors import UserError
from layermatch.functional import constant, cosine
from layermatch.layerwise import Uniform
from layermatch.methods import R2D2, Supervised
from layermatch.networks import Network
from layermatch.parts import Losses, RunningMean, Step
from layermatch.settings import Settings
from layermatch.training import SemiSupervisedModule, problem_of
from layermatch.training.episodes import Episodes

DECAY = 0.8


class Watched(Supervised):
    """Notes the step of each batch, and has a state that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int]] = []
        self.running = RunningMean(torch.tensor(0.0), decay=0.5)
        self.before: list[float] = []

    def losses(self, batch: Batch, step: Step) -> Losses:
        self.seen.append((step.number, step.max_steps))
        self.before.append(self.running.value.item())
        self.running.see(torch.tensor(1.0))
        return super().losses(batch, step)


def linear_module(data: Any, optimizer: Any, **options: Any) -> SemiSupervisedModule:
    torch.manual_seed(0)
    network, method = Network(nn.Flatten(), num_features=64), Watched()
    settings = {"schedule": cosine, "ema_decay": DECAY, "imwa": {"members": 3, "episode": 2}} | options
    module = SemiSupervisedModule(network, method, optimizer=optimizer, **settings)
    module.prepare(problem_of(data, network, method, max_steps=12))
    return module


def mean_of(trees: list[Any]) -> Any:
    if isinstance(trees[0], dict):
        return {key: mean_of([tree[key] for tree in trees]) for key in trees[0]}
    return torch.stack([tree.float() for tree in trees]).mean(dim=0) if isinstance(trees[0], Tensor) else trees[0]


OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.01),
}


class Model:
    """A linear network with an optimizer and an average of its own, which knows nothing of the training module."""

    def __init__(self, start: dict[str, Tensor], make: Any) -> None:
        self.live = nn.Linear(64, 10)
        self.live.load_state_dict(start)
        self.average = copy.deepcopy(self.live)
        self.optimizer = make(
            [{"params": [self.live.weight]}, {"params": [self.live.bias], "weight_decay": 0.0}]
        )  # fmt: skip
        self.initial = self.optimizer.param_groups[0]["lr"]

    def learn(self, batch: Batch, factor: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.initial * factor
        self.optimizer.zero_grad()
        F.cross_entropy(self.live(batch.labelled.views["weak"].flatten(1)), batch.labelled.label).backward()
        self.optimizer.step()
        with torch.no_grad():
            for kept, live in zip(self.average.parameters(), self.live.parameters(), strict=True):
                kept.copy_(DECAY * kept + (1 - DECAY) * live)

    @property
    def state(self) -> dict[str, Any]:
        state = {"live": self.live.state_dict(), "average": self.average.state_dict()}
        return copy.deepcopy(state | {"optimizer": self.optimizer.state_dict()["state"]})

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self.live.load_state_dict(state["live"])
        self.average.load_state_dict(state["average"])
        optimizer = self.optimizer.state_dict() | {"state": copy.deepcopy(state["optimizer"])}
        self.optimizer.load_state_dict(optimizer)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_models_one_after_another_are_models_at_once(name: str, tmp_path: Path) -> None:
    data = digits_data()
    module = linear_module(data, OPTIMIZERS[name])
    start = {key: value.clone() for key, value in module.network.classifier.state_dict().items()}
    models = [Model(start, OPTIMIZERS[name]) for _ in range(3)]
    fit(module, data, tmp_path, max_steps=12)
    for episode in range(2):
        for t in range(2):
            for m, model in enumerate(models):
                model.learn(data.batch_of_step(6 * episode + 2 * m + t), cosine(2 * episode + t, 4))
        mean = mean_of([model.state for model in models])
        for model in models:
            model.state = mean
    for found, expected in ((module.network, models[0].live), (module.ema.network, models[0].average)):
        torch.testing.assert_close(found.classifier.weight, expected.weight, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.classifier.bias, expected.bias, rtol=1e-5, atol=1e-6)
    assert (module.network.classifier.weight - start["weight"]).abs().max() > 0.01
    method = module.method
    assert isinstance(method, Watched)
    assert method.seen == [(n, 4) for n in [0, 1] * 3 + [2, 3] * 3]
    # Each model starts with the state of the method as the episode did.
    assert method.before == [0.0, 0.5] * 3 + [0.75, 0.875] * 3


@pytest.mark.parametrize("episode", [1, 2])
def test_one_model_is_the_method_alone_to_the_bit(episode: int, tmp_path: Path) -> None:
    data = digits_data()
    alone = small_algorithm(data)
    one = small_algorithm(data, imwa={"members": 1, "episode": episode})
    for module in (alone, one):
        fit(module, data, tmp_path, max_steps=6)
    found = one.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in alone.state_dict().items())


def test_the_mean_of_models_that_differ_is_gone_on_with(tmp_path: Path) -> None:
    """Of all that a network has: also BatchNorm's running statistics, and not of counts."""

    class Kept(SemiSupervisedModule):
        def apply_step(self, step: Step) -> None:
            super().apply_step(step)
            self.after.append({name: value.clone() for name, value in self.network.state_dict().items()})

    data = digits_data()
    module = small_algorithm(data, imwa={"members": 2, "episode": 1}, kind=Kept)
    start = {name: value.clone() for name, value in module.network.state_dict().items()}
    module.after = []
    fit(module, data, tmp_path, max_steps=2)
    back, mean = module.after
    assert all(torch.equal(value, back[name]) for name, value in start.items())
    plain = [small_algorithm(data) for _ in range(2)]
    fit(plain[0], data, tmp_path, max_steps=1)
    first = plain[0].network.state_dict()
    counts = [name for name in mean if name.endswith("num_batches_tracked")]
    assert counts
    assert all(int(mean[name]) == 1 for name in counts)
    second = {name: 2 * value - first[name] for name, value in mean.items() if value.is_floating_point()}
    moved = [name for name in second if not torch.allclose(second[name], start[name], atol=1e-7)]
    assert len(moved) > 0.9 * len(second)
    assert any(not torch.allclose(second[name], first[name], atol=1e-6) for name in moved)


@pytest.mark.parametrize("stop", [1, 2, 4, 5])
def test_a_run_that_stops_anywhere_goes_on_to_the_bit(stop: int, tmp_path: Path) -> None:
    class Stopping(SemiSupervisedModule):
        def on_train_batch_end(self, *_: Any) -> None:
            self.trainer.should_stop = self.global_step == stop

    data, options = digits_data(), {"imwa": {"members": 2, "episode": 2}, "schedule": cosine}
    whole = small_algorithm(data, **options)
    fit(whole, data, tmp_path / "whole", max_steps=8)
    trainer = fit(small_algorithm(data, kind=Stopping, **options), data, tmp_path / "first", max_steps=8)
    assert trainer.global_step == stop
    trainer.save_checkpoint(tmp_path / "stop.ckpt")
    second = small_algorithm(data, **options)
    fit(second, data, tmp_path / "second", max_steps=8, ckpt_path=tmp_path / "stop.ckpt")
    found = second.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in whole.state_dict().items())


def test_a_step_that_is_not_applied_is_none_of_an_episode(tmp_path: Path) -> None:
    class Poisoned(SemiSupervisedModule):
        def training_step(self, batch: Batch, batch_idx: int) -> None:
            if batch_idx == 2:
                batch.labelled.views["weak"][:] = float("nan")
            super().training_step(batch, batch_idx)

    data = digits_data()
    module = small_module(data, Watched(), kind=Poisoned, imwa={"members": 2, "episode": 2})
    fit(module, data, tmp_path, max_steps=4)
    assert module.guard.num_rejected == 1
    assert module.method.seen == [(0, 2), (1, 2), (0, 2), (0, 2), (1, 2)]
    assert all(value.isfinite().all() for value in module.state_dict().values() if value.is_floating_point())


# ------------------------------------------------------------------------------------------------------------- settings


def settings_of(*overrides: str) -> Settings:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return Settings.parse(plain(compose("run", overrides=["run_dir=unused", "data.num_val=0", *overrides])))


@pytest.mark.parametrize("algorithm", ["fixmatch", "layermatch", "mean_teacher", "supervised"])
def test_it_goes_with_any_algorithm(algorithm: str) -> None:
    settings = settings_of(
        f"algorithm={algorithm}", "algorithm.imwa={members: 2, episode: 100}", "trainer.max_steps=1000"
    )
    module = build_parts(settings).algorithm
    assert module.episodes is not None
    assert (module.episodes.members, module.episodes.episode) == (2, 100)
    # Step 700 of 1000 is step 300 of 500 of the second model.
    assert learning_rate_at(settings, 700) == pytest.approx(0.03 * cosine(300, 500))


def test_a_policy_counts_the_steps_of_a_model() -> None:
    """Its warm-up and its generations are shares of what one model is trained for, not of all models' steps."""
    imwa = ("algorithm.imwa={members: 2, episode: 10}", "trainer.max_steps=40")
    crest = build_parts(settings_of("algorithm=fixmatch", "pseudo_labels=progressive_alignment", *imwa)).algorithm
    assert crest.problem.max_steps == 40
    assert crest.method.policy.max_steps == 20
    dash = build_parts(settings_of("algorithm=dash", "pseudo_labels.warmup=0.5", *imwa)).algorithm
    assert dash.method.policy.warm_up.steps == 10


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("poison", "algorithm.imwa='poison' is not legal: give {members: NUMBER, episode: STEPS}, or null"),
        ("{members: 2}", "algorithm.imwa={'members': 2} is not legal"),
        ("{members: 0, episode: 10}", "algorithm.imwa.members=0 is not legal"),
        ("{members: 2, episode: poison}", "algorithm.imwa.episode='poison' is not legal"),
        ("{members: 3, episode: 100}", "imwa: 1000 steps are not whole episodes of 3 x 100 steps"),
    ],
)
def test_what_is_not_legal_is_refused(given: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        build_parts(settings_of("trainer.max_steps=1000", f"algorithm.imwa={given}"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_method_with_stages_is_refused() -> None:
    with pytest.raises(UserError, match="imwa is not legal with a method that has stages"):
        small_module(digits_data(), R2D2(rule=Uniform()), schedule=constant, imwa={"members": 2, "episode": 5})


def test_the_turns_of_models() -> None:
    episodes = Episodes(members=2, episode=2)
    assert [episodes.step_of_model(step) for step in range(9)] == [0, 1, 0, 1, 2, 3, 2, 3, 4]
