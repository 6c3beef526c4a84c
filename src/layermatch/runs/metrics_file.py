"""A ``metrics.csv`` that may be growing, rewritten or broken."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import BinaryIO

__all__ = ["Curve", "MetricsFile"]

#: The bytes that a first line of names may have at most.
HEADER_LIMIT = 1 << 20

#: The largest step: above it a float skips whole numbers.
MAX_STEP = 2**53

#: So many bytes before the place that was read up to must be there again, or the file is another one.
TAIL = 64


@dataclass
class Curve:
    """The values of one metric.

    Args:
        steps: The optimizer steps, rising.
        values: The value at each step.

    Example:
        >>> curve = Curve()
        >>> for step, value in ((10, 0.5), (20, 0.4), (20, 9.0), (15, 0.45)):
        ...     curve.add(step, value)
        >>> curve
        Curve(steps=[10, 15], values=[0.5, 0.45])
    """

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, step: int, value: float) -> None:
        """Append a value.

        The first value of a step stays: what comes again at the last step is the evaluation of the weights that were
        selected. An earlier step is a resumed run's, and what it will make again goes.
        """
        while self.steps and step < self.steps[-1]:
            self.steps.pop()
            self.values.pop()
        if not self.steps or step > self.steps[-1]:
            self.steps.append(step)
            self.values.append(value)


class MetricsFile:
    """Reads a ``metrics.csv`` piece by piece, while another process writes it.

    A line counts once its line break is there. A file that became another one (resumed, or rewritten with a new
    column) is read from its start.

    Args:
        path: The path of the file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._forget()

    def _forget(self) -> None:
        self.curves: dict[str, Curve] = {}
        self.last_step = 0
        self.bad_lines = 0
        #: Whether text without a line break is left at the end.
        self.has_open_line = False
        self._names: list[str] = []
        self._header = self._tail = b""
        self._offset = 0

    def poll(self) -> bool:
        """Read what is new.

        Returns:
            Whether anything was new.

        Raises:
            OSError: The file cannot be read.
            ValueError: The file starts with no line of names with ``step`` among them.
        """
        with self.path.open("rb") as file:
            if not self._is_the_same(file):
                self._forget()
            if not self._header:
                self._read_header(file)
            file.seek(self._offset)
            new = file.read()
        whole, _, rest = new.rpartition(b"\n")
        self.has_open_line = bool(rest)
        if not self._header or not whole:
            return False
        self._offset += len(whole) + 1
        self._tail = (self._tail + whole + b"\n")[-TAIL:]
        for line in whole.decode("utf-8", "replace").split("\n"):
            self._read_row(line.rstrip("\r"))
        return True

    def _is_the_same(self, file: BinaryIO) -> bool:
        start = self._offset - len(self._tail)
        if file.read(len(self._header)) != self._header:
            return False
        file.seek(start)
        return file.read(len(self._tail)) == self._tail

    def _read_header(self, file: BinaryIO) -> None:
        file.seek(0)
        head = file.read(HEADER_LIMIT)
        end = head.find(b"\n") + 1
        while end and head[:end].count(b'"') % 2:  # a line break within quotes is part of a name
            end = head.find(b"\n", end) + 1
        if not end:
            if len(head) == HEADER_LIMIT:
                raise ValueError("its first line has no end")
            return
        try:
            names = next(csv.reader(StringIO(head[:end].decode("utf-8", "replace"), newline="")), [])
        except csv.Error as error:
            raise ValueError(f"its first line: {error}") from error
        if "step" not in names:
            raise ValueError("its first line names no step")
        self._names, self._header, self._offset = names, head[:end], end
        self._tail = self._header[-TAIL:]

    def _read_row(self, line: str) -> None:
        if not line:
            return
        try:
            row = dict(zip(self._names, line.split(","), strict=True))  # numbers only: nothing is quoted
            step = int(row.pop("step"))
            values = {name: float(cell) for name, cell in row.items() if cell}
        except ValueError:
            step, values = -1, {}
        if not 0 <= step <= MAX_STEP:
            self.bad_lines += 1
            return
        self.last_step = max(self.last_step, step)
        for name, value in values.items():
            self.curves.setdefault(name, Curve()).add(step, value)
