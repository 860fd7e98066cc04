"""Times on the wire are what `datetime` makes of them: the faster way to write and to read them is the same one."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from unpod.core.envelope import format_time, parse_time
from unpod.errors import ProtocolViolation

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
