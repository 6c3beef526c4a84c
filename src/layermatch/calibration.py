"""Temperatures by which a checkpoint's confidences become frequencies, kept beside it in a small file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layermatch.errors import RunError, UserError
from layermatch.files import replace_text

__all__ = ["calibration_path", "digest_of", "read_calibration", "write_calibration"]

#: What the name of the file ends with, in the place of the checkpoint's ``.ckpt``.
ENDING = ".calibration.json"


def calibration_path(ckpt_path: Path) -> Path:
    """Return where the calibration of a checkpoint lies.

    Args:
        ckpt_path: The path of the checkpoint.

    Example:
        >>> calibration_path(Path("checkpoints/step-0000250.ckpt")).name
        'step-0000250.calibration.json'
    """
    return ckpt_path.with_name(ckpt_path.stem + ENDING)


def digest_of(path: Path) -> str:
    """Return a digest of a file's bytes (BLAKE2b, 16 bytes, as hexadecimal digits).

    Args:
        path: The path of the file.

    Raises:
        UserError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def read_calibration(ckpt_path: Path, *, digest: str, weights: str) -> dict[str, Any] | None:
    """Return the calibration of a checkpoint's weights.

    Args:
        ckpt_path: The path of the checkpoint.
        digest: The digest of its bytes: a file of that name from another run is no calibration of it.
        weights: The weights: ``ema`` or ``live``.

    Returns:
        The values, ``temperature`` among them; None where these weights were not calibrated.

    Raises:
        UserError: There is a file, and it is no calibration.
    """
    path = calibration_path(ckpt_path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["checkpoint"] != digest:
            return None
        found = content["weights"].get(weights)
        if found is None:
            return None
        temperature = float(found["temperature"])
        if not 0 < temperature < float("inf"):
            raise ValueError(f"its temperature is {temperature:g}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no calibration ({type(error).__name__}: {error}): remove it") from error
    return dict(found) | {"temperature": temperature}


def write_calibration(ckpt_path: Path, *, digest: str, weights: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write the calibration of a checkpoint beside it; the checkpoint stays as it is.

    Args:
        ckpt_path: The path of the checkpoint.
        digest: The digest of its bytes.
        weights: ``ema`` and ``live``, each with a ``temperature`` and whatever else is known.

    Returns:
        The path of the file.

    Raises:
        UserError: A file of that name is there, and is no calibration.
        RunError: It cannot be written.
    """
    path = calibration_path(ckpt_path)
    if path.exists():
        read_calibration(ckpt_path, digest=digest, weights=next(iter(weights)))  # refuses what is none
    try:
        replace_text(path, json.dumps({"checkpoint": digest, "weights": weights}, indent=1) + "\n")
    except OSError as error:
        raise RunError(
            f"cannot write {path}: {error.strerror or error}: make room, then give the command again"
        ) from error
    return path
