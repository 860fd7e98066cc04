from __future__ import annotations

import logging
from typing import cast

import pytest

from unpod.ops import LogHealth
from unpod.ops.log_health import SILENT_S
from unpod.ports import EventLog


class Log:
    silent_s = 0.0
    nodes: tuple[str, ...] = ()

    def behind(self, for_s: float) -> list[str]:
        assert for_s == SILENT_S
        return [*self.nodes]


def test_a_log_that_acknowledges_nothing_for_longer_than_an_election_is_silent_and_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = Log()
    health = LogHealth(cast("EventLog", log), logging.getLogger("unpod.runner"))
    for log.silent_s, silent in ((0.0, False), (SILENT_S - 0.1, False), (SILENT_S, True), (30.0, True), (0.0, False)):
        assert health.look() is silent
        assert health.silent is silent
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert "acknowledges nothing for 10 s, though NATS can be reached" in lines[0]
    assert "acknowledges again" in lines[1]


def test_a_node_that_does_not_keep_up_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    log = Log()
    health = LogHealth(cast("EventLog", log), logging.getLogger("unpod.bridge"))
    for log.nodes in ((), ("n3",), ("n3", "n2"), (), ()):
        assert not health.look()
        assert health.behind == len(log.nodes)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert "do not keep up (n3)" in lines[0]
    assert "keep up again" in lines[1]
