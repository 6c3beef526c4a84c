"""Heads that learn from features that were computed once, by any method, and the linear probe."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import fit
from tests.data.frozen import Blobs, frozen_data, frozen_network
from tests.methods.test_every_method import METHODS, compose_settings

from layermatch import UserError
from layermatch.build import build_method
from layermatch.data import SemiSupervisedData
from layermatch.functional import constant, logistic_regression
from layermatch.layerwise import SeparateLosses
from layermatch.methods import LinearProbe, Method, PseudoLabelling, Supervised
from layermatch.parts import Step
from layermatch.policies import FixedThreshold
from layermatch.training import SemiSupervisedModule, problem_of
from layermatch.training.features import learn_from_features
from layermatch.training.layer_gradients import measure_layer_gradients


def with_centres() -> Method:
    return PseudoLabelling(policy=FixedThreshold(threshold=0.4), rule=SeparateLosses(avg_clustering="ema_centroids"))


def module_of(method: Method, data: SemiSupervisedData, *, seed: int = 0, **options: Any) -> SemiSupervisedModule:
    network = frozen_network(seed=seed)
    optimizer = partial(torch.optim.SGD, lr=0.5, momentum=0.9)
    module = SemiSupervisedModule(
        network, method, optimizer=optimizer, schedule=constant, layer_gradients_every=0, **options
    )
    module.prepare(problem_of(data, network, method, max_steps=8))
    return module


def train(method: Method, folder: Path, *, max_steps: int, **options: Any) -> tuple[SemiSupervisedModule, Any]:
    data = frozen_data(folder, views=method.views, **options.pop("data", {}))
    module = module_of(method, data, seed=options.pop("network_seed", 0))
    trainer = fit(module, data, folder, max_steps=max_steps, **options)
    return module, trainer


def test_a_run_goes_on_to_the_bit_and_computes_nothing_in_its_steps(tmp_path: Path) -> None:
    whole, trainer = train(with_centres(), tmp_path, max_steps=6)
    seen = whole.network.extractor.seen
    assert seen == trainer.datamodule.features.computed  # not one image in the steps
    _, trainer = train(with_centres(), tmp_path, max_steps=3)
    trainer.save_checkpoint(tmp_path / "3.ckpt")
    resumed, _ = train(with_centres(), tmp_path, max_steps=6, ckpt_path=tmp_path / "3.ckpt")
    before, after = whole.state_dict(), resumed.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    fresh = frozen_network().state_dict()
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, fresh[name]) == name.startswith("extractor."), name


def test_evaluating_on_images_gives_what_training_reported(tmp_path: Path) -> None:
    """The whole network, on images, has the accuracy and nearly the logits that it has on features."""
    module, trainer = train(with_centres(), tmp_path, max_steps=8)
    (on_features,) = trainer.test(module, datamodule=trainer.datamodule, verbose=False)
    seen = module.network.extractor.seen
    images = frozen_data(tmp_path, storage="ram")
    (on_images,) = trainer.test(module, datamodule=images, verbose=False)
    assert module.network.extractor.seen == seen + len(images.test)
    assert on_images == on_features
    assert on_features["test/accuracy"] > 0.5


def test_a_checkpoint_of_another_extractor_is_refused(tmp_path: Path) -> None:
    _, trainer = train(Supervised(), tmp_path, max_steps=2, network_seed=1)
    trainer.save_checkpoint(tmp_path / "2.ckpt")
    with pytest.raises(UserError, match=r"^the checkpoint has another extractor than the one that the features"):
        train(Supervised(), tmp_path, max_steps=4, ckpt_path=tmp_path / "2.ckpt")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_from_features_or_says_why_not(name: str, tmp_path: Path) -> None:
    method = build_method(compose_settings(f"algorithm={name}"))
    data = frozen_data(tmp_path, views=method.views, feature_views=1)
    module = module_of(method, data)
    start = partial(learn_from_features, module.network, module.ema.network, method, data, device=torch.device("cpu"))
    if method.changes_images:
        with pytest.raises(UserError, match=rf"^storage=features is not legal with {method.changes_images}=") as caught:
            start()
        assert "\n" not in str(caught.value)
        return
    start()
    seen = module.network.extractor.seen
    batch = data.batch_of_step(0)
    step = Step(module.network, module.ema.network, 5, 8, module.lines.meter.add, module.guard.watch)
    losses = method.losses(batch, step)
    measure_layer_gradients(module.network, losses)
    method.diagnose(losses)
    losses.total.backward()
    assert losses.total.isfinite()
    assert module.network.classifier.weight.grad.abs().sum() > 0
    assert module.network.extractor.seen == seen


@pytest.mark.parametrize("storage", ["features", "ram"])
def test_a_linear_probe_is_the_logistic_regression_of_all_labelled_images(storage: str, tmp_path: Path) -> None:
    module, trainer = train(LinearProbe(), tmp_path, max_steps=1, data={"storage": storage, "num_labels": 30})
    data, network = trainer.datamodule, module.network.eval()
    images = torch.from_numpy(data.labelled.images.read(torch.arange(30).numpy()))
    with torch.no_grad():
        features = network(data.normalise(images)).features
    found = logistic_regression(features, torch.from_numpy(data.labelled.labels), num_classes=3)
    for weights in (network, module.ema.network):
        torch.testing.assert_close(weights.classifier.weight, found.weight, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(weights.classifier.bias, found.bias, rtol=1e-3, atol=1e-3)
    fresh = frozen_network().extractor.state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in network.extractor.state_dict().items())
    (result,) = trainer.test(module, datamodule=data, verbose=False)
    assert result["test/accuracy"] == result["test/accuracy_ema"] > 0.6


def test_another_network_on_the_same_data_module_has_its_own_features(tmp_path: Path) -> None:
    data = frozen_data(tmp_path, Blobs(), views=Supervised.views)
    first, second = (module_of(Supervised(), data, seed=seed) for seed in (0, 1))
    for module in (first, second):
        fit(module, data, tmp_path, max_steps=2)
    assert second.network.extractor.seen > 0
    batch = data.eval_steps(data.test)[0]
    images = torch.from_numpy(data.test.images.read(batch.indices.numpy()))
    with torch.no_grad():
        own = second.network.eval()(data.normalise(images)).features
    torch.testing.assert_close(own, batch.image, rtol=1e-4, atol=1e-5)
