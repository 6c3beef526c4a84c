"""The LightningDataModule: views of labelled and unlabelled images, as the method asks for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from layermatch.augment import LocalView, PlainView, StrongView, WeakView, normalise
from layermatch.augment.resampling import resized
from layermatch.data.batch import Batch, EvalBatch, Samples, Unlabelled, Views
from layermatch.data.blocks import blocks_of
from layermatch.data.channels import ChannelNumbers
from layermatch.data.device_pool import DevicePool, check_device_fits
from layermatch.data.digests import Digests
from layermatch.data.feature_steps import FeatureEvalSteps, FeatureSteps
from layermatch.data.features import PLAIN, FeatureOptions, FeatureStore, check_can_be_kept
from layermatch.data.imbalance import Imbalance
from layermatch.data.labelling import Labelling
from layermatch.data.leaks import Leaks
from layermatch.data.loader import BatchLoader, Guarded
from layermatch.data.open_files import check_open_files, readers_that_fit
from layermatch.data.ramp import Ramp
from layermatch.data.sets import Selection
from layermatch.data.sources import ImageSet, Source, SourceData
from layermatch.data.sources.base import UNKNOWN
from layermatch.data.splits import Split
from layermatch.data.steps import EvalSteps, EveryBatch, RawBatch, RawEvalBatch, StepsFrom, TrainingSteps, ViewedSet
from layermatch.data.storage import Storage, reads_files
from layermatch.distributed import is_rank_zero
from layermatch.errors import UserError, check_bool, check_choice, check_number
from layermatch.functional.streams import uniforms
from layermatch.networks import Network

__all__ = ["SemiSupervisedData"]

#: The stream of the random numbers of :meth:`SemiSupervisedData.draws_of_pass`, beside those of the steps.
PASSES = 30

#: What a batch size may be the batch of.
BATCHES = ("device", "all")
#: FixMatch's views.
PAIR = Views(unlabelled={"weak": "weak", "strong": "strong"})


class SemiSupervisedData(LightningDataModule):
    """Draws labels from a source, and yields :class:`~layermatch.data.batch.Batch`.

    Images stay uint8 until they are on the device; views are made there, batched, in
    :meth:`on_after_batch_transfer`. Which images, and what each view does to them, is a pure function of (seed, step,
    rank). Labelled images are also in the unlabelled pool, as in FixMatch, but there their class counts as unknown, so
    that the accuracy of pseudo-labels is that of other images; validation images are in neither.

    Args:
        source: The source of the images.
        weak: The weak view; None is FixMatch's.
        strong: The strong view; None is FixMatch's.
        medium: The view between the two, for methods that ask for one; None is the strong one with a single operation,
            as in SequenceMatch.
        local: The view of a small part of an image, for methods that ask for one; None is JEPAMatch's, flipped where
            the weak view is.
        views: The views of each image; None is those that the trainer's module asks for, and FixMatch's pair of a weak
            and a strong one without a trainer.
        num_labels: The number of labelled images in all, the same for each class; None takes every image of the pool,
            or what ``split`` or ``fold`` say, which it must agree with otherwise.
        num_val: The number of images held out for validation; beside ``split``, 0 or as many as it has. It is 0 where
            the source has validation images of its own.
        val_from: The part that they come from, ``labelled`` or ``pool``; see
            :func:`~layermatch.data.splits.make_split`.
        split: A split, or the path of a ``split.json``, to use again; None draws one. Its images are looked for, by
            name where they are files: further files may be there, and unlabelled ones be gone.
        imbalance: The long tails of labelled and of unlabelled images, an
            :class:`~layermatch.data.imbalance.Imbalance` or its arguments by name; None draws none.
        fold: The predefined label set to use as the labelled set, for sources that have some (STL-10: 0 to 9).
        open_set: The classes that no label has, by name or by position from 0; or a number, the classes that have
            labels, which are then the first ones. Their images are in the unlabelled pool alone; see
            :func:`~layermatch.data.open_set.leave_classes_out`. None leaves no class out.
        leaks: What to do with training images that are byte-identical to test or validation images: ``report`` counts
            them, in :attr:`leaks_found`; ``remove`` takes them out of the pool before labels are drawn; ``keep`` does
            not look for them.
        label_noise: The share of labelled images whose label is wrong, in ``[0, 1]``; see
            :func:`~layermatch.data.label_noise.with_wrong_labels`. Which ones is a function of the split's seed.
            Validation and test images keep their class.
        pool_limit: The number of images of the unlabelled pool that are trained on, labelled ones among them; a part
            drawn with the split's seed, see :func:`~layermatch.data.pool_limit.limit_pool`. None takes all.
        batch_size: The labelled images per step, on each device or on all together.
        batch_of: What ``batch_size`` is the batch of: each ``device``, so that N devices see N times as many images a
            step; or ``all`` devices together, whose number must divide it.
        mu: The unlabelled images per labelled one, at least 1.
        ramp: The smaller batches and images of the first parts of a run, a :class:`~layermatch.data.ramp.Ramp` or its
            arguments by name; None has whole ones from the start.
        num_batches: The batches of the run, which ``ramp`` is of: optimizer steps times accumulated batches; None asks
            the trainer.
        eval_batch_size: The images per device and evaluation batch.
        num_workers: The number of processes that read images; None is 0, and up to 8 where image files are decoded.
        storage: The place where images are kept: ``device``, ``ram``, ``disk``, ``lazy`` or ``auto``; see
            :class:`~layermatch.data.storage.Storage`. Batches do not depend on it. With ``features`` they are features
            of a frozen extractor, once :meth:`keep_features` was called, as the training module does.
        feature_views: The views of each kind and image whose features are kept, at least 1.
        feature_seed: The seed of what these views do to an image.
        feature_dtype: The type of the kept numbers, ``float32`` or ``bfloat16``; the extractor computes in it.
        cache_dir: The folder of decoded image files, an absolute path; None is the user's cache directory.
        overfit: Whether every step trains on the batch of step 0, for debugging.
        mean: The mean of each channel, in ``[0, 1]``, for normalisation; None measures it on the training images, or
            takes what ``split`` says of it.
        std: The standard deviation of each channel, above 0; None measures it as well.
        wanted: Functions by the names ``mean`` and ``std``, from the number of channels to what pretrained weights want
            where it is not given; None has none.
        seed: The seed of the split, the order and the views.
        channels_last: Whether images are laid out channels last.
        device: The device that training runs on, so that :meth:`setup` can refuse ``storage=device`` where it does not
            fit; None leaves that to the first batch.

    Raises:
        UserError: A value is out of range.

    Example:
        >>> from layermatch.data.sources import Digits
        >>> data = SemiSupervisedData(
        ...     Digits(), weak=WeakView(flip=False), strong=StrongView(flip=False),
        ...     num_labels=40, batch_size=16, mu=2, mean=(0.305,), std=(0.376,), seed=0,
        ... )
        >>> data.setup()
        >>> batch = data.batch_of_step(1234)
        >>> batch.labelled.views["weak"].shape, batch.unlabelled.views["strong"].shape
        (torch.Size([16, 1, 8, 8]), torch.Size([32, 1, 8, 8]))
    """

    labelled: ImageSet
    unlabelled: ImageSet
    validation: ImageSet | None
    #: The training images that are evaluated as well; None where nobody looked.
    leaks_found: Leaks | None = None
    #: The features that batches are made of; None where they are made of images.
    features: FeatureStore | None = None

    def __init__(
        self,
        source: Source,
        *,
        weak: WeakView | None = None,
        strong: StrongView | None = None,
        medium: StrongView | None = None,
        local: LocalView | None = None,
        views: Views | None = None,
        num_labels: int | None = None,
        num_val: int = 0,
        val_from: str = "pool",
        split: str | Path | Split | None = None,
        fold: int | None = None,
        imbalance: Imbalance | Mapping[str, Any] | None = None,
        open_set: int | Sequence[int | str] | None = None,
        leaks: str = "report",
        label_noise: float = 0.0,
        pool_limit: int | None = None,
        batch_size: int = 64,
        batch_of: str = "device",
        mu: int = 7,
        ramp: Ramp | Mapping[str, Any] | None = None,
        num_batches: int | None = None,
        eval_batch_size: int = 512,
        num_workers: int | None = None,
        storage: str = "auto",
        feature_views: int = 4,
        feature_seed: int = 0,
        feature_dtype: str = "float32",
        cache_dir: str | Path | None = None,
        overfit: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        wanted: Mapping[str, Callable[[int], tuple[float, ...]]] | None = None,
        seed: int = 0,
        channels_last: bool = False,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        check_choice("batch_of", batch_of, BATCHES)
        _check_counts(
            batch_size=batch_size,
            mu=mu,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
        )
        check_bool("overfit", overfit)
        self.channels = ChannelNumbers(mean=mean, std=std, wanted=wanted)
        self.source = source
        weak = WeakView() if weak is None else weak
        strong = StrongView() if strong is None else strong
        #: What makes each kind of view.
        self.kinds: dict[str, WeakView | LocalView | PlainView] = {
            "weak": weak,
            "medium": strong.with_ops(1) if medium is None else medium,
            "strong": strong,
            "local": LocalView(flip=weak.flip) if local is None else local,
            PLAIN: PlainView(),
        }
        if views is not None:
            views.check(self.kinds)
        self.given_views = views
        self.given_split = split
        self.storage = Storage(kind=storage, cache_dir=cache_dir, num_workers=num_workers)
        #: Which images there are to learn from.
        self.selection = Selection(
            labelling=Labelling(
                num_labels=num_labels,
                num_val=num_val,
                val_from=val_from,
                fold=fold,
                imbalance=Imbalance.of(imbalance),
                seed=seed,
            ),
            storage=self.storage,
            open_set=open_set,
            leaks=leaks,
            label_noise=label_noise,
            pool_limit=pool_limit,
        )
        self.batch_size, self.batch_of = batch_size, batch_of
        self.mu = mu
        self.ramp = Ramp.of(ramp)
        self.num_batches = num_batches
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.feature_options = FeatureOptions(views=feature_views, seed=feature_seed, dtype=feature_dtype)
        self.overfit = overfit
        self.seed = seed
        self.channels_last = channels_last
        self.device = device
        self._loaded: SourceData | None = None
        self._digests = Digests()
        self._device_pool: DevicePool | None = None

    # --------------------------------------------------------------------------------------------------------- sets

    @property
    def content(self) -> SourceData:
        """What the source holds; available after :meth:`setup`."""
        if self._loaded is None:
            raise UserError("call setup() before asking for the data")
        return self._loaded

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.content.classes

    @property
    def mean(self) -> tuple[float, ...]:
        """The mean of each channel; empty until :meth:`setup` where it was not given."""
        return self.channels.mean

    @property
    def std(self) -> tuple[float, ...]:
        """The standard deviation of each channel; empty until :meth:`setup` where it was not given."""
        return self.channels.std

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of every image."""
        return self.content.labelled.images.shape

    @property
    def test(self) -> ImageSet | None:
        """The test set; None where the source has none."""
        return self.content.test

    @property
    def is_streamed(self) -> bool:
        """Whether unlabelled images are read block by block, as from shards: there may be more than memory has."""
        return blocks_of(self.unlabelled.images) is not None

    @property
    def pool_labels(self) -> Tensor:
        """The class of each image of the unlabelled pool that is labelled too, -1 for the others: ``(N,)`` int64."""
        return self.pool_labels_of(torch.arange(len(self.unlabelled)))

    def pool_labels_of(self, indices: Tensor) -> Tensor:
        """Return the class of some images of the unlabelled pool that are labelled too, -1 for others.

        Args:
            indices: ``(n,)`` int64, positions in the pool.

        Returns:
            ``(n,)`` int64.
        """
        # Labelled positions are sorted, and so are their places in the pool.
        places = np.searchsorted(self.split.in_pool, np.asarray(self.split.labelled, np.int64))
        asked = indices.numpy()
        found = np.minimum(np.searchsorted(places, asked), len(places) - 1)
        return torch.from_numpy(np.where(places[found] == asked, self.labelled.labels[found], UNKNOWN))

    def prepare_data(self) -> None:
        """Check, decode and cache the data; Lightning calls it on one process of each machine while others wait."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002 -- every stage needs the same sets
        """Read the source and make the sets, once; refuse views of a kind that nobody makes, each time."""
        self.views.check(self.kinds)
        if self._loaded is not None:
            return
        given = self.given_split
        if given is not None and not isinstance(given, Split):
            given = Split.load(given)
        content = _prepared_as(self.source, given).load()
        measured = _measured_by_source(content, self.source, given)
        measured |= self.channels.fill_in(content.labelled.images, known={} if given is None else given.measured)
        content, split = self.selection.draw(content, given)
        self.split = replace(split, measured=measured)
        self._check_device(content)
        check_open_files(self.num_workers or 0, loaders=self._num_loaders(content))
        if self.storage.kind == "features" and self.ramp.parts("side"):
            raise UserError("ramp.side is not legal with storage=features, which has one size: give ramp.side=null")
        sets = self.selection.make(content, self.split, given)
        self.split, self.leaks_found, self._digests = sets.split, sets.leaks, sets.digests
        self.labelled, self.unlabelled, self.validation = sets.labelled, sets.unlabelled, sets.validation
        self._loaded = sets.content

    def _check_device(self, content: SourceData) -> None:
        """Refuse a pool that does not fit, before any image is read."""
        # Rank 0 alone: the other ranks do not know their device yet.
        if self.storage.kind != "device" or self.device is None or not is_rank_zero():
            return
        count = len(self.split.labelled)
        if self.use_unlabelled:
            count = len(self.split.in_pool) + len(content.unlabelled or ())
            count = count if self.selection.pool_limit is None else min(count, self.selection.pool_limit)
        check_device_fits(count, content.labelled.images.shape, self.device)

    # ------------------------------------------------------------------------------------------------------ loaders

    @property
    def views(self) -> Views:
        """The views that batches have."""
        if self.given_views is not None:
            return self.given_views
        method = getattr(self.trainer.lightning_module, "method", None) if self.trainer else None
        views = getattr(method, "views", PAIR)
        return views if isinstance(views, Views) else PAIR

    @property
    def use_unlabelled(self) -> bool:
        """Whether training batches have unlabelled images."""
        return self.views.uses_unlabelled

    @property
    def _rank_and_world(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def batch_on_each(self, devices: int) -> int:
        """Return the labelled images per step on each of some devices.

        Args:
            devices: The number of devices, at least 1.

        Raises:
            UserError: They cannot share the batch evenly.

        Example:
            >>> from layermatch.data.sources import Digits
            >>> SemiSupervisedData(Digits(), batch_size=64, batch_of="all").batch_on_each(4)
            16
        """
        if self.batch_of == "device":
            return self.batch_size
        if self.batch_size % devices:
            raise UserError(
                f"batch_size={self.batch_size} is not legal with batch_of=all on {devices} devices: give a multiple of "
                f"{devices}, or batch_of=device"
            )
        return self.batch_size // devices

    def training_steps(self, *, read_images: bool = True) -> TrainingSteps:
        """Return the random access to this rank's raw batches.

        Args:
            read_images: False gives batches that :class:`~layermatch.data.device_pool.DevicePool` puts the images into.
        """
        rank, world_size = self._rank_and_world
        return TrainingSteps(
            self.labelled,
            self.unlabelled if self.use_unlabelled else None,
            batch_size=self.batch_on_each(world_size),
            mu=self.mu,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            draws=(self._widths(self.views.labelled), self._widths(self.views.unlabelled)),
            read_images=read_images,
            ramp=self.ramp,
            num_batches=self._length,
        )

    @property
    def _length(self) -> int | None:
        """The batches of the run; None where nobody knows, or it has no end."""
        if self.num_batches is not None or self.trainer is None or self.trainer.max_steps < 1:
            return self.num_batches
        return self.trainer.max_steps * int(getattr(self.trainer.lightning_module, "accumulate", 1))

    def _widths(self, wanted: Mapping[str, str]) -> list[int]:
        """Return the random numbers per sample of each view."""
        return [self.kinds[kind].num_draws for kind in wanted.values()]

    def feature_steps(self) -> FeatureSteps | None:
        """Return the random access to this rank's batches of features; None where batches are made of images."""
        if self.features is None:
            return None
        steps = self.training_steps(read_images=False)
        # A view draws the one number that chooses it.
        steps.draws = [1] * len(self.views.labelled), [1] * len(self.views.unlabelled)
        return FeatureSteps(steps, self.features, self.views)

    def batch_of_step(self, step: int) -> Batch:
        """Return the batch that this rank trains on at a step, on the CPU."""
        of_features = self.feature_steps()
        return self.make_views(self.training_steps()[step]) if of_features is None else of_features[step]

    def train_dataloader(self) -> DataLoader[RawBatch]:
        """Load endless batches, from the step that the trainer stands at."""
        first = 0
        if self.trainer is not None:
            # A checkpoint is written between optimizer steps, each of which takes one batch or more.
            first = getattr(self.trainer.lightning_module, "next_batch", self.trainer.global_step)
        sampler = StepsFrom(first, stand_still=self.overfit)
        of_features = self.feature_steps()
        if of_features is not None:
            return self._loader(of_features, sampler=sampler, decodes=False)
        on_device = self.storage.kind == "device"
        return self._loader(self.training_steps(read_images=not on_device), sampler=sampler, decodes=not on_device)

    def pool_dataloader(self) -> DataLoader[RawEvalBatch]:
        """Load the unlabelled pool once, not augmented, each image on one rank; for a pass in the midst of training."""
        steps = self.eval_steps(self.unlabelled)
        return self._loader(steps, sampler=EveryBatch(len(steps)), decodes=self.features is None, is_kept=False)

    def val_dataloader(self) -> DataLoader[RawEvalBatch] | list[Any]:
        """Return the validation set; nothing where ``num_val`` is 0."""
        return [] if self.validation is None else self._eval_loader(self.validation)

    def test_dataloader(self) -> DataLoader[RawEvalBatch]:
        """Return the test set."""
        if self.test is None:
            raise UserError("this data set has no test images: nothing to test on")
        return self._eval_loader(self.test)

    def _eval_loader(self, images: ImageSet) -> DataLoader[RawEvalBatch]:
        steps = self.eval_steps(images)
        return self._loader(steps, sampler=EveryBatch(len(steps)), decodes=self.features is None)

    def eval_steps(self, images: ImageSet) -> EvalSteps | FeatureEvalSteps:
        """Return this rank's batches of one of the module's sets, not augmented.

        Args:
            images: :attr:`labelled`, :attr:`unlabelled`, :attr:`validation` or :attr:`test`.
        """
        rank, world_size = self._rank_and_world
        part = images if self.features is None else self.features.plain(images)
        steps = EvalSteps(part, batch_size=self.eval_batch_size, rank=rank, world_size=world_size)
        return steps if self.features is None else FeatureEvalSteps(steps, self.features.options.dtype)

    def _loader(
        self, steps: Any, sampler: StepsFrom | EveryBatch, *, decodes: bool = True, is_kept: bool = True
    ) -> DataLoader[Any]:
        workers = self._readers(self.content, decodes=decodes)
        return BatchLoader(
            Guarded(steps),
            sampler=sampler,
            batch_size=None,  # an item is a batch already
            num_workers=workers,
            pin_memory=self._is_on_gpu(),
            persistent_workers=is_kept and workers > 0,
            # A loader of its own draws its seed from torch's random numbers, which are those of the step.
            generator=None if is_kept else torch.Generator(),
        )

    def _is_on_gpu(self) -> bool:
        """Return whether batches go to a graphics card; to pin memory for none would still take some of its own."""
        if self.trainer is None:
            return torch.cuda.is_available()
        return self.trainer.strategy.root_device.type == "cuda"

    def _readers(self, content: SourceData, *, decodes: bool) -> int:
        """Return the number of reading processes of each loader."""
        if self.num_workers is not None:
            return self.num_workers
        if not (decodes and reads_files(content)):
            return 0
        return min(os.cpu_count() or 1, 8, readers_that_fit() // self._num_loaders(content))

    def _num_loaders(self, content: SourceData) -> int:
        has_validation = bool(self.split.validation) or content.validation is not None
        return 1 + has_validation + (content.test is not None)

    # ----------------------------------------------------------------------------------------------------- features

    def keep_features(self, network: Network, *, device: torch.device, of_pool: bool = False) -> None:
        """Make batches of features from here on; what is not in the cache is computed.

        Args:
            network: The network, whose extractor does not learn.
            device: The device to compute on.
            of_pool: Whether the unlabelled pool is also needed not augmented, for :meth:`pool_dataloader`.

        Raises:
            UserError: The extractor learns, or there is no room for the features.
            RunError: The features are not finite.
        """
        check_can_be_kept(network.extractor)
        store = FeatureStore(
            self.storage.folder / "features",
            options=self.feature_options,
            kinds=self.kinds,
            normalise=self.normalise,
            described=repr((self.mean, self.std)),
            digests_of=self._digests.of,
        )
        store.begin(network, network.extractor, width=network.num_features)
        before = self.features
        if before is not None and before.network_key == store.network_key and (before.has_pool or not of_pool):
            return
        store.has_pool = of_pool
        for images, kinds in self._featured(of_pool=of_pool):
            store.want(images.images, kinds)
        store.compute(device, readers=self._readers(self.content, decodes=True))
        self.features = store

    def _featured(self, *, of_pool: bool) -> Iterator[tuple[ImageSet, list[str]]]:
        """Yield each set that features are needed of, with the kinds of its views."""
        yield self.labelled, [PLAIN, *self.views.labelled.values()]
        if self.use_unlabelled:
            yield self.unlabelled, [*self.views.unlabelled.values(), *([PLAIN] if of_pool else [])]
        for evaluated in (self.validation, self.test):
            if evaluated is not None:
                yield evaluated, [PLAIN]

    # -------------------------------------------------------------------------------------------------------- views

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ARG002
        """Make the views, on the device that the raw batch was moved to."""
        if isinstance(batch, RawBatch):
            has_images = len(batch.labelled.images) > 0
            return self.make_views(batch if has_images else self._pool_on(batch.labelled.label.device).fill(batch))
        if isinstance(batch, RawEvalBatch):
            return EvalBatch(self.normalise(batch.images), batch.label, batch.indices)
        return batch

    def _pool_on(self, device: torch.device) -> DevicePool:
        """Return the training images on a device; copied there at the first batch."""
        if self._device_pool is None or self._device_pool.device != device:
            labelled, pool = np.asarray(self.split.labelled), self.split.in_pool
            # Labelled images are in the pool too; alone they are all that an algorithm without it needs.
            rows = np.searchsorted(pool, labelled) if self.use_unlabelled else np.arange(len(labelled))
            images = self.unlabelled.images if self.use_unlabelled else self.labelled.images
            self._device_pool = None  # frees another device's, before memory is looked at
            self._device_pool = DevicePool(images, labelled_rows=rows, device=device)
        return self._device_pool

    def make_views(self, raw: RawBatch) -> Batch:
        """Return the views of labelled and of unlabelled images, as :attr:`views` has them."""
        labelled, unlabelled, size = raw
        samples = Samples(self._views(labelled, self.views.labelled, size), labelled.label, labelled.indices)
        if unlabelled is None:
            return Batch(samples, None)
        views = self._views(unlabelled, self.views.unlabelled, size)
        return Batch(samples, Unlabelled(views, unlabelled.indices, unlabelled.label))

    def _views(self, images: ViewedSet, wanted: Mapping[str, str], size: tuple[int, int] | None) -> dict[str, Tensor]:
        if size is not None:
            images = images._replace(images=resized(images.images, size=size))
        return {name: self.normalise(view) for name, view in self.raw_views(images, wanted).items()}

    def raw_views(self, images: ViewedSet, wanted: Mapping[str, str]) -> dict[str, Tensor]:
        """Return the views before they are normalised.

        Args:
            images: The raw images, and the random numbers of their views.
            wanted: The kind of augmentation that makes each view, by the view's name.

        Returns:
            ``(N, C, H, W)`` uint8, by name; local views are smaller.

        Raises:
            UserError: The images are too small for a view's ``pad``.
        """
        pairs = zip(wanted.items(), images.draws, strict=True)
        return {name: self.kinds[kind](images.images, draws) for (name, kind), draws in pairs}

    def normalise(self, images: Tensor) -> Tensor:
        """Compute ``(x / 255 - mean) / std``.

        Args:
            images: ``(N, C, H, W)`` uint8.

        Returns:
            The same shape, float32.
        """
        return normalise(images, mean=self.mean, std=self.std, channels_last=self.channels_last)

    def image_dataloader(self, *, labelled: bool = False) -> DataLoader[RawEvalBatch]:
        """Load the pixels of the unlabelled pool once, each image on one rank; for a look in the midst of training.

        Args:
            labelled: Whether to load the labelled images, in its place.
        """
        rank, world_size = self._rank_and_world
        images = self.labelled if labelled else self.unlabelled
        steps = EvalSteps(images, batch_size=self.eval_batch_size, rank=rank, world_size=world_size)
        return self._loader(steps, sampler=EveryBatch(len(steps)), is_kept=False)

    def draws_of_pass(self, number: int) -> Tensor:
        """Return the random numbers of the pool's weak views in one pass over it.

        Args:
            number: The number of the pass, from 0 on: each has others, and none has those of a training step.

        Returns:
            ``(num_unlabelled, D)`` float32, a row for each image of the pool.
        """
        count, width = len(self.unlabelled), self.kinds["weak"].num_draws
        return torch.from_numpy(uniforms(seed=self.seed, stream=PASSES, start=number * count, count=count, width=width))

    def save_split(self, path: Path) -> None:
        """Write which images are labelled and held out, to be used again as ``split``."""
        self.split.save(path)


def _prepared_as(source: Source, split: Split | None) -> Source:
    """Return the source, with the size that the images of a split had where the source would choose one."""
    size = None if split is None else split.measured.get("image_size")
    if size is None or getattr(source, "image_size", size) is not None:
        return source
    chooser: Any = source  # a dataclass, as all that choose a size are
    prepared: Source = replace(chooser, image_size=size)
    return prepared


def _measured_by_source(content: SourceData, source: Source, given: Split | None) -> dict[str, Any]:
    """Return what the source measured, by name; where a given split knows the size to choose, that one."""
    measured: dict[str, Any] = dict(content.measured)
    if given is not None and "image_size" in given.measured and getattr(source, "image_size", 0) is None:
        measured["image_size"] = given.measured["image_size"]
    return measured


def _check_counts(**counts: int | None) -> None:
    """Refuse what is no number of images or processes; no number of processes stands for a choice of ours."""
    for name, count in counts.items():
        if count is not None or name != "num_workers":
            check_number(name, count, low=0 if name == "num_workers" else 1, integer=True)
