"""When a call's protocol is asked again though nothing came in: at its deadline, and for speech that it has joined."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from unpod.event_loop import batch
from unpod.ports import Clock, Timer
from unpod_bridge.protocol.call_protocol import CallProtocol
from unpod_bridge.protocol.outputs import Output


class Wakeups:
    """Asks one protocol, at the end of a turn of the event loop or when its time has come; its answers go to `feed`."""

    __slots__ = ("_at", "_batch", "_clock", "_closed", "_feed", "_flushing", "_loop", "_protocol", "_timer")

    def __init__(self, protocol: CallProtocol, clock: Clock, feed: Callable[[list[Output]], None]) -> None:
        self._protocol = protocol
        self._clock = clock
        self._feed = feed
        self._loop = asyncio.get_running_loop()
        self._batch = batch()
        self._timer: Timer | None = None
        self._at = 0.0
        self._flushing = False
        self._closed = False

    def look(self) -> None:
        """Come back when the protocol wants to be asked, now that it has answered."""
        protocol = self._protocol
        if protocol.joined and not self._flushing:
            self._flushing = True
            if self._batch.reading:
                self._batch.defer(self._flush)
            else:
                self._loop.call_soon(self._flush)
        deadline = protocol.deadline
        if deadline is None or (self._at and deadline >= self._at):
            return  # a timer that comes too early sets the next one, which is cheaper than to move it
        self._at = deadline
        if self._batch.reading:  # what is due in a moment is often done before this read is
            self._batch.defer(self._set_timer, last=True)
        else:
            self._set_timer()

    def close(self) -> None:
        """Come back no more, whatever is still looked at: what the protocol was made of may be gone."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _set_timer(self) -> None:
        """Come back at the protocol's deadline, if it still has one."""
        if self._closed:
            return
        deadline = self._protocol.deadline
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._at = 0.0 if deadline is None else deadline
        if deadline is not None:
            self._timer = self._clock.call_later(max(0.001, deadline - self._clock.now()), self._tick)

    def _tick(self) -> None:
        self._timer, self._at = None, 0.0
        self._feed(self._protocol.tick(self._clock.now()))

    def _flush(self) -> None:
        self._flushing = False
        if not self._closed:
            self._feed(self._protocol.flush(self._clock.now()))
