"""Times on the wire are what `datetime` makes of them: the faster way to write and to read them is the same one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from unpod.core.envelope import format_time, parse_time
from unpod.errors import ProtocolViolation
from unpod.jetstream.log.direct_get.by_subject import StoredParser

MOMENTS = st.floats(min_value=-1e9, max_value=4e9, allow_nan=False)


@given(MOMENTS)
@example(1_700_000_000.9999997)
@example(-0.25)
@example(-0.0000001)
def test_a_time_is_written_as_datetime_writes_it(seconds: float) -> None:
    assert format_time(seconds) == datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@given(MOMENTS)
def test_a_time_is_read_as_datetime_reads_it(seconds: float) -> None:
    text = format_time(seconds)
    assert parse_time(text) == datetime.fromisoformat(text).timestamp()


@given(st.text(alphabet="0123456789-:TWZ+. ", min_size=27, max_size=27))
@example("20231114T2213+05:00.250000Z")
@example("2023-11-14T22:13:60.250000Z")
@example("2023-11-14T22:13:20." + "\N{ARABIC-INDIC DIGIT ZERO}" * 6 + "Z")
def test_what_datetime_refuses_is_refused(text: str) -> None:
    try:
        expected = datetime.fromisoformat(text)
    except ValueError:
        with pytest.raises(ProtocolViolation):
            parse_time(text)
    else:
        if expected.tzinfo is not None:
            assert parse_time(text) == expected.timestamp()


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
STORED = st.tuples(st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1)), st.integers(0, 999_999_999))  # noqa: DTZ001


@given(st.lists(STORED, min_size=1, max_size=5))
@example([(datetime(2026, 11, 21, 12, 0, 59), 0), (datetime(2026, 11, 21, 12, 1), 120)])  # noqa: DTZ001
def test_the_time_of_storing_is_what_datetime_reads_with_nanoseconds(times: list[tuple[datetime, int]]) -> None:
    parser = StoredParser()
    for moment, nanos in times:
        whole = moment.replace(microsecond=0, tzinfo=UTC)
        fraction = f".{nanos:09d}".rstrip("0").rstrip(".")  # as the server writes it
        stamp = f"{whole:%Y-%m-%dT%H:%M:%S}{fraction}Z"
        block = f"NATS/1.0\r\nNats-Stream: S\r\nNats-Subject: a\r\nNats-Sequence: 7\r\nNats-Time-Stamp: {stamp}\r\n\r\n"
        message, pending = parser.message(block.encode(), b"")
        assert message.time_ns == (whole - EPOCH) // timedelta(seconds=1) * 1_000_000_000 + nanos
        assert (message.seq, pending) == (7, -1)
