"""One call's state machine: what the worker, the owner, the log and the clock do goes in, what to do comes out.

There is no `await` in it, as in websockets' `protocol.py`: a shell feeds it, in the order in which things happen, and
carries out what each method returns, in order. The phases of the link to the worker:

::

    idle ── start ─▶ dialling ── on_open ─▶ greeting ── hello.ack ─▶ acked ── call.started ─▶ open
              ▲                                │                       │                        │
              └────────── a drop, a stall or a wrong order ───────────┴────────────────────────┘
    any ── hang-up, cancel, refused or exhausted redial ─▶ over
    open ── leave ─▶ leaving ── the worker has closed ─▶ over, and another bridge goes on

A drop (1006, 1011, 1012, 1013, no code) is redialled; 1000 and 1001 are a hang-up. While there is no link, commands and
pieces of speech wait. All that another bridge needs to go on is in the log: epochs, indexes, receipts, claims.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

from unpod.core import events as ev
from unpod.core.live import Delta, Spoken
from unpod_bridge.protocol.commands import DOUBT, LATE, OwnerCommands
from unpod_bridge.protocol.controls import ControlAdmission
from unpod_bridge.protocol.outputs import Begin, Close, Dial, Failed, Leave, Left, Output, Over, Owned, Store
from unpod_bridge.protocol.ownership import CallOwnership
from unpod_bridge.protocol.reconnect import (
    HANG_UP,
    LET_GO,
    PAIRING_UNKNOWN,
    PROTOCOL_ERROR,
    REFUSED_STATUS,
    ReconnectPolicy,
)
from unpod_bridge.protocol.records import OutgoingRecords
from unpod_bridge.protocol.recovery import Recovery, restore
from unpod_bridge.protocol.replies import Replies
from unpod_bridge.protocol.state import CallState, ProtocolSettings, by_of, reason_of
from unpod_bridge.protocol.waiting import END, FILLER, HELD_FILLER, PHRASE, WaitingCaller
from unpod_bridge.wire import call_frames
from unpod_bridge.wire.call_frames import Frame

Phase = Literal["idle", "dialling", "greeting", "acked", "open", "leaving", "over"]


RECEIPT: Final = "receipt"


class CallProtocol:
    """One call, from the first dial to its end. Every method that takes `now` returns what to do, in order."""

    def __init__(self, settings: ProtocolSettings | None = None) -> None:
        settings = ProtocolSettings() if settings is None else settings
        self._settings = settings
        self._call = CallState(settings=settings, replies=Replies(settings.buffer_bytes))
        self._owner_commands = OwnerCommands(self._call)
        self._waiting = WaitingCaller(self._call)
        self._redial = ReconnectPolicy(settings)
        self._record_queue = OutgoingRecords(self._call)
        self.owner = CallOwnership(self._call, self._owner_commands, self._waiting, self._settle)
        """Who is heard as the session's owner, and what a new one has to know."""
        self.admission = ControlAdmission(self._call, self._owner_commands, self._settle)
        """What becomes of controls from outside."""
        self.phase: Phase = "idle"
        self.started = False
        self.session_id = ""
        self._receipt_at = 0.0
        self._hello: Frame | None = None
        self._reattached = 0

    # ---------------------------------------------------------------------------------------------------------- shell

    @property
    def deadline(self) -> float | None:
        """When `tick` wants to be called, or None."""
        timers = self._call.timers
        return min(timers.values()) if timers else None

    @property
    def joined(self) -> bool:
        """Whether speech waits for `flush` at the end of this turn of the event loop."""
        return self._call.up and bool(self._call.replies.joined)

    def tick(self, now: float) -> list[Output]:
        """Do what is due."""
        timers = self._call.timers
        for name in [name for name, at in timers.items() if at <= now]:
            if timers.pop(name, None) is not None:
                _TIMERS[name](self, now)
        return self._settle(now)

    def _settle(self, now: float) -> list[Output]:
        """Do what can be done now, whatever has come in, and return all that is to be done: so ends every input.

        What each part waits for is looked at here, since it happens many times in a turn, and mostly nothing waits.
        """
        call = self._call
        if not call.over:
            commands, waiting, timers = self._owner_commands, self._waiting, call.timers
            if commands.queue or call.replies.held or commands.last or "give_up" in timers:
                commands.pump(now)
            reply = call.replies.open
            if reply is not None and reply.deltas != reply.reported:
                if RECEIPT not in timers:
                    settings = self._settings
                    timers[RECEIPT] = max(now + settings.first_receipt_s, self._receipt_at + settings.receipt_s)
            elif RECEIPT in timers:
                del timers[RECEIPT]
            if waiting.served < waiting.turns or call.said:
                waiting.look(now)
        out, call.out = call.out, []
        return out if self._record_queue.placed else self._record_queue.hold(out)

    def _receipt(self, now: float) -> None:
        """Store how far the open reply was handed over, if that is news; so a few times a second at most."""
        fact = self._call.replies.receipt()
        if fact is not None:
            self._receipt_at = now
            self._call.out.append(Store("ack", fact))

    # ------------------------------------------------------------------------------------------------------- the link

    def start(self, now: float) -> list[Output]:
        """Begin to dial."""
        self._dial(now)
        return self._settle(now)

    def adopt(self, past: Recovery, now: float) -> list[Output]:
        """Go on with a call that another bridge had: dial the worker again, if it has not ended."""
        self.started, self.session_id, self._reattached = True, past.session_id, past.attempts
        self._record_queue.begin()
        self.admission.go_on(past.controls)
        restore(past, self._call, self._owner_commands, self._waiting, now)
        if past.ended is not None:  # what is left is its owner's cleanup
            self.phase, self._call.over = "over", True
            self._call.timers.clear()
            self._call.out.clear()
            return []
        self._redial.adopted(now)
        self._wait(0.0, now)
        return self._settle(now)

    def leave(self, now: float) -> list[Output]:
        """Let another bridge go on: write nothing more, and store how far we have come."""
        if self.phase == "open":
            if self._call.up:
                self._call.write(self._call.replies.flush())
            self.phase, self._call.up = "leaving", False
            self._call.timers.clear()  # what was due here is due at the next bridge
            self._call.out.append(Leave(LET_GO))
        elif self.phase not in ("leaving", "over"):
            self._call.out.append(Close(LET_GO))
            self._left(now)
        return self._settle(now)

    def _left(self, now: float) -> None:
        self._receipt(now)
        self.phase, self._call.over = "over", True
        self._call.timers.clear()
        self._call.out.append(Left())

    def on_open(self, now: float) -> list[Output]:
        """The socket is open."""
        self.phase = "greeting"
        self._call.timers["handshake"] = now + self._settings.handshake_s
        self._call.write(call_frames.hello())
        return self._settle(now)

    def on_dial_failed(self, status: int | None, now: float) -> list[Output]:
        """No socket; `status` is the HTTP status of a refusal."""
        if self.phase == "dialling":
            self._down(PAIRING_UNKNOWN if status in REFUSED_STATUS else None, now)
        return self._settle(now)

    def on_lost(self, code: int | None, reason: str, now: float) -> list[Output]:
        """The socket is gone; see `sockets.Receiver.on_lost`."""
        if self.phase in ("idle", "dialling", "over"):
            return self._settle(now)
        if self.phase == "leaving":  # whatever code: it answers ours, and some workers do so with 1000
            self._left(now)
            return self._settle(now)
        if code is None and reason:  # a message beyond every bound, or bytes that are no WebSocket frames
            self._evt(call_frames.rejected(b"", f"the socket was given up: {reason[:100]}"), now)
        self._down(code, now)
        return self._settle(now)

    def cancel(self, now: float) -> list[Output]:
        """The orchestrator has called the job off."""
        if self.phase != "over":
            if self.started:
                self._end("cancelled", now)
            else:
                self._fail("cancelled", cancelled=True)
        return self._settle(now)

    def end(self, reason: str, detail: str, now: float) -> list[Output]:
        """The bridge itself cannot go on."""
        if self.phase != "over":
            self._end(reason, now, detail=detail)
        return self._settle(now)

    def _dial(self, _: float) -> None:
        self.phase = "dialling"
        self._call.out.append(Dial())

    def _down(self, code: int | None, now: float) -> None:
        """There is no link (any more)."""
        was_open = self.phase == "open"
        self._call.timers.pop("handshake", None)
        self._call.up = False
        if not self.started:
            self._wait(self._redial.before_start(code, now), now)
        elif code in HANG_UP:
            self._end("hangup", now, code=code, by="caller")
        elif code == PAIRING_UNKNOWN:
            self._end("lost", now, code=code, detail="the worker does not know the call any more")
        else:
            self._owner_commands.link_lost()
            self._wait(self._redial.after_start(code, now, was_open=was_open), now, code)

    def _wait(self, pause: float | str, now: float, code: int | None = None) -> None:
        """Dial again after a pause, or not at all."""
        if isinstance(pause, str):
            if self.started:
                self._end("lost", now, code=code, detail=pause)
            else:
                self._fail(pause)
            return
        self.phase = "dialling"
        if self.started:
            self._call.timers["buffer"] = self._redial.latest
        if pause > 0.0:
            self._call.timers["dial"] = now + pause
        else:
            self._dial(now)

    def _wrong(self, now: float) -> None:
        """The handshake stalls or has gone wrong: close, and dial again."""
        self._call.out.append(Close(PROTOCOL_ERROR))
        self._down(None, now)

    def _unlinked(self, now: float) -> None:
        self._end("lost", now, detail=f"no link to the worker for {self._settings.buffer_s:g} s")

    # ------------------------------------------------------------------------------------------------ from the worker

    def on_frame(self, frame: Frame, now: float) -> list[Output]:
        """Take one frame of the worker."""
        body = frame.body
        if self.phase in ("open", "leaving"):
            if self._call.leaving is not None and self.phase == "open":
                self._owner_commands.heard(body, now)
            if isinstance(body, (ev.HelloAcked, ev.CallStarted)):
                frame = call_frames.rejected(frame.data, f"a second {frame.type} on one socket", frame.type)
            self._evt(frame, now)
            if self.phase == "open":  # one that leaves stores what it hears; to act on it is for the next bridge
                self._heed(body, now)
        elif self.phase in ("greeting", "acked"):
            self._handshake(frame, now)
        return self._settle(now)

    def _heed(self, body: ev.CallerEvent, now: float) -> None:
        """Act on what the worker has said."""
        if isinstance(body, ev.UserText) and body.is_final:
            self._waiting.heard(now)
        elif isinstance(body, ev.UserInterrupted):
            self._call.replies.cut()
        elif isinstance(body, ev.StateChanged):
            self._owner_commands.told(body.state)

    def _handshake(self, frame: Frame, now: float) -> None:
        body = frame.body
        if isinstance(body, ev.HelloAcked) and self.phase == "greeting":
            self.phase, self._hello = "acked", frame
            self._call.verbs = call_frames.negotiated(body)
            if self.started:
                self._evt(frame, now)
        elif isinstance(body, ev.CallStarted) and self.phase == "acked" and self._hello is not None:
            hello, self._hello = self._hello, None  # it may be a megabyte
            if self.started:
                self._reattach(body, frame, now)
            else:
                self._first(body, hello, frame, now)
        elif self.phase == "acked" and not self.started and call_frames.is_beyond_bounds(body):
            self._evt(frame, now)
            self._call.out.append(Close(PROTOCOL_ERROR))  # with what the call began with, it would come again
            self._fail(f"the call cannot begin: {call_frames.problem_of(body)}")
        elif frame.type in ("hello.ack", "call.started"):  # in the wrong order, or ill-typed
            self._evt(call_frames.out_of_order(frame), now)
            self._wrong(now)
        else:
            self._evt(frame, now)

    def _first(self, body: ev.CallStarted, hello: Frame, frame: Frame, now: float) -> None:
        if not body.session_id:
            self._call.out.append(Close(PROTOCOL_ERROR))
            self._fail("call.started without a session id")
            return
        self.started = True
        self.session_id = body.session_id
        self._call.recorded = body.metadata.get("recording") is not False
        self._call.out.append(Begin(body.session_id, hello, frame))
        self._opened(now)

    def _reattach(self, body: ev.CallStarted, frame: Frame, now: float) -> None:
        if body.session_id != self.session_id:
            self._evt(call_frames.rejected(frame.data, "call.started of another session", frame.type), now)
            self._wrong(now)
            return
        self._reattached += 1
        self._record_queue.store("evt", ev.CallReattached(session_id=self.session_id, attempt=self._reattached))
        self._owner_commands.link_back(now)
        self._opened(now)
        self._call.up = not self._call.unread_end  # else what the worker says first decides how to go on
        if self._call.paused and "recording.pause" in self._call.verbs:
            self._call.write(call_frames.recording_pause(self._call.pause_reason))
        if self._call.up:
            self._call.write(self._call.replies.flush())

    def _opened(self, now: float) -> None:
        timers = self._call.timers
        for name in ("handshake", "buffer", "dial"):
            timers.pop(name, None)
        self.phase, self._call.up = "open", True
        self._redial.attached(now)

    def on_pong(self, token: bytes, now: float) -> list[Output]:
        """The worker has read what was written before a ping."""
        if self.phase in ("open", "leaving"):
            self._owner_commands.pong(token, now)
        return self._settle(now)

    # --------------------------------------------------------------------------------------------- to and from the log

    def begin(self, now: float, *, placed: bool = True) -> list[Output]:
        """What has happened since `Begin` can be stored, and all that follows; `Over` follows once it is `placed`."""
        self._record_queue.begin(placed=placed)
        return self._settle(now)

    def stored(self, notify: str, now: float) -> list[Output]:
        """The log has what a `Store` with `notify` asked for."""
        if self.phase != "over":
            self._owner_commands.stored(notify)
            self.admission.stored(notify)
        return self._settle(now)

    def log_away(self, now: float) -> list[Output]:
        """The log does not answer."""
        if self.phase != "over":
            self._call.timers.setdefault("log", now + self._settings.buffer_s)
        return self._settle(now)

    def log_back(self, now: float) -> list[Output]:
        """The log answers again."""
        self._owner_commands.log_back(now)
        return self._settle(now)

    def _log_gone(self, now: float) -> None:
        self._end("error", now, detail=f"the event log did not answer for {self._settings.buffer_s:g} s")

    def _evt(self, frame: Frame, now: float) -> None:
        self._record_queue.frame(frame, started=self.started)
        if self._record_queue.overfull and self.started:
            self._end("error", now, detail="too much came before the call could be stored")

    # ------------------------------------------------------------------------------------------------- from the owner

    def on_owned(self, owned: Owned, now: float) -> list[Output]:
        """Take a record of the owner, in whatever order."""
        if self.phase != "over":
            self._owner_commands.push(owned, now)
        return self._settle(now)

    def on_delta(self, delta: Delta, now: float) -> list[Output]:
        """Take a piece of a reply; the first leaves at once, for the others see `joined`."""
        call = self._call
        wanted = self.phase != "over" and delta.epoch == call.epoch and call.replies.offer(delta)
        return self._settle(now) if wanted else []

    def on_spoken(self, spoken: Spoken, now: float) -> list[Output]:
        """Take the last word of a bridge that has lost this call's line to us: it has let go of its socket."""
        call = self._call
        most = call.replies.closed + call.settings.max_waiting  # no bridge has ended more replies than may wait
        if call.unmet and self.phase != "over" and spoken.closed <= most:
            call.replies.went_on(spoken)
            call.out.extend(Store("ack", fact) for fact in call.replies.finished)
            call.replies.finished.clear()
        return self._settle(now)

    @property
    def spoken(self) -> Spoken:
        """How far speech has come here."""
        return self._call.replies.spoken

    def flush(self, now: float) -> list[Output]:
        """The turn of the event loop is over: send the speech that was joined in it."""
        if self._call.up:
            self._call.write(self._call.replies.flush())
        return self._settle(now)

    def _vacant_too_long(self, now: float) -> None:
        self._end("error", now, detail=f"no runner has taken the call over for {self._settings.vacant_s:g} s")

    # ------------------------------------------------------------------------------------------------------- the end

    def _fail(self, reason: str, *, cancelled: bool = False) -> None:
        if self.phase in ("dialling", "greeting", "acked") and cancelled:
            self._call.out.append(Close(1000))
        self.phase, self._call.over = "over", True
        self._call.timers.clear()
        self._call.out.append(Failed(reason, cancelled))

    def _end(
        self,
        reason: str,
        now: float,
        *,
        code: int | None = None,
        detail: str = "",
        by: Literal["agent", "caller", "operator", "system"] = "system",
    ) -> None:
        """The call is over, whatever the reason; if the agent has ended it, that reason counts."""
        call = self._call
        asked = call.leaving or (self._owner_commands.wanted_end if reason == "lost" else None)
        if asked is not None and reason in ("hangup", "lost"):
            reason, by, detail = reason_of(asked), by_of(asked), ""
        if code not in HANG_UP and self.phase != "idle":
            call.out.append(Close(1000))
        self._receipt(now)
        call.up = False
        self._owner_commands.over(now, clean=code in HANG_UP)
        detail = self._record_queue.note(detail)
        self._record_queue.store("evt", ev.CallEnded(reason=reason, detail=detail, close_code=code, by=by))
        call.out.append(Over(reason))
        self.phase, call.over = "over", True
        call.timers.clear()

    def _overdue(self, now: float) -> None:
        leaving = self._call.leaving
        if leaving is None:
            return
        if not self._call.transferring:
            self._end(reason_of(leaving), now, detail="the worker did not close", by=by_of(leaving))
        elif self.phase == "open":  # else it is looked at again once there is a link
            self._owner_commands.not_transferred()


