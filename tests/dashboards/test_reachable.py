"""Whether a server answers: real servers, and real ways not to."""

from __future__ import annotations

import time

import pytest
from tests.dashboards.servers import Server, closed_port, silent_server

from layermatch.dashboards.reachable import why_unreachable


def test_a_server_that_answers() -> None:
    with Server() as server:
        assert why_unreachable(server.url) is None
        assert [operation for operation, _ in server.operations] == ["ServerInfo"]


@pytest.mark.parametrize(
    ("status", "reason"), [(500, "HTTP status 500"), (503, "HTTP status 503"), (401, None), (404, None)]
)
def test_only_statuses_of_500_and_above_are_faults_of_the_server(status: int, reason: str | None) -> None:
    with Server(lambda *_: (status, {})) as server:
        assert why_unreachable(server.url) == reason


def test_nobody_listens() -> None:
    with closed_port() as url:
        assert why_unreachable(url) == "Connection refused"


def test_a_server_that_never_answers_costs_the_given_time() -> None:
    started = time.monotonic()
    with silent_server() as url:
        assert why_unreachable(url, seconds=0.5) == "no answer within 0.5 s"
    assert 0.4 < time.monotonic() - started < 2.5


def test_no_address() -> None:
    assert why_unreachable("file:///etc/hostname") == "'file:///etc/hostname' is no address"
