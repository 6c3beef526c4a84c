"""``python -m layermatch.shard data=NAME output=FOLDER``: write a data set into shards, to be streamed from them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from layermatch.cli import plain, run_app
from layermatch.components import check_keys
from layermatch.console import Reporter
from layermatch.data.imbalance import Imbalance
from layermatch.data.labelling import Labelling
from layermatch.data.open_set import leave_classes_out
from layermatch.data.shard_writer import ShardPlan, write_shards
from layermatch.data.splits import Split
from layermatch.data.storage import Storage
from layermatch.errors import UserError, check_number
from layermatch.paths import expand
from layermatch.settings import DataSettings, parse_plugins

__all__ = ["main", "shard"]

#: The keys of conf/shard.yaml.
_KEYS = ("data", "output", "images_per_shard", "seed", "plugins")


def shard(settings: Mapping[str, Any]) -> tuple[ShardPlan, int, int]:
    """Write a data set into shards.

    Args:
        settings: The composed configuration of ``conf/shard.yaml``.

    Returns:
        What was to be written, the number of shards that were written now, and of all.

    Raises:
        UserError: A setting is not legal, there is no such data set, or the folder holds something else.
        RunError: Nothing more can be written.
    """
    check_keys("", settings, _KEYS)
    for name in _KEYS:
        if name not in settings:
            raise UserError(f"{name} is missing: give {name}=VALUE; ~{name} takes it away")
    if not isinstance(settings["data"], Mapping):
        raise UserError(f"data={settings['data']!r} is not legal: choose one of the files of conf/data")
    output = expand("output", settings["output"], "a new folder")
    check_number("images_per_shard", settings["images_per_shard"], low=1, integer=True)
    check_number("seed", settings["seed"], low=0, integer=True)
    data = DataSettings.parse(settings["data"], parse_plugins(settings["plugins"]))
    with data.named_in_errors():
        plan = _plan(data, images_per_shard=settings["images_per_shard"], seed=settings["seed"])
    return plan, *write_shards(plan, output)


def _plan(data: DataSettings, *, images_per_shard: int, seed: int) -> ShardPlan:
    given = data.module
    content = data.source.make().load()
    if given.get("open_set") is not None:
        content = leave_classes_out(content, given["open_set"])
    labelling = Labelling(
        num_labels=given.get("num_labels"),
        num_val=given.get("num_val", 0),
        val_from=given.get("val_from", "pool"),
        fold=given.get("fold"),
        imbalance=Imbalance.of(given.get("imbalance")),
        seed=seed,
    )
    split = labelling.split(content, None if given.get("split") is None else Split.load(given["split"]))
    # Each file is decoded once, so that all that cannot be are named before anything is written.
    keeper = Storage(kind="lazy", cache_dir=given.get("cache_dir"), num_workers=given.get("num_workers"))
    return ShardPlan(keeper.keep(content), split, images_per_shard=images_per_shard, seed=seed)


def _shard(config: DictConfig) -> None:
    settings = plain(config)
    started = time.monotonic()
    plan, written, total = shard(settings)
    sizes = {part: len(images) for part, (images, _) in plan.parts().items()}
    reporter = Reporter()
    labelled = f"{len(plan.split.labelled):,} of them with a label"
    others = "".join(f", {count:,} {part}" for part, count in sizes.items() if part != "training")
    reporter.show(f"{sizes['training']:,} training images, {labelled}{others}")
    reporter.show(
        f"{total:,} shards in {settings['output']}, {written:,} of them written now ({time.monotonic() - started:.1f} "
        "s): python -m layermatch.run data=shards data.root=... trains on them"
    )


def main() -> None:
    """Start the command."""
    run_app(_shard, "shard")


if __name__ == "__main__":
    main()
