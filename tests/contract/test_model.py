"""Any row of appends gives the log that a few lines of Python give."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.contract.places import open_place

from unpod.errors import Fenced
from unpod.ports import Fence, Stored

if TYPE_CHECKING:
    from pathlib import Path

    from tests.contract.places import Client

SUBJECTS = ("own", "cmd", "run.x", "evt.y")
OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(SUBJECTS),
        st.integers(0, 5),  # which id
        st.sampled_from(["none", "right", "stale"]),
        st.sampled_from(["own", "cmd"]),
        st.binary(max_size=40),
    ),
    max_size=25,
)
_session = itertools.count()


class Model:
    """What a log is, without NATS."""

    def __init__(self) -> None:
        self.records: list[tuple[str, bytes, int]] = []
        self.ids: dict[str, tuple[str, int]] = {}
        """Where an id was used first; a record of another subject is stored all the same."""

    def last(self, subject: str) -> int:
        return max((seq for name, _, seq in self.records if name == subject), default=0)


async def _play(client: Client, operations: list[tuple[str, int, str, str, bytes]]) -> None:
    base = f"unpod.call.a.m{next(_session)}."
    model = Model()
    for name, number, kind, fenced_on, data in operations:
        subject, msg_id = base + name, f"{base}{number}"
        fence = None
        if kind != "none":
            last = model.last(base + fenced_on)
            fence = Fence(base + fenced_on, last if kind == "right" else last + 1_000_000)
        try:
            stored = await client.log.append(subject, data, {"Nats-Msg-Id": msg_id}, fence=fence)
        except Fenced:
            assert kind == "stale"
            continue
        first_on, first = model.ids.get(msg_id, ("", 0))
        if first_on == subject:
            assert stored == Stored(first, duplicate=True)
            continue
        assert kind != "stale"
        assert not stored.duplicate
        model.ids.setdefault(msg_id, (subject, stored.seq))
        model.records.append((subject, data, stored.seq))
    found = [(m.subject, m.data, m.seq) async for m in client.log.read(f"{base}>")]
    assert found == model.records
    for name in SUBJECTS:
        newest = await client.log.last(base + name)
        assert (newest.seq if newest is not None else 0) == model.last(base + name)


@pytest.mark.parametrize("kind", ["memory", pytest.param("jetstream", marks=pytest.mark.integration)])
def test_any_row_of_appends(kind: str, tmp_path: Path) -> None:
    with asyncio.Runner() as runner:
        place_of = open_place(kind, tmp_path / "nats")
        place = runner.run(place_of.__aenter__())
        client = runner.run(place.client())

        @settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
        @given(OPERATIONS)
        def play(operations: list[tuple[str, int, str, str, bytes]]) -> None:
            runner.run(_play(client, operations))

        try:
            play()
        finally:
            runner.run(place_of.__aexit__(None, None, None))
