from __future__ import annotations

import json

import pytest

from unpod_bridge.fleet.disconnects import ended_ago


def answer(now: str, *connections: tuple[str, str]) -> bytes:
    """What a server says of the connections that have ended at it."""
    ended = [{"name": name, "stop": f"2026-01-01T00:00:{stop}Z"} for name, stop in connections]
    return json.dumps({"data": {"now": f"2026-01-01T00:00:{now}Z", "connections": ended}}).encode()


@pytest.mark.parametrize("order", [1, -1])
def test_a_process_that_has_changed_servers_has_ended_where_its_last_connection_was(order: int) -> None:
    former = answer("09.5", ("unpod bridge-1", "01"), ("unpod bridge-2", "09"))
    latter = answer("09.5", ("unpod bridge-1", "07"), ("unpod bridge-1", "09.25"))
    assert ended_ago([b"{", former, latter][::order], "bridge-1") == 0.25


def test_of_a_process_that_no_server_knows_nothing_is_said() -> None:
    assert ended_ago([answer("09", ("unpod bridge-2", "01")), b"nonsense"], "bridge-1") is None
