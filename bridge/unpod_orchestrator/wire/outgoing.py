"""The frames that the worker and the orchestrator send, every field well-typed. Pure.

`hostile_frames` is the opposite, for tests of clients: what no worker should send, and no client may die of.
"""

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from unpod_orchestrator.wire.call_frames import RawFrame
from unpod_orchestrator.wire.constants import MAX_FRAME_BYTES, PROTOCOL_VERSION

CallState: TypeAlias = Literal["idle", "listening", "thinking", "speaking", "interrupted"]


class CallIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """The ids of one call, and what the caller's side knows of it."""

    session_id: str
    job_id: str
    call_id: str
    room_id: str
    agent_id: str | None
    voice_profile_id: str | None = None
    metadata: RawFrame = {}


class TurnTimes(msgspec.Struct, frozen=True, kw_only=True):
    """What one turn took, in milliseconds; the `llm_` ones are measured, the others simulated."""

    turn_id: int
    asr_ms: float
    llm_ttft_ms: float | None
    llm_total_ms: float
    tts_ttfb_ms: float | None

    @property
    def ttfa_ms(self) -> float | None:
        """From the end of the caller's words to the first audio; None for a reply without any."""
        if self.llm_ttft_ms is None or self.tts_ttfb_ms is None:
            return None
        return self.asr_ms + self.llm_ttft_ms + self.tts_ttfb_ms


def encode(frame: RawFrame) -> str:
    """The frame as text; `ValueError` for more than 1 MiB, or for text that is not Unicode."""
    data = msgspec.json.encode(frame)
    if len(data) > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {len(data)} bytes: the wire takes 1 MiB at most")
    return data.decode()


def hello_ack(who: CallIdentity, events: Sequence[str], verbs: Sequence[str]) -> RawFrame:
    """What both sides speak."""
    return {
        "event": "hello.ack",
        "protocol_version": PROTOCOL_VERSION,
        "negotiated_events": list(events),
        "negotiated_verbs": list(verbs),
        "call_id": who.call_id,
        "session_id": who.session_id,
        "job_id": who.job_id,
        "room_id": who.room_id,
    }


def call_started(who: CallIdentity) -> RawFrame:
    """The call's ids and metadata."""
    return {
        "event": "call.started",
        "session_id": who.session_id,
        "job_id": who.job_id,
        "room_id": who.room_id,
        "metadata": dict(who.metadata),
        "voice_profile_id": who.voice_profile_id,
        "agent_id": who.agent_id,
    }


def user_text(text: str, *, is_final: bool, language: str | None, extra: RawFrame | None) -> RawFrame:
    """What the caller said, or is saying."""
    frame: RawFrame = {"event": "user.text", "text": text, "is_final": is_final}
    if extra is not None or language is not None:
        frame["extra"] = {**(extra or {}), **({} if language is None else {"language": language})}
    return frame


def user_interrupted(turn_id: int, heard_prefix: str | None) -> RawFrame:
    """The caller cut in."""
    return {"event": "user.interrupted", "turn_id": turn_id, "heard_prefix": heard_prefix}


def state(name: CallState, turn_id: int) -> RawFrame:
    """What the call is doing."""
    return {"event": "state", "state": name, "turn_id": turn_id}


def error(severity: str, source: str, code: str, message: str) -> RawFrame:
    """Something went wrong on the caller's side."""
    return {"event": "error", "severity": severity, "source": source, "code": code, "message": message}


def turn_metrics(call_id: str, times: TurnTimes) -> RawFrame:
    """What one turn took."""
    return {
        "event": "turn.metrics",
        "call_id": call_id,
        "turn_id": times.turn_id,
        "ttfa_ms": times.ttfa_ms,
        "asr_ms": times.asr_ms,
        "llm_ttft_ms": times.llm_ttft_ms,
        "tts_ttfb_ms": times.tts_ttfb_ms,
        "llm_total_ms": times.llm_total_ms,
        "llm_call_count": 1,
        "from_node": None,
        "to_node": None,
    }


def metric(turns: Sequence[TurnTimes], cost_usd: float) -> RawFrame:
    """The call so far."""
    last = turns[-1].ttfa_ms if turns else None
    return {
        "event": "metric",
        "ttfa_ms": None if last is None else round(last),
        "asr_p95_ms": _p95([times.asr_ms for times in turns]),
        "tts_p95_ms": _p95([times.tts_ttfb_ms for times in turns if times.tts_ttfb_ms is not None]),
        "turns": turns[-1].turn_id if turns else 0,
        "cost_usd_so_far": round(cost_usd, 6),
    }


def _p95(values: list[float]) -> int | None:
    return round(sorted(values)[min(len(values) - 1, int(len(values) * 0.95))]) if values else None


def registered(heartbeat_interval_s: int | None, transport_ack: str | None) -> RawFrame:
    """The worker is known; an interval of None leaves the field out."""
    frame: RawFrame = {"type": "registered", "transport_ack": transport_ack}
    if heartbeat_interval_s is not None:
        frame["heartbeat_interval_s"] = heartbeat_interval_s
    return frame


def job_assign(who: CallIdentity, *, agent_id: str, bridge_url: str, call_token: str, deadline_ms: int) -> RawFrame:
    """A job for a worker, without its `assign_id`."""
    return {
        "type": "job.assign",
        "job_id": who.job_id,
        "call_id": who.call_id,
        "agent_id": agent_id,
        "bridge_url": bridge_url,
        "call_token": call_token,
        "deadline_ms": deadline_ms,
        "metadata": dict(who.metadata),
    }


def job_cancel(job_id: str) -> RawFrame:
    """The job is to be abandoned, dialling or in call."""
    return {"type": "job.cancel", "job_id": job_id}


_DEEP: Final = 100_000


def hostile_frames(who: CallIdentity) -> list[str | bytes]:
    """Frames that break the wire from the worker's side; a good client records them and goes on."""
    ill_typed: list[RawFrame] = [
        {"event": "weather.changed", "sunny": True},
        {"event": "metric", "ttfa_ms": 1.5, "asr_p95_ms": "fast", "turns": None, "cost_usd_so_far": "1"},
        {"event": "turn.metrics", "call_id": 7, "turn_id": "one", "llm_call_count": 0.5},
        {"event": "state", "state": "dancing", "turn_id": "none"},
        {"event": "error", "severity": 3, "source": None},
        {"event": "user.text", "text": 42},
        {"event": "user.interrupted", "turn_id": None, "heard_prefix": ["what"]},
        {"event": None, "session_id": who.session_id},
        {"type": "user.text", "text": "no event"},
    ]
    nested = "[" * _DEEP + "]" * _DEEP
    return [
        *map(encode, ill_typed),
        "",
        "null",
        "[]",
        "{",
        nested,
        '{"event":"state","turn_id":' + "9" * 5000 + "}",
        b"\x00\xff",
    ]
