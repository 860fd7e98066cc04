"""One line for each kind of record: what it says, for people."""

from __future__ import annotations

import json
from functools import singledispatch
from typing import Final

import msgspec
from msgspec import Struct

from unpod.core import commands as cmd
from unpod.core import events as ev

WITHHELD: Final = "[withheld]"

_SAME: Final = frozenset({"withheld"})


@singledispatch
def summary(body: object) -> str:
    """Return what a record says, in words; what has no words of its own is shown field by field."""
    if not isinstance(body, Struct):
        return ""
    fields = {name: value for name, value in msgspec.structs.asdict(body).items() if value not in (None, "", 0, (), {})}
    return ", ".join(f"{name} {_short(value)}" for name, value in fields.items() if name not in _SAME)


def is_withheld(body: object) -> bool:
    """Return whether texts were taken out of a record before it was stored."""
    return bool(getattr(body, "withheld", False))


def quoted(text: str | None) -> str:
    """Return a text as speech."""
    return "" if text is None else f"“{text}”"


def joined(*parts: str) -> str:
    """Return the parts that say something, set apart."""
    return " · ".join(part for part in parts if part)


def milliseconds(value: float | None) -> str:
    """Return a latency, rounded."""
    return "" if value is None else f"{value:.0f} ms"


def counted(count: int, noun: str) -> str:
    """Return a number of things."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _short(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(msgspec.to_builtins(value), ensure_ascii=False)


# --- placements -------------------------------------------------------------------------------------------------------


@summary.register
def _(body: ev.LineTaken) -> str:
    return f"{body.bridge} holds the line"


@summary.register
def _(body: ev.OwnerAppointed) -> str:
    return f"{body.runner} owns the session"


# --- the caller's side ------------------------------------------------------------------------------------------------


@summary.register
def _(body: ev.HelloAcked) -> str:
    return (
        f"{counted(len(body.negotiated_verbs), 'verb')} and {counted(len(body.negotiated_events), 'event')} negotiated"
    )


@summary.register
def _(body: ev.CallStarted) -> str:
    direction = body.metadata.get("direction")
    return joined(str(body.agent_id or ""), direction if isinstance(direction, str) else "inbound")


@summary.register
def _(body: ev.UserText) -> str:
    if body.withheld:
        return WITHHELD
    return joined(quoted(body.text), body.language_tag or "", "" if body.is_final else "not final")


@summary.register
def _(body: ev.UserInterrupted) -> str:
    if body.withheld:
        return WITHHELD
    return "cuts in" if body.heard_prefix is None else f"cuts in after hearing {quoted(body.heard_prefix)}"


@summary.register
def _(body: ev.WorkerError) -> str:
    return joined(f"{body.severity} of {body.source}", body.code, body.message)


@summary.register
def _(body: ev.CallMetric) -> str:
    cost = "" if body.cost_usd_so_far is None else f"${body.cost_usd_so_far:.4f} so far"
    return joined(counted(body.turns or 0, "turn"), cost)


@summary.register
def _(body: ev.TurnMetrics) -> str:
    parts = (("first audio", body.ttfa_ms), ("stt", body.asr_ms), ("brain", body.llm_ttft_ms))
    figures = ", ".join(f"{name} {value:.0f}" for name, value in parts if value is not None)
    return joined(f"turn {body.turn_id}", f"{figures} ms" if figures else "")


@summary.register
def _(body: ev.StateChanged) -> str:
    return body.state


@summary.register
def _(body: ev.FrameUnknown) -> str:
    return WITHHELD if body.withheld else joined(f"type {body.type!r}", _short(body.frame))


@summary.register
def _(body: ev.FrameRejected) -> str:
    return joined(body.reason, f"{body.size} bytes")


@summary.register
def _(body: ev.CallEnded) -> str:
    return joined(f"{body.reason}, by {body.by}", body.detail)


# --- receipts ---------------------------------------------------------------------------------------------------------


@summary.register
def _(body: ev.CommandAcknowledged) -> str:
    return joined(f"{body.verb} #{body.owner_index} {body.outcome}", body.reason)


@summary.register
def _(body: ev.ReplySpoken) -> str:
    pieces = f"{counted(body.deltas, 'piece')}, {counted(body.chars, 'character')}"
    return joined(f"reply {body.turn}: {pieces}", "to its end" if body.ended else "")


@summary.register
def _(body: ev.OwnerChanged) -> str:
    unsure = f"nobody knows how far reply {body.turn} was spoken" if 0 < body.turn <= body.unsure_until else ""
    return joined(f"{body.runner} begins under epoch {body.epoch}", unsure)


# --- the session ------------------------------------------------------------------------------------------------------


@summary.register
def _(body: ev.TurnCompleted) -> str:
    figures = "" if body.ttfa_ms is None else f"first audio after {body.ttfa_ms:.0f} ms"
    if body.withheld:
        return joined(f"turn {body.turn_id} {body.outcome}", WITHHELD)
    heard = f"heard {quoted(body.heard_text)}" if body.interrupted else ""
    return joined(f"turn {body.turn_id} {body.outcome}", heard, figures)


@summary.register
def _(body: ev.LLMCalled) -> str:
    return joined(body.model or "", f"{body.tokens_in} → {body.tokens_out} tokens", milliseconds(body.latency_ms))


@summary.register
def _(body: ev.ToolCalled) -> str:
    return joined(body.name, WITHHELD if body.withheld else _short(body.arguments))


@summary.register
def _(body: ev.ToolReturned) -> str:
    return joined(body.name, WITHHELD if body.withheld else _short(body.result))


@summary.register
def _(body: ev.SilenceNoticed) -> str:
    return f"nobody has spoken for {body.seconds:g} s"


@summary.register
def _(_body: ev.Settled) -> str:
    return ""


@summary.register
def _(body: ev.ReplayCompleted) -> str:
    return joined(f"{body.records} records", milliseconds(body.duration_ms))


@summary.register
def _(body: ev.CallCompleted) -> str:
    return joined(body.reason, counted(body.turns, "turn"), f"{body.duration_s:.1f} s")


@summary.register
def _(body: ev.SessionFinished) -> str:
    return "failed" if body.failed else "the entrypoint has returned"


# --- commands ---------------------------------------------------------------------------------------------------------


@summary.register
def _(body: cmd.Say) -> str:
    return WITHHELD if body.withheld else quoted(body.text)


@summary.register
def _(body: cmd.EndReply) -> str:
    pieces = f"{counted(body.deltas, 'piece')}, {counted(body.chars, 'character')}"
    return joined(f"reply {body.turn}: {pieces}", "" if body.reason == "done" else body.reason)


@summary.register
def _(body: cmd.SetFiller) -> str:
    return WITHHELD if body.withheld else quoted(body.text)


@summary.register
def _(body: cmd.Transfer) -> str:
    return joined(f"{body.mode}, to {body.transfer_type} {body.target}", quoted(body.announcement))


@summary.register
def _(body: cmd.EndCall) -> str:
    return body.reason


@summary.register
def _(body: cmd.PauseRecording) -> str:
    return body.reason


@summary.register
def _(_body: cmd.ResumeRecording) -> str:
    return ""
