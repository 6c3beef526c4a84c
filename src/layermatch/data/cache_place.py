"""The folder of a user's caches. Free of torch, so that what only looks at pictures starts at once."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import platformdirs

from layermatch.errors import UserError
from layermatch.paths import expand, is_folder

__all__ = ["check_cache_dir", "default_cache_dir"]


def default_cache_dir() -> Path:
    """Find the folder of a user's caches; on Linux ``layermatch`` in ``$XDG_CACHE_HOME``, or else in ``~/.cache``.

    In a container there may be no home folder, or one that is not the user's: then one for temporary files.
    """
    try:
        folder = platformdirs.user_cache_path("layermatch", appauthor=False)
    except RuntimeError:  # no HOME, and a user without an entry
        return _temporary_cache_dir()
    is_chosen = Path(os.environ.get("XDG_CACHE_HOME", "")).is_absolute()  # then the user hears of it if it cannot be
    return folder if is_chosen or _can_hold(folder) else _temporary_cache_dir()


def _can_hold(folder: Path) -> bool:
    """Return whether there is such a folder, or one can be made."""
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    return there == folder or (is_folder(there) and os.access(there, os.W_OK | os.X_OK))


def _temporary_cache_dir() -> Path:
    user = os.getuid() if hasattr(os, "getuid") else "user"  # another user's could not be written to
    return Path(tempfile.gettempdir()) / f"layermatch-{user}"


def check_cache_dir(given: object) -> None:
    """Refuse a folder of caches that is another one wherever a command is started.

    Args:
        given: What was given as ``cache_dir``; None is the default.

    Raises:
        UserError: It is no absolute path.
    """
    is_path = isinstance(given, str | Path) and bool(str(given).strip())
    if given is not None and not (is_path and expand("cache_dir", given, "a folder").is_absolute()):
        raise UserError(f"cache_dir={given!r} is not legal: give an absolute path, or null for the default")
