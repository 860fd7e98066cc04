"""Live sessions from outside their call: act on them, look them up, follow them."""

from unpod.errors import APIError
from unpod.management.client import AsyncClient, Client
from unpod.management.models import (
    ControlApplied,
    MergeOutcome,
    SessionEnded,
    SessionEvent,
    SessionRecord,
    SessionsMerged,
    SessionTransferred,
    TranscriptLine,
)

__all__ = [
    "APIError",
    "AsyncClient",
    "Client",
    "ControlApplied",
    "MergeOutcome",
    "SessionEnded",
    "SessionEvent",
    "SessionRecord",
    "SessionTransferred",
    "SessionsMerged",
    "TranscriptLine",
]
