"""Every fault test says what it tried and what was lost; a table of it ends the test run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

ROWS = pytest.StashKey[list[tuple[str, int, int, str]]]()


@pytest.fixture
def fault(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Adds a row to the table: the fault, times tried, times survived, what was lost."""
    rows = request.config.stash.setdefault(ROWS, [])

    def add(name: str, *, tried: int, survived: int, lost: str) -> None:
        rows.append((name, tried, survived, lost))

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows = terminalreporter.config.stash.get(ROWS, [])
    if not rows:
        return
    terminalreporter.section("faults")
    width = max(len(name) for name, *_ in rows)
    terminalreporter.write_line(f"{'fault':{width}}  tried  survived  lost")
    for name, tried, survived, lost in rows:
        terminalreporter.write_line(f"{name:{width}}  {tried:5}  {survived:8}  {lost}")
