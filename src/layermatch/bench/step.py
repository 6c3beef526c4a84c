"""The whole training step against pure compute, and against the conventional recipe."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor

from layermatch.augment import StrongView, WeakView
from layermatch.bench import conventional
from layermatch.bench.images import RandomImages
from layermatch.bench.own_process import OwnProcess
from layermatch.bench.report import Figure, Ratio, Section
from layermatch.bench.timing import Stopwatch, alternate, peak_mib, start_peak
from layermatch.data import SemiSupervisedData
from layermatch.errors import check_choice
from layermatch.layerwise import SeparateLosses
from layermatch.methods import PseudoLabelling
from layermatch.methods.pseudo_labelling import WEAK_SHARE
from layermatch.networks import BatchStatistics, Network, wrn_28_2, wrn_37_2
from layermatch.policies import FixedThreshold
from layermatch.quiet import quiet_libraries
from layermatch.trainer import Device, choose_device, make_trainer
from layermatch.training import SemiSupervisedModule, problem_of

__all__ = ["Case", "Effort", "choose_cases", "choose_effort", "measure", "targets_of"]

NUM_IMAGES = 2048
NUM_LABELS = 40
NUM_CLASSES = 10
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
#: What is measured -> the options of the method. What learns best, and the conventional recipe has too, is first.
FORWARDS: dict[str, dict[str, Any]] = {
    "joint": {"forward": "joint"},
    "shared": {"forward": "shared"},
    "shared, weak_share=0": {"forward": "shared", "weak_share": 0.0},
    "split": {"forward": "split"},
}
#: The published batch, which targets are stated for (FixMatch, Sohn et al. 2020).
BATCH_SIZE, MU = 64, 7

Block = Callable[[], float]


@dataclass(frozen=True)
class Targets:
    """What the project aims at in a step; empty where nothing is promised.

    Attributes:
        whole: The target of the whole step against pure compute.
        shared: The target of the pure compute of ``shared``, whatever its share, against that of ``split``.
        conventional: The target of the steps in a second against the conventional recipe.
        outside: The target of the percentage of a step outside the network.
    """

    whole: str = ""
    shared: str = ""
    conventional: str = ""
    outside: str = ""


#: By the kind of the device, for the published batch.
TARGETS = {
    "cpu": Targets(whole="<= 1.15", shared="<= 1.15", conventional=">= 5"),
    "cuda": Targets(conventional=">= 3", outside="<= 5"),
}

SKIPPING = "whole step, split, skip_masked, all masked"
COMPILED = "whole step, joint, compiled"
ON_DEVICE = "whole step, joint, storage=device"
#: What has an option -> the forward without it, which it is compared with. ``skip_masked`` goes with ``split`` alone.
PLAIN = {SKIPPING: "split", COMPILED: "joint", ON_DEVICE: "joint"}
CONVENTIONAL = "conventional step"
CONVENTIONAL_KEEPING = "conventional step, freed memory kept"


@dataclass(frozen=True)
class Case:
    """A network and the size of its images.

    Attributes:
        name: The name of the network, for people.
        network: A function that makes the network, given ``num_classes``.
        size: The side of the images.
    """

    name: str
    network: Callable[..., Network]
    size: int


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        batch_size: Labelled images per step.
        mu: Unlabelled images per labelled one.
        warmups: Steps of each block that do not count.
        steps: Steps of each block that do.
        rounds: Blocks of each variant.
        is_quick: Whether only what the published ratios need is measured.
    """

    batch_size: int
    mu: int
    warmups: int
    steps: int
    rounds: int
    is_quick: bool = False

    @property
    def total(self) -> int:
        """Steps of a block."""
        return self.warmups + self.steps


