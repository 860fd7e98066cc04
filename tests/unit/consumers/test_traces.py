"""The traces of recorded calls: real logs, among them one with two takeovers."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from tests.histories.recorder import Line

from unpod.core import codec
from unpod.core.codec import Record
from unpod.core.controls import EndSession
from unpod.core.events import CallEnded, CallStarted, ControlAnswered
from unpod.core.subjects import Subjects
from unpod.core.traces import root_span, trace_id, turn_span
from unpod_consumers.exporters.otlp_traces import to_otel
from unpod_consumers.projections.spans import Span
from unpod_consumers.projections.traces import ABANDONED, CallTrace, spans_of_log

HISTORIES = Path(__file__).parents[2] / "histories" / "v0.1.0"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def recorded(name: str) -> list[Record]:
    lines = [msgspec.json.decode(line, type=Line) for line in (HISTORIES / f"{name}.jsonl").read_bytes().splitlines()]
    subjects = Subjects()
    return [codec.read(subjects, at.subject, at.headers, at.data.encode(), at.seq) for at in lines]


CONVERSATION, TAKEOVER = recorded("conversation"), recorded("takeover")


def trace_of(records: list[Record], *, content: bool = False) -> list[Span]:
    return spans_of_log(records[0].envelope.session, "agt_1", records, content=content)


def named(spans: list[Span], name: str) -> list[Span]:
    return [span for span in spans if span.name == name]


def test_one_trace_with_one_root_and_every_parent_in_it() -> None:
    spans = trace_of(CONVERSATION)
    assert {span.trace_id for span in spans} == {trace_id("history-conversation")}
    ids = [span.span_id for span in spans]
    assert len(ids) == len(set(ids))
    assert [span.name for span in spans if not span.parent_id] == ["conversation"]
    assert {span.parent_id for span in spans if span.parent_id} <= set(ids)
    assert all(span.end >= span.start for span in spans)


def test_a_turn_has_its_stages_in_real_time() -> None:
    spans = trace_of(CONVERSATION)
    first = next(span for span in named(spans, "turn") if span.attributes["turn.number"] == 1)
    assert first.span_id == turn_span("history-conversation", 1)
    assert first.parent_id == root_span("history-conversation")
    assert first.attributes["turn.was_interrupted"] is True
    assert [moment.name for moment in first.events] == ["interruption"]
    heard = named(spans, "speech_to_text")[0]
    assert heard.end - heard.start == pytest.approx(0.1, abs=1e-6)
    agent = next(span for span in named(spans, "invoke_agent agt_1") if span.parent_id == first.span_id)
    chat = named(spans, "chat gpt")[0]
    assert chat.parent_id == agent.span_id
    assert chat.end - chat.start == pytest.approx(0.12, abs=1e-6)
    assert (chat.attributes["gen_ai.usage.input_tokens"], chat.attributes["gen_ai.provider.name"]) == (100, "acme")
    tool = named(spans, "execute_tool lookup")[0]
    assert (tool.parent_id, tool.attributes["gen_ai.tool.call.id"]) == (agent.span_id, "t1")


def test_what_was_said_goes_out_only_where_asked_for() -> None:
    silent = msgspec.json.encode(trace_of(CONVERSATION)).decode()
    assert "where is my order" not in silent
    assert "Monday" not in silent
    loud = msgspec.json.encode(trace_of(CONVERSATION, content=True)).decode()
    assert "where is my order" in loud
    assert "4111" not in loud  # it was withheld


def test_trouble_is_visible_without_its_text() -> None:
    root = named(trace_of(CONVERSATION), "conversation")[0]
    assert {("hook.failed", "exception"), ("error.warn", "slow")} <= {
        (moment.name, moment.attributes["error.type"]) for moment in root.events if moment.attributes
    }
    assert not root.error


def test_takeovers_are_spans_until_the_new_runner_is_there() -> None:
    spans = trace_of(TAKEOVER)
    assert [span.attributes["unpod.takeover"] for span in named(spans, "takeover")] == [1, 2]
    assert named(spans, "conversation")[0].attributes["unpod.takeovers"] == 2


def test_a_call_that_died_gets_its_root_with_what_was_left_open() -> None:
    cut = next(at for at, record in enumerate(CONVERSATION) if isinstance(record.body, CallEnded))
    spans = trace_of(CONVERSATION[:cut])
    root = named(spans, "conversation")[0]
    assert (root.error, root.span_id) == (ABANDONED, root_span("history-conversation"))
    assert "unfinished" in {span.error for span in named(spans, "turn")}


def test_without_a_start_there_is_no_trace() -> None:
    rest = [record for record in CONVERSATION if not isinstance(record.body, CallStarted)]
    assert trace_of(rest) == []
    assert trace_of(rest) == []


def test_who_dispatched_the_call_is_linked() -> None:
    records = [
        msgspec.structs.replace(record, body=msgspec.structs.replace(record.body, metadata={"traceparent": PARENT}))
        if isinstance(record.body, CallStarted)
        else record
        for record in CONVERSATION
    ]
    spans = trace_of(records)
    assert {span.name for span in spans if span.links == (PARENT,)} == {"conversation", "call start"}
    sent = encode_spans([to_otel(span, Resource({})) for span in spans])
    links = [link for span in sent.resource_spans[0].scope_spans[0].spans for link in span.links]
    assert {link.trace_id.hex() for link in links} == {"0af7651916cd43dd8448eb211c80319c"}


@pytest.mark.parametrize("given", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_a_traceparent_that_is_none_links_nothing(given: str) -> None:
    span = Span("x", trace_id("s"), root_span("s"), "", 1.0, 2.0, links=(given,))
    assert not to_otel(span, Resource({})).links


@settings(max_examples=60)
@given(st.permutations(TAKEOVER), st.lists(st.sampled_from(TAKEOVER), max_size=8))
def test_order_and_repeats_change_no_span(shuffled: list[Record], again: list[Record]) -> None:
    assert trace_of([*shuffled, *again]) == trace_of(TAKEOVER)


@pytest.mark.parametrize("records", [CONVERSATION, TAKEOVER])
def test_what_was_sent_stays_as_it_is_whatever_is_written_later(records: list[Record]) -> None:
    sent: list[Span] = []
    trace = CallTrace(records[0].envelope.session, "agt_1")
    for end, record in enumerate(records, 1):
        sent += trace.take(record)
        assert trace_of(records[:end])[: len(sent)] == sent
    assert sent == trace_of(records)


def test_of_a_long_call_no_more_is_kept_than_of_a_short_one() -> None:
    trace = CallTrace("s", "a")
    turn = [record for record in TAKEOVER if record.channel in {"run", "cmd"} and record.envelope.epoch == 18]
    start = next(record for record in TAKEOVER if isinstance(record.body, CallStarted))
    trace.take(start)
    for number in range(1, 400):
        for at, record in enumerate(turn, 1):
            body = record.body
            if "turn_id" in body.__struct_fields__:
                body = msgspec.structs.replace(body, turn_id=number)
            if "turn" in body.__struct_fields__:
                body = msgspec.structs.replace(body, turn=number)
            index = number * len(turn) + at
            envelope = msgspec.structs.replace(record.envelope, id=f"r{index}", index=index)
            trace.take(msgspec.structs.replace(record, envelope=envelope, body=body, seq=0))
    assert len(trace.facts.turns) <= 1
    assert trace.facts.turn_count >= 399


def test_a_command_from_outside_is_a_span_linked_to_who_gave_it() -> None:
    started = next(record for record in CONVERSATION if isinstance(record.body, CallStarted))
    told = next(record for record in CONVERSATION if record.envelope.type == "ack.command.acknowledged")
    asked = msgspec.structs.replace(
        told,
        channel="ctl",
        envelope=msgspec.structs.replace(told.envelope, id="c1", type="ctl.end", traceparent=PARENT, epoch=0, index=0),
        body=EndSession(),
    )
    admitted = msgspec.structs.replace(
        told, body=ControlAnswered(control="c1", outcome="admitted", body=EndSession(actor="somebody"))
    )
    rest = [record for record in CONVERSATION if record is not told]
    span = named(trace_of([*rest, asked, admitted]), "control end")[0]
    assert (span.parent_id, span.links, span.error) == (root_span("history-conversation"), (PARENT,), "")
    assert span.attributes["unpod.outcome"] == "admitted"
    assert "somebody" not in str(span)
    refused = msgspec.structs.replace(told, body=ControlAnswered(control="c1", outcome="refused", body=EndSession()))
    assert named(trace_of([*rest, asked, refused]), "control end")[0].error == "refused"
    assert started.envelope.time <= span.start
