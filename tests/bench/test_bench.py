"""The command and its subjects, at tiny sizes."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from layermatch.bench import augment, data, features, policies, states, step
from layermatch.bench.__main__ import main
from layermatch.bench.report import Figure, Section
from layermatch.cli import config_dir
from layermatch.networks import wrn_small
from layermatch.parts import Problem
from layermatch.trainer import choose_device

CPU = torch.device("cpu")


def names(section: Section) -> set[str]:
    return {figure.name for figure in section.figures}


def check(section: Section) -> None:
    """Every figure is sound, and each ratio is of two figures of the section."""
    assert len(names(section)) == len(section.figures)
    for ratio in section.ratios:
        assert {ratio.numerator.name, ratio.denominator.name} <= names(section)
        assert ratio.numerator.unit == ratio.denominator.unit
        assert ratio.value == ratio.numerator.value / ratio.denominator.value > 0


def test_augment_measures_pairs_and_operations() -> None:
    threads = torch.get_num_threads()
    section = augment.measure(device=CPU, quick=False, num_images=3)
    check(section)
    assert {"ours, 32x32", "PIL, 96x96", "ours: equalize, 32x32", "PIL: rotate, 96x96"} <= names(section)
    assert len(section.figures) == 2 * 3 + 2 * 2 * 13
    assert [ratio.target for ratio in section.ratios] == [">= 10", "", ">= 4", "", "", ""]
    assert torch.get_num_threads() == threads


def test_what_augment_compares_is_the_same_work() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8, generator=generator)
    weak, strong = augment.WeakView(), augment.StrongView()
    draws = [torch.rand(5, view.num_draws, generator=generator) for view in (weak, strong)]
    ours = augment._batched(images, draws, weak, strong)()
    theirs = augment._one_by_one(augment.pil_pipeline.to_images(images), [view.tolist() for view in draws])()
    for a, b in zip(ours, theirs, strict=True):  # type: ignore[call-overload]
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_step_measures_every_variant() -> None:
    effort = step.Effort(batch_size=2, mu=2, warmups=1, steps=1, rounds=2)
    section = step.measure(device=CPU, cases=[step.Case("small", wrn_small, 16)], effort=effort)
    check(section)
    assert len(section.ratios) == 4 + 3 + 4 + 3
    found = {ratio.name for ratio in section.ratios}
    assert {f"small pure compute, {each} / split" for each in ("joint", "shared", "shared, weak_share=0")} < found
    assert {ratio.target for ratio in section.ratios} == {""}  # no target is stated for such a batch
    assert all(len(figure.measured) == 2 for figure in section.figures if figure.unit == "ms")
    values = {figure.name: figure.value for figure in section.figures}
    share = 100 * (1 - values["small pure compute, joint"] / values["small whole step, joint"])
    assert values["small share outside the network, joint"] == pytest.approx(share)


def test_the_pure_compute_of_a_forward_sends_what_it_says_with_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    effort = step.Effort(batch_size=2, mu=4, warmups=1, steps=1, rounds=1)
    chosen = choose_device(accelerator="cpu", precision="32-true", channels_last=False)
    case = step.Case("small", wrn_small, 16)
    data = step._make_data(case, chosen, effort)
    sent: dict[str, tuple[int, int, bool]] = {}
    real = step._forward_and_backward
    for name, forward in step.FORWARDS.items():

        def watched(network: Any, images: Any, rest: Any, statistics: Any, *, autocast: bool, name: str = name) -> None:
            sent[name] = (len(images), len(rest), statistics is not None)
            real(network, images, rest, statistics, autocast=autocast)

        monkeypatch.setattr(step, "_forward_and_backward", watched)
        step._pure_block(case, data, chosen, **forward, device=CPU, effort=effort)
    # 2 labelled, 8 strong and 8 weak views; a quarter of the weak ones is 2.
    assert sent == {
        "joint": (18, 0, False), "split": (10, 8, False),
        "shared": (12, 6, True), "shared, weak_share=0": (10, 8, True),
    }  # fmt: skip


def test_targets_are_those_of_the_device_and_of_the_published_batch() -> None:
    card = torch.device("cuda")  # asked for its kind alone
    published = {device: step.targets_of(step.choose_effort(device, quick=True), device) for device in (CPU, card)}
    assert published[CPU] == step.Targets()  # a quarter of the batch
    assert (published[card].conventional, published[card].outside) == (">= 3", "<= 5")
    whole = step.targets_of(step.choose_effort(CPU, quick=False), CPU)
    assert (whole.whole, whole.shared, whole.conventional, whole.outside) == ("<= 1.15", "<= 1.15", ">= 5", "")


def test_the_targets_of_a_gpu_stand_beside_what_they_are_for() -> None:
    case, section = step.Case("small", wrn_small, 16), Section("step", {})
    pairs = [(f"whole step, {forward}", f"pure compute, {forward}") for forward in step.FORWARDS]
    values = {name: value for pair in pairs for name, value in zip(pair, (10.0, 9.6), strict=True)}
    figures = {name: Figure(name, "ms", (value,)) for name, value in (values | {step.CONVENTIONAL: 31.0}).items()}
    step._add_ratios(section, case, figures, targets=step.TARGETS["cuda"])
    step._add_shares(section, case, figures, targets=step.TARGETS["cuda"])
    aims = {ratio.name: (ratio.target, ratio.value) for ratio in section.ratios if ratio.target}
    assert aims == {f"small steps/s against the conventional recipe, {each}": (">= 3", 3.1) for each in step.FORWARDS}
    shares = {figure.name: (figure.target, figure.value) for figure in section.figures}
    assert shares == {f"small share outside the network, {each}": ("<= 5", pytest.approx(4)) for each in step.FORWARDS}


def test_the_whole_form_has_the_published_batch() -> None:
    effort = step.choose_effort(CPU, quick=False)
    assert (effort.batch_size, effort.mu) == (64, 7)
    assert step.choose_effort(CPU, quick=True).batch_size == 16
    assert [case.name for case in step.choose_cases(CPU)] == ["WRN-28-2"]


def test_policies_measures_every_choice_of_the_configuration() -> None:
    section = policies.measure(device=CPU, quick=True, make_network=partial(wrn_small, width=1))
    check(section)
    expected = {f"pseudo_labels={path.stem}" for path in (config_dir() / "pseudo_labels").glob("*.yaml")}
    expected |= {f"algorithm={name}" for name in states.METHODS}
    expected |= {f"layerwise.avg_clustering={name}" for name in ("ema_classifier", "ema_outputs", "ema_centroids")}
    assert names(section) == (expected - {"pseudo_labels=none"}) | {"pure compute of a step"}
    assert len(section.ratios) == len(expected) - 1
    assert {ratio.target for ratio in section.ratios} == {""}  # of the whole form: at most 2 percent


def test_features_measures_keeping_and_the_network_on_as_many_images(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("timm")
    section = features.measure(device=CPU, quick=True, size=32)
    check(section)
    # Of two blocks: both views, and the image as it is, of which the labelled ones are in both blocks.
    assert section.settings["images"] == 64
    assert section.settings["views"] == 3 * 64
    assert names(section) == {
        f"{what}, {dtype}, an image" for what in ("features kept", "network alone") for dtype in ("float32", "bfloat16")
    }
    assert [ratio.target for ratio in section.ratios] == ["<= 1.1", "<= 1.1", ""]
    assert capsys.readouterr().out == ""


#: The parts in which methods and Avg-Clustering keep what they have seen.
PARTS = {
    "ClassQueue", "EmaCentroids", "LabelTable", "LabelledBank", "LatestLabels", "MemoryBank", "OutputAverage",
    "PeriodicShares", "QueueMean",
}  # fmt: skip


def test_the_work_of_every_bank_table_and_queue_moves_it() -> None:
    torch.manual_seed(0)
    problem = Problem(3, 8, 12, 40, (3, 8, 8), 10, label_counts=(4, 4, 4), pool_labels=torch.full((40,), -1))
    works = states.works_of_states(problem, num_labelled=4, num_unlabelled=32, device=CPU)
    found = set()
    for work in works.values():
        _, method, _ = work.args
        parts = {type(part).__name__: part for part in method.modules() if type(part).__name__ in PARTS}
        before = {name: [buffer.clone() for buffer in part.buffers()] for name, part in parts.items()}
        work()
        for name, part in parts.items():
            assert not all(map(torch.equal, before[name], part.buffers())), name
        found |= set(parts)
    assert found == PARTS


def test_data_measures_every_storage() -> None:
    section = Section("data", {})
    data.measure_reading(section, num_images=40, size=8, batch_size=2, rounds=3)
    check(section)
    assert len(section.ratios) == 1 + len(data.STORAGES)
    assert {f"reading a batch, storage={storage}" for storage in data.STORAGES} < names(section)


@pytest.mark.slow
def test_data_measures_the_start_of_a_run() -> None:
    section = Section("data", {})
    data.measure_start(section, device=CPU, rounds=1)
    check(section)
    values = {figure.name: figure.value for figure in section.figures}
    assert 0 < values["start of a run to its first step"] < values["whole run of one step"]


def test_the_command_prints_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(augment, "measure", partial(augment.measure, num_images=8))  # of 448: to be there soon
    path = tmp_path / "bench.json"
    main(["augment", "--quick", "--device", "cpu", "--threads", "1", "--json", str(path)])
    shown = capsys.readouterr().out
    assert shown.index("Ratios") < shown.index("PIL, 96x96") < shown.index("Machine")
    content = json.loads(path.read_text())
    assert content["machine"]["threads"] == 1
    assert set(content["sections"]) == {"augment"}
    figures = {figure["name"]: figure["value"] for figure in content["sections"]["augment"]["figures"]}
    for ratio in content["sections"]["augment"]["ratios"]:
        assert ratio["value"] == figures[ratio["numerator"]] / figures[ratio["denominator"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: subject"),
        (["nope"], "invalid choice: 'nope'"),
        (["step", "--quik"], "unrecognized arguments: --quik"),
        (["step", "--threads", "0"], "--threads=0 is not legal"),
        (["step", "--threads", "two"], "invalid int value: 'two'"),
        (["step", "--device", "tpu"], "invalid choice: 'tpu'"),
        (["step", "--json", "missing/bench.json"], "there is no folder"),
        (["step", "--json", "notes.txt"], "no bench result"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert not captured.out
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["step", "--device", "cuda"])
    assert stopped.value.code == 2
    assert "no CUDA GPU" in capsys.readouterr().err


def test_it_runs_as_a_module(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "layermatch.bench", "nope"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
