"""The formats: each writes a network into one file and computes with that file again."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from layermatch.errors import UserError
from layermatch.exporting.deployed import Deployed

__all__ = ["FORMATS", "Format"]

#: The name of the description inside a file.
INSIDE = "layermatch"

#: Two images, as a batch of one would be taken for a fixed size.
EXAMPLE = 2


@dataclass(frozen=True)
class Format:
    """A format of files.

    Args:
        ending: What its files end with.
        what: What it is, in words.
        write: A function that writes a network, with its description, into a file.
        compute: A function that computes probabilities and features of uint8 images with such a file; None where the
            file holds weights alone.
    """

    ending: str
    what: str
    write: Callable[[Deployed, Mapping[str, Any], Path], None]
    compute: Callable[[Path, Tensor], tuple[Tensor, Tensor]] | None


def _example(description: Mapping[str, Any]) -> Tensor:
    _, *shape = description["input"]["shape"]
    return torch.zeros(EXAMPLE, *shape, dtype=torch.uint8)


@contextmanager
def _needs_extra(name: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f"format={name} needs the package {error.name}: pip install 'layermatch[export]'") from error


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Give the exporters warn of their own insides, which the user of this package can do nothing about."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)


# ---------------------------------------------------------------------------------------------------------------- ONNX


def _write_onnx(deployed: Deployed, description: Mapping[str, Any], path: Path) -> None:
    with _needs_extra("onnx"):
        import onnx
        import onnxscript  # noqa: F401 -- the exporter's, asked for here so that its lack is one line
    with _without_chatter():
        program = torch.onnx.export(
            deployed,
            (_example(description),),
            input_names=["images"],
            output_names=["probabilities", "features"],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("the exporter made no program")
    model = program.model_proto
    onnx.helper.set_model_props(model, {INSIDE: json.dumps(description), "classes": json.dumps(description["classes"])})
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def _compute_onnx(path: Path, images: Tensor) -> tuple[Tensor, Tensor]:
    with _needs_extra("onnx"):
        import onnxruntime
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    probabilities, features = session.run(["probabilities", "features"], {"images": images.numpy()})
    return torch.from_numpy(probabilities), torch.from_numpy(features)


# -------------------------------------------------------------------------------------------------------- torch.export


def _write_torch_export(deployed: Deployed, description: Mapping[str, Any], path: Path) -> None:
    with _without_chatter():
        program = torch.export.export(deployed, (_example(description),), dynamic_shapes=({0: torch.export.Dim("N")},))
        content = BytesIO()  # torch's own writer has other errors than the system's where a disk is full
        torch.export.save(program, content, extra_files={f"{INSIDE}.json": json.dumps(description)})
    path.write_bytes(content.getbuffer())


def _compute_torch_export(path: Path, images: Tensor) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        probabilities, features = torch.export.load(path).module()(images)
    return probabilities, features


# --------------------------------------------------------------------------------------------------------- safetensors


def _write_safetensors(deployed: Deployed, description: Mapping[str, Any], path: Path) -> None:
    with _needs_extra("safetensors"):
        from safetensors.torch import save
    weights = {name: value.contiguous() for name, value in deployed.network.whole_state().items()}
    path.write_bytes(save(weights, metadata={"format": "pt", INSIDE: json.dumps(description)}))


#: Name -> format, in the order in which they are offered.
FORMATS: Mapping[str, Format] = {
    "onnx": Format(".onnx", "the network with its normalisation, for onnxruntime", _write_onnx, _compute_onnx),
    "torch_export": Format(
        ".pt2", "the network with its normalisation, for torch.export.load", _write_torch_export, _compute_torch_export
    ),
    "safetensors": Format(".safetensors", "the weights alone", _write_safetensors, None),
}
