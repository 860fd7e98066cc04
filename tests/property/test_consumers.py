"""Whatever the order between writers, the repeats and the restarts: the metrics of a log are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.unit.consumers.records import SUBJECTS, call_of

from unpod_consumers.metrics import MetricsProjection

if TYPE_CHECKING:
    from unpod.ports import Message
    from unpod_consumers.projections.snapshot import Snapshot

CALLS = tuple(call_of(name, turns=turns) for name, turns in (("a", 1), ("b", 3), ("c", 2)))
WRITERS = tuple(side for call in CALLS for side in call)


@st.composite
def logs(draw: st.DrawFn) -> list[Message]:
    """Draw an order in which the writers' records may stand, some of them more than once."""
    turns = draw(st.permutations([place for place, side in enumerate(WRITERS) for _ in side]))
    taken = [0] * len(WRITERS)
    log: list[Message] = []
    for place in turns:
        log.append(WRITERS[place][taken[place]])
        taken[place] += 1
        if draw(st.integers(0, 3)) == 0:
            log.append(draw(st.sampled_from(log)))
    return [replace(one, seq=seq) for seq, one in enumerate(log, 1)]


def consume(log: list[Message], restarts: frozenset[int] = frozenset()) -> Snapshot:
    projection = MetricsProjection(SUBJECTS)
    saved, unsaved = projection.dump(), 0
    for seq, one in enumerate(log, 1):
        projection.take(one)
        if seq in restarts:  # killed: what was taken since the last checkpoint is gone, and is delivered again
            projection = MetricsProjection(SUBJECTS)
            projection.load(saved)
            for again in log[max(unsaved - 2, 0) : seq]:
                projection.take(again)
        elif seq % 3 == 0:
            saved, unsaved = projection.dump(), seq
    projection.publish(0)
    assert projection.shown is not None
    return projection.shown


EXPECTED = consume([replace(one, seq=seq) for seq, one in enumerate((m for side in WRITERS for m in side), 1)])


@pytest.mark.slow
@settings(max_examples=150)
@given(logs(), st.frozensets(st.integers(1, 40)))
def test_order_repeats_and_restarts_change_nothing(log: list[Message], restarts: frozenset[int]) -> None:
    assert consume(log, restarts) == EXPECTED
