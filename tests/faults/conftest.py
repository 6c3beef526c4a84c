"""The table of faults that ``make faults`` prints: what was tried, what survived it, and what was lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

HEADER = ("fault", "tried", "survived", "lost")


@pytest.fixture
def fault(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Add a row: ``fault(name, tried=3, survived=3, lost="the steps since the last checkpoint")``."""

    def record(name: str, *, tried: int, survived: int, lost: str = "nothing") -> None:
        # A property of the test comes with its report, also out of another process of pytest-xdist.
        request.node.user_properties.append(("fault", (name, str(tried), str(survived), lost)))

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for found in terminalreporter.stats.values() for report in found]
    calls = [report for report in reports if getattr(report, "when", None) == "call"]
    rows = [tuple(row) for report in calls for name, row in report.user_properties if name == "fault"]
    if rows:
        terminalreporter.section("faults")
        for line in table([HEADER, *sorted(rows)]):
            terminalreporter.write_line(line)


def table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Columns as wide as their widest cell, with two blanks between them."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
