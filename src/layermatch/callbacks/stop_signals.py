"""Signals that ask a run to stop."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import torch

from layermatch.distributed import all_reduce_sum_, world_size

__all__ = ["StopSignals"]


class StopSignals:
    """Notes a signal that asks the run to stop, so that the run stops between two steps.

    ``SIGTERM`` and ``SIGUSR1`` are what schedulers send before they kill; ``SIGINT`` is Ctrl-C, whose second one stops
    at once; ``SIGHUP`` comes when the terminal is closed, or the connection to it lost. It is enough that one process
    of a run gets the signal.

    Example:
        >>> signals = StopSignals()
        >>> signals.install()
        >>> signal.raise_signal(signal.SIGTERM)
        >>> signals.remove()
        >>> signals.received
        'SIGTERM'
    """

    #: Windows has no SIGUSR1 and no SIGHUP.
    names = tuple(name for name in ("SIGTERM", "SIGUSR1", "SIGINT", "SIGHUP") if hasattr(signal, name))

    def __init__(self) -> None:
        #: The name of the first signal that came, if one has.
        self.received: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        """Take the signals, instead of whoever has them; only the main thread can.

        One started by ``nohup`` ignores that its terminal is closed.
        """
        if threading.current_thread() is threading.main_thread():
            for name in self.names:
                number = signal.Signals[name]
                if name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)

    def remove(self) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received is not None:
            raise KeyboardInterrupt
        self.received = self.received or signal.Signals(number).name

    def agreed(self, device: torch.device) -> bool:
        """Return whether any process of the run has received one; all processes must ask together.

        Args:
            device: The run's device, on which the processes tell each other.
        """
        if world_size() == 1:
            return self.received is not None  # without waiting for the device
        return bool(all_reduce_sum_(torch.tensor(float(self.received is not None), device=device)) > 0)
