"""What can be set for a call, and how it is told that one went."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

from unpod_bridge.protocol.state import ProtocolSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class LineSettings:
    """Times in seconds; `busy` is how many records may wait for the log before the worker has to wait, too.

    The owner of a call that is taken over has `seen_s` to say what it has seen of the former bridge.
    """

    protocol: ProtocolSettings = field(default_factory=ProtocolSettings)
    linger_s: float = 600.0
    busy: int = 1_000
    seen_s: float = 0.3


MOVED: Final = "moved"
"""How a call ends here that goes on at another bridge."""


class Cleanup(Protocol):
    """A call that has ended, whose owner has something left to do."""

    async def clean_up(self) -> None:
        """Return once the session is closed, or nothing can be done about it."""
        ...

    async def leave_cleanup(self) -> None:
        """Let another bridge see to it."""
        ...


@dataclass(frozen=True, slots=True)
class LineResult:
    """How a call went; `connected` is False where it never came up. `after` is there if its owner is not done yet."""

    reason: str
    duration_s: float
    connected: bool
    after: Cleanup | None = field(default=None, compare=False)
