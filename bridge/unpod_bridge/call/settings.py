"""What can be set for a line, and how it says that a call went."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from unpod_bridge.call.aftercare import Aftercare
from unpod_bridge.protocol.state import RelaySettings


@dataclass(frozen=True, slots=True, kw_only=True)
class LineSettings:
    """Times in seconds; `busy` is how many records may wait for the log before the worker has to wait, too.

    The owner of a call that is taken over has `seen_s` to say what it has seen of the former bridge.
    """

    protocol: RelaySettings = field(default_factory=RelaySettings)
    linger_s: float = 600.0
    busy: int = 1_000
    seen_s: float = 0.3


MOVED: Final = "moved"
"""How a call ends here that goes on at another bridge."""


@dataclass(frozen=True, slots=True)
class LineResult:
    """How a call went; `connected` is False where it never came up. `after` is what its owner has left to do."""

    reason: str
    duration_s: float
    connected: bool
    after: Aftercare | None = field(default=None, compare=False)
