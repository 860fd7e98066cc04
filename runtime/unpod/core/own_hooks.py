"""The hooks that tell of what the session itself did, and what they are given: they follow from the record of it.

So it makes no difference who asks: a decision that writes such a record now, or a takeover that finds it in the log.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypedDict

from msgspec.structs import asdict

from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.codec import Record
from unpod.core.decision import FireHooks


class TurnFields(TypedDict):
    """What a `turn_complete` hook is given, by name. Times in milliseconds."""

    turn_id: int
    user_text: str | None
    agent_text: str | None
    heard_text: str | None
    interrupted: bool
    ttfa_ms: float | None
    asr_ms: float | None
    stt_ms: float | None
    llm_ttft_ms: float | None
    llm_total_ms: float | None
    llm_call_count: int
    tts_ttfb_ms: float | None
    tts_ms: float | None
    from_node: str | None
    to_node: str | None


class ModelCallFields(TypedDict):
    """What an `llm_call` hook is given, by name. Times in milliseconds, `cost` in US dollars."""

    turn_id: int
    model: str | None
    provider: str | None
    call_type: str | None
    latency_ms: float | None
    ttft_ms: float | None
    tokens_in: int
    tokens_out: int
    cached: int
    cache_write: int
    estimated: bool
    cost: float | None
    node_id: str | None
    edge_id: str | None
    prompt_messages: object
    response_json: object


TURN_FIELDS: Final = tuple(TurnFields.__annotations__)


def of_record(record: Record, texts: dict[int, str]) -> Iterator[FireHooks]:
    """Yield the hooks that were due when an owner wrote a record; `texts` is what was sent of each reply."""
    match record.body:
        case ev.TurnCompleted() as body:
            yield turn_complete(body)
        case ev.LLMCalled() | ev.ToolCalled() | ev.ToolReturned() as body:
            yield report(body)
        case ev.SilenceNoticed() as body:
            yield silence(body)
        case ev.AdapterFailed() as body:
            yield failure(body)
        case cmd.EndReply() as body:
            yield from agent_turn(body.turn, texts.get(body.turn, ""))
        case _:
            return


def agent_turn(turn: int, text: str) -> tuple[FireHooks, ...]:
    """Tell of a reply whose end is stored, if it had a text."""
    return (FireHooks("agent_turn", (text,), turn=turn, own=True),) if text else ()


def turn_complete(fact: ev.TurnCompleted) -> FireHooks:
    """Tell of the completion of a turn."""
    fields: dict[str, object] = {**asdict(fact), "stt_ms": fact.asr_ms, "tts_ms": fact.tts_ttfb_ms}
    given = {name: fields[name] for name in TURN_FIELDS}
    return FireHooks("turn_complete", kwargs=given, turn=fact.turn_id, own=True)


def report(fact: ev.LLMCalled | ev.ToolCalled | ev.ToolReturned) -> FireHooks:
    """Tell of a report of the adapter."""
    if isinstance(fact, ev.ToolCalled):
        return FireHooks("tool_call", (fact.name, fact.arguments, fact.call_id), turn=fact.turn_id, own=True)
    if isinstance(fact, ev.ToolReturned):
        return FireHooks("tool_result", (fact.name, fact.result, fact.call_id), turn=fact.turn_id, own=True)
    fields = asdict(fact)
    del fields["withheld"]
    return FireHooks("llm_call", kwargs=fields, turn=fact.turn_id, own=True)


def failure(fact: ev.AdapterFailed) -> FireHooks:
    """Tell of a failure of the adapter."""
    return FireHooks("error", (fact.code, fact.error, "error", "adapter"), own=True)


def silence(fact: ev.SilenceNoticed) -> FireHooks:
    """Tell of a silence."""
    return FireHooks("silence", (fact.seconds,), own=True)
