"""A manifest: one table that says of each image file its class and what it is for."""

from __future__ import annotations

import csv
import io
import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from layermatch.data.wording import composed, printable
from layermatch.errors import UserError
from layermatch.files import replace_text, replacing

__all__ = [
    "COLUMNS",
    "IGNORED",
    "SPLITS",
    "Row",
    "class_names",
    "csv_writer",
    "is_parquet",
    "read_manifest",
    "write_manifest",
]

#: The columns that a manifest has.
COLUMNS = ("path", "label", "split")

#: What an image is for that is of no class.
IGNORED = "ignored"
#: What an image is for. An empty cell is the first of them.
SPLITS = ("train", "val", "test", IGNORED)

#: What separates columns in tables of some languages; seen in a header that lacks a column.
_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs"}

#: The first bytes of a Parquet file.
_PARQUET = b"PAR1"


@dataclass(frozen=True)
class Row:
    """An image of a manifest.

    Args:
        path: The file relative to the root, with ``/``.
        label: The name of its class; empty where it has no label.
        split: What it is for, one of :data:`SPLITS`: ``train`` (labelled, or of the pool), ``val``, ``test``, or
            ``ignored`` (of no class: neither labelled nor in the pool).
        others: The cells of further columns, by the column's name.

    Example:
        >>> Row("cats/1.jpg", "cat")
        Row(path='cats/1.jpg', label='cat', split='train', others={})
    """

    path: str
    label: str = ""
    split: str = "train"
    others: Mapping[str, str] = field(default_factory=dict)


def read_manifest(path: str | Path) -> list[Row]:
    """Read a manifest.

    Whether the files are there is another question. Labels and splits lose spaces around them, labels are composed
    (NFC), and paths lose ``./`` and doubled slashes.

    Args:
        path: A CSV file in UTF-8, or a Parquet file, with the columns ``path``, ``label`` and ``split``; others are
            kept.

    Returns:
        A row for each image, in the order of the file.

    Raises:
        UserError: The file cannot be read or is no such table; a path is missing, outside the root or there twice;
            a split is none. The message has the number of the line.

    Example:
        >>> read_manifest("no/such/labels.csv")
        Traceback (most recent call last):
        layermatch.errors.UserError: cannot read the manifest no/such/labels.csv: No such file or directory
    """
    file = Path(path)
    content = _content(file)
    if not content.strip():
        raise _refusal(file, "it is empty: give a table with the columns path,label,split")
    where, table = (
        ("row", _parquet_cells(file, content)) if content[:4] == _PARQUET else ("line", _cells(file, content))
    )
    rows: list[Row] = []
    lines: dict[str, int] = {}
    for line, cells in table:
        row = _row(file, f"{where} {line}", cells)
        first = lines.setdefault(row.path, line)
        if first != line:
            raise _refusal(
                file, f"{where} {line}: {printable(row.path)} is in {where} {first} already: name each image once"
            )
        rows.append(row)
    if not rows:
        raise _refusal(file, "it has a header and no rows: give a row for each image")
    return rows


def write_manifest(path: str | Path, rows: Iterable[Row]) -> None:
    """Write a manifest, so that the file is either the old one or the new one at any time.

    Args:
        path: A file that ends with ``.csv`` or, for Parquet, ``.parquet``. One that is there is replaced.
        rows: The rows; columns beside the three follow in the order in which they first come.

    Raises:
        UserError: A path or a label is no text in UTF-8, a split is none, or Parquet is asked for and its package is
            missing.
        OSError: The file cannot be written; the old one is still there.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write_manifest(f"{folder}/labels.csv", [Row("1.jpg", "cat"), Row("2.jpg")])
        ...     print((Path(folder) / "labels.csv").read_text().replace(",", " , "))
        path , label , split
        1.jpg , cat , train
        2.jpg ,  , train
        <BLANKLINE>
    """
    file, rows = Path(path), list(rows)
    for row in rows:
        _check_writable(file, row)
    others = list(dict.fromkeys(name for row in rows for name in row.others))
    header = [*COLUMNS, *others]
    cells = [[row.path, row.label, row.split, *(row.others.get(name, "") for name in others)] for row in rows]
    if is_parquet(file):
        _write_parquet(file, header, cells)
        return
    text = io.StringIO(newline="")
    writer = csv_writer(text.write)
    writer.writerow(header)
    writer.writerows(cells)
    replace_text(file, text.getvalue())


def csv_writer(write: Callable[[str], object]) -> Any:
    r"""Return a writer of CSV whose lines end with a newline, and which quotes a cell with any kind of line break.

    Args:
        write: A function that takes each line.

    Returns:
        What :func:`csv.writer` returns.

    Example:
        >>> lines = []
        >>> csv_writer(lines.append).writerow(["a\rb.jpg", "cat"])
        >>> lines
        ['"a\rb.jpg",cat\n']
    """

    def end(line: str) -> None:
        write(line.removesuffix("\r\n") + "\n")

    # Python's own quotes a carriage return only where it is a part of the lines' ending.
    return csv.writer(SimpleNamespace(write=end), lineterminator="\r\n")


def class_names(rows: Iterable[Row]) -> tuple[str, ...]:
    """Return the classes of a manifest: the labels of training images, sorted.

    Args:
        rows: The rows of a manifest.

    Example:
        >>> class_names([Row("1.jpg", "dog"), Row("2.jpg", "cat"), Row("3.jpg"), Row("4.jpg", "blurred", "ignored")])
        ('cat', 'dog')
    """
    return tuple(sorted({row.label for row in rows if row.label and row.split == "train"}))