_TIMERS: Final[dict[str, Callable[[CallProtocol, float], None]]] = {
    "dial": CallProtocol._dial,  # noqa: SLF001 - the class's own table
    "handshake": CallProtocol._wrong,  # noqa: SLF001
    "buffer": CallProtocol._unlinked,  # noqa: SLF001
    "log": CallProtocol._log_gone,  # noqa: SLF001
    "ending": CallProtocol._overdue,  # noqa: SLF001
    RECEIPT: lambda protocol, now: protocol._receipt(now),  # noqa: SLF001
    FILLER: lambda protocol, _: protocol._waiting.filler_due(),  # noqa: SLF001
    "fetch": lambda protocol, now: protocol._owner_commands.fetch(now),  # noqa: SLF001
    "again": lambda protocol, now: protocol._owner_commands.ask_again(now),  # noqa: SLF001
    DOUBT: lambda protocol, _: protocol._owner_commands.told(""),  # noqa: SLF001
    LATE: lambda protocol, now: protocol._owner_commands.expire(now),  # noqa: SLF001
    "give_up": lambda protocol, now: protocol._owner_commands.lose_patience(now),  # noqa: SLF001
    HELD_FILLER: lambda protocol, _: protocol._waiting.held_filler_due(),  # noqa: SLF001
    PHRASE: lambda protocol, now: protocol._waiting.phrase_due(now),  # noqa: SLF001
    END: CallProtocol._vacant_too_long,  # noqa: SLF001
}
