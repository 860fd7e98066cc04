"""The ids of traces and spans: digests of what they stand for, the same in whatever process derives them."""

from __future__ import annotations

from hashlib import sha256


def trace_id(session_id: str) -> str:
    """Return the trace id of a call, 32 hex digits."""
    return sha256(f"unpod:trace:v1:{session_id}".encode("utf-8", "surrogatepass")).digest()[:16].hex()


def span_id(trace: str, event_id: str, span_name: str) -> str:
    """Return the id of the span that an event gives in a trace, 16 hex digits."""
    return sha256(f"{trace}:{event_id}:{span_name}".encode("utf-8", "surrogatepass")).digest()[:8].hex()
