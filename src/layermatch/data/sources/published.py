"""The files of a published data set: fetching them, and checking that they are the published ones.

File names, addresses and MD5 sums are torchvision's own tables, and so is the code that downloads, extracts
and compares.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torchvision.datasets.utils import check_integrity, download_url, extract_archive

from layermatch.data.sources.base import shorten
from layermatch.data.wording import one_line
from layermatch.errors import UserError, check_bool
from layermatch.paths import check_path, expand, is_file, is_folder

__all__ = ["Download", "PublishedSource", "provide_files"]

logger = logging.getLogger(__name__)

# What torchvision's download and extraction raise on a bad connection, a bad archive or a full disk.
_DOWNLOAD_ERRORS = (OSError, RuntimeError, EOFError, http.client.HTTPException, tarfile.TarError, zlib.error)


@dataclass(frozen=True, kw_only=True)
class PublishedSource:
    """The settings that every data set of torchvision shares.

    Args:
        root: The folder that holds the data set, as torchvision lays it out.
        download: Whether to fetch missing files into ``root``. Files that are there are never replaced.
        verify: Whether every file must have its published MD5 sum; ``False`` lets a stand-in of the same
            format pass.

    Raises:
        UserError: A value is not legal.

    Example:
        >>> PublishedSource(root="data").verify
        True
    """

    root: str | Path
    download: bool = False
    verify: bool = True

    def __post_init__(self) -> None:
        check_path("root", self.root, "a folder")
        check_bool("download", self.download)
        check_bool("verify", self.verify)

    def provide(self, name: str, downloads: tuple[Download, ...]) -> Path:
        """Make sure that the files are there and, with ``verify``, the published ones; returns the root."""
        root = expand("root", self.root, "a folder")
        provide_files(name, root, downloads, download=self.download, verify=self.verify)
        return root


@dataclass(frozen=True)
class Download:
    """One file to fetch: a data file, or an archive of them.

    Args:
        url: The address that it comes from.
        filename: Its own name.
        md5: Its own MD5 sum.
        folder: The folder, relative to the root, that holds the data files; ``""`` for the root itself.
        files: MD5 sums of the data files by name; ``None`` where none is published.

    Example:
        >>> Download("https://example.org/a.tar.gz", "a.tar.gz", "0" * 32, "a", {"x.bin": None}).is_archive
        True
    """

    url: str
    filename: str
    md5: str
    folder: str
    files: Mapping[str, str | None]

    @property
    def is_archive(self) -> bool:
        """Whether the data files have to be extracted from it."""
        return self.filename not in self.files

    def missing(self, root: Path) -> list[str]:
        """Return the data files that are not in ``root``."""
        return [name for name in self.files if not is_file(root / self.folder / name)]


def provide_files(name: str, root: Path, downloads: tuple[Download, ...], *, download: bool, verify: bool) -> None:
    """Make sure that a data set's files are there and, with ``verify``, that they are the published ones.

    Args:
        name: The data set's name, for messages.
        root: The folder that holds (or will hold) the data set.
        downloads: What it consists of.
        download: Whether to fetch missing files. What is there is never replaced or removed.
        verify: Whether to compare MD5 sums (reads every file once).

    Raises:
        UserError: The root or a file is missing, fetching failed, or a file is not the published one.

    Example:
        >>> provide_files("Nothing", Path("."), (), download=False, verify=True)
    """
    for item in downloads:
        reason = _fetch(name, root, item) if download and item.missing(root) else ""
        _check_present(name, root, item, reason)
    if verify:
        for item in downloads:
            _check_sums(name, root, item)


def _check_present(name: str, root: Path, item: Download, reason: str) -> None:
    missing = item.missing(root)
    if not missing:
        return
    help_text = f"they come from {item.url} and download=true fetches them"
    if reason:
        help_text += f", but that was tried and failed: {reason}"
    if not is_folder(root):
        raise UserError(f"{name}: root={str(root)!r} is not a folder: give the folder of the files; {help_text}")
    raise UserError(f"{name}: {shorten(missing, 8)} not found in {root / item.folder}: {help_text}")


def _check_sums(name: str, root: Path, item: Download) -> None:
    for file, md5 in item.files.items():
        path = root / item.folder / file
        if not check_integrity(path, md5):
            raise UserError(
                f"{name}: {path} is not the published file (another MD5 checksum): move it away and fetch it "
                f"again from {item.url}, or verify=false skips this check"
            )


def _fetch(name: str, root: Path, item: Download) -> str:
    """Fetch one download's missing files; returns why that failed, or ``""``.

    Everything happens in a fresh folder below ``root``, so an interrupted download leaves no half file
    behind, two processes do not write to one file, and a file that is already in ``root`` stays as it is.
    """
    logger.info("%s: fetching %s into %s", name, item.url, root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as folder, _quiet():
            _download_and_extract(root, Path(folder), item)
            (root / item.folder).mkdir(exist_ok=True)
            for file in item.missing(root):
                (Path(folder) / item.folder / file).rename(root / item.folder / file)
    except _DOWNLOAD_ERRORS as error:
        return one_line(error)
    return ""


def _download_and_extract(root: Path, folder: Path, item: Download) -> None:
    archive = root / item.filename  # perhaps fetched by hand
    if not (item.is_archive and check_integrity(archive, item.md5)):
        download_url(item.url, folder, item.filename, item.md5)
        archive = folder / item.filename
    if item.is_archive:
        extract_archive(archive, folder)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence torchvision, which draws a progress bar on stderr."""
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stderr(nowhere),
        contextlib.redirect_stdout(nowhere),
    ):
        yield
