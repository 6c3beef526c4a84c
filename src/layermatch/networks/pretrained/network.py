"""A network on a pretrained extractor, of which only a part may learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layermatch.errors import UserError
from layermatch.networks.network import CLASSIFIER, EXTRACTOR, Network, Output
from layermatch.networks.pretrained.weight_files import WeightFile, digest_of_tensor, digest_of_tensors

__all__ = ["BASE_DIGEST", "PretrainedNetwork"]

#: The buffer that says which weights a network leaves out of its state.
BASE_DIGEST = "base_digest"


class PretrainedNetwork(Network):
    """A :class:`~layermatch.networks.Network` whose extractor may be frozen in part, and may come from a file.

    Frozen parameters have no gradient. Frozen modules stay in evaluation mode, and so do all BatchNorms of the
    extractor where not everything learns: nothing moves their statistics, whatever images are sent through.

    The state (``state_dict()``) leaves out the frozen tensors that are in the file of weights, and says by a digest
    which ones these were. So a checkpoint holds what was trained, and a network that is made of the same file takes it.

    Args:
        extractor: A module from images ``(B, C, H, W)`` to features ``(B, D)``, with its weights.
        num_features: D, at least 1.
        num_classes: K, at least 2; None leaves the classifier to the training module.
        learning: The names of the extractor's parameters that learn; None is all of them.
        origin: The file that the weights come from; None where they are random.
        title: What the extractor is, in words.
        mean: The mean of each channel that the weights want images to be normalised by; None where they are random.
        std: Their standard deviation; None where the mean is.
        image_size: The height and width in pixels that the weights were made with; None where they are random.
        resize: The height and width that images are resized to before the extractor; None leaves them.
        notes: What is said of it before a run, name to text.
    """

    def __init__(
        self,
        extractor: nn.Module,
        *,
        num_features: int,
        num_classes: int | None,
        learning: frozenset[str] | None,
        origin: WeightFile | None,
        title: str,
        mean: tuple[float, ...] | None,
        std: tuple[float, ...] | None,
        image_size: int | None,
        resize: int | None = None,
        notes: Mapping[str, str],
    ) -> None:
        super().__init__(extractor, num_features=num_features)
        self.is_pretrained = origin is not None
        if num_classes is not None:
            self.add_classifier(num_classes)
        self.mean, self.std, self.image_size = mean, std, image_size
        self.resize = resize
        self.notes = dict(notes)
        names = frozenset(name for name, _ in extractor.named_parameters())
        #: The names of the parameters that never move.
        self.frozen = frozenset(f"{EXTRACTOR}.{name}" for name in names - (names if learning is None else learning))
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name not in self.frozen)
        #: The names of the tensors that the state leaves out.
        self.left_out: frozenset[str] = frozenset()
        if self.frozen:
            self.resting = frozenset(name for name, _ in self._resting())
        if origin is not None and self.frozen:
            self._leave_out(origin, title)
        self.register_state_dict_post_hook(_remove_left_out)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_take_left_out)  # type: ignore[no-untyped-call]
        self.train()

    def add_classifier(self, num_classes: int) -> None:
        """Add the classifier; upon pretrained weights it starts at 0.

        NOTE: FixMatch's classifier starts with random rows. Few labels move it in few of the many directions that
        pretrained features have, and in all others the rows would stay as they were drawn: noise in every prediction.
        Source of the zeros: the Vision Transformer (Dosovitskiy et al. 2021, section 3.2) starts so.

        Args:
            num_classes: K, at least 2.

        Raises:
            UserError: See :meth:`layermatch.networks.Network.add_classifier`.
        """
        is_new = CLASSIFIER not in self.heads
        super().add_classifier(num_classes)
        if is_new and self.is_pretrained:
            nn.init.zeros_(self.classifier.weight)

    def forward(self, images: Tensor, heads: Sequence[str] = (CLASSIFIER,)) -> Output:
        """Return the features, and what the heads make of them; see :meth:`layermatch.networks.Network.forward`.

        Args:
            images: Normalised images, shape ``(B, C, H, W)``, floating; resized first where the network is to. Where
                :attr:`reads_features` is true also features, ``(B, D)``.
            heads: The names of the heads.
        """
        if self.resize is not None and images.ndim == 4:
            side = (self.resize, self.resize)
            if images.shape[-2:] != side:
                images = F.interpolate(images, size=side, mode="bilinear", align_corners=False)
        return super().forward(images, heads)

    def _leave_out(self, origin: WeightFile, title: str) -> None:
        """Note which tensors of the network never move and are in the file."""
        # As the network holds them: a file may have half precision.
        there = {digest_of_tensor(_as_held(tensor)) for tensor in origin.tensors.values()}
        resting = {name: tensor for name, tensor in self._resting() if digest_of_tensor(tensor) in there}
        if not resting:
            return
        self.left_out = frozenset(resting)
        digest = digest_of_tensors(resting.items())
        self.base = {"path": str(Path(origin.path).absolute()), "network": title, "digest": digest.hex()}
        self.register_buffer(BASE_DIGEST, torch.frombuffer(bytearray(digest), dtype=torch.uint8).clone())

    def _resting(self) -> list[tuple[str, Tensor]]:
        """Return the tensors of the extractor that no step moves: frozen parameters, and buffers of frozen modules."""
        named: list[tuple[str, Tensor]] = [(n, p) for n, p in self.named_parameters() if n in self.frozen]
        kept = set(self.extractor.state_dict())
        named += [(f"{EXTRACTOR}.{n}", b) for n, b in self.extractor.named_buffers() if n in kept]
        return named

    def whole_state(self) -> dict[str, Tensor]:
        """Return every tensor of the network by name, those of pretrained weights too; for other programs."""
        tensors = dict(self.named_parameters()) | dict(self.named_buffers())
        state = self.state_dict() | {name: tensors[name].detach() for name in self.left_out}
        return {name: value for name, value in state.items() if name != BASE_DIGEST}

    def train(self, mode: bool = True) -> Self:
        """Set the mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        if mode and self.frozen:
            for module in self.extractor.modules():
                parameters = list(module.parameters())
                # One without parameters, such as dropout, is in the mode of the module that it is in.
                rests = bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
                if rests or isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self


def _as_held(tensor: Tensor) -> Tensor:
    return tensor.to(torch.get_default_dtype()) if tensor.is_floating_point() else tensor


def _remove_left_out(module: PretrainedNetwork, state: dict[str, Any], prefix: str, local_metadata: Any) -> None:  # noqa: ARG001
    for name in module.left_out:
        state.pop(prefix + name, None)


def _take_left_out(module: PretrainedNetwork, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Have a state that leaves tensors out take those that the network has, if they are the ones that it means."""
    if not module.left_out:
        return
    given, base = state.get(prefix + BASE_DIGEST), module.base or {}
    digest = None if given is None else bytes(given.tolist()).hex()
    if digest is not None and digest != base["digest"]:
        raise UserError(
            f"{base['path']} does not hold the weights that the network was trained on: the digest of those is "
            f"{digest[:12]}, of these {base['digest'][:12]}: give the file of {base['network']} that the run had"
        )
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    for name in module.left_out:
        state.setdefault(prefix + name, tensors[name].detach())
