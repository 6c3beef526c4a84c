"""Small copies of pictures, made when they are asked for, and kept between starts as far as there is room."""

from __future__ import annotations

import hashlib
import os
import threading
from contextlib import suppress
from io import BytesIO
from pathlib import Path

from layermatch.data.decoding import open_picture
from layermatch.files import replacing

__all__ = ["SIDES", "Thumbnails"]

#: The longer side of a copy in pixels: in the grid, and alone.
SIDES = (256, 1280)

#: To be changed with what a copy looks like.
_FORMAT = 1
#: The quality of the JPEG files, as Pillow counts it.
_QUALITY = 85
#: Above the limit, the oldest copies go until so much of it is in use.
_LEAVES = 0.8
#: So many pictures are decoded at a time: a large one takes 200 MB while it is.
_AT_A_TIME = 2


class Thumbnails:
    """Copies of pictures as JPEG files in a folder of the cache.

    Args:
        folder: The folder; it is made when something is written. All of it may be deleted at any time.
        limit: The bytes that it may hold.
    """

    def __init__(self, folder: Path, *, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._decoding = threading.Semaphore(_AT_A_TIME)
        self._counting = threading.Lock()
        self._bytes: int | None = None

    def get(self, file: str, side: int) -> bytes:
        """Return a copy of a picture as JPEG.

        Args:
            file: The path of the picture.
            side: The longer side of the copy, one of :data:`SIDES`; a smaller picture is not made larger.

        Raises:
            layermatch.data.decoding.ImageFileError: The picture cannot be decoded.
        """
        kept = self._path_of(file, side)
        if kept is not None:
            with suppress(OSError):
                return kept.read_bytes()
        with self._decoding:
            content = BytesIO()
            open_picture(file, at_most=side).save(content, "JPEG", quality=_QUALITY)
        made = content.getvalue()
        if kept is not None and side == SIDES[0]:  # large ones are looked at once
            self._keep(kept, made)
        return made

    def _path_of(self, file: str, side: int) -> Path | None:
        """Return where a copy is kept, of a file in the state that it is in now; None if there is no file."""
        try:
            status = os.stat(file)  # noqa: PTH116 -- asked for at every picture
        except OSError:
            return None
        state = (_FORMAT, file, status.st_size, status.st_mtime_ns, side)
        digest = hashlib.sha256(ascii(state).encode()).hexdigest()[:40]
        return self.folder / digest[:2] / f"{digest[2:]}.jpg"

    def _keep(self, path: Path, content: bytes) -> None:
        with suppress(OSError):  # without a cache it is only slower
            path.parent.mkdir(parents=True, exist_ok=True)
            # Thousands come at a time, and each would wait for the disk; what is lost is made again.
            with replacing(path, sync=False) as unfinished:
                unfinished.write_bytes(content)
            self._count(len(content))

    def _count(self, added: int) -> None:
        """Add to what is in use, and make room above the limit."""
        with self._counting:
            if self._bytes is None:
                self._bytes = sum(size for _, size, _ in self._files())
            else:
                self._bytes += added
            if self._bytes <= self.limit:
                return
            files = sorted(self._files())
            self._bytes = sum(size for _, size, _ in files)
            for _, size, path in files:
                if self._bytes <= self.limit * _LEAVES:
                    break
                with suppress(OSError):
                    os.unlink(path)  # noqa: PTH108 -- one of 100,000
                    self._bytes -= size

    def _files(self) -> list[tuple[float, int, str]]:
        """Return the time, the size and the path of each file that is kept."""
        found = []
        with suppress(OSError), os.scandir(self.folder) as folders:
            for folder in folders:
                with suppress(OSError), os.scandir(folder) as entries:
                    for entry in entries:
                        with suppress(OSError):
                            status = entry.stat()
                            found.append((status.st_mtime, status.st_size, entry.path))
        return found
