"""The Lightning Trainer, with what is sensible for the device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import Strategy
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

from layermatch.checkpoints import CheckpointFiles
from layermatch.errors import UserError, check_bool, check_choice, check_number
from layermatch.launch import Launch, environment_of, find_launch, take_rank
from layermatch.meeting import MeetingDDP, check_wait

__all__ = ["Device", "choose_device", "make_trainer"]

ACCELERATORS = ("auto", "cpu", "gpu", "mps")
STRATEGIES = ("auto", "ddp")
EXCHANGES = ("full", "bf16")
# fp16 needs a loss scaler, which skips steps and makes step counts drift; bf16 does not.
PRECISIONS = ("auto", "32-true", "bf16-mixed")

#: What Lightning is told whatever the run is.
OF_EVERY_RUN: dict[str, Any] = {
    "max_epochs": -1,
    "check_val_every_n_epoch": None,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,  # ours are rank-aware, and evaluate each image once
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


@dataclass(frozen=True)
class Device:
    """What the run computes on.

    Attributes:
        accelerator: ``cpu``, ``gpu`` or ``mps``.
        precision: ``32-true`` or ``bf16-mixed``.
        channels_last: Whether images and kernels are laid out channels last.
    """

    accelerator: str
    precision: str
    channels_last: bool

    @property
    def torch_device(self) -> torch.device:
        """The first of its kind, as torch names it."""
        return self.of_rank(0)

    def of_rank(self, local_rank: int) -> torch.device:
        """Return that of a process, as torch names it: each has a card of its own.

        Args:
            local_rank: The number of the process on this machine, from 0.

        Example:
            >>> Device("gpu", "bf16-mixed", channels_last=True).of_rank(1)
            device(type='cuda', index=1)
        """
        return torch.device(f"cuda:{local_rank}" if self.accelerator == "gpu" else self.accelerator)

    @property
    def name(self) -> str:
        """The device's name, for people."""
        return torch.cuda.get_device_name() if self.accelerator == "gpu" else self.accelerator.upper()


