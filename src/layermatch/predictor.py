"""Predicting with a checkpoint alone, where the data set that it was trained on need not be."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from layermatch.augment import normalise
from layermatch.build import build_method, build_network
from layermatch.calibration import digest_of, read_calibration
from layermatch.checkpoints import CHECKPOINT_KEY, newest_checkpoint, read_plain
from layermatch.data.decoding import decode_image, decode_picture
from layermatch.errors import UserError, check_choice, check_number
from layermatch.functional import hard_pseudo_labels, probabilities
from layermatch.methods import Method
from layermatch.networks import CLASSIFIER, Network, Output, linear_head
from layermatch.networks.state import as_state_of
from layermatch.paths import expand, is_file, is_folder
from layermatch.rebuilding import as_trained
from layermatch.runs.layout import BEST_CHECKPOINT, CHECKPOINTS, checkpoints_in
from layermatch.runs.reading import reported_checkpoint
from layermatch.settings import Settings
from layermatch.trainer import choose_device
from layermatch.training.recipe import RECIPE_KEY, Recipe

__all__ = ["Prediction", "Predictor", "Trained", "open_teacher", "resolve_checkpoint_file"]

#: The weights of a checkpoint, and what the names of their tensors begin with.
WEIGHTS = {"ema": "ema.network.", "live": "network."}

#: What an image may be given as.
Picture = str | os.PathLike[str] | Image.Image
PICTURES = (str, os.PathLike, Image.Image)

#: Lightning's precisions in which a network computes in fewer bits than it is stored in.
AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class Prediction(NamedTuple):
    """What a network says of some images, on the CPU.

    Attributes:
        probabilities: ``(N, K)`` float32, rows sum to 1; of calibrated weights after their temperature.
        features: ``(N, D)`` float32.
    """

    probabilities: Tensor
    features: Tensor

    @property
    def classes(self) -> Tensor:
        """``(N,)`` int64, the most probable class of each image; among equal ones the first."""
        return hard_pseudo_labels(self.probabilities)[0]

    @property
    def confidence(self) -> Tensor:
        """``(N,)`` float32 in ``[0, 1]``, the probability of that class."""
        return hard_pseudo_labels(self.probabilities)[1]


@dataclass(frozen=True)
class Trained:
    """The checkpoint that a predictor's weights come from.

    Args:
        path: The checkpoint file.
        digest: The digest of its bytes, see :func:`~layermatch.calibration.digest_of`.
        step: The optimizer steps that it was trained for.
        weights: ``ema``, the average of the weights, or ``live``.
        version: The version of this package that wrote it; empty where a script of the user's own did.
        settings: The composed configuration of the run; None where a script of the user's own was the run.
        split: Which images were labelled and held out, as plain containers; None where the settings are.
        recipe: What the checkpoint says of its images and its network.
        calibration: What the weights' calibration says, see :mod:`layermatch.calibration`; None without one.
    """

    path: Path
    digest: str
    step: int
    weights: str
    version: str
    settings: Mapping[str, Any] | None
    split: Mapping[str, Any] | None
    recipe: Recipe
    calibration: Mapping[str, Any] | None


class Predictor:
    """A trained network, with all that is done to an image before it: what ``evaluate`` computes, for any image.

    Made by :meth:`load`. Called with images it gives class probabilities and features. With the images, the batches
    and the device of an evaluation, the numbers are those of the evaluation to the bit; but for calibrated weights,
    unless ``load(..., temperature=1)`` asks for it, and for runs with ``compile=true``, as nothing is compiled here.

    Attributes:
        network: The network, in evaluation mode; by default with the averaged weights.
        class_names: The name of each class, K of them.
        image_shape: ``(C, H, W)`` of the images that it reads.
        mean: The mean of each channel, in ``[0, 1]``.
        std: The standard deviation of each channel, above 0.
        temperature: Logits are divided by it; 1 without a calibration.
        batch_size: The images that are computed at a time, as in the evaluations of the run.
        device: The device of the network.
        checkpoint: The checkpoint that the weights come from.

    Example:
        >>> from layermatch import Predictor
        >>> Predictor.load("no/such.ckpt")
        Traceback (most recent call last):
        layermatch.errors.UserError: ckpt_path=no/such.ckpt: there is no such file or folder: give \
