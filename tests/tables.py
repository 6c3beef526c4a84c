"""Real faults, and the tables that ``make faults`` and ``make oracles`` print: what was tried, and what was found."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Generator
from typing import Any

import pytest
from tests.faults.page import Fault, read_catalogue
from tests.oracle import noting_differences

FAULT, CELL, ORACLE = "fault", "cell", "oracle"

#: Folders whose tests are all of faults.
FAULT_FOLDERS = ("tests/faults/", "tests/distributed/")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=4, help="how often a process is killed at a random moment")
    parser.addoption("--faults", action="store_true", help="run the tests of faults and no others, and list the faults")


def catalogue_of(config: pytest.Config) -> list[Fault]:
    return read_catalogue(config.rootpath / "tests" / "faults" / "catalogue")


def function_of(nodeid: str) -> str:
    """A test without its parameters."""
    return nodeid.partition("[")[0]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With ``--faults``, keep the tests that the catalogue names, and those of the folders of faults.

    What the report of a run says of its tests of several processes is looked at by ``make test``.
    """
    for item in items:
        if item.get_closest_marker("distributed"):
            item.user_properties.append(("distributed", "yes"))
    if not config.getoption("--faults"):
        return
    named = {name for fault in catalogue_of(config) for name in fault.tests}
    kept = [item for item in items if item.nodeid.startswith(FAULT_FOLDERS) or function_of(item.nodeid) in named]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    """How often to kill."""
    return int(request.config.getoption("--kills"))


@pytest.fixture
def fault(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """``fault(name, tried=, survived=, lost=)``: a row of the table of faults."""

    def record(name: str, *, tried: int, survived: int, lost: str) -> None:
        record_property(FAULT, json.dumps([name, tried, survived, lost]))
        assert survived == tried, f"{name}: {survived} of {tried} survived"

    return record


@pytest.fixture
def cell(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """``cell(table, row=, column=, equal=)``: a cell of a matrix."""

    def record(table: str, *, row: str, column: str, equal: bool) -> None:
        record_property(CELL, json.dumps([table, row, column, equal]))
        assert equal, f"{table}: {row}, {column}"

    return record


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Make a row of the table of oracles of a test that is marked so; one that compares nothing fails."""
    if pyfuncitem.get_closest_marker(ORACLE) is None:
        return (yield)
    with noting_differences() as differences:
        result = yield
    assert differences, "it is marked as an oracle's, and compares nothing"
    pyfuncitem.user_properties.append((ORACLE, json.dumps([pyfuncitem.nodeid, max(differences)])))
    return result


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Properties travel with the reports, so that the tables are whole under xdist too."""
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    properties = [p for report in reports for p in getattr(report, "user_properties", ())]
    rows = [json.loads(text) for name, text in properties if name == FAULT]
    if rows:
        terminalreporter.section("faults")
        lines = [("fault", "tried", "survived", "lost"), *((n, str(t), str(s), lost) for n, t, s, lost in rows)]
        _print(terminalreporter, lines)
    tables: dict[str, dict[str, dict[str, bool]]] = defaultdict(lambda: defaultdict(dict))
    for table, row, column, equal in (json.loads(text) for name, text in properties if name == CELL):
        tables[table][row][column] = equal
    for table, cells in tables.items():
        terminalreporter.section(table)
        columns = list(dict.fromkeys(column for row in cells.values() for column in row))
        lines = [("", *columns)]
        for row, values in cells.items():
            lines.append((row, *({True: "equal", False: "DIFFERS", None: "-"}[values.get(c)] for c in columns)))
        _print(terminalreporter, lines)
    worst = [json.loads(text) for name, text in properties if name == ORACLE]
    if worst:
        terminalreporter.section("largest difference from the peers' own code")
        _print(terminalreporter, oracle_lines(worst))
    if terminalreporter.config.getoption("--faults"):
        terminalreporter.section("what can go wrong")
        _print(terminalreporter, _catalogue_lines(terminalreporter, catalogue_of(terminalreporter.config)))


def oracle_lines(worst: list[tuple[str, float]]) -> list[tuple[str, ...]]:
    """Each test, the largest difference that it found, and with which parameters."""
    of_test: dict[str, tuple[float, str]] = {}
    for nodeid, difference in worst:
        name, _, parameters = nodeid.partition("[")
        of_test[name] = max(of_test.get(name, (-1.0, "")), (difference, parameters.removesuffix("]")))
    rows = [(name, f"{difference:.1e}", parameters) for name, (difference, parameters) in sorted(of_test.items())]
    return [("test", "worst", "where"), *rows]


def _catalogue_lines(terminalreporter: Any, faults: list[Fault]) -> list[tuple[str, ...]]:
    """Each fault of the catalogue, how many tests of it ran, and how many of these passed: 0 where none was run."""
    counts = {
        outcome: Counter(function_of(report.nodeid) for report in terminalreporter.getreports(outcome))
        for outcome in ("passed", "failed", "error")
    }
    lines = [("what", "tried", "survived")]
    for fault in faults:
        good, *bad = (sum(counter[name] for name in fault.tests) for counter in counts.values())
        lines.append((fault.what, str(good + sum(bad)), str(good)))
    return lines


def _print(terminalreporter: Any, lines: list[tuple[str, ...]]) -> None:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        terminalreporter.write_line(
            "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        )
