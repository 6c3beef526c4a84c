"""Which code a run was made by."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from layermatch.text import printable

__all__ = ["CodeVersion", "code_version"]

#: Rooms that read runs or start them: no run is another one for a change in these.
NOT_OF_RUNS = frozenset({"study", "report", "watch", "bench"})

#: Seconds that git has to answer.
PATIENCE = 20


@dataclass(frozen=True)
class CodeVersion:
    """Which code it is.

    Args:
        version: The version of the package.
        commit: The commit of the checkout; empty where there is none.
        is_dirty: Whether the checkout's ``src`` or ``conf`` differ from the commit; False where there is none.
        sources: Ten digits of every source file that a run may use.
    """

    version: str
    commit: str
    is_dirty: bool
    sources: str

    def __str__(self) -> str:
        """Return it in words, for people.

        Example:
            >>> str(CodeVersion("0.1.0", "", False, "3f2a0c91d7"))
            'layermatch 0.1.0, sources 3f2a0c91d7'
        """
        state = f", commit {self.commit}{', with changes' if self.is_dirty else ''}" if self.commit else ""
        return f"layermatch {self.version}{state}, sources {self.sources}"

    def plain(self) -> dict[str, Any]:
        """Return it as plain containers, for JSON."""
        return {
            "version": self.version, "commit": self.commit, "is_dirty": self.is_dirty, "sources": self.sources,
        }  # fmt: skip

    @staticmethod
    def of_plain(fields: Mapping[str, Any]) -> CodeVersion:
        """Make it of what :meth:`plain` gave, whatever became of that since."""
        texts = (printable(fields.get(name, "")) for name in ("version", "commit", "sources"))
        given, commit, sources = texts
        return CodeVersion(given, commit, fields.get("is_dirty") is True, sources)


def code_version() -> CodeVersion:
    """Return the code that runs are made by now."""
    package = Path(__file__).parents[1]
    root = package.parents[1]
    try:
        number = version("layermatch")
    except PackageNotFoundError:
        number = "unknown"
    commit = _git(root, "rev-parse", "--short=12", "HEAD") if (root / ".git").exists() else ""
    is_dirty = bool(commit) and bool(_git(root, "status", "--porcelain", "--", "src", "conf"))
    return CodeVersion(number, commit, is_dirty, _digest(package))


def _git(root: Path, *words: str) -> str:
    """Return what git says; empty where there is no git, or it refuses."""
    command = ["git", "--no-optional-locks", "-C", str(root), *words]  # else a commit beside it may fail
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _digest(package: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package)
        if name.parts[0] not in NOT_OF_RUNS:
            digest.update(f"{name.as_posix()}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:10]
