from __future__ import annotations

import zlib
from typing import Literal

import msgspec
import pytest
from msgspec import Struct
from msgspec.structs import replace
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.resources import Resource
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import CollectorRegistry
from tests.unit.consumers.records import SUBJECTS, call_of, message

from unpod.core.commands import EndReply, Say
from unpod.core.events import (
    CallEnded,
    CallStarted,
    CommandAcknowledged,
    FrameRejected,
    LLMCalled,
    OwnerAppointed,
    ReplayCompleted,
    SessionFinished,
    TurnCompleted,
    TurnMetrics,
)
from unpod.core.traces import trace_id
from unpod.errors import ProtocolViolation
from unpod.ports import Message
from unpod_consumers.exporters.otlp import to_otlp
from unpod_consumers.exporters.prometheus import SnapshotCollector, as_text
from unpod_consumers.metrics import MetricsProjection


def project(*messages: Message) -> MetricsProjection:
    projection = MetricsProjection(SUBJECTS)
    for seq, one in enumerate(messages, 1):
        projection.take(replace(one, seq=seq))
    projection.publish(0)
    return projection


def samples(projection: MetricsProjection) -> dict[str, float]:
    assert projection.shown is not None
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(as_text(projection.shown)):
        for sample in family.samples:
            labels = ",".join(
                f"{key}={value}" for key, value in sorted(sample.labels.items()) if key != "gen_ai_agent_id"
            )
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


@pytest.mark.parametrize("figure", [1.7e12, 1e308, -1.0])
def test_a_figure_that_cannot_be_is_in_no_histogram_and_flawed_frames_are_counted(figure: float) -> None:
    bodies = (
        CallStarted(session_id="s1"),
        TurnMetrics(turn_id=1, asr_ms=figure, ttfa_ms=500.0),
        TurnMetrics(turn_id=2, ttfa_ms=700.0, flaws=("asr_ms cannot be",)),
        FrameRejected(reason="not JSON", size=1),
    )
    found = samples(project(*(message("s1", "evt", body, index, index) for index, body in enumerate(bodies, 1))))
    assert found["unpod_turn_e2e_latency_seconds_sum"] == 1.2
    assert "unpod_turn_stt_latency_seconds_sum" not in found
    assert found["unpod_worker_flawed_frames_total{event=turn.metrics}"] == 1
    assert found["unpod_worker_flawed_frames_total{event=rejected}"] == 1


def test_what_the_model_costs_is_counted_once_and_only_where_it_is_known() -> None:
    calls = [
        LLMCalled(turn_id=turn, model="m", provider="p", cost=cost) for turn, cost in enumerate((0.25, 0.5, -1, 0), 1)
    ]
    written = [message("s1", "run", call, index, float(index)) for index, call in enumerate(calls, 1)]
    found = samples(project(message("s1", "evt", CallStarted(session_id="s1"), 1, 0.0), *written, *written))
    assert found["unpod_model_cost_total{gen_ai_provider_name=p,gen_ai_request_model=m}"] == 0.75


def test_a_call_gives_its_figures() -> None:
    bridge, owner = call_of("s1")
    found = samples(project(*bridge, *owner))
    assert found["unpod_calls_total{end_reason=hangup}"] == 1
    assert found["unpod_calls_active"] == 0
    assert found["unpod_call_duration_seconds_sum"] == 20
    assert found["unpod_call_duration_seconds_bucket{le=15.0}"] == 0
    assert found["unpod_call_duration_seconds_bucket{le=30.0}"] == 1
    assert found["unpod_turn_e2e_latency_seconds_count"] == 2
    assert found["unpod_turn_e2e_latency_seconds_sum"] == pytest.approx(0.903)
    assert found["unpod_turn_stt_latency_seconds_bucket{le=0.1}"] == 2  # an upper bound is inclusive
    assert found["unpod_turn_interruptions_total"] == 1
    assert found["unpod_takeovers_total"] == 1
    assert found["unpod_command_latency_seconds_sum{verb=say}"] == 0.125
    tokens = "gen_ai_operation_name=chat,gen_ai_provider_name=p,gen_ai_request_model=m,gen_ai_token_type"
    assert found[f"gen_ai_client_token_usage_sum{{{tokens}=input}}"] == 20
    assert found["unpod_consumer_lag{consumer=metrics}"] == 0


