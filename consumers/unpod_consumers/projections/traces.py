"""A call's records to its trace: the same spans, with the same ids, from whatever process and however often.

Each span belongs to the record that says that it is over: `call.started` to the mark of the start, `turn.completed` to
its turn, `call.ended` to the root and to what happened to the call as a whole. It is made of that record and of those
that stand before it in the log, so it comes out the same whoever reads the call, and when.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from unpod.core.codec import Record
from unpod.core.events import FAILED_REASONS, CallEnded, CallStarted, LLMCalled, TurnCompleted
from unpod.core.traces import root_span, span_id, trace_id, turn_span
from unpod.core.turn_ids import is_stage_ms
from unpod_consumers.projections.call_facts import CallFacts, ControlFacts, Takeover, ToolFacts, TurnFacts
from unpod_consumers.projections.sampling import Sampling
from unpod_consumers.projections.spans import Attribute, Moment, Span

ABANDONED: Final = "abandoned"
"""The kind of error of a call whose log ends without its end."""

_MS: Final = 1_000
_MAX_CONTENT: Final = 8_000


class CallTrace:
    """The spans of one call; `content` lets through what was said."""

    def __init__(self, session: str, agent: str, *, content: bool = False) -> None:
        self._session = session
        self._agent = agent
        self._content = content
        self._trace = trace_id(session)
        self._root = root_span(session)
        self.facts = CallFacts()

    def is_wanted(self, sampling: Sampling) -> bool:
        """Return whether this trace is one of those that are sent."""
        return sampling.takes(self._trace)

    def take(self, record: Record) -> list[Span]:
        """Take the next record in stream order; return the spans that it gives, none before the call has started."""
        if not self.facts.take(record) or self.facts.started is None:
            return []
        match record.body:
            case CallStarted() if record is self.facts.started:
                return self._mark()
            case TurnCompleted(turn_id=number) if number in self.facts.turns:
                spans = self._turn(self.facts.turns[number])
                self.facts.close(number)
                return spans
            case CallEnded(reason=reason) if record is self.facts.ended:
                return [self._conversation(record.envelope.time, reason), *self._around(record.envelope.time)]
            case _:
                return []

    def abandoned(self) -> list[Span]:
        """Return what is missing of a call that has started, and whose end nobody has written."""
        facts = self.facts
        if facts.started is None or facts.ended is not None:
            return []
        unfinished = [span for _, turn in sorted(facts.turns.items()) for span in self._turn(turn)]
        return [self._conversation(facts.last, ABANDONED), *unfinished, *self._around(facts.last)]

    # ---------------------------------------------------------------------------------------------------- the call

    def _mark(self) -> list[Span]:
        started = self.facts.started
        if started is None:
            return []
        time = started.envelope.time
        return [self._span("call start", started.envelope.id, self._root, (time, time), links=self._dispatched())]

    def _dispatched(self) -> tuple[str, ...]:
        """Return the traceparent of who dispatched the call, as its metadata has it."""
        body = self.facts.started.body if self.facts.started is not None else None
        given = body.metadata.get("traceparent") if isinstance(body, CallStarted) else None
        return (given,) if isinstance(given, str) else ()

    def _conversation(self, end: float, reason: str) -> Span:
        facts = self.facts
        start = facts.started.envelope.time if facts.started is not None else end
        events = [Moment(name, time, {"error.type": kind}) for time, name, kind in facts.errors]
        events += [Moment("call.reattached", time) for time in facts.reattached]
        attributes: dict[str, Attribute] = {
            "unpod.end_reason": reason,
            "unpod.takeovers": len(facts.takeovers),
            "unpod.turns": facts.turn_count,
        }
        failed = reason if reason in FAILED_REASONS or reason == ABANDONED else ""
        return self._span(
            "conversation",
            self._session,
            "",
            (start, end),
            attributes,
            events=events,
            links=self._dispatched(),
            error=failed,
        )

    def _around(self, end: float) -> list[Span]:
        spans = [self._takeover(takeover) for takeover in self.facts.takeovers]
        return [*spans, *(self._control(control, end) for control in self.facts.controls.values())]

    def _takeover(self, takeover: Takeover) -> Span:
        end = takeover.began if takeover.resumed is None else takeover.resumed
        attributes: dict[str, Attribute] = {"unpod.takeover": takeover.number, "unpod.runner": takeover.runner}
        return self._span("takeover", takeover.record, self._root, (takeover.began, end), attributes)

    def _control(self, control: ControlFacts, end: float) -> Span:
        attributes: dict[str, Attribute] = {"messaging.system": "nats", "unpod.outcome": control.outcome}
        traceparent = self.facts.traceparents.get(control.control, "")
        return self._span(
            f"control {control.verb}".rstrip(),
            control.control,
            self._root,
            (control.began, end if control.outcome == "admitted" else control.ended),
            attributes,
            links=(traceparent,) if traceparent else (),
            error=control.outcome if control.outcome in {"refused", "failed"} else "",
        )

    # ---------------------------------------------------------------------------------------------------- one turn

    def _turn(self, turn: TurnFacts) -> list[Span]:
        record = turn.completed
        done = TurnCompleted(turn_id=turn.number, outcome="ended")
        if record is not None and isinstance(record.body, TurnCompleted):
            done = record.body
        asked = done.started_at or turn.seen[0]
        end = max(done.ended_at or turn.seen[1], turn.spoken[1] if turn.spoken else 0.0, asked)
        heard = asked - _seconds(done.asr_ms)
        attributes: dict[str, Attribute] = {"turn.number": turn.number, "turn.was_interrupted": done.interrupted}
        if self._content:
            attributes |= _said("gen_ai.input.messages", done.user_text)
            attributes |= _said("gen_ai.output.messages", done.agent_text)
        events = [Moment("interruption", time) for time in turn.interruptions]
        events += [Moment("error", time, {"error.type": code}) for time, code in turn.failures]
        error = turn.failures[0][1] if turn.failures else ("" if record is not None else "unfinished")
        parent, key = turn_span(self._session, turn.number), f"turn:{turn.number}"
        spans = [self._span("turn", key, self._root, (heard, end), attributes, events=events, error=error)]
        if is_stage_ms(done.asr_ms):
            spans.append(self._span("speech_to_text", key, parent, (heard, asked)))
        return [*spans, *self._brain(turn, done, (asked, end)), *self._speech(turn, done, parent)]

    def _brain(self, turn: TurnFacts, done: TurnCompleted, within: tuple[float, float]) -> list[Span]:
        asked, end = within
        key, name = f"turn:{turn.number}", f"invoke_agent {self._agent}"
        inner = span_id(self._trace, key, name)
        # Of a single call without a figure of its own the session has measured the time.
        measured = done.llm_total_ms if len(turn.models) == 1 else None
        chats = [self._chat(record, inner, measured) for record in turn.models]
        if not chats and is_stage_ms(done.llm_total_ms):
            attributes = _model(done.model, done.provider, done.llm_ttft_ms, (done.tokens_in, done.tokens_out))
            until = asked + _seconds(done.llm_total_ms)
            chats = [self._span(_chat_name(done.model), key, inner, (asked, until), attributes)]
        inside = [*chats, *(self._tool(tool, inner, end) for tool in turn.tools)]
        closed = turn.reply_ended or max([asked, *(span.end for span in inside)])
        agent: dict[str, Attribute] = {"gen_ai.operation.name": "invoke_agent"}
        parent = turn_span(self._session, turn.number)
        return [self._span(name, key, parent, (asked, closed), agent), *inside]

    def _chat(self, record: Record, parent: str, measured_ms: float | None) -> Span:
        body = record.body if isinstance(record.body, LLMCalled) else LLMCalled()
        end = record.envelope.time
        attributes = _model(body.model, body.provider, body.ttft_ms, (body.tokens_in, body.tokens_out))
        if body.cached:
            attributes["gen_ai.usage.cache_read.input_tokens"] = body.cached
        if body.cache_write:
            attributes["gen_ai.usage.cache_creation.input_tokens"] = body.cache_write
        start = end - _seconds(measured_ms if body.latency_ms is None else body.latency_ms)
        return self._span(_chat_name(body.model), record.envelope.id, parent, (start, end), attributes)

    def _tool(self, tool: ToolFacts, parent: str, turn_end: float) -> Span:
        attributes: dict[str, Attribute] = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": tool.name,
            "gen_ai.tool.call.id": tool.call_id,
        }
        if self._content:
            attributes["gen_ai.tool.call.arguments"] = _json(tool.arguments)
            attributes["gen_ai.tool.call.result"] = _json(tool.result)
        end = turn_end if tool.ended is None else tool.ended
        error = "no_result" if tool.ended is None else ""
        name = f"execute_tool {tool.name}"
        return self._span(name, tool.record.envelope.id, parent, (tool.started, end), attributes, error=error)

    def _speech(self, turn: TurnFacts, done: TurnCompleted, parent: str) -> list[Span]:
        if turn.spoken is None:
            return []
        attributes: dict[str, Attribute] = {}
        if is_stage_ms(done.tts_ttfb_ms):
            attributes["gen_ai.response.time_to_first_chunk"] = _seconds(done.tts_ttfb_ms)
        return [self._span("text_to_speech", f"turn:{turn.number}", parent, turn.spoken, attributes)]

    def _span(
        self,
        name: str,
        event: str,
        parent: str,
        times: tuple[float, float],
        attributes: Mapping[str, Attribute] | None = None,
        *,
        events: Iterable[Moment] = (),
        links: tuple[str, ...] = (),
        error: str = "",
    ) -> Span:
        common: dict[str, Attribute] = {
            "session.id": self._session,
            "gen_ai.conversation.id": self._session,
            "gen_ai.agent.id": self._agent,
            **(attributes or {}),
        }
        if error:
            common["error.type"] = error
        start, end = times
        moments = tuple(sorted(events, key=lambda moment: (moment.time, moment.name)))
        identifier = span_id(self._trace, event, name)
        return Span(name, self._trace, identifier, parent, start, max(start, end), common, moments, links, error)


def spans_of_log(session: str, agent: str, records: Iterable[Record], *, content: bool = False) -> list[Span]:
    """Return all spans of a call as it stands in the log; without its end it is taken for abandoned."""
    trace = CallTrace(session, agent, content=content)
    spans = [span for record in sorted(records, key=lambda record: record.seq) for span in trace.take(record)]
    return [*spans, *trace.abandoned()]


def _model(
    model: str | None, provider: str | None, ttft_ms: float | None, tokens: tuple[int, int]
) -> dict[str, Attribute]:
    attributes: dict[str, Attribute] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.usage.input_tokens": tokens[0],
        "gen_ai.usage.output_tokens": tokens[1],
    }
    if model:
        attributes["gen_ai.request.model"] = model
    if provider:
        attributes["gen_ai.provider.name"] = provider
    if is_stage_ms(ttft_ms):
        attributes["gen_ai.response.time_to_first_chunk"] = _seconds(ttft_ms)
    return attributes


def _chat_name(model: str | None) -> str:
    return f"chat {model or ''}".rstrip()


def _said(name: str, text: str | None) -> dict[str, Attribute]:
    return {name: text[:_MAX_CONTENT]} if text else {}


def _seconds(figure_ms: float | None) -> float:
    return figure_ms / _MS if is_stage_ms(figure_ms) else 0.0


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()[:_MAX_CONTENT]
