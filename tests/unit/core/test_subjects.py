"""Subjects: every id is one safe token, and no two ids share one."""

from __future__ import annotations

import pytest

from unpod.core.subjects import CHANNELS, MAX_TOKEN, TYPED, Address, Subjects, token
from unpod.errors import ProtocolViolation, UnsafeIdentifier
from unpod.jetstream.connection.wire import check_subject
from unpod.testing.broker import matches

HOSTILE = (
    "*",
    ">",
    ".",
    "a.b",
    "a b",
    "a\x00b",
    "a\r\nb",
    "a\tb",
    "☎️",
    "+15551230000",
    "=",
    "=2A",
    "=~",
    "~",
    "é",
    "e\u0301",
    "\ud800",
    "x" * 4_000,
    "x" * 3_999 + "y",
    "☎" * 4_000,
    "." * 4_000,
    "$JS.API",
    "_INBOX.1",
)


def test_a_plain_id_stands_for_itself() -> None:
    assert token("call_12-Ab") == "call_12-Ab"


@pytest.mark.parametrize("identifier", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_id_is_one_safe_token_of_its_own(identifier: str) -> None:
    found = token(identifier)
    assert len(found) <= MAX_TOKEN
    assert not set(found) & set(" .*>\r\n\t\x00")
    assert found.isascii()
    assert found not in {token(other) for other in HOSTILE if other != identifier}
    check_subject(Subjects().call(identifier, identifier).ack)


def test_an_empty_id_is_refused() -> None:
    with pytest.raises(UnsafeIdentifier):
        token("")
    with pytest.raises(UnsafeIdentifier):
        Subjects().call("", "s")


@pytest.mark.parametrize("prefix", ["", "a b", "a.*", "a.>", ".a", "a.", "a..b", "é", "a\r\nb"])
def test_a_prefix_that_is_none_is_refused(prefix: str) -> None:
    with pytest.raises(UnsafeIdentifier):
        Subjects(prefix)


def test_the_subjects_of_a_session_are_those_of_the_design() -> None:
    call = Subjects("unpod").call("agt", "s1")
    base = "unpod.call.agt.s1"
    assert (call.line, call.own, call.ack, call.cmd, call.ctl) == tuple(
        f"{base}.{channel}" for channel in ("line", "own", "ack", "cmd", "ctl")
    )
    assert call.evt("user.text") == f"{base}.evt.user.text"
    assert call.run("turn.completed") == f"{base}.run.turn.completed"
    assert call.delta == "unpod.live.agt.s1.delta"
    assert not matches(Subjects("unpod").calls, call.delta)


@pytest.mark.parametrize("event_type", ["", "A", "user text", "user.*", "user.", ".text", "a..b", "user.text\r\n", "é"])
def test_an_event_type_that_is_none_is_refused_and_the_fault_is_ours(event_type: str) -> None:
    with pytest.raises(ProtocolViolation) as raised:
        Subjects().call("a", "s").evt(event_type)
    assert raised.value.whose == "local"


@pytest.mark.parametrize("channel", sorted(CHANNELS))
def test_what_is_built_can_be_parsed(channel: str) -> None:
    subjects = Subjects("a.b-c")
    call = subjects.call("agent*", "session>")
    subject = f"{call.all[:-1]}{channel}" + (".user.text" if channel in TYPED else "")
    address = subjects.parse(subject)
    assert (address.agent, address.session, address.channel) == (token("agent*"), token("session>"), channel)
    assert address.type == ("user.text" if channel in TYPED else "")


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "unpod",
        "unpod.call",
        "unpod.call.a.s",
        "unpod.call.a.s.nope",
        "unpod.call.a..ack",
        "unpod.call.a.s.evt",
        "unpod.call.a.s.evt.",
        "unpod.call.a.s.evt.User",
        "unpod.call.a.s.ack.more",
        "unpod.call.a.s.evt.user.text.",
        "unpod.live.a.s.delta",
        "other.call.a.s.ack",
        "unpodx.call.a.s.ack",
        "unpod.call.a.s.evt.user\ntext",
    ],
)
def test_what_is_no_subject_of_the_log_is_refused(subject: str) -> None:
    with pytest.raises(ProtocolViolation):
        Subjects().parse(subject)


def test_a_refusal_does_not_repeat_all_of_a_long_subject() -> None:
    with pytest.raises(ProtocolViolation) as raised:
        Subjects().parse("x" * 100_000)
    assert len(str(raised.value)) < 400


def test_the_pattern_of_a_session_matches_its_records_alone() -> None:
    subjects = Subjects()
    call = subjects.call("a", "s.1")
    for subject in (call.line, call.own, call.ack, call.cmd, call.ctl, call.evt("state"), call.run("silence")):
        assert matches(subjects.session("s.1"), subject)
        assert not matches(subjects.session("s"), subject)
        assert not matches(subjects.session("1"), subject)


def test_the_pattern_of_a_channel_matches_that_channel_alone() -> None:
    subjects = Subjects()
    call = subjects.call("a", "s")
    assert matches(subjects.channel("run"), call.run("turn.completed"))
    assert matches(subjects.channel("ack"), call.ack)
    assert not matches(subjects.channel("evt"), call.run("turn.completed"))


def test_requests_have_subjects_outside_of_the_log() -> None:
    subjects = Subjects()
    for subject in (
        subjects.dispatch("a.b"),
        subjects.resume("a"),
        subjects.queued("a"),
        subjects.runner("r#1"),
        subjects.bridge("b"),
    ):
        check_subject(subject)
        assert not matches(subjects.calls, subject)
    assert len({subjects.dispatch("a"), subjects.resume("a"), subjects.queued("a")}) == 3


def test_an_address_is_what_a_subject_says() -> None:
    assert Subjects().parse("unpod.call.a.s.run.turn.completed") == Address("a", "s", "run", "turn.completed")
