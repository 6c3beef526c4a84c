"""Failures from outside that reach a run as exceptions of libraries, in one line."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from layermatch.distributed import leave_processes, world_size
from layermatch.errors import RunError, StoppedError

__all__ = ["explain_failure", "one_line_failures"]

#: What the system says of a disk.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
#: How the libraries under torch.distributed say that another process is gone.
LOST = ("gloo", "Connection reset", "Connection closed", "NCCL", "Broken pipe", "ProcessGroup", "TCPStore")
#: How torch says that a batch is too small for BatchNorm.
ONE_VALUE = "more than 1 value per channel"
GO_ON = "go on with ckpt_path=last"


def explain_failure(error: Exception) -> str | None:
    """Return one line for a failure that a library raises and a user can do something about; None for any other.

    Args:
        error: What a library raised.

    Example:
        >>> explain_failure(OSError(errno.ENOSPC, "No space left on device", "metrics.csv"))
        'No space left on device: metrics.csv: make room, then go on with ckpt_path=last'
        >>> explain_failure(ValueError("a mistake in the code"))
    """
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, OSError) and error.errno in DISK:
        return f"{error.strerror}: {error.filename or 'a file of the run'}: make room, then {GO_ON}"
    if isinstance(error, RuntimeError) and world_size() > 1 and any(word in str(error) for word in LOST):
        return f"another process of this run has ended or cannot be reached ({line[:200]}): {GO_ON}"
    if isinstance(error, ValueError) and ONE_VALUE in str(error):
        return (
            "BatchNorm has one value for each channel in a batch, which it cannot normalise: give data.batch_size or "
            "data.mu above 1"
        )
    return None


@contextmanager
def one_line_failures() -> Iterator[None]:
    """Turn failures from outside into :class:`~layermatch.errors.RunError`; let everything else pass.

    Raises:
        RunError: See :func:`explain_failure`.
    """
    observer = logging.getLogger("lightning.fabric.strategies.launchers.subprocess_script")
    handler, level = _ProcessEnded(), observer.level
    observer.addHandler(handler)
    observer.setLevel(logging.INFO)
    # What it says itself is a second line; to the end, as it looks every five seconds, which may be after our own line.
    observer.propagate = False
    try:
        yield
    except StoppedError:
        leave_processes()  # all stop together; otherwise torch complains that they did not part
        raise
    except Exception as error:
        line = explain_failure(error)
        if line is None:
            raise
        raise RunError(line) from error
    finally:
        observer.removeHandler(handler)
        observer.setLevel(level)


class _ProcessEnded(logging.Handler):
    """Says why Lightning is about to kill the first process: it does so without a word of its own."""

    def emit(self, record: logging.LogRecord) -> None:
        if "terminated with code" in record.getMessage():
            logging.getLogger(__name__).error(
                "error: another process of this run has ended (%s): %s",
                record.getMessage().split(" Forcefully")[0].split("] ")[-1].rstrip("."),
                GO_ON,
            )