def is_parquet(path: Path) -> bool:
    """Return whether a file's name says that it is Parquet.

    Args:
        path: The path of a file, which need not be there.

    Example:
        >>> is_parquet(Path("labels.parquet")), is_parquet(Path("labels.csv"))
        (True, False)
    """
    return path.suffix.lower() in {".parquet", ".pq"}


# ------------------------------------------------------------------------------------------------------------- reading


def _refusal(file: Path, what: str) -> UserError:
    return UserError(f"the manifest {printable(str(file))}: {what}")


def _content(file: Path) -> bytes:
    try:
        if file.is_dir():
            raise UserError(f"the manifest {printable(str(file))} is a folder: give a CSV file or a Parquet file")
        return file.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"cannot read the manifest {printable(str(file))}: {reason}") from error


def _cells(file: Path, content: bytes) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the cells of each row of a CSV file by the names of their columns, and the line that it begins in."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise _refusal(file, f"line {line}: it is not UTF-8: save it as CSV in UTF-8") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    begins = 1
    try:
        for cells in reader:
            if header is None and any(cell.strip() for cell in cells):
                header = _header(file, cells)
            elif header is not None and cells:
                if len(cells) != len(header):
                    raise _refusal(
                        file,
                        f"line {begins}: it has {len(cells)} cells and the header {len(header)}: give as many, with "
                        'quotes around a cell that holds a comma ("a,b.jpg")',
                    )
                yield begins, dict(zip(header, cells, strict=True))
            begins = reader.line_num + 1
    except csv.Error as error:
        raise _refusal(file, f"line {begins}: {error}: close every quote, and double one that is in a cell") from error


def _header(file: Path, cells: Sequence[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        found = f"line 1: it has no column {missing[0]}"
        for sign, word in _OTHER_SEPARATORS.items():
            if len(names) == 1 and sign in names[0]:
                raise _refusal(file, f"{found}, as its cells are separated by {word}: separate them by commas")
        shown = ", ".join(map(repr, names[:8]))  # in quotes, as a column may be called as a setting is
        raise _refusal(file, f"{found}, but {shown}: give the columns path,label,split")
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise _refusal(file, f"line 1: the column {printable(twice)} is there twice: give each column once")
    return names


def _row(file: Path, where: str, cells: Mapping[str, str]) -> Row:
    def refuse(what: str) -> NoReturn:
        raise _refusal(file, f"{where}: {what}")

    path = cells["path"]
    split = cells["split"].strip().lower() or SPLITS[0]
    if not path.strip():
        refuse("it has no path: give the image file, relative to the root")
    if split not in SPLITS:
        refuse(f"the split {cells['split']!r} is not legal: choose one of {', '.join(SPLITS)}, or leave it empty")
    others = {name: cell for name, cell in cells.items() if name not in COLUMNS}
    return Row(_relative(path, refuse), composed(cells["label"].strip()), split, others)


def _relative(path: str, refuse: Any) -> str:
    """Return a path relative to the root, in one way of writing it."""
    if "\0" in path:
        refuse("its path holds a NUL, which no file's name does")
    plain = posixpath.normpath(path)
    is_absolute = plain.startswith("/") or (len(path) > 2 and path[0].isalpha() and path[1:3] in {":\\", ":/"})
    if is_absolute or plain == ".." or plain.startswith("../"):
        refuse(f"{printable(path)} is outside the root: give paths relative to it, with /")
    if plain == ".":
        refuse(f"{printable(path)} is a folder: give the path of an image file")
    return plain


# ------------------------------------------------------------------------------------------------------------- writing


def _check_writable(file: Path, row: Row) -> None:
    try:
        row.path.encode("utf-8")
        row.label.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _refusal(file, f"{printable(row.path)} is no text in UTF-8: give the file another name") from error
    if row.split not in SPLITS:
        raise _refusal(file, f"split={row.split!r} is not legal: choose one of {', '.join(SPLITS)}")


# ------------------------------------------------------------------------------------------------------------- Parquet


def _pyarrow(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(
            "a Parquet manifest needs the package pyarrow: pip install 'layermatch[parquet]', or give a CSV file"
        ) from error


def _parquet_cells(file: Path, content: bytes) -> Iterator[tuple[int, dict[str, str]]]:
    parquet, arrow = _pyarrow("pyarrow.parquet"), _pyarrow("pyarrow")
    try:
        table = parquet.read_table(arrow.BufferReader(content))
        header = _header(file, table.column_names)
        columns = [column.to_pylist() for column in table.columns]
    except (arrow.ArrowException, OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = " ".join(str(error).split())[:200]
        raise _refusal(file, f"it is no whole Parquet file: {reason}") from error
    for number, cells in enumerate(zip(*columns, strict=True), start=1):
        yield number, {name: _text(cell) for name, cell in zip(header, cells, strict=True)}


def _text(cell: object) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bytes):
        return cell.decode("utf-8", "surrogateescape")
    return str(cell)


def _write_parquet(file: Path, header: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    parquet, arrow = _pyarrow("pyarrow.parquet"), _pyarrow("pyarrow")
    columns = {name: arrow.array([row[place] for row in cells], arrow.string()) for place, name in enumerate(header)}
    with replacing(file) as unfinished:
        parquet.write_table(arrow.table(columns), unfinished)
