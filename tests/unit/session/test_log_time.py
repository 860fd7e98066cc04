"""A session goes by the log's time, also where its process's clock does not."""

from __future__ import annotations

import pytest
from tests.unit.session.rig import Ear, agent

from unpod.session.log_time import SessionClock
from unpod.testing import SimulatedCall, simulate_call
from unpod.testing.clock import START, VirtualClock

HOUR_S = 3_600.0


def shift_the_log(call: SimulatedCall, seconds: float) -> None:
    """Let the log's time differ from that of the call's processes from now on."""
    call.line.log.broker.now_ns = lambda: int((call.clock.now() + seconds) * 1e9)


@pytest.mark.parametrize(("stored", "expected"), [(HOUR_S, HOUR_S), (-HOUR_S, -HOUR_S), (-0.5, 0.0), (0.001, 0.0)])
def test_a_session_begins_with_the_time_of_the_record_that_made_it_the_owner(stored: float, expected: float) -> None:
    process = VirtualClock()
    clock = SessionClock(process)
    clock.begin(START + stored)
    assert clock.now() == START + expected


async def test_it_is_put_right_later_and_never_goes_back() -> None:
    process = VirtualClock()
    clock = SessionClock(process)
    assert not clock.correct(START - HOUR_S)
    assert not clock.correct(START)
    assert clock.now() == START
    assert clock.correct(START + 60)
    assert clock.now() == START + 60
    await process.advance(5)
    assert not clock.correct(START + 60)
    assert clock.now() == START + 65


@pytest.mark.parametrize("seconds", [HOUR_S, -HOUR_S])
async def test_a_new_owner_goes_by_its_own_record(seconds: float) -> None:
    async with simulate_call(agent()) as call:
        shift_the_log(call, seconds)
        await call.crash()
        assert call.context is not None
        assert call.context.session.now() == pytest.approx(call.clock.now() + seconds)


async def test_a_process_that_was_suspended_finds_out_within_minutes() -> None:
    ear = Ear()
    async with simulate_call(agent(ear, silence_timeout_s=None, max_duration_s=HOUR_S)) as call:
        shift_the_log(call, HOUR_S)
        await call.user("hi")
        await call.advance(299)
        assert call.reason is None
        await call.advance(1)
        assert await call.ended() == "max_duration"
    assert ear.args("call_end") == [("max_duration",)]
