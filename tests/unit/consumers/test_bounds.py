"""Whatever one record says, the figures of all others stay what they are, and no bound grows with it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.unit.consumers.records import SUBJECTS, message
from tests.unit.consumers.test_metrics import samples

from unpod.core import codec
from unpod.core.events import CallEnded, CallStarted, LLMCalled
from unpod.errors import ProtocolViolation
from unpod.ports import Message
from unpod_consumers.metrics import MetricsProjection
from unpod_consumers.projections.metrics import MOST_SESSIONS, MOST_VALUES
from unpod_consumers.reading import APART_S, read

START_NS = 1_700_000_000 * 10**9
FAR_S = 253_402_300_799 - 1_700_000_000  # the last second of the year 9999


def stored(*messages: Message) -> list[Message]:
    """Return them as the log gives them back, a second apart."""
    return [replace(one, seq=seq, time_ns=START_NS + seq * 10**9) for seq, one in enumerate(messages, 1)]


def project(*messages: Message, most_sessions: int = MOST_SESSIONS) -> dict[str, float]:
    projection = MetricsProjection(SUBJECTS, most_sessions=most_sessions)
    for one in stored(*messages):
        projection.take(one)
    projection.publish(0)
    return samples(projection)


@pytest.mark.parametrize("apart_s", [FAR_S, APART_S * 2, -APART_S * 2])
def test_a_time_that_cannot_be_makes_nobody_forget_a_call(apart_s: float) -> None:
    started = [message(f"s{n}", "evt", CallStarted(session_id=f"s{n}"), 1, float(n)) for n in range(3)]
    liar = message("liar", "evt", CallStarted(session_id="liar"), 1, apart_s)
    later = message("s0", "evt", CallEnded(reason="hangup"), 2, 20.0)
    found = project(*started, liar, later)
    assert found["unpod_calls_active"] == 3
    assert found["unpod_calls_total{end_reason=hangup}"] == 1
    assert found["unpod_call_duration_seconds_sum"] == 20.0
    assert found["unpod_consumer_corrected_total{reason=time}"] == 1


def test_a_time_within_an_hour_is_its_writers() -> None:
    (late,) = stored(message("s", "evt", CallStarted(session_id="s"), 1, APART_S - 10))
    record, is_timely = read(SUBJECTS, late)
    assert is_timely
    assert record.envelope.time == 1_700_000_000 + APART_S - 10


def test_names_that_somebody_makes_up_do_not_make_as_many_series() -> None:
    models = [
        message("s", "run", LLMCalled(turn_id=n, model=f"model-{n}", tokens_in=1), n, 1.0) for n in range(1, 5_001)
    ]
    found = project(message("s", "evt", CallStarted(session_id="s"), 1, 0.0), *models)
    counts = {name: value for name, value in found.items() if name.startswith("gen_ai_client_token_usage_count")}
    assert len(counts) == MOST_VALUES + 1
    assert sum(counts.values()) == 5_000
    (other,) = [value for name, value in counts.items() if "model=other" in name]
    assert other == 5_000 - MOST_VALUES
    assert found["unpod_consumer_corrected_total{reason=label}"] >= other


def test_sessions_that_somebody_makes_up_are_bounded() -> None:
    started = [message(f"s{n}", "evt", CallStarted(session_id=f"s{n}"), 1, 0.0) for n in range(15)]
    found = project(*started, most_sessions=10)
    assert found["unpod_calls_active"] == 10
    assert found["unpod_consumer_corrected_total{reason=session}"] == 5


def test_a_header_that_names_another_session_than_its_subject_is_refused() -> None:
    one = message("mine", "evt", CallStarted(session_id="mine"), 1, 0.0)
    subject = SUBJECTS.call("support", "yours").evt("call.started")
    with pytest.raises(ProtocolViolation, match="envelope and subject disagree: the session 'mine'"):
        codec.read(SUBJECTS, subject, one.headers, one.data)