a .ckpt file of a run, or a run directory
    """

    def __init__(
        self,
        network: Network,
        outputs: Callable[[Network, Tensor], Output],
        *,
        checkpoint: Trained,
        device: torch.device,
        precision: str,
        channels_last: bool,
        temperature: float,
    ) -> None:
        recipe = checkpoint.recipe
        self.network = network
        self.class_names = recipe.classes
        self.image_shape = recipe.image_shape
        self.mean = recipe.mean
        self.std = recipe.std
        self.temperature = temperature
        self.batch_size = recipe.batch_size
        self.device = device
        self.checkpoint = checkpoint
        self.precision = precision
        self.channels_last = channels_last
        self._outputs = outputs

    @classmethod
    def load(
        cls,
        ckpt_path: str | Path,
        *,
        device: str | torch.device = "auto",
        weights: str = "ema",
        temperature: float | None = None,
        precision: str | None = None,
        plugins: Sequence[str] = (),
        network: nn.Module | None = None,
        method: Method | None = None,
    ) -> Predictor:
        """Make the network of a checkpoint again. The data set is not asked for.

        Args:
            ckpt_path: A ``.ckpt`` file, of the command line or of a script with Lightning's own checkpoints; or a run
                directory, of which the checkpoint is taken that the run reports: the best by validation where it was
                asked for that, else the newest.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``; ``auto`` takes a GPU where there is one.
            weights: ``ema``, the average of the weights, which runs report; or ``live``.
            temperature: A number above 0 that logits are divided by; None is that of the calibration beside the
                checkpoint, and 1 where there is none.
            precision: ``32-true``, ``bf16-mixed`` or ``auto``, as ``trainer.precision`` of a run; None
                computes as the run did.
            plugins: Packages of your own that the run's settings may name, beside this one.
            network: Your own network, or its extractor alone, which gets the weights; it is copied. None makes the
                network that the run's settings describe.
            method: The method, where it is your own and computes the logits that are evaluated in a way of its own.

        Raises:
            UserError: The checkpoint cannot be read, or the network cannot be made from it.
        """
        check_choice("weights", weights, WEIGHTS)
        if temperature is not None:
            check_number("temperature", temperature, low=0, low_open=True)
        path = resolve_checkpoint_file(ckpt_path)
        saved = _read(path)
        recipe, ours = _recipe(saved, path), saved.get(CHECKPOINT_KEY) or {}
        settings = ours.get("settings")
        digest = digest_of(path)
        calibration = read_calibration(path, digest=digest, weights=weights)
        trained = Trained(
            path=path,
            digest=digest,
            step=int(saved.get("global_step", 0)),
            weights=weights,
            version=str(ours.get("version", "")),
            settings=settings,
            split=ours.get("split"),
            recipe=recipe,
            calibration=calibration,
        )
        parsed = None
        if settings is not None:
            again = as_trained(settings, saved, path=path, plugins=plugins)
            parsed = Settings.parse({**again, "plugins": list(plugins)})
        made = _network(parsed, recipe, given=network, path=path)
        outputs = _evaluation(made, recipe, parsed, saved, method=method, path=path)
        _put_weights(made, saved["state_dict"], prefix=WEIGHTS[weights], path=path)
        place, precision, channels_last = _computing(device, parsed, recipe, precision=precision)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        made = made.to(place).to(memory_format=layout).requires_grad_(False).eval()
        if temperature is None:
            temperature = 1.0 if calibration is None else calibration["temperature"]
        return cls(
            made,
            outputs,
            checkpoint=trained,
            device=place,
            precision=precision,
            channels_last=channels_last,
            temperature=float(temperature),
        )

    @property
    def outputs(self) -> Callable[[Network, Tensor], Output]:
        """What computes features and the logits that are evaluated, of the network and of images made ready for it."""
        return self._outputs

    @property
    def channels(self) -> int:
        """C: 1 (grey) or 3 (RGB)."""
        return self.image_shape[0]

    @property
    def image_size(self) -> int:
        """The height and width in pixels.

        Raises:
            UserError: They differ, as only those of a data source of your own can.
        """
        _, height, width = self.image_shape
        if height != width:
            raise UserError(f"the images of {self.checkpoint.path} are {height} x {width}: give tensors of that shape")
        return height

    def prepare(self, image: Picture) -> Tensor:
        """Return the pixels that an evaluation would read of an image, before they are normalised.

        The orientation tag of a camera is applied, transparency lies on white, of 16 bits the upper 8 are taken, the
        short side is resized, and the centre is cut out; see :func:`~layermatch.data.decoding.decode_image`.

        Args:
            image: The path of an image file, or an image of Pillow's.

        Returns:
            ``(C, H, W)`` uint8, as :meth:`__call__` takes some of together.

        Raises:
            UserError: It is neither.
            ImageFileError: It cannot be read.
        """
        if not isinstance(image, PICTURES):
            raise self._not_legal(image)
        size, channels = self.image_size, self.channels
        if isinstance(image, Image.Image):
            return torch.from_numpy(decode_picture(image, size=size, channels=channels).copy())
        return torch.from_numpy(decode_image(os.fspath(image), size=size, channels=channels).copy())

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise images: ``(x / 255 - mean) / std``.

        Args:
            images: ``(N, C, H, W)`` uint8.

        Returns:
            The same shape, float32.
        """
        return normalise(images, mean=self.mean, std=self.std, channels_last=self.channels_last)

    def __call__(self, images: Tensor | Picture | Sequence[Picture]) -> Prediction:
        """Predict the classes of some images.

        Args:
            images: ``(N, C, H, W)`` uint8 of the predictor's ``image_shape``, as :meth:`prepare` gives them; or image
                files, or images of Pillow's.

        Raises:
            UserError: They are anything else, or a file cannot be read.
        """
        if isinstance(images, Tensor):
            self._check(images)
            parts = [self._predict(part) for part in torch.split(images, self.batch_size)]
        else:
            pictures = self._pictures(images)
            firsts = range(0, len(pictures), self.batch_size)
            batches = (pictures[first : first + self.batch_size] for first in firsts)
            parts = [self._predict(torch.stack([self.prepare(picture) for picture in batch])) for batch in batches]
        if not parts:
            empty = torch.zeros(0, len(self.class_names)), torch.zeros(0, self.network.num_features)
            return Prediction(*empty)
        return Prediction(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    def logits(self, images: Tensor) -> Output:
        """Return what the network makes of one batch: features and logits, before the temperature.

        Args:
            images: ``(N, C, H, W)`` uint8.

        Returns:
            Features ``(N, D)``, and logits ``(N, K)``, on the device.
        """
        with torch.inference_mode():
            normalised = self.normalise(images.to(self.device))
            with self._autocast():
                return self._outputs(self.network, normalised)

    def _predict(self, images: Tensor) -> Prediction:
        out = self.logits(images)
        logits = out.logits if self.temperature == 1 else out.logits / self.temperature
        # Not tensors of inference mode, in which nobody could go on computing with gradients.
        return Prediction(*(part.float().cpu().clone() for part in (probabilities(logits), out.features)))

    def _autocast(self) -> AbstractContextManager[Any]:
        """Compute as Lightning's trainer does."""
        dtype = AUTOCAST.get(self.precision)
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype=dtype, cache_enabled=False)

    def _pictures(self, images: object) -> list[Picture]:
        if isinstance(images, PICTURES):
            return [images]
        if isinstance(images, np.ndarray) or not isinstance(images, Iterable):
            raise self._not_legal(images)
        pictures = list(images)
        wrong = [picture for picture in pictures if not isinstance(picture, PICTURES)]
        if wrong:
            raise self._not_legal(wrong[0])
        return pictures

    def _not_legal(self, given: object) -> UserError:
        shape = ", ".join(map(str, self.image_shape))
        return UserError(
            f"images of type {type(given).__name__} are not legal: give a uint8 tensor (N, {shape}), or files, or "
            f"images of Pillow's"
        )

    def _check(self, images: Tensor) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or tuple(images.shape[1:]) != self.image_shape:
            shape = ", ".join(map(str, self.image_shape))
            raise UserError(
                f"images of shape {tuple(images.shape)} and type {images.dtype} are not legal: give uint8 "
                f"(N, {shape}), or files, or images of Pillow's, which are resized"
            )