def test_a_call_in_progress_is_active() -> None:
    assert samples(project(message("s", "evt", CallStarted(session_id="s"), 1, 0)))["unpod_calls_active"] == 1


def test_a_session_that_never_started_counts_nothing() -> None:
    bridge, owner = call_of("s1")
    assert set(samples(project(*bridge[1:], *owner))) == {"unpod_consumer_lag{consumer=metrics}"}


def test_what_came_before_the_start_counts_once_it_has_come() -> None:
    bridge, owner = call_of("s1")
    assert samples(project(*owner, *bridge)) == samples(project(*bridge, *owner))


def test_reasons_of_agents_make_no_series_of_their_own() -> None:
    start = message("s", "evt", CallStarted(session_id="s"), 1, 0)
    end = message("s", "evt", CallEnded(reason="a private matter"), 2, 1)
    assert samples(project(start, end))["unpod_calls_total{end_reason=other}"] == 1


@pytest.mark.parametrize("figure", [-1.0, float("inf")])
def test_a_figure_that_cannot_be_is_left_out(figure: float) -> None:
    projection = MetricsProjection(SUBJECTS)
    projection.take(replace(message("s", "evt", CallStarted(session_id="s"), 1, 0), seq=1))
    projection.take(replace(message("s", "evt", TurnMetrics(turn_id=1, ttfa_ms=figure), 2, 1), seq=2))
    projection.publish(0)
    assert "unpod_turn_e2e_latency_seconds_count" not in samples(projection)


def test_figures_that_come_after_the_turn_was_completed_count_as_well() -> None:
    bridge, owner = call_of("s1")
    late = TurnMetrics(turn_id=2, ttfa_ms=500.0, tts_ttfb_ms=90.0)
    before_all = TurnMetrics(turn_id=0, ttfa_ms=500.0)
    start, end = bridge[0], message("s1", "evt", CallEnded(reason="hangup"), 4, 20.0)
    told = message("s1", "evt", late, 3, 9.0)
    found = samples(project(start, *owner, message("s1", "evt", before_all, 2, 0.1), told, told, end))
    assert found["unpod_turn_e2e_latency_seconds_count"] == found["unpod_turn_tts_ttfb_seconds_count"] == 1
    assert found["unpod_turn_llm_ttft_seconds_count"] == 2


def test_long_ended_sessions_are_forgotten_and_their_repeats_ignored() -> None:
    bridge, owner = call_of("s1")
    later = message("s2", "evt", CallStarted(session_id="s2"), 1, 10_000)
    projection = project(*bridge, *owner, later, owner[-1], bridge[2])
    assert samples(projection)["unpod_turn_e2e_latency_seconds_count"] == 2


def test_sessions_of_which_nothing_is_left_to_do_do_not_pile_up() -> None:
    """Thousands of short calls an hour: what is known of each goes when its owner has closed it."""
    closed = [
        part
        for number in range(50)
        for part in (
            message(f"s{number}", "evt", CallStarted(session_id=f"s{number}"), 1, number),
            message(f"s{number}", "evt", CallEnded(reason="hangup"), 2, number + 0.5),
            message(f"s{number}", "run", SessionFinished(), 1, number + 0.6),
        )
    ]
    projection = project(*closed)
    assert len(projection._state.sessions) < 20
    assert samples(projection)["unpod_calls_total{end_reason=hangup}"] == 50


def test_what_cannot_be_taken_is_refused_and_counted() -> None:
    projection = MetricsProjection(SUBJECTS)
    bad = replace(message("s", "evt", CallStarted(session_id="s"), 1, 0), data=b"[" * 100_000, seq=1)
    with pytest.raises(ProtocolViolation):
        projection.take(bad)
    projection.park(bad, "malformed")
    projection.publish(0)
    assert projection.position == 1
    assert samples(projection)["unpod_consumer_parked_total{reason=malformed}"] == 1


def test_a_checkpoint_brings_everything_back() -> None:
    bridge, owner = call_of("s1")
    first = project(*bridge, *owner)
    again = MetricsProjection(SUBJECTS)
    again.load(first.dump())
    again.publish(0)
    assert again.shown == first.shown
    assert again.position == first.position


