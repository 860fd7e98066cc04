"""The management API: act on live sessions from outside their call."""

from unpod.errors import APIError
from unpod.management.client import AsyncClient, Client
from unpod.management.models import (
    MergeOutcome,
    SessionEnded,
    SessionRecord,
    SessionsMerged,
    SessionTransferred,
    TranscriptLine,
)

__all__ = [
    "APIError",
    "AsyncClient",
    "Client",
    "MergeOutcome",
    "SessionEnded",
    "SessionRecord",
    "SessionTransferred",
    "SessionsMerged",
    "TranscriptLine",
]