def open_teacher(path: str | Path, device: torch.device) -> Predictor:
    """Return the network of a run as another run's teacher; see :data:`layermatch.parts.OpenTeacher`.

    Its averaged weights are taken, and its logits as they are, whatever its calibration.

    Args:
        path: The directory of a finished run, or a checkpoint.
        device: The device to compute on.

    Raises:
        UserError: It cannot be read.
    """
    return Predictor.load(path, device=device, temperature=1.0)


def resolve_checkpoint_file(ckpt_path: str | Path) -> Path:
    """Return the checkpoint that a path means: itself, or of a run directory the one whose weights the run reports.

    Args:
        ckpt_path: A checkpoint file, or a run directory.

    Raises:
        UserError: There is no such thing, or it is a folder without a checkpoint.
    """
    path = expand("ckpt_path", ckpt_path, "a checkpoint file or a run directory")
    legal = "give a .ckpt file of a run, or a run directory"
    if is_file(path):
        return path
    if not is_folder(path):
        raise UserError(f"ckpt_path={path}: there is no such file or folder: {legal}")
    reported = reported_checkpoint(path)
    if reported is not None:
        return reported
    best = path / CHECKPOINTS / BEST_CHECKPOINT  # of a run that was stopped, and is asked to choose it
    if best.is_file():
        return best
    if not checkpoints_in(path):
        raise UserError(f"ckpt_path={path} is no run directory with a checkpoint in {CHECKPOINTS}/: {legal}")
    return newest_checkpoint(path, given=str(path))


def _read(path: Path) -> dict[str, Any]:
    saved = read_plain(path)
    state = saved.get("state_dict") if isinstance(saved, dict) else None
    if not isinstance(saved, dict) or not isinstance(state, dict):
        raise UserError(f"ckpt_path={path} is not a checkpoint of layermatch: give a .ckpt file of a run")
    return saved


