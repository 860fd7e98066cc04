"""The ids of a call's trace: digests of what they stand for, so that whoever derives them arrives at the same.

A consumer that runs again sends the same spans, and a runner knows the span of a turn long before it is sent. The root
stands for no single record: the session's own id stands for it. Nor does a turn: its number does.
"""

from __future__ import annotations

from hashlib import sha256


def trace_id(session_id: str) -> str:
    """Return the trace id of a call, 32 hex digits."""
    return sha256(f"unpod:trace:v1:{session_id}".encode("utf-8", "surrogatepass")).digest()[:16].hex()


def span_id(trace: str, event_id: str, span_name: str) -> str:
    """Return the id of the span that an event gives in a trace, 16 hex digits."""
    return sha256(f"{trace}:{event_id}:{span_name}".encode("utf-8", "surrogatepass")).digest()[:8].hex()


def root_span(session_id: str) -> str:
    """Return the id of the span `conversation` of a call."""
    return span_id(trace_id(session_id), session_id, "conversation")


def turn_span(session_id: str, turn: int) -> str:
    """Return the id of the span of a turn, by its number."""
    return span_id(trace_id(session_id), f"turn:{turn}", "turn")
