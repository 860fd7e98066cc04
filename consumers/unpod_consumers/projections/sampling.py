"""Which traces are sent: decided by their ids, so that every process decides the same, at any time."""

from __future__ import annotations

from typing import Final

_LOW_BITS: Final = (1 << 64) - 1


class Sampling:
    """Lets through the given share of all traces, as OpenTelemetry's `traceidratio` does."""

    def __init__(self, ratio: float = 1.0) -> None:
        self.ratio = ratio
        self._bound = round(ratio * (1 << 64))

    def takes(self, trace_id: str) -> bool:
        """Return whether a trace, given as 32 hex digits, is sent."""
        return (int(trace_id, 16) & _LOW_BITS) < self._bound
