"""What a job found out, image after image, and what is written of it: tables, lists of errors, features."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from layermatch.data.manifest import COLUMNS, IGNORED, csv_writer, is_parquet
from layermatch.data.wording import name_text
from layermatch.errors import UserError
from layermatch.files import put_in_place, unfinished_of
from layermatch.prediction.job import Job, Record

__all__ = ["ErrorList", "FeatureFile", "Result", "Table", "Writer", "check_table", "errors_path", "results_of"]

#: Rows that are put into a Parquet file at a time; fewer where they have more cells than this together, each of which
#: is an object of Python until then.
_ROW_GROUP, _MOST_CELLS = 2**15, 2**20

#: Whose word a label is.
OF_MANIFEST, OF_NETWORK = "manifest", "prediction"


@dataclass(frozen=True)
class Result:
    """What is known of an image.

    Args:
        record: The image.
        label: The class that a manifest says, else the network's where it is confident enough and the picture was not
            put aside; else empty.
        labelled_by: ``manifest``, ``prediction``, or empty.
        classes: The names of the most probable classes, the most probable first.
        confidences: Their probabilities, float32.
        probabilities: ``(K,)`` float32 where they are kept.
        features: ``(D,)`` float32 where they are kept.
        reason: Why the file cannot be read; empty where it can. Then nothing else is known.
    """

    record: Record
    label: str = ""
    labelled_by: str = ""
    classes: tuple[str, ...] = ()
    confidences: tuple[float, ...] = ()
    probabilities: NDArray[np.float32] | None = None
    features: NDArray[np.float32] | None = None
    reason: str = ""

    @property
    def is_sorted(self) -> bool:
        """Whether the picture belongs to what is sorted and shown: it can be read, and nobody put it aside."""
        return not self.reason and self.record.split != IGNORED


def results_of(job: Job, class_names: Sequence[str], *, threshold: float) -> Iterator[Result]:
    """Yield the results of a job that is done, in the order of its list; a chunk is in memory at a time.

    Args:
        job: The job.
        class_names: The names of the classes.
        threshold: The confidence that a label needs, in ``[0, 1]``.
    """
    for number in range(len(job.files)):
        arrays = job.read_chunk(number)
        reasons = dict(json.loads(arrays["unread"].tobytes()))
        for row, record in enumerate(job.files.chunk(number)):
            if row in reasons:
                yield Result(record, reason=reasons[row])
                continue
            classes = tuple(class_names[place] for place in arrays["classes"][row])
            confidences = tuple(arrays["confidences"][row].tolist())
            # Who put a picture aside said that it is of no class.
            predicted = classes[0] if confidences[0] >= threshold and record.split != IGNORED else ""
            yield Result(
                record=record,
                label=record.label or predicted,
                labelled_by=OF_MANIFEST if record.label else OF_NETWORK if predicted else "",
                classes=classes,
                confidences=confidences,
                probabilities=arrays["probabilities"][row] if "probabilities" in arrays else None,
                features=arrays["features"][row] if "features" in arrays else None,
            )


class Writer(Protocol):
    """Takes every result in order, and then makes its file or files."""

    def add(self, result: Result) -> None:
        """Take a result."""
        ...

    def close(self, job: Job) -> None:
        """Put what was made in its place; ``job`` notes that it is its own."""
        ...

    def drop(self) -> None:
        """Leave nothing behind of what is not in its place."""
        ...


def place_file(unfinished: Path, path: Path, job: Job) -> None:
    """Give a whole file its name.

    Args:
        unfinished: The file.
        path: Its name to be.
        job: The job that it belongs to.
    """
    job.take(path)
    put_in_place(unfinished, path)  # on the disk before the chunks that it was made of are removed


class Table:
    """The labels, as CSV or Parquet: first the columns of a manifest.

    Args:
        path: The path of the file; its ending says the kind.
        class_names: The names of the classes.
        top_k: The number of most probable classes.
        probabilities: Whether there is a column for each class.
    """

    def __init__(self, path: Path, *, class_names: Sequence[str], top_k: int, probabilities: bool) -> None:
        self._path = path
        self._unfinished = unfinished_of(path)
        top = min(top_k, len(class_names))
        ranks = ["", *(f"_{rank}" for rank in range(2, top + 1))]
        self._ranked = [name + rank for rank in ranks for name in ("prediction", "confidence")]
        self._of_classes = [f"probability:{name_text(name)}" for name in class_names] if probabilities else []
        self.header = [*COLUMNS, "labelled_by", *self._ranked, *self._of_classes]
        self._rows = _ParquetRows(self) if is_parquet(path) else _CsvRows(self)

    def add(self, result: Result) -> None:
        """Add a row, unless the image could not be read."""
        if result.reason:
            return
        record = result.record
        cells: list[Any] = [name_text(record.path), name_text(result.label), record.split, result.labelled_by]
        for name, confidence in zip(result.classes, result.confidences, strict=True):
            cells += [name_text(name), confidence]
        if result.probabilities is not None and self._of_classes:
            cells += result.probabilities.tolist()
        self._rows.add(cells)

    def close(self, job: Job) -> None:
        """Give the file its name."""
        self._rows.close()
        place_file(self._unfinished, self._path, job)

    def drop(self) -> None:
        """Remove the unfinished file."""
        with suppress(OSError):
            self._rows.close()
        self._unfinished.unlink(missing_ok=True)

    @property
    def unfinished(self) -> Path:
        """The file that is being written."""
        return self._unfinished

    def is_number(self, name: str) -> bool:
        """Return whether a column holds probabilities."""
        return name.startswith("confidence") or name in self._of_classes


class _CsvRows:
    def __init__(self, table: Table) -> None:
        self._file = table.unfinished.open("w", encoding="utf-8", newline="")
        self._writer = csv_writer(self._file.write)
        self._writer.writerow(table.header)

    def add(self, cells: list[Any]) -> None:
        """Write a number as a run's ``predictions.csv`` does: with six decimals."""
        self._writer.writerow([f"{cell:.6f}" if isinstance(cell, float) else cell for cell in cells])

    def close(self) -> None:
        self._file.close()


