"""Lightning's remarks that do not fit how we use it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet_libraries", "quiet_warnings"]

#: Images in memory need no workers; a step-indexed loader goes on where it should; the directory is ours. The weight
#: average is always in evaluation mode. LeafSpec is Lightning's own affair with torch.
EXPECTED = (
    ".*does not have many workers.*",
    ".*dataloader is not resumable.*",
    ".*exists and is not empty.*",
    r".*module\(s\) in eval mode.*",
    ".*treespec, LeafSpec.*",
    ".*across ranks is zero.*",
    # torchmetrics has put the ranks' parts together by then.
    ".*It is recommended to use `self.log.*sync_dist=True.*",
    # What trainer.test and trainer.validate return goes by way of the loggers, whether there are any or not.
    r".*`self.log\('(test|val)/accuracy.*no logger configured.*",
    # The new name of the argument is unknown to older versions of torch.
    ".*`broadcast_buffers` is deprecated.*",
    # In the shell of a job of SLURM a run is one process on purpose.
    ".*`srun` command is available on your system but is not used.*",
    ".*callbacks used to create the checkpoint need to be provided.*",
)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep Lightning's remarks that do not fit how we use it off the terminal.

    Example:
        >>> with quiet_libraries():
        ...     logging.getLogger("lightning.pytorch").isEnabledFor(logging.INFO)
        False
    """
    names = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.WARNING)
    with quiet_warnings():
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


@contextmanager
def quiet_warnings() -> Iterator[None]:
    """Leave out Lightning's warnings that do not fit how we use it."""
    with warnings.catch_warnings():
        for message in EXPECTED:
            warnings.filterwarnings("ignore", message=message)
        yield