def choose_device(*, accelerator: str, precision: str, channels_last: bool | str) -> Device:
    """Put a device's own defaults in the place of ``auto``.

    Args:
        accelerator: ``auto`` takes a GPU where there is one, then Apple's MPS, then the CPU.
        precision: ``auto`` is ``bf16-mixed`` where the processor computes in bf16, else ``32-true``.
        channels_last: ``auto`` is true on the CPU, and with bf16 on a GPU: their kernels want it.

    Raises:
        UserError: A value is not legal, or the accelerator is not there.

    Example:
        >>> choose_device(accelerator="cpu", precision="32-true", channels_last="auto")
        Device(accelerator='cpu', precision='32-true', channels_last=True)
    """
    check_choice("accelerator", accelerator, ACCELERATORS)
    check_choice("precision", precision, PRECISIONS)
    if not isinstance(channels_last, bool):
        check_choice("channels_last", channels_last, ("auto", "true", "false"))
    there = {"gpu": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if accelerator == "auto":
        accelerator = next(name for name, available in there.items() if available)
    if not there[accelerator]:
        legal = ", ".join(name for name, available in there.items() if available)
        raise UserError(f"accelerator={accelerator}, but this machine has none: choose one of auto, {legal}")
    if precision == "auto":
        precision = "bf16-mixed" if _has_bf16(accelerator) else "32-true"
    if not isinstance(channels_last, bool):
        wanted = accelerator == "cpu" or precision == "bf16-mixed"
        channels_last = wanted if channels_last == "auto" else channels_last == "true"
    return Device(accelerator, precision, channels_last)


def _has_bf16(accelerator: str) -> bool:
    if accelerator == "gpu":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # On the CPU only where it multiplies bf16 in hardware: elsewhere bf16 is slower than float32.
    return accelerator == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


def make_trainer(
    *,
    accelerator: str,
    strategy: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    max_steps: int,
    precision: str = "auto",
    channels_last: bool | str = "auto",
    sync_batchnorm: bool = False,
    deterministic: bool = False,
    log_every: int = 50,
    limit_eval_batches: int | None = None,
    wait: float = 1800,
    exchange: str = "full",
    eval_every: int,
    accumulate: int,
    run_dir: Path,
    callbacks: list[Callback],
    loggers: list[Logger],
) -> Trainer:
    """Return a step-driven Trainer without epochs, samplers or progress bars of its own.

    Args:
        accelerator: The accelerator; see :func:`choose_device`.
        strategy: ``auto`` is ``ddp`` on more than one device.
        devices: The number of processes on this machine, each with a device of its own, at least 1.
        num_nodes: The number of machines, at least 1.
        max_steps: The optimizer steps of the whole run, at least 1.
        precision: The precision; see :func:`choose_device`.
        channels_last: The memory layout of images and kernels; see :func:`choose_device`.
        sync_batchnorm: Whether BatchNorm takes its statistics over all devices.
        deterministic: Whether only kernels are used that always give the same result.
        log_every: The optimizer steps between two log lines.
        limit_eval_batches: The number of batches that an evaluation is cut to, for debugging; None evaluates on all.
        wait: The seconds that the processes of a run wait for each other at the start, at least 1.
        exchange: What gradients go from process to process as: ``full``, or rounded to ``bf16``, half of the bytes, by
            torch's own hook; the mean is then taken in bf16. One process exchanges nothing.
        eval_every: The optimizer steps between two evaluations, at least 1.
        accumulate: The batches per optimizer step.
        run_dir: The directory of the run.
        callbacks: The callbacks of the run.
        loggers: The loggers of the run.

    Raises:
        UserError: A value is not legal, or the devices are not there.
    """
    device = choose_device(accelerator=accelerator, precision=precision, channels_last=channels_last)
    check_choice("strategy", strategy, STRATEGIES)
    check_number("max_steps", max_steps, low=1, integer=True)
    check_number("eval_every", eval_every, low=1, integer=True)
    check_bool("deterministic", deterministic)
    if limit_eval_batches is not None:
        check_number("limit_eval_batches", limit_eval_batches, low=1, integer=True)
    check_wait(wait)
    check_choice("exchange", exchange, EXCHANGES)
    _check_processes(device, devices=devices, num_nodes=num_nodes, sync_batchnorm=sync_batchnorm)
    launch = find_launch(devices=devices, num_nodes=num_nodes)
    take_rank(launch)
    return Trainer(
        accelerator=device.accelerator,
        strategy=_strategy(strategy, launch, wait=wait, exchange=exchange),
        devices=devices,
        num_nodes=num_nodes,
        precision=device.precision,  # type: ignore[arg-type]
        sync_batchnorm=sync_batchnorm,
        deterministic=deterministic,
        max_steps=max_steps,
        val_check_interval=eval_every * accumulate,
        limit_val_batches=limit_eval_batches,
        limit_test_batches=limit_eval_batches,
        log_every_n_steps=log_every,
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        default_root_dir=run_dir,
        callbacks=callbacks,
        plugins=[CheckpointFiles(), environment_of(launch)],
        logger=loggers or False,
        **OF_EVERY_RUN,
    )


def _check_processes(device: Device, *, devices: int, num_nodes: int, sync_batchnorm: bool) -> None:
    """Refuse processes that the device cannot serve."""
    check_number("devices", devices, low=1, integer=True)
    check_number("num_nodes", num_nodes, low=1, integer=True)
    check_bool("sync_batchnorm", sync_batchnorm)
    if device.accelerator == "gpu" and devices > torch.cuda.device_count():
        raise UserError(f"devices={devices}, but this machine has {torch.cuda.device_count()} GPUs")
    if sync_batchnorm and device.accelerator != "gpu" and devices * num_nodes > 1:
        raise UserError(
            f"sync_batchnorm=true needs GPUs, and this run is on {device.name} (torch has it for GPUs only): "
            "give sync_batchnorm=false"
        )


def _strategy(strategy: str, launch: Launch, *, wait: float, exchange: str) -> str | Strategy:
    if strategy == "auto" and launch.size == 1:
        return "auto"
    # Buffers are BatchNorm's statistics, which the module shares after every step, and averages that are alike on every
    # rank: to send them before every forward would be waste.
    hook = bf16_compress_hook if exchange == "bf16" else None
    return MeetingDDP(launch, wait=wait, broadcast_buffers=False, ddp_comm_hook=hook)
