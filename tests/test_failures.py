"""What happens to the processes of a run is one line."""

from __future__ import annotations

import logging

import pytest

from layermatch.failures import one_line_failures

OBSERVER = "lightning.fabric.strategies.launchers.subprocess_script"
SAID = "[rank: 1] Child process with PID 7 terminated with code -9. Forcefully terminating all other processes"


class Shown(logging.Handler):
    """What the root logger's handlers are given."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.mark.parametrize("is_over", [False, True])
def test_a_process_that_ended_is_one_line(is_over: bool) -> None:
    """Lightning looks every five seconds: where the machine is slow, the run has said its own line before."""
    shown = Shown()  # caplog listens to loggers that pass nothing on, too
    logging.getLogger().addHandler(shown)
    try:
        with one_line_failures():
            if not is_over:
                logging.getLogger(OBSERVER).info(SAID)
        if is_over:
            logging.getLogger(OBSERVER).info(SAID)
    finally:
        logging.getLogger().removeHandler(shown)
    assert shown.messages == ([] if is_over else [
        "error: another process of this run has ended (Child process with PID 7 terminated with code -9): go on with "
        "ckpt_path=last"
    ])  # fmt: skip
