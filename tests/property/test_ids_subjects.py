"""Ids and subjects: derived ids are stable and apart, any id is a safe token of its own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tests.property.strategies import ids

from unpod.core.ids import command_id, derive, record_id
from unpod.core.subjects import CHANNELS, MAX_TOKEN, TYPED, Address, Channel, Subjects, token
from unpod.jetstream.connection.wire import check_subject
from unpod.testing.broker import matches

parts = st.lists(st.text(max_size=8), max_size=4).map(tuple)
types = st.from_regex(r"\A[a-z][a-z_]{0,8}(\.[a-z][a-z_]{0,8}){0,2}\Z")
prefixes = st.from_regex(r"\A[A-Za-z0-9_-]{1,8}(\.[A-Za-z0-9_-]{1,8}){0,2}\Z")
long_ids = ids | st.builds(lambda part, times: part * times, ids, st.integers(1, 4_000))


@given(parts, parts)
def test_what_is_derived_is_the_same_for_the_same_parts_alone(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    assert (derive(*one) == derive(*other)) == (one == other)


@given(ids, st.integers(1, 10**9), st.integers(1, 10**9))
def test_no_two_records_of_a_session_share_an_id(session: str, one: int, other: int) -> None:
    assert record_id(session, "bridge", one) != record_id(session, "owner", one)
    assert (record_id(session, "owner", one) == record_id(session, "owner", other)) == (one == other)


uses = st.tuples(ids, ids, ids, st.sampled_from(["say", "transfer", "call.end"]), st.integers(0, 3))


@given(uses, uses)
def test_a_command_has_an_id_of_its_own(
    one: tuple[str, str, str, str, int], other: tuple[str, str, str, str, int]
) -> None:
    assert (command_id(*one) == command_id(*other)) == (one == other)


@given(long_ids, long_ids)
def test_no_two_ids_share_a_token(one: str, other: str) -> None:
    assert (token(one) == token(other)) == (one == other)


@given(long_ids)
def test_a_token_is_safe(identifier: str) -> None:
    found = token(identifier)
    assert found.isascii()
    assert found.isprintable()
    assert not set(found) & set(" .*>")
    assert 0 < len(found) <= MAX_TOKEN


@given(prefixes, long_ids, long_ids, st.sampled_from(sorted(CHANNELS)), types)
def test_what_is_built_can_be_parsed(prefix: str, agent: str, session: str, channel: Channel, event_type: str) -> None:
    subjects = Subjects(prefix)
    call = subjects.call(agent, session)
    built = {
        "line": call.line,
        "own": call.own,
        "evt": call.evt(event_type),
        "ack": call.ack,
        "run": call.run(event_type),
        "cmd": call.cmd,
        "ctl": call.ctl,
    }[channel]
    check_subject(built)
    assert subjects.parse(built) == Address(
        token(agent), token(session), channel, event_type if channel in TYPED else ""
    )
    assert matches(call.all, built)
    assert matches(subjects.calls, built)
    assert matches(subjects.channel(channel), built)


@given(ids, ids, ids, ids)
def test_no_id_reaches_into_another_session(agent: str, session: str, other_agent: str, other: str) -> None:
    subjects = Subjects()
    one, two = subjects.call(agent, session), subjects.call(other_agent, other)
    assert matches(one.all, two.ack) == ((agent, session) == (other_agent, other))
    assert matches(one.live, two.delta) == ((agent, session) == (other_agent, other))
    assert matches(subjects.session(session), two.ack) == (session == other)