def choose_cases(device: torch.device, name: str | None = None) -> list[Case]:
    """Return the networks that a device is measured with.

    Args:
        device: The device that computes.
        name: The name of one of them; None takes all.

    Raises:
        UserError: The device is measured with none of that name.
    """
    cases = [Case("WRN-28-2", wrn_28_2, 32)]
    if device.type == "cuda":
        cases.append(Case("WRN-37-2", wrn_37_2, 96))
    if name is None:
        return cases
    check_choice("--case", name, [case.name for case in cases])
    return [case for case in cases if case.name == name]


def choose_effort(device: torch.device, *, quick: bool) -> Effort:
    """Return how much a device is measured.

    On a GPU the warm-up steps are more than the batches that the conventional loaders hold ready.

    Args:
        device: The device that computes.
        quick: Whether the short form is taken: on a CPU with a quarter of the published batch.
    """
    if device.type == "cuda":
        return Effort(BATCH_SIZE, MU, warmups=10, steps=10 if quick else 30, rounds=1 if quick else 3, is_quick=quick)
    if quick:
        return Effort(BATCH_SIZE // 4, MU, warmups=1, steps=1, rounds=2, is_quick=True)
    return Effort(BATCH_SIZE, MU, warmups=1, steps=2, rounds=3)


def measure(*, device: torch.device, cases: list[Case], effort: Effort) -> Section:
    """Return the seconds per step of each variant, in blocks that take turns.

    Args:
        device: The device that computes.
        cases: The networks that are measured.
        effort: How much is measured.
    """
    chosen = choose_device(
        accelerator="gpu" if device.type == "cuda" else "cpu", precision="auto", channels_last="auto"
    )
    settings = {
        "B": effort.batch_size, "mu": effort.mu, "precision": chosen.precision, "channels_last": chosen.channels_last,
        "steps": f"{effort.rounds} x {effort.steps}",
    }  # fmt: skip
    section = Section("step", settings)
    for case in cases:
        _measure_case(section, case, device=device, chosen=chosen, effort=effort)
    return section


def _measure_case(section: Section, case: Case, *, device: torch.device, chosen: Device, effort: Effort) -> None:
    data = _make_data(case, chosen, effort)
    options: dict[str, Any] = {"device": device, "effort": effort}
    blocks: dict[str, Block] = {}
    for name, forward in FORWARDS.items():
        blocks[f"whole step, {name}"] = partial(_our_block, case, data, chosen, forward, **options)
        blocks[f"pure compute, {name}"] = partial(_pure_block, case, data, chosen, **forward, **options)
    if not effort.is_quick:
        blocks |= _more_blocks(case, data, chosen, options)
    conventional_block = partial(_conventional_block, case, data.split.labelled, **options)
    with OwnProcess() as other:
        variants = {name: partial(_watched, block, device) for name, block in blocks.items()}
        variants[CONVENTIONAL] = partial(other.call, _watched, conventional_block, device)
        measured = alternate(variants, rounds=effort.rounds)
    times = {name: [seconds for seconds, _ in each] for name, each in measured.items()}
    figures = {name: Figure.in_ms(f"{case.name} {name}", times[name]) for name in variants}
    section.figures += figures.values()
    targets = targets_of(effort, device)
    _add_ratios(section, case, figures, targets=targets)
    _add_shares(section, case, figures, targets=targets)
    if device.type == "cuda":
        for name, each in measured.items():
            section.figures.append(Figure(f"{case.name} memory: {name}", "MiB", tuple(mib for _, mib in each)))


def _make_data(case: Case, chosen: Device, effort: Effort, *, storage: str = "auto") -> SemiSupervisedData:
    data = SemiSupervisedData(
        RandomImages(NUM_IMAGES, size=case.size), weak=WeakView(), strong=StrongView(), num_labels=NUM_LABELS,
        batch_size=effort.batch_size, mu=effort.mu, mean=MEAN, std=STD, seed=0, channels_last=chosen.channels_last,
        storage=storage,
    )  # fmt: skip
    data.setup()
    return data


def _more_blocks(case: Case, data: SemiSupervisedData, chosen: Device, options: dict[str, Any]) -> dict[str, Block]:
    """Return what an option saves; on a GPU compiling and images on the device as well.

    A CPU takes most of a minute to compile and gains little, and its memory is the device's.

    On a CPU the conventional recipe once more, in this process, which keeps freed memory.
    """
    # A new network is unsure of every image, as all are in the first steps of a real run.
    skip = {"forward": "split", "skip_masked": True}
    blocks: dict[str, Block] = {SKIPPING: partial(_our_block, case, data, chosen, skip, **options)}
    if chosen.accelerator == "gpu":
        joint = FORWARDS["joint"]
        blocks[COMPILED] = partial(_our_block, case, data, chosen, joint, compiled=True, **options)
        on_device = _make_data(case, chosen, options["effort"], storage="device")
        blocks[ON_DEVICE] = partial(_our_block, case, on_device, chosen, joint, **options)
    else:
        blocks[CONVENTIONAL_KEEPING] = partial(_conventional_block, case, data.split.labelled, **options)
    return blocks


def targets_of(effort: Effort, device: torch.device) -> Targets:
    """Return what the project aims at on a device; nothing where the batch is not the published one.

    Args:
        effort: How much is measured.
        device: The device that computes.
    """
    is_published = (effort.batch_size, effort.mu) == (BATCH_SIZE, MU)
    return TARGETS[device.type] if is_published else Targets()


def _add_ratios(section: Section, case: Case, figures: dict[str, Figure], *, targets: Targets) -> None:
    for forward in FORWARDS:
        whole = figures[f"whole step, {forward}"]
        name = f"{case.name} whole step / pure compute, {forward}"
        pure = figures[f"pure compute, {forward}"]
        section.ratios.append(Ratio(name, whole, pure, targets.whole))
    for forward, its in FORWARDS.items():
        if forward != "split":
            pure = figures[f"pure compute, {forward}"]
            target = targets.shared if its["forward"] == "shared" else ""
            name = f"{case.name} pure compute, {forward} / split"
            section.ratios.append(Ratio(name, pure, figures["pure compute, split"], target))
    for forward in FORWARDS:
        whole = figures[f"whole step, {forward}"]
        name = f"{case.name} steps/s against the conventional recipe, {forward}"
        section.ratios.append(Ratio(name, figures[CONVENTIONAL], whole, targets.conventional))
    if CONVENTIONAL_KEEPING in figures:
        for forward in ("joint", "split"):
            name = f"{case.name} steps/s against the {CONVENTIONAL_KEEPING}, {forward}"
            section.ratios.append(Ratio(name, figures[CONVENTIONAL_KEEPING], figures[f"whole step, {forward}"]))
    for name, plain in PLAIN.items():
        if name in figures:
            title = f"{case.name} steps/s of {name[12:]} against {plain} alone"
            section.ratios.append(Ratio(title, figures[f"whole step, {plain}"], figures[name]))


def _add_shares(section: Section, case: Case, figures: dict[str, Figure], *, targets: Targets) -> None:
    for forward in FORWARDS:
        whole, pure = figures[f"whole step, {forward}"], figures[f"pure compute, {forward}"]
        share = 100 * (1 - pure.value / whole.value)
        name = f"{case.name} share outside the network, {forward}"
        section.figures.append(Figure(name, "%", (share,), targets.outside))


def _watched(block: Block, device: torch.device) -> tuple[float, float]:
    """Measure seconds, and on a GPU the most MiB in use above what was before."""
    before = start_peak(device)
    seconds = block()
    return seconds, peak_mib(device, before)


# ---------------------------------------------------------------------------------------------------------- variants


class _Window(Callback):
    """Times the steps after the warm-up of a fit, everything between them included."""

    def __init__(self, device: torch.device, effort: Effort) -> None:
        self.watch = Stopwatch(device)
        self.effort = effort
        self.seconds = 0.0

    def after(self, step: int) -> None:
        """Note that so many steps are done."""
        if step == self.effort.warmups:
            self.watch.start()
        if step == self.effort.total:
            self.seconds = self.watch.stop() / self.effort.steps

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002 -- Lightning's
        self.after(batch_idx + 1)


def _our_block(
    case: Case,
    data: SemiSupervisedData,
    chosen: Device,
    options: dict[str, Any],
    *,
    compiled: bool = False,
    device: torch.device,
    effort: Effort,
) -> float:
    """Return a real fit: Lightning's loop, our batches and views, LayerMatch, weight average, metrics."""
    torch.manual_seed(0)
    network = case.network(num_classes=NUM_CLASSES)
    method = PseudoLabelling(policy=FixedThreshold(threshold=0.95), rule=SeparateLosses(), **options)
    algorithm = SemiSupervisedModule(network, method)
    algorithm.prepare(problem_of(data, network, method, max_steps=effort.total))
    if chosen.channels_last:
        algorithm = algorithm.to(memory_format=torch.channels_last)
    if compiled:
        algorithm.network.compile()
    window = _Window(device, effort)
    with quiet_libraries():
        trainer = make_trainer(
            accelerator=chosen.accelerator, precision=chosen.precision, channels_last=chosen.channels_last,
            max_steps=effort.total, eval_every=effort.total + 1, accumulate=1, run_dir=Path(tempfile.gettempdir()),
            callbacks=[window], loggers=[],
        )  # fmt: skip
        trainer.fit(algorithm, datamodule=data)
    return window.seconds


def _pure_block(
    case: Case,
    data: SemiSupervisedData,
    chosen: Device,
    *,
    forward: str,
    weak_share: float = WEAK_SHARE,
    device: torch.device,
    effort: Effort,
) -> float:
    """Return the same network's forward and backward on tensors that are there already; nothing else."""
    torch.manual_seed(0)
    network = case.network(num_classes=NUM_CLASSES).to(device)
    if chosen.channels_last:
        network = network.to(memory_format=torch.channels_last)
    batch = data.batch_of_step(0)
    if batch.unlabelled is None:
        raise ValueError("the batch has no unlabelled images")
    labelled, weak, strong = (t.to(device) for t in (batch.labelled.views["weak"], *batch.unlabelled.views.values()))
    in_graph = {"split": 0, "shared": round(weak_share * len(weak)), "joint": len(weak)}[forward]
    first, rest = weak.tensor_split([in_graph])
    with_gradient = torch.cat([labelled, first, strong])
    statistics = BatchStatistics(network) if forward == "shared" else None
    window = _Window(device, effort)
    for step in range(1, effort.total + 1):
        _forward_and_backward(network, with_gradient, rest, statistics, autocast=chosen.precision == "bf16-mixed")
        window.after(step)
    return window.seconds


def _forward_and_backward(
    network: Network, images: Tensor, rest: Tensor, statistics: BatchStatistics | None, *, autocast: bool
) -> None:
    with torch.autocast(images.device.type, torch.bfloat16, enabled=autocast):
        if statistics is None:
            _without_gradient(network, rest)
            out = network(images)
        else:
            with statistics.taken():
                out = network(images)
            with statistics.applied():
                _without_gradient(network, rest)
        out.logits.mean().backward()
    network.zero_grad()


@torch.no_grad()
def _without_gradient(network: Network, images: Tensor) -> None:
    if len(images):
        network(images)
        torch.clear_autocast_cache()


def _conventional_block(case: Case, labelled: Sequence[int], *, device: torch.device, effort: Effort) -> float:
    """Return the same images, batch sizes and network in the conventional loop."""
    torch.manual_seed(0)
    source = RandomImages(NUM_IMAGES, size=case.size)
    window = _Window(device, effort)
    conventional.train(
        case.network(num_classes=NUM_CLASSES), source.pixels.transpose(0, 2, 3, 1).copy(), source.labels, labelled,
        batch_size=effort.batch_size, mu=effort.mu, max_steps=effort.total, mean=MEAN, std=STD, device=device,
        on_step=lambda step, _: window.after(step),
    )  # fmt: skip
    return window.seconds
