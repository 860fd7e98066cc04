"""How far the replies of a call were handed to the worker, for the log: a few times a second at most. Pure."""

from __future__ import annotations

from unpod_bridge.protocol.filler import Filler
from unpod_bridge.protocol.records import OutgoingRecords
from unpod_bridge.protocol.state import CallState

RECEIPT = "receipt"


class ReplyReceipts:
    """Keeps account of one call's speech."""

    __slots__ = ("_call", "_filler", "_record_queue")

    def __init__(self, call: CallState, filler: Filler, record_queue: OutgoingRecords) -> None:
        self._call = call
        self._filler = filler
        self._record_queue = record_queue

    def speak(self, now: float) -> None:
        """Send the speech that was joined."""
        self._call.write(self._call.replies.flush())
        self.spoken(now)

    def spoken(self, now: float) -> None:
        """Account for what has just been handed to the worker."""
        call, settings, timers = self._call, self._call.settings, self._call.timers
        if not call.replies.unreported:
            timers.pop(RECEIPT, None)
        elif RECEIPT not in timers:
            timers[RECEIPT] = max(now + settings.first_receipt_s, call.last_receipt + settings.receipt_s)
        self._filler.look(now)

    def receipt(self, now: float) -> None:
        """Store how far the open reply is, if that is news."""
        fact = self._call.replies.receipt()
        if fact is not None:
            self._call.last_receipt = now
            self._record_queue.store("ack", fact)
