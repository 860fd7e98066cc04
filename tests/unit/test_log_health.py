from __future__ import annotations

import logging
from typing import cast

import pytest

from unpod.ops import LogHealth
from unpod.ops.log_health import SILENT_S
from unpod.ports import EventLog


class Log:
    silent_s = 0.0


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
