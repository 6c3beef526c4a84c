"""Folders among a user's pictures that no user made."""

from __future__ import annotations

__all__ = ["SYSTEM_FOLDERS"]

#: Folders that file servers and systems make for themselves, of thumbnails or of what was deleted. Names that start
#: with a dot are left out anyway.
SYSTEM_FOLDERS = frozenset({
    "@eaDir", "@Recycle", "@Recently-Snapshot", "@__thumb", "@tmp", "#recycle", "#snapshot", "~snapshot",
    "$RECYCLE.BIN", "System Volume Information", "lost+found", "__MACOSX", "Network Trash Folder", "Temporary Items",
})  # fmt: skip
