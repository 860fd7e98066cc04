"""What a call's state machine wants done, collected; what is to be stored waits until it has an owner. Pure."""

from __future__ import annotations

from typing import Final, Literal

from unpod.core import events as ev
from unpod_bridge.protocol.flood import Flood
from unpod_bridge.protocol.outputs import Output, Over, Store
from unpod_bridge.protocol.state import CallState
from unpod_bridge.wire.call_frames import Frame

_RECORD: Final = 64
"""What a record costs beside its payload, in bytes."""


class OutgoingRecords:
    """Collects the outputs of one call."""

    __slots__ = ("_begun", "_call", "_flood", "_over", "_unstored", "_unstored_size", "placed")

    def __init__(self, call: CallState) -> None:
        self._call = call
        self._flood = Flood(call.settings)
        self._begun = False
        self._unstored: list[Store] = []
        self._over: list[Over] = []
        self._unstored_size = 0
        self.placed = False
        """Whether nothing is held back any more."""

    @property
    def overfull(self) -> bool:
        """Whether too much waits to be stored."""
        return not self._begun and self._unstored_size > self._call.settings.buffer_bytes

    def hold(self, out: list[Output]) -> list[Output]:
        """Hold back what waits until the call is `placed`, and return the rest."""
        self._over += [output for output in out if isinstance(output, Over)]
        if not self._begun:
            self._unstored += [output for output in out if isinstance(output, Store)]
        held = Over if self._begun else (Store, Over)
        return [output for output in out if not isinstance(output, held)]

    def begin(self, *, placed: bool = True) -> None:
        """What has waited can be stored, and all that follows; `Over` is passed on once the call is `placed`."""
        self._begun, self.placed = True, placed
        held, self._unstored = self._unstored, []
        self._call.out.extend(held)
        if placed:
            over, self._over = self._over, []
            self._call.out.extend(over)

    def frame(self, frame: Frame, *, started: bool) -> None:
        """Store a frame, unless it is one of a flood that cannot be taken."""
        if self._flood.keeps(frame.body):
            self.store("evt", frame.body, frame.data, started=started)

    def store(
        self,
        channel: Literal["evt", "ack"],
        body: ev.CallerEvent | ev.Receipt,
        data: bytes = b"",
        *,
        started: bool = True,
    ) -> None:
        """Store a fact; too much of what comes before a call has started is dropped."""
        if not self._begun:
            self._unstored_size += len(data) + _RECORD
            if not started and self.overfull:
                return
        self._call.out.append(Store(channel, body, data, withheld=self._call.paused))

    def note(self, detail: str) -> str:
        """Return the detail of a call's end, with how many frames were not kept."""
        return self._flood.note(detail)
