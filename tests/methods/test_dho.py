"""DHO against numbers of the authors' code: losses, gradients, prediction; its teachers and the start of its heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import oracle
from tests.conftest import digits_data, fit, small_module, small_supervised
from tests.given import batch_of, gradient, image, network_of, problem_of, step_of
from tests.oracle import Worst, tensor
from torch import Tensor, nn

from layermatch.augment import normalise
from layermatch.data import SemiSupervisedData
from layermatch.errors import UserError
from layermatch.functional import mixed_log_probabilities
from layermatch.layerwise import SeparateLosses, Uniform
from layermatch.methods import DHO
from layermatch.methods.dho import DistillationHead
from layermatch.networks import Network
from layermatch.training import SemiSupervisedModule

ORACLE = oracle.read("dho")
K, N, B = (ORACLE["inputs"][name] for name in ("K", "N", "B"))


def prepared(network: Network, **options: Any) -> DHO:
    method = DHO(rule=Uniform(), temperature=ORACLE["inputs"]["temperature"], **options)
    method.prepare(network, problem_of(K, num_labelled=B, num_unlabelled=N))
    return method.double()


@pytest.mark.oracle
@pytest.mark.parametrize(("variant", "weight"), [("authors/train_others", 0.5), ("authors/train_imgnet_semi", 1.0)])
def test_every_step_is_that_of_the_authors_code(variant: str, weight: float) -> None:
    network, worst = network_of(K, distilled=K), Worst()
    method = prepared(network, ce_weight=weight, distill_weight=weight)
    for recorded in ORACLE["steps"]:
        given, wanted = recorded["inputs"], recorded["outputs"][variant]
        method.teacher_labelled.copy_(tensor(given["teacher_logits_lb"]))
        method.teacher_pool.copy_(tensor(given["teacher_logits_u"]).flip(0))  # the batch has the pool's order reversed
        labelled = image(given["ce_logits_lb"], given["kd_logits_lb"]).requires_grad_()
        weak = image(torch.zeros(N, K), given["kd_logits_u"]).requires_grad_()
        batch = batch_of(labelled, given["y_lb"], {"weak": weak}, pool_indices=range(N)[::-1])
        losses = method.losses(batch, step_of(network))
        worst.see(losses["supervised"].value, wanted["ce_loss"], "labels")
        worst.see(losses["distilled_labelled"].value, wanted["distill_loss_labeled"], "labelled")
        worst.see(losses["distilled"].value, wanted["distill_loss_unlabeled"], "pool")
        worst.see(losses.total, wanted["loss"], "total")
        losses.total.backward()
        if "grad_ce_logits_lb" in wanted:
            worst.see(labelled.grad[:, :K], wanted["grad_ce_logits_lb"], "gradient of the labels")
            worst.see(labelled.grad[:, K:], wanted["grad_kd_logits_lb"], "gradient of the teacher, labelled")
            worst.see(weak.grad[:, K:], wanted["grad_kd_logits_u"], "gradient of the teacher, pool")
        assert not weak.grad[:, :K].any()
    worst.say(f"dho {variant}")


@pytest.mark.oracle
@pytest.mark.parametrize(("alpha", "beta", "key"), [(0.4, 0.5, "alpha0p4_beta0p5"), (0.7, 2.0, "alpha0p7_beta2")])
def test_both_heads_predict_as_in_the_authors_code(alpha: float, beta: float, key: str) -> None:
    given, wanted = ORACLE["inputs"], ORACLE["outputs"]["inference"]
    network = network_of(K, distilled=K)
    images = image(given["val_ce_logits"], given["val_kd_logits"])
    logits = prepared(network, alpha=alpha, beta=beta).outputs(network, images).logits
    worst = Worst()
    worst.see(logits.softmax(dim=1)[:8], wanted[f"probs_first8_{key}"])
    worst.see(logits.exp().sum(dim=1), torch.ones(len(images)))
    worst.say("dho prediction")
    labels = torch.tensor(given["val_labels"])
    for share, temperature, accuracy in wanted["alpha_beta_accuracy"]:
        said = prepared(network, alpha=share, beta=temperature).outputs(network, images).logits.argmax(dim=1)
        assert 100 * (said == labels).double().mean().item() == pytest.approx(accuracy)


def test_a_head_alone_predicts_where_the_other_has_no_weight() -> None:
    first, second = torch.tensor([[50.0, -900.0]]), torch.tensor([[-900.0, 3.0]])
    for alpha, logits in ((1.0, first), (0.0, second)):
        mixed = mixed_log_probabilities(first, second, alpha=alpha, beta=1.0)
        torch.testing.assert_close(mixed, logits.log_softmax(dim=1), rtol=0, atol=0)


def test_the_second_head_is_scaled_and_works_in_float32() -> None:
    torch.manual_seed(0)
    head, features = DistillationHead(6, 2, scale=30.0), torch.randn(5, 6)
    unit = features.numpy() / np.linalg.norm(features.numpy(), axis=1, keepdims=True)
    wanted = 30 * (unit @ head.linear.weight.detach().numpy().T + head.linear.bias.detach().numpy())
    np.testing.assert_allclose(head(features).detach().numpy(), wanted, rtol=1e-5, atol=1e-5)
    assert head(torch.zeros(1, 6)).isfinite().all()  # features of length 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(head(features), head(features.clone()), rtol=0, atol=0)
        assert head(features.bfloat16()).dtype == torch.float32
    plain = DistillationHead(6, 2, scale=None)
    torch.testing.assert_close(plain(features), plain.linear(features))


def test_each_head_learns_from_its_own_loss_and_both_teach_the_extractor() -> None:
    torch.manual_seed(0)
    network = Network(nn.Linear(5, 4), num_features=4, num_classes=2).double()  # K = 2
    method, problem = DHO(rule=SeparateLosses(avg_clustering="none")), problem_of(2, 4)
    network.add_head("distilled", method.heads(problem)["distilled"].double())
    method.prepare(network, problem)
    method.teacher_pool.normal_()
    batch = batch_of(
        torch.randn(8, 5).double(), torch.zeros(8, dtype=torch.int64), {"weak": torch.randn(24, 5).double()}
    )
    losses = method.losses(batch, step_of(network))
    for term in losses.values():
        for group in network.parameter_groups():
            assert gradient(term.value, network, group).any() == (group in term.reaches)


# ------------------------------------------------------------------------------------------------------------ teachers


def features_of(module: SemiSupervisedModule, data: SemiSupervisedData, *, labelled: bool) -> np.ndarray:
    images = (data.labelled if labelled else data.unlabelled).images
    pixels = torch.from_numpy(images.read(np.arange(len(images))))
    with torch.no_grad():
        features = module.network.eval()(data.normalise(pixels), heads=()).features.double().numpy()
    return features / np.linalg.norm(features, axis=1, keepdims=True)


@pytest.mark.parametrize("start", ["second", "both", "none"])
def test_without_a_teacher_the_class_means_teach_and_start_the_heads(start: str, tmp_path: Path) -> None:
    data = digits_data()
    module = small_module(data, DHO(rule=Uniform(), start=start), lr=0.0)
    before = {name: value.clone() for name, value in module.network.state_dict().items()}
    labelled, pool = (features_of(module, data, labelled=part) for part in (True, False))
    means = np.stack([labelled[data.labelled.labels == k].mean(axis=0) for k in range(10)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    module.network.train()
    fit(module, data, tmp_path, max_steps=1)
    for table, features in ((module.method.teacher_labelled, labelled), (module.method.teacher_pool, pool)):
        np.testing.assert_allclose(table.numpy(), 100 * features @ means.T, rtol=1e-4, atol=1e-3)
    started = {"second": {"distilled.linear.weight"}, "both": {"distilled.linear.weight", "classifier.weight"}}
    for network in (module.network, module.ema.network):
        state = network.state_dict()
        for name in ("distilled.linear.weight", "classifier.weight"):
            wanted = means if name in started.get(start, set()) else before[name].numpy()
            np.testing.assert_allclose(state[name].numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_a_class_without_labels_leaves_its_row_and_is_never_taught() -> None:
    torch.manual_seed(0)
    network = Network(nn.Identity(), num_features=3, num_classes=3)
    method = DHO(rule=Uniform(), start="both")
    network.add_head("distilled", method.heads(problem_of(3, 3))["distilled"])
    row = network.classifier.weight[1].clone()
    means = torch.eye(3)
    means[1] = 0
    with torch.no_grad():
        method.start_heads(network, means)
    assert torch.equal(network.classifier.weight[[0, 2]], torch.eye(3)[[0, 2]])
    assert torch.equal(network.classifier.weight[1], row)


def teacher_run(folder: Path, data: SemiSupervisedData) -> tuple[SemiSupervisedModule, Path]:
    """A supervised network of a script, whose checkpoint has no settings: it cannot be made again without help."""
    module = small_supervised(data)
    trainer = fit(module, data, folder, max_steps=3)
    trainer.save_checkpoint(folder / "teacher.ckpt")
    return module, folder / "teacher.ckpt"


def test_a_teacher_that_cannot_be_made_again_is_refused_with_its_own_name(tmp_path: Path) -> None:
    data = digits_data()
    _, path = teacher_run(tmp_path, data)
    for given, reason in ((path, "a script made"), (tmp_path / "no.ckpt", "there is no such file")):
        module = small_module(data, DHO(rule=Uniform(), teacher=str(given)))
        with pytest.raises(UserError, match=f"^teacher={given}.*{reason}"):
            fit(module, data, tmp_path, max_steps=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"rule": SeparateLosses(avg_clustering="ema_centroids")},
            "avg_clustering=ema_centroids is not legal with DHO",
        ),
        ({"teacher": 3}, "teacher=3"),
        ({"teacher": " "}, "teacher=' '"),
        ({"temperature": 0}, "temperature=0"),
        ({"ce_weight": -1}, "ce_weight=-1"),
        ({"distill_weight": -1}, "distill_weight=-1"),
        ({"scale": 0}, "scale=0"),
        ({"start": "first"}, "start='first'"),
        ({"alpha": 1.5}, "alpha=1.5"),
        ({"beta": 0}, "beta=0"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DHO(**({"rule": Uniform()} | options))


def test_the_teacher_sees_the_pixels_that_its_own_run_would(tmp_path: Path) -> None:
    """Whatever this run normalises by."""
    data = digits_data()
    pixels = torch.from_numpy(data_images(data))
    torch.testing.assert_close(
        data.normalise(pixels), normalise(pixels, mean=data.mean, std=data.std, channels_last=False)
    )


def data_images(data: SemiSupervisedData) -> Any:
    data.setup()
    return data.unlabelled.images.read(np.arange(5))


def test_value_and_gradient_of_the_distillation_are_its_equation_in_bfloat16_too() -> None:
    from layermatch.functional import distillation_loss

    generator = torch.Generator().manual_seed(0)
    logits, teacher = (3 * torch.randn(7, 2, dtype=torch.float64, generator=generator) for _ in range(2))
    logits.requires_grad_()
    loss = distillation_loss(logits, teacher, temperature=3.0)
    loss.backward()
    p, q = (
        np.exp(x / 3) / np.exp(x / 3).sum(axis=1, keepdims=True) for x in (teacher.numpy(), logits.detach().numpy())
    )
    assert loss.item() == pytest.approx(9 * (p * np.log(p / q)).sum() / 7, rel=1e-12)
    np.testing.assert_allclose(logits.grad.numpy(), 3 * (q - p) / 7, rtol=1e-10)
    half = distillation_loss(logits.detach().bfloat16(), teacher, temperature=3.0)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(loss.item(), rel=0.05)
    empty: Tensor = torch.zeros(0, 2, requires_grad=True)
    assert distillation_loss(empty, torch.zeros(0, 2), temperature=1.0) == 0


def test_each_model_of_imwa_has_the_teacher_and_the_started_heads(tmp_path: Path) -> None:
    """What the beginning of the run made ready is what all of them start from."""

    class Kept(SemiSupervisedModule):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            super().training_step(batch, batch_idx)
            self.seen.append(self.method.teacher_pool.clone())

    data = digits_data()
    module = small_module(data, DHO(rule=Uniform()), kind=Kept, lr=0.0, imwa={"members": 2, "episode": 1})
    module.seen = []
    fit(module, data, tmp_path, max_steps=4)
    assert module.seen[0].any()
    assert all(torch.equal(table, module.seen[0]) for table in module.seen)
    alone = small_module(digits_data(), DHO(rule=Uniform()), lr=0.0)
    fit(alone, digits_data(), tmp_path, max_steps=1)
    started = alone.network.get_submodule("distilled.linear").weight
    torch.testing.assert_close(module.network.get_submodule("distilled.linear").weight, started)
