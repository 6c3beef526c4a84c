"""The process that looks at the pictures, as the server sees it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import deque
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from layermatch.label.examine import Task
from layermatch.label.proposals import Found, read_found
from layermatch.text import printable

__all__ = ["Examiner"]

#: Lines of its complaints that are kept.
_LINES = 20


class Examiner:
    """Runs :mod:`layermatch.label.examine`, and has what it found so far.

    Attributes:
        found: What is known; None before the first sample is complete. That of the model before stays until then.
        source: The checkpoint that ``found`` is of; None for features of pixels.
        looked: How many pictures were looked at.
        looked_of_found: How many had been when ``found`` was complete, those that could not be read among them.
        problem: Why nothing more will be found; empty where nothing went wrong.
        version: A number that is another one with every ``found``.
    """

    def __init__(self) -> None:
        self.found: Found | None = None
        self.source: str | None = None
        self.looked = self.looked_of_found = 0
        self.problem = ""
        self.version = 0
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    @property
    def is_working(self) -> bool:
        """Whether it is still looking."""
        process = self._process
        return process is not None and process.poll() is None

    def start(self, task: Task) -> None:
        """Look at the pictures, in place of what was being looked at.

        Args:
            task: What to look at, and with what.
        """
        self.close()
        process = subprocess.Popen(
            [sys.executable, "-m", "layermatch.label.examine"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
            errors="replace", start_new_session=True,
        )  # fmt: skip
        with self._lock:
            self._process, self.looked, self.problem = process, 0, ""
        threading.Thread(target=self._listen, args=(process, task), daemon=True).start()

    def close(self) -> None:
        """Stop looking; what was found stays."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.kill()  # it goes on where it was
            process.wait()

    def _listen(self, process: subprocess.Popen[str], task: Task) -> None:
        complaints: deque[str] = deque(maxlen=_LINES)
        reading = threading.Thread(target=_read_lines, args=(process, complaints), daemon=True)
        reading.start()
        with process:
            if process.stdin is not None:
                with suppress(OSError):  # it has ended already, and says why
                    process.stdin.write(json.dumps(asdict(task)))
                with suppress(OSError):
                    process.stdin.close()
            for line in process.stdout or ():
                with suppress(ValueError):
                    self._hear(process, json.loads(line), task)
        reading.join()
        with self._lock:
            if process.returncode and self._process is process:
                last = complaints[-1] if complaints else f"it ended with status {process.returncode}"
                self.problem = printable(last)

    def _hear(self, process: subprocess.Popen[str], said: dict[str, object], task: Task) -> None:
        found = None
        if isinstance(said.get("found"), str):
            with suppress(OSError, ValueError):
                found = read_found(Path(str(said["found"])))
        with self._lock:
            if self._process is not process:
                return
            self.looked = int(str(said.get("looked", self.looked)))
            if found is not None:
                self.found, self.source, self.looked_of_found = found, task.ckpt_path, self.looked
                self.version += 1


def _read_lines(process: subprocess.Popen[str], into: deque[str]) -> None:
    for line in process.stderr or ():
        if line.strip():
            into.append(line.strip())
