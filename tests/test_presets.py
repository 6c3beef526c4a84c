"""The methods in a user's own Trainer, on a user's own network and data set object, without the command line."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch import Callback, Trainer
from torch import nn

import layermatch
from layermatch import (
    FixMatch,
    LayerMatch,
    MeanTeacher,
    Network,
    SemiSupervisedData,
    SemiSupervisedModule,
    Supervised,
    create,
)
from layermatch.data.sources import Datasets
from layermatch.errors import UserError


class OwnNetwork(nn.Module):
    """A user's feature extractor."""

    num_features = 8

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

    def forward(self, images: Any) -> Any:
        return self.layers(images).flatten(1)


def own_data(**options: Any) -> SemiSupervisedData:
    pixels = np.random.default_rng(0).integers(256, size=(40, 8, 8, 3), dtype=np.uint8)
    items = [(image, number % 4) for number, image in enumerate(pixels)]
    return SemiSupervisedData(Datasets(train=items, test=items), num_labels=8, batch_size=4, mu=2, **options)


def own_trainer(folder: Path, **options: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(default_root_dir=folder, accelerator="cpu", **(quiet | options))


@pytest.mark.parametrize("preset", [LayerMatch, FixMatch, MeanTeacher, Supervised])
@pytest.mark.parametrize("num_val", [0, 8])
def test_every_method_trains_and_warns_of_nothing(
    preset: type[SemiSupervisedModule], num_val: int, tmp_path: Path
) -> None:
    module = preset(Network(OwnNetwork()))
    data = own_data(num_val=num_val)
    trainer = own_trainer(tmp_path, max_steps=3)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        trainer.fit(module, datamodule=data)
        trainer.test(module, datamodule=data, verbose=False)
    # What the machine lacks is Lightning's to say.
    assert [str(each.message) for each in seen if "GPU" not in str(each.message)] == []
    assert trainer.global_step == 3
    assert module.network.num_classes == 4
    assert 0 <= module.latest["test/accuracy_ema"] <= 1
    assert module.uses_unlabelled == (preset is not Supervised)


def test_lightnings_trial_of_the_evaluation_is_in_no_figure(tmp_path: Path) -> None:
    """Before training it evaluates two batches; they are not counted again in the first evaluation."""
    module = FixMatch(Network(OwnNetwork()))
    data = own_data(num_val=8, eval_batch_size=2)
    options = {"val_check_interval": 2, "check_val_every_n_epoch": None, "num_sanity_val_steps": 2}
    counted: list[int] = []

    class Count(Callback):
        def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
            counted.append(int(pl_module.evaluation.accuracies["val_ema"].update_count))

    own_trainer(tmp_path, max_steps=4, callbacks=[Count()], **options).fit(module, datamodule=data)
    assert counted == [0, 0, 0]  # the trial, and two evaluations
    assert len(module.evaluations) == 2


def test_a_checkpoint_of_lightnings_own_goes_on(tmp_path: Path) -> None:
    whole, part, resumed = (LayerMatch(Network(OwnNetwork())) for _ in range(3))
    for module in (part, resumed):
        module.load_state_dict(whole.state_dict())
        module.noise_seed = whole.noise_seed
    heads = None
    for module, steps, ckpt in ((whole, 4, None), (part, 2, None), (resumed, 4, tmp_path / "part.ckpt")):
        trainer = own_trainer(tmp_path / str(steps), max_steps=steps, enable_checkpointing=False)
        module.network.add_classifier(4)
        heads = heads or {name: value.clone() for name, value in module.network.classifier.state_dict().items()}
        module.network.classifier.load_state_dict(heads)
        module.rate.schedule = layermatch_constant
        trainer.fit(module, datamodule=own_data(), ckpt_path=ckpt, weights_only=True if ckpt else None)
        if module is part:
            trainer.save_checkpoint(tmp_path / "part.ckpt")
    for (name, value), other in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert (value == other).all(), name


def layermatch_constant(step: int, max_steps: int) -> float:
    return 1.0


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"max_steps=-1: .* give Trainer\(max_steps=NUMBER\)"):
        own_trainer(tmp_path, max_epochs=1).fit(LayerMatch(Network(OwnNetwork())), datamodule=own_data())
    network = Network(OwnNetwork(), num_classes=3)
    with pytest.raises(UserError, match="tells 3 classes apart and the data have 4"):
        own_trainer(tmp_path, max_steps=1).fit(LayerMatch(network), datamodule=own_data())
    with pytest.raises(UserError, match="num_features=None"):
        Network(nn.Flatten())


def test_importing_the_package_is_light() -> None:
    code = "import sys, layermatch; print([name for name in ('torch', 'lightning', 'hydra') if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
    assert {"LayerMatch", "FixMatch"} <= set(dir(layermatch))
    with pytest.raises(AttributeError, match="LayerMash"):
        _ = layermatch.LayerMash


def test_any_method_by_its_name(tmp_path: Path) -> None:
    module = create("flexmatch", Network(OwnNetwork()), "layerwise=grad_relu", "optimizer.lr=0.01")
    trainer = own_trainer(tmp_path, max_steps=2)
    trainer.fit(module, datamodule=own_data())
    assert trainer.global_step == 2
    assert module.optimizers().param_groups[0]["initial_lr"] == 0.01
    assert module.ema_decay == 0.999  # not that of an experiment


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("flexmtach", "seed=0", r"^unknown algorithm=flexmtach: choose one of abc, adamatch, .*flexmatch"),
        (
            "flexmatch",
            "pseudo_labels.treshold=1",
            r"^unknown setting pseudo_labels.treshold: choose one of .*threshold",
        ),
        ("mixmatch", "layerwise=avg_clustering", r"^.*is not legal with"),
    ],
)
def test_what_create_refuses(name: str, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create(name, Network(OwnNetwork()), override)