def _recipe(saved: Mapping[str, Any], path: Path) -> Recipe:
    try:
        return Recipe.of_plain(saved[RECIPE_KEY])
    except (KeyError, TypeError) as error:
        raise UserError(
            f"ckpt_path={path} does not say how its images are prepared, as every checkpoint of a run on "
            f"SemiSupervisedData does: an earlier version, or something else, wrote it: train again, or go on from it "
            f"for a step"
        ) from error


def _network(settings: Settings | None, recipe: Recipe, *, given: nn.Module | None, path: Path) -> Network:
    """Return the network without its weights."""
    if isinstance(given, Network):
        made = copy.deepcopy(given)
    elif given is not None:
        made = Network(copy.deepcopy(given), num_features=recipe.num_features)
    elif settings is not None:
        made = build_network(settings.model, num_classes=len(recipe.classes), image_shape=recipe.image_shape)
    else:
        raise UserError(
            f"ckpt_path={path} is of a network that a script made, which the file does not describe: give "
            f"network=NETWORK, one that is made as it was there"
        )
    made.add_classifier(len(recipe.classes))
    return made


def _evaluation(
    network: Network,
    recipe: Recipe,
    settings: Settings | None,
    saved: Mapping[str, Any],
    *,
    method: Method | None,
    path: Path,
) -> Callable[[Network, Tensor], Output]:
    """Return what computes the logits that are evaluated; the network gets the heads that this needs."""
    if method is None and recipe.head is not None:
        _add_linear_head(network, recipe.head, num_classes=len(recipe.classes))
        return _Head(recipe.head)
    if method is None and settings is None:
        raise UserError(
            f"ckpt_path={path} is of a method that computes its logits in a way of its own: give method=METHOD, one "
            f"that is made as it was there"
        )
    method = copy.deepcopy(method) if method is not None else build_method(settings)  # type: ignore[arg-type]
    problem = recipe.problem
    for name, head in method.heads(problem).items():
        if name not in network.heads:
            network.add_head(name, head)
    method.prepare(network, problem)
    state = _below(saved["state_dict"], "method.")
    try:
        method.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"ckpt_path={path} is of another method than {type(method).__name__}: {_first(error)}"
        ) from error
    return method.outputs


class _Head:
    """Features, and the logits of one head."""

    def __init__(self, head: str) -> None:
        self.head = head

    def __call__(self, network: Network, images: Tensor) -> Output:
        out: Output = network(images, heads=(self.head,))
        return Output(out.features, {CLASSIFIER: out.heads[self.head]})


def _add_linear_head(network: Network, name: str, *, num_classes: int) -> None:
    """Add the head that is evaluated, where it is not the classifier."""
    if name not in network.heads:
        network.add_head(name, linear_head(network.num_features, num_classes))


def _put_weights(network: Network, saved: Mapping[str, Tensor], *, prefix: str, path: Path) -> None:
    """Give the network its weights; heads that training alone needed are left out."""
    state, wanted = _below(saved, prefix), network.state_dict()
    wrong = [name for name, value in wanted.items() if name not in state or state[name].shape != value.shape]
    parts = {name.partition(".")[0] for name in wanted}
    wrong += [name for name in state if name not in wanted and name.partition(".")[0] in parts]
    if wrong:
        raise UserError(
            f"ckpt_path={path} does not fit the network: {len(wrong)} of its tensors differ, the first {wrong[0]}: "
            f"give network=NETWORK, one that is made as it was there"
        )
    network.load_state_dict(as_state_of(network, {name: state[name] for name in wanted}))


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _first(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _computing(
    device: str | torch.device, settings: Settings | None, recipe: Recipe, *, precision: str | None
) -> tuple[torch.device, str, bool]:
    """Return the device, its precision, and whether images are channels last."""
    place = _device(device)
    accelerator = {"cuda": "gpu"}.get(place.type, place.type)
    if settings is None and precision is None:
        return place, recipe.precision, recipe.channels_last
    channels_last = recipe.channels_last if settings is None else settings.trainer.channels_last
    own = recipe.precision if settings is None else settings.trainer.precision
    chosen = choose_device(
        accelerator=accelerator, precision=own if precision is None else precision, channels_last=channels_last
    )
    return place, chosen.precision, chosen.channels_last


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return choose_device(accelerator="auto", precision="32-true", channels_last=False).torch_device
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"device={device!r} is not legal: choose auto, cpu, cuda, cuda:NUMBER or mps") from error
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(place.type, False):
        legal = ", ".join(name for name, available in there.items() if available)
        raise UserError(f"device={device}, but this machine has none: choose one of auto, {legal}")
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={device}, but this machine has {torch.cuda.device_count()} GPUs")
    return place
