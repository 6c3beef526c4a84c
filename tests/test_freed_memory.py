"""Freed memory is kept with every version of glibc."""

from __future__ import annotations

import ctypes
import sys

import pytest

from layermatch import freed_memory
from layermatch.freed_memory import keep_freed_memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="nothing is done elsewhere")
def test_an_older_glibc_takes_32_mebibytes_and_the_other_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []

    class OldLibrary:
        """Refuses larger mapped blocks, as glibc did before version 2.35."""

        def __init__(self, name: None) -> None: ...

        def mallopt(self, parameter: int, value: int) -> int:
            calls.append((parameter, value))
            return int(parameter != freed_memory._M_MMAP_THRESHOLD or value <= 32 << 20)

    monkeypatch.setattr(ctypes, "CDLL", OldLibrary)
    assert keep_freed_memory()
    assert calls == [(-3, 256 << 20), (-3, 32 << 20), (-1, 512 << 20)]