def test_exemplars_lead_to_the_call_s_trace() -> None:
    projection = project(*(part for side in call_of("s1") for part in side))
    assert projection.shown is not None
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(lambda: projection.shown))
    text = generate_latest(registry).decode()  # type: ignore[no-untyped-call]
    assert f'trace_id="{trace_id("s1")}"' in text
    request = encode_metrics(to_otlp(projection.shown, Resource({})))
    metrics = {one.name: one for one in request.resource_metrics[0].scope_metrics[0].metrics}
    point = metrics["unpod.turn.e2e_latency"].histogram.data_points[0]
    assert {exemplar.trace_id.hex() for exemplar in point.exemplars} == {trace_id("s1")}
    assert (point.min, point.max, point.count) == (0.451, 0.452, 2)
    assert metrics["unpod.calls"].sum.is_monotonic
    assert metrics["unpod.calls.active"].gauge.data_points[0].as_int == 0
    assert metrics["unpod.turn.e2e_latency"].unit == "s"


def test_how_long_runners_were_looked_for_goes_by_new_calls_and_takeovers() -> None:
    found = samples(
        project(
            message("s", "evt", CallStarted(session_id="s"), 1, 0),
            message("s", "own", OwnerAppointed(runner="r1", waited_ms=4.0), 0, 0, identifier="a" * 32, epoch=0),
            message("s", "own", OwnerAppointed(runner="r1", waited_ms=4.0), 0, 0, identifier="a" * 32, epoch=0),
            message("s", "own", OwnerAppointed(runner="r2", takeover=1), 0, 5, identifier="b" * 32, epoch=0),
            message("s", "own", OwnerAppointed(runner="r3", takeover=2, waited_ms=800), 0, 6, identifier="c" * 32),
        )
    )
    assert found["unpod_dispatch_wait_seconds_count{kind=new}"] == 1
    assert found["unpod_dispatch_wait_seconds_bucket{kind=new,le=0.005}"] == 1
    assert found["unpod_dispatch_wait_seconds_sum{kind=takeover}"] == 0.8
    assert found["unpod_takeovers_total"] == 2


def test_a_replay_is_timed_once() -> None:
    done = message("s", "run", ReplayCompleted(records=80, duration_ms=12.0), 9, 1, epoch=7)
    found = samples(project(message("s", "evt", CallStarted(session_id="s"), 1, 0), done, done))
    assert found["unpod_replay_duration_seconds_sum"] == 0.012
    assert found["unpod_replay_duration_seconds_count"] == 1


def test_what_is_kept_of_a_call_does_not_grow_with_it() -> None:
    projection = MetricsProjection(SUBJECTS)
    sizes = []
    seq = index = told = 0

    def take(channel: Literal["cmd", "run", "ack", "evt"], body: Struct, identifier: str = "") -> None:
        nonlocal seq, index, told
        seq += 1
        if channel in {"cmd", "run"}:
            index += 1
        else:
            told += 1
        at = index if channel in {"cmd", "run"} else told
        projection.take(replace(message("s", channel, body, at, seq / 10, identifier=identifier), seq=seq))

    take("evt", CallStarted(session_id="s"))
    for turn in range(1, 501):
        take("run", LLMCalled(turn_id=turn, model="m", latency_ms=300.0, tokens_in=10))
        take("cmd", Say(text="hm"), f"say-{turn}")
        take("ack", CommandAcknowledged(command=f"say-{turn}", verb="say", outcome="written", owner_index=index))
        take("cmd", EndReply(turn=turn), f"end-{turn}")
        take("evt", TurnMetrics(turn_id=turn, ttfa_ms=300.0))
        take("run", TurnCompleted(turn_id=turn, ttfa_ms=300.0))
        sizes.append(len(projection.dump()))
    assert sizes[-1] - sizes[10] < 100
    projection.publish(0)
    assert samples(projection)["unpod_command_latency_seconds_count{verb=say}"] == 500


@pytest.mark.slow
def test_ten_thousand_calls_are_a_checkpoint_of_little_more_than_a_megabyte() -> None:
    projection = MetricsProjection(SUBJECTS)
    seq = 0
    for number in range(2_000):
        bridge, owner = call_of(f"3f2504e0-4f89-11d3-9a0c-{number:012d}")
        for one in (*bridge[:-1], *owner):
            seq += 1
            projection.take(replace(one, seq=seq))
    assert len(projection.dump()) / 2_000 < 110


def test_a_checkpoint_of_another_version_is_as_good_as_none() -> None:
    projection = MetricsProjection(SUBJECTS)
    projection.load(zlib.compress(msgspec.msgpack.encode({"position": 5, "state": {}, "version": 1})))
    projection.load(b"nonsense")
    assert projection.position == 0
