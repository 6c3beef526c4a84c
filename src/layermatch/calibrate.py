"""``python -m layermatch.calibrate ckpt_path=FILE``: make confidences frequencies, on a run's validation images."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from torch import Tensor

from layermatch.build import build_trainer
from layermatch.calibration import digest_of, write_calibration
from layermatch.callbacks.validation_logits import ValidationLogits
from layermatch.cli import plain, run_app
from layermatch.components import check_keys
from layermatch.console import Reporter, table
from layermatch.data.loader import loader_errors
from layermatch.errors import UserError
from layermatch.evaluate import SECTIONS_GIVEN, NoImagesError, check_debug, rebuild
from layermatch.functional.calibration import Reliability, fit_temperature, reliability
from layermatch.predictor import resolve_checkpoint_file
from layermatch.quiet import quiet_libraries
from layermatch.settings import parse_plugins

__all__ = ["calibrate", "main"]

_log = logging.getLogger(__name__)

#: What weights are called.
TITLES = {"ema": "EMA", "live": "live"}

#: Fewer validation images are said to be few: half a 95 % interval of a confidence of 90 % has more than 4 points.
_FEW = 200


def calibrate(
    ckpt_path: str | Path,
    *,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    plugins: tuple[str, ...] = (),
) -> tuple[Path, dict[str, dict[str, Any]]]:
    """Fit the temperature of a checkpoint's weights on the validation images of its run.

    The values are written beside the checkpoint, where :class:`~layermatch.Predictor` finds them. The reliability after
    is measured on the images that the one number was fitted on.

    Args:
        ckpt_path: A ``.ckpt`` file of a run, or a run directory.
        overrides: Section -> key -> value, in the place of the run's own settings, for example where the data lie.
        plugins: Packages that the run's settings may name, beside this one and ``torch.optim``.

    Returns:
        The file that was written; and for ``ema`` and ``live`` the ``temperature``, ``num_images``, and reliability
        ``before`` and ``after``. Weights that no temperature fits are left out, which is said.

    Raises:
        UserError: The checkpoint cannot be read or does not fit, its run had no validation images, or no temperature
            fits either weights.
    """
    path = resolve_checkpoint_file(ckpt_path)
    try:
        settings, parts = rebuild(path, split="val", overrides=overrides, plugins=plugins)
    except NoImagesError as error:
        raise UserError(
            f"ckpt_path={path}: its run had no validation images, which a temperature is fitted on: train with "
            f"data.num_val=NUMBER, and data.val_from=labelled where every image whose class is known is labelled"
        ) from error
    seen = ValidationLogits()
    trainer = build_trainer(settings, run_dir=path.parent, callbacks=[seen], loggers=[])
    with settings.data.named_in_errors():
        trainer.validate(parts.algorithm, datamodule=parts.data, verbose=False)
    found = _all_fitted({weights: torch.cat(logits) for weights, logits in seen.of.items()}, torch.cat(seen.label))
    return write_calibration(path, digest=digest_of(path), weights=found), found


def _all_fitted(logits: Mapping[str, Tensor], label: Tensor) -> dict[str, dict[str, Any]]:
    """Fit each of the weights; those that no temperature fits are said and left out, unless there are no others."""
    found, refused = {}, []
    for weights, values in logits.items():
        try:
            found[weights] = _fitted(values, label)
        except UserError as error:
            refused.append(f"{TITLES[weights]} weights: {error}")
    if not found:
        raise UserError("; ".join(refused))
    for line in refused:
        _log.warning("%s; they stay uncalibrated", line)
    return found


def _fitted(logits: Tensor, label: Tensor) -> dict[str, Any]:
    temperature = fit_temperature(logits, label)
    return {
        "temperature": temperature,
        "num_images": len(label),
        "before": asdict(reliability(logits, label)),
        "after": asdict(reliability(logits, label, temperature=temperature)),
    }


# ------------------------------------------------------------------------------------------------------ command line


def _calibrate(config: DictConfig) -> None:
    settings = plain(config)
    check_debug(HydraConfig.get().runtime.choices.get("debug"))
    names = ("ckpt_path", "plugins", *SECTIONS_GIVEN)
    check_keys("", settings, names)
    for name in names:
        if name not in settings:
            raise UserError(f"{name} is missing: give {name}=VALUE; ~{name} takes it away")
    for section in SECTIONS_GIVEN:
        if not isinstance(settings[section], Mapping):
            raise UserError(f"{section}={settings[section]!r} is not legal: give {section}.KEY=VALUE")
    with quiet_libraries(), loader_errors():
        path, found = calibrate(
            settings["ckpt_path"],
            overrides={section: settings[section] for section in SECTIONS_GIVEN},
            plugins=parse_plugins(settings["plugins"]),
        )
    reporter = Reporter()
    count = next(iter(found.values()))["num_images"]
    rows = [row for weights in found for row in _rows(weights, found[weights])]
    header = ("weights", "temperature", "accuracy", "ECE", "NLL", "Brier")
    reporter.show(table(f"Reliability on {count:,} validation images", rows, header=header))
    if count < _FEW:
        reporter.warn(
            f"{count:,} validation images are few: a confidence of 90 % is known to \N{PLUS-MINUS SIGN}"
            f"{196 * math.sqrt(0.9 * 0.1 / count):.0f} points (95 %), and the temperature is as uncertain: hold out "
            f"{_FEW} or more (data.num_val)"
        )
    reporter.show(f"written to {path}")


def _rows(weights: str, values: Mapping[str, Any]) -> list[tuple[str, ...]]:
    title = TITLES[weights]
    before, after = (Reliability(**values[name]) for name in ("before", "after"))
    return [_row(title, 1.0, before), _row(f"{title}, calibrated", values["temperature"], after)]


def _row(title: str, temperature: float, found: Reliability) -> tuple[str, ...]:
    numbers = (f"{found.ece:.4f}", f"{found.nll:.4f}", f"{found.brier:.4f}")
    return (title, f"{temperature:.4g}", f"{found.accuracy:.4%}", *numbers)


def main() -> None:
    """Start the command."""
    run_app(_calibrate, "calibrate")


if __name__ == "__main__":
    main()
