"""Files of pretrained weights: read without running code in them, and found again when a network is made once more."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from layermatch.errors import UserError
from layermatch.paths import expand, is_file

__all__ = ["WeightFile", "digest_of_tensor", "digest_of_tensors", "read_weights"]

#: Where training programs put the weights among other things of a checkpoint; the first that is there is taken.
NESTED = ("state_dict_ema", "model_ema", "state_dict", "model", "teacher")

#: What other programs put before every name.
PREFIXES = ("module.", "_orig_mod.")

#: What torch and safetensors raise at a file that holds no weights.
UNREADABLE = (
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    pickle.UnpicklingError,
)


class WeightFile(NamedTuple):
    """Pretrained weights as they lie on the disk.

    Attributes:
        path: The path of the file.
        tensors: What it holds, by name.
    """

    path: Path
    tensors: Mapping[str, Tensor]


def read_weights(path: str | Path, *, of: str) -> WeightFile:
    """Return the tensors of a ``.safetensors`` file, or of one of ``torch.save``. Pickled code in it is not run.

    A checkpoint of a training program may hold them below ``state_dict``, ``model``, ``model_ema`` or ``teacher``.

    Args:
        path: The path of the file.
        of: The network whose weights it should hold, for the message.

    Raises:
        UserError: There is no such file, or it holds no tensors.

    Example:
        >>> read_weights("no/such.pth", of="timm's vit_tiny_patch16_224")
        Traceback (most recent call last):
        layermatch.errors.UserError: weights=no/such.pth: there is no such file: put weights of timm's \
vit_tiny_patch16_224 there (.safetensors or .pth), or give null
    """
    found = expand("weights", path, "a file of weights")
    if not is_file(found):
        raise UserError(
            f"weights={path}: there is no such file: put weights of {of} there (.safetensors or .pth), or give null"
        )
    try:
        tensors = _tensors(_load(found))
    except ModuleNotFoundError as error:
        raise UserError(
            f"weights={path} needs the package {error.name}: pip install 'layermatch[pretrained]'"
        ) from error
    except UNREADABLE as error:
        reason = " ".join(str(error).split("\n", maxsplit=1)[0].split())[:160]
        raise UserError(f"weights={path} cannot be read: {reason}") from error
    if not tensors:
        raise UserError(f"weights={path} holds no weights: give a file of {of}, .safetensors or .pth")
    return WeightFile(found, tensors)


def _load(path: Path) -> object:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(str(error)) from error
    return torch.load(path, map_location="cpu", weights_only=True)


def _tensors(content: object) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    for key in NESTED:
        if isinstance(content.get(key), Mapping):
            return _tensors(content[key])
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    for prefix in PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def digest_of_tensor(tensor: Tensor) -> bytes:
    """Return 16 bytes that are the same for tensors of one type, shape and content, and for no other.

    Args:
        tensor: Any tensor.
    """
    content = tensor.detach().cpu().contiguous()
    digest = hashlib.blake2b(f"{content.dtype} {tuple(content.shape)}".encode(), digest_size=16)
    digest.update(content.reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()


def digest_of_tensors(named: Iterable[tuple[str, Tensor]]) -> bytes:
    """Return 32 bytes that are the same for tensors of the same names, types, shapes and contents, and for no others.

    Args:
        named: The tensors with their names, in any order.

    Example:
        >>> one, two = ("a", torch.zeros(2)), ("b", torch.ones(1))
        >>> digest_of_tensors([one, two]) == digest_of_tensors([two, one])
        True
    """
    digest = hashlib.blake2b(digest_size=32)
    for name, tensor in sorted(named, key=lambda pair: pair[0]):
        digest.update(f"{name}\0".encode())
        digest.update(digest_of_tensor(tensor))
    return digest.digest()


def in_torch_hub(url: str) -> Path | None:
    """Return the file that torch's hub has of an address, if it is a file of weights; None without one.

    Args:
        url: The address.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    return file if file.suffix in {".pth", ".pt", ".safetensors"} and file.is_file() else None
