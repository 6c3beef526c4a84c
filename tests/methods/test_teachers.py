"""Teachers: what a run says of another run's pool is what a predictor of it says, whatever the two normalise by."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conftest import digits_data, fit, small_module
from torch import Tensor

from layermatch import run
from layermatch.augment import WeakView
from layermatch.data import SemiSupervisedData
from layermatch.data.images import ArrayImages
from layermatch.data.sources import Digits, ImageSet, SourceData
from layermatch.errors import UserError
from layermatch.functional import target_of_votes, votes_of
from layermatch.layerwise import Uniform
from layermatch.methods import DHO, VPET, Method
from layermatch.paths import absolute_paths
from layermatch.predictor import Predictor

SETTINGS = (
    "experiment=digits", "model=wrn_small", "trainer=cpu", "data.batch_size=8", "data.mu=1", "data.num_labels=40",
    "data.num_val=0", "logger=none", "algorithm=supervised", "trainer.max_steps=20", "trainer.precision=32-true",
    "data.mean=[0.5]", "data.std=[0.25]",
)  # fmt: skip


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the command line."""
    folder = tmp_path_factory.mktemp("teacher")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["layermatch.run", *SETTINGS, "run_dir=run"])
        run.main()
    return folder / "run"


def pixels(images: ImageSet) -> Tensor:
    return torch.from_numpy(images.images.read(np.arange(len(images))))


def trained(method: Method, folder: Path, data: SemiSupervisedData | None = None, *, steps: int = 1) -> Method:
    data = data or digits_data(eval_batch_size=100)
    fit(small_module(data, method), data, folder, max_steps=steps)
    return method


def test_dho_learns_what_the_teachers_own_run_would_say(teacher: Path, tmp_path: Path) -> None:
    data = digits_data(eval_batch_size=100)
    method = trained(DHO(rule=Uniform(), teacher=str(teacher)), tmp_path, data)
    predictor = Predictor.load(teacher, temperature=1.0)
    assert tuple(predictor.mean) != tuple(data.mean)
    for table, images in ((method.teacher_pool, data.unlabelled), (method.teacher_labelled, data.labelled)):
        torch.testing.assert_close(table, predictor.logits(pixels(images)).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("passes", [0, 2])
@pytest.mark.parametrize("votes", ["teachers", "passes"])
def test_vpets_teachers_vote_on_weak_views(votes: str, passes: int, teacher: Path, tmp_path: Path) -> None:
    data = digits_data(eval_batch_size=100)
    both = [str(teacher), teacher / "checkpoints" / "step-0000020.ckpt"]
    method = trained(VPET(rule=Uniform(), teachers=both, passes=passes, votes=votes, target="mean"), tmp_path, data)
    predictor, images = Predictor.load(teacher, temperature=1.0), pixels(data.unlabelled)
    views = [data.kinds["weak"](images, data.draws_of_pass(number)) for number in range(passes)] or [images]
    said = [predictor.logits(view).logits for view in views]
    voters = [sum(said) / len(said)] if votes == "teachers" else said
    counts = 2 * sum(votes_of(logits) for logits in voters)
    wanted = target_of_votes(counts, form="mean")
    differing = (method.target - wanted).abs().amax(dim=1) > 1e-6
    assert differing.float().mean() < 0.01  # batches of another size round otherwise, and near ties may turn


def test_a_run_and_its_evaluation_need_the_teacher_at_the_start_alone(teacher: Path, tmp_path: Path) -> None:
    data = digits_data()
    copy = tmp_path / "copy"
    copy.symlink_to(teacher)
    module = small_module(data, DHO(rule=Uniform(), teacher=str(copy)))
    trainer = fit(module, data, tmp_path, max_steps=2)
    trainer.save_checkpoint(tmp_path / "middle.ckpt")
    copy.unlink()
    other = small_module(data, DHO(rule=Uniform(), teacher=str(copy)), seed=1)
    fit(other, data, tmp_path, max_steps=4, ckpt_path=tmp_path / "middle.ckpt")
    assert torch.equal(other.method.teacher_pool, module.method.teacher_pool)


class Enlarged(Digits):
    """Digits of 10x10 pixels."""

    def load(self) -> SourceData:
        found = super().load()

        def larger(images: ImageSet) -> ImageSet:
            padded = np.pad(images.images.read(np.arange(len(images))), ((0, 0), (0, 0), (1, 1), (1, 1)))
            return ImageSet(ArrayImages(padded), images.labels)

        return replace(found, labelled=larger(found.labelled), test=larger(found.test))


def enlarged() -> SemiSupervisedData:
    data = SemiSupervisedData(Enlarged(), weak=WeakView(flip=False), num_labels=40, batch_size=8, mu=2, seed=0)
    data.setup()
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (enlarged, "reads images of 1 x 8 x 8, and those of this run are 1 x 10 x 10"),
        (
            lambda: digits_data(open_set=4),
            "knows other classes than this run: '0', '1', '2', ... .10 of them., not '0'",
        ),
    ],
)
@pytest.mark.parametrize("method", [DHO, VPET])
def test_a_teacher_of_other_images_or_classes_is_refused(
    method: Callable[..., Method], data: Callable[[], SemiSupervisedData], message: str, teacher: Path, tmp_path: Path
) -> None:
    name, given = ("teacher", str(teacher)) if method is DHO else ("teachers", [str(teacher)])
    with pytest.raises(UserError, match=f"^{name}=.*{message}"):
        trained(method(rule=Uniform(), **{name: given}), tmp_path, data())


def test_who_has_not_said_how_runs_are_read_is_told(teacher: Path, tmp_path: Path) -> None:
    data = digits_data()
    module = small_module(data, DHO(rule=Uniform(), teacher=str(teacher)), open_teacher=None)
    with pytest.raises(UserError, match=f"^teacher={teacher} cannot be read in training: give .*open_teacher="):
        fit(module, data, tmp_path, max_steps=1)


def test_a_teacher_computes_in_its_own_precision(teacher: Path, tmp_path: Path) -> None:
    """Also where this run is in bfloat16."""
    tables = []
    for precision in ("32-true", "bf16-mixed"):
        data = digits_data(eval_batch_size=100)
        method = DHO(rule=Uniform(), teacher=str(teacher), start="none")
        fit(small_module(data, method), data, tmp_path, max_steps=1, precision=precision)
        tables.append(method.teacher_pool)
    torch.testing.assert_close(*tables, rtol=0, atol=0)


def test_paths_of_teachers_are_relative_to_where_the_command_was_given() -> None:
    given = {"algorithm": {"teachers": ["runs/a", "~/b", "/c"], "teacher": "runs/d"}}
    assert absolute_paths(given, base=Path("/home/me"))["algorithm"] == {
        "teachers": ["/home/me/runs/a", "~/b", "/c"],
        "teacher": "/home/me/runs/d",
    }
    assert given["algorithm"]["teacher"] == "runs/d"
    assert absolute_paths({"algorithm": {"teachers": [], "teacher": None}}, base=Path("/x")) == {
        "algorithm": {"teachers": [], "teacher": None}
    }