class _ParquetRows:
    def __init__(self, table: Table) -> None:
        arrow, parquet = _pyarrow(), import_module("pyarrow.parquet")
        kinds = {True: arrow.float32(), False: arrow.string()}
        self._schema = arrow.schema([(name, kinds[table.is_number(name)]) for name in table.header])
        self._arrow = arrow
        self._writer = parquet.ParquetWriter(table.unfinished, self._schema)
        self._rows: list[list[Any]] = []
        self._at_a_time = max(1, min(_ROW_GROUP, _MOST_CELLS // len(table.header)))

    def add(self, cells: list[Any]) -> None:
        self._rows.append(cells)
        if len(self._rows) >= self._at_a_time:
            self._flush()

    def _flush(self) -> None:
        columns = [
            self._arrow.array(column, field.type)
            for column, field in zip(zip(*self._rows, strict=True), self._schema, strict=True)
        ]
        self._writer.write_table(self._arrow.Table.from_arrays(columns, schema=self._schema))
        self._rows = []

    def close(self) -> None:
        if self._rows:
            self._flush()
        self._writer.close()


def check_table(path: Path) -> None:
    """Refuse an output of another kind, or one whose package is missing, before any work.

    Args:
        path: The path of the output.

    Raises:
        UserError: It is neither ``.csv`` nor ``.parquet``, or pyarrow is not installed.

    Example:
        >>> check_table(Path("labels.csv"))
        >>> check_table(Path("labels.xlsx"))
        Traceback (most recent call last):
        layermatch.errors.UserError: output=labels.xlsx is not legal: give a file that ends with .csv or .parquet
    """
    if is_parquet(path):
        _pyarrow()
    elif path.suffix.lower() != ".csv":
        raise UserError(f"output={path} is not legal: give a file that ends with .csv or .parquet")


def _pyarrow() -> Any:
    try:
        return import_module("pyarrow")
    except ImportError as error:
        raise UserError(
            "a Parquet output needs the package pyarrow: pip install 'layermatch[parquet]', or give a .csv file"
        ) from error


def errors_path(output: Path) -> Path:
    """Return where the files that cannot be read are listed.

    Args:
        output: The path of the output.

    Example:
        >>> errors_path(Path("labels.parquet")).name
        'labels.errors.csv'
    """
    return output.with_name(f"{output.stem}.errors.csv")


class ErrorList:
    """The files that cannot be read, each with the reason; no file where there is none.

    Args:
        path: The path of the list.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unfinished = unfinished_of(path)
        self._file = self._unfinished.open("w", encoding="utf-8", newline="")
        self._writer = csv_writer(self._file.write)
        self._writer.writerow(["path", "reason"])
        self.count = 0

    def add(self, result: Result) -> None:
        """Add a row for an image that could not be read."""
        if result.reason:
            self._writer.writerow([name_text(result.record.path), name_text(result.reason)])
            self.count += 1

    def close(self, job: Job) -> None:
        """Give the file its name, if it lists anything; else there is none, not even that of an earlier attempt."""
        self._file.close()
        if self.count:
            place_file(self._unfinished, self._path, job)
            return
        self.drop()
        if job.is_own(self._path):
            self._path.unlink(missing_ok=True)

    def drop(self) -> None:
        """Remove the unfinished file."""
        with suppress(OSError):  # what is left to be written finds no room
            self._file.close()
        self._unfinished.unlink(missing_ok=True)


class FeatureFile:
    """The features of the table's rows, ``(N, D)`` float32, as ``numpy.load(FILE, mmap_mode="r")`` reads them.

    Args:
        path: The path of the file.
        width: D.
    """

    def __init__(self, path: Path, *, width: int) -> None:
        self._path = path
        self._unfinished = unfinished_of(path)
        self._width = width
        self._count = 0
        self._file = self._unfinished.open("wb")
        self._write_header()

    def _write_header(self) -> None:
        """Write the header, with room for the number of rows, which is known at the end alone."""
        np.lib.format.write_array_header_1_0(
            self._file, {"descr": "<f4", "fortran_order": False, "shape": (self._count, self._width)}
        )

    def add(self, result: Result) -> None:
        """Add a row, unless the image could not be read."""
        if result.features is not None and not result.reason:
            self._file.write(result.features.astype("<f4").tobytes())
            self._count += 1

    def close(self, job: Job) -> None:
        """Give the file its name."""
        size = self._file.tell()
        self._file.seek(0)
        self._write_header()
        self._file.flush()
        self._file.close()
        if os.path.getsize(self._unfinished) != size:  # noqa: PTH202
            raise OSError(f"{self._unfinished} has not the size that was written")
        place_file(self._unfinished, self._path, job)

    def drop(self) -> None:
        """Remove the unfinished file."""
        with suppress(OSError):  # what is left to be written finds no room
            self._file.close()
        self._unfinished.unlink(missing_ok=True)
