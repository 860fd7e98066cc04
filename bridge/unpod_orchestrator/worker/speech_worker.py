"""One call as the speech worker sees it: pairing, handshake, talk, and how it ends.

Pure: every method says what time it is, nothing waits. What has to be done about it comes out of `take_effects()`, in
order; `next_wakeup()` says when `tick` has something to do by itself.
"""

import enum
from typing import Final, Literal, TypeAlias, assert_never

import msgspec

from unpod_orchestrator.faults import CallFaults
from unpod_orchestrator.wire import outgoing
from unpod_orchestrator.wire.call_frames import (
    EndCallFrame,
    FillerFrame,
    FrameError,
    HelloFrame,
    InterruptFrame,
    RawFrame,
    SayFrame,
    TextDeltaFrame,
    TextEndFrame,
    TransferFrame,
    VerbFrame,
    check_hello,
    parse_call_frame,
)
from unpod_orchestrator.wire.constants import EVENTS, HANG_UP, HANG_UP_CODES, PAIRING_REFUSED, PROTOCOL_ERROR
from unpod_orchestrator.wire.frame_log import FrameLog, LoggedFrame
from unpod_orchestrator.wire.outgoing import CallIdentity
from unpod_orchestrator.worker.bounded import keep
from unpod_orchestrator.worker.conversation import FIRST_AUDIO_MS, Conversation, HeardPrefix
from unpod_orchestrator.worker.deadlines import Deadlines
from unpod_orchestrator.worker.happenings import (
    AnyHappening,
    Connected,
    Ended,
    EndReason,
    LineDropped,
    Transferred,
    VerbDone,
    VerbOutcome,
    Violated,
)
from unpod_orchestrator.worker.pairing import Pairing
from unpod_orchestrator.worker.room import Room, RoomFrame
from unpod_orchestrator.worker.transfers import TransferRecord, number_refusal
from unpod_orchestrator.worker.voice import Voice

REFUSED_TRANSFER_TEXT: Final = "I am sorry, I cannot connect you to that number."
_KEPT_CHARS_OF_BAD_FRAME: Final = 2_000
_MAX_VIOLATIONS: Final = 100
_MAX_DIALS: Final = 1_000


class Phase(enum.Enum):
    """Where a call stands."""

    WAITING = "waiting"
    """No socket: not dialled yet, or dropped."""
    HANDSHAKE = "handshake"
    LIVE = "live"
    OVER = "over"


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a speech worker offers, and its bounds in seconds; `speed` makes speech, and nothing else, faster."""

    offers: tuple[str, ...]
    speed: float = 1.0
    chars_per_s: float = 15.0
    pairing_window_s: float = 20.0
    hello_timeout_s: float = 10.0
    redial_window_s: float = 60.0
    cancel_grace_s: float = 5.0
    warm_handoff_s: float = 1.0
    allowed_numbers: frozenset[str] | None = None
    require_all_events: bool = True
    max_frames: int = 20_000
    max_frame_bytes: int = 32_000_000


class Transmit(msgspec.Struct, frozen=True):
    """A frame is to be sent."""

    data: str | bytes
    opcode_text: bool = True


class CloseLine(msgspec.Struct, frozen=True):
    """The socket is to be closed, after what was sent before."""

    code: int
    reason: str


class AbortLine(msgspec.Struct, frozen=True):
    """The socket is to be cut without a close frame."""


Effect: TypeAlias = Transmit | CloseLine | AbortLine | AnyHappening


class SpeechWorker:
    """The state machine of one call; whoever knows `token` may dial it."""

    def __init__(
        self, who: CallIdentity, options: WorkerOptions, faults: CallFaults, *, token: str, now: float
    ) -> None:
        self.who = who
        self.options = options
        self.faults = faults
        self.origin_s = now
        self.phase = Phase.WAITING
        self.began = False
        self.outcome: VerbOutcome | None = None
        self.violations: list[str] = []
        self.dials: list[tuple[float, int | None]] = []
        self.pairing = Pairing(token, options.pairing_window_s)
        self.frames = FrameLog(options.max_frames, options.max_frame_bytes)
        self.deadlines = Deadlines()
        self.negotiated_verbs: tuple[str, ...] = ()
        self._negotiated_events: frozenset[str] = frozenset()
        self._said_hello = False
        self._answered = False
        self._cancelling = False
        self._effects: list[Effect] = []
        self._now = now
        self.voice = Voice(options.chars_per_s * options.speed, FIRST_AUDIO_MS / 1000 / options.speed)
        self.talk = Conversation(who, self.voice, origin_s=now, send=self.send, tell=self.tell)
        self.room = Room(recorded=who.metadata.get("recording") is not False)
        self._end_detail: str | None = None
        self._handoff_to: str | None = None
        self._handoff_s = 0.0

    # ---- what comes out

    def take_effects(self) -> list[Effect]:
        """What has to be done about everything since the last call, in order."""
        effects, self._effects = self._effects, []
        return effects

    def next_wakeup(self) -> float | None:
        """When `tick` has something to do, if nothing else happens before."""
        if self.phase is Phase.OVER:
            return None
        times = [time for time in (self.deadlines.next(), self.voice.next_event()) if time is not None]
        return min(times, default=None)

    def tell(self, happening: AnyHappening) -> None:
        """Something happened, for those who watch."""
        self._effects.append(happening)

    def send(self, frame: RawFrame) -> None:
        """Sends a frame, if there is a line and the client asked for such; `ValueError` for one that is too big."""
        event = frame["event"]
        data = outgoing.encode(frame)
        if self.phase not in {Phase.HANDSHAKE, Phase.LIVE}:
            return
        if isinstance(event, str) and event in EVENTS and event not in self._negotiated_events:
            return
        self._record("out", str(event), frame, len(data))
        self._effects.append(Transmit(data))

    def send_raw(self, payload: str | bytes, *, text: bool, now: float) -> None:
        """Sends any bytes as a text or binary frame: a fault, for tests of clients."""
        self._now = now
        shown = payload if isinstance(payload, str) else payload.decode("utf-8", "replace")
        self._record("out", "(raw)", {"raw": shown[:_KEPT_CHARS_OF_BAD_FRAME]}, len(payload))
        self._effects.append(Transmit(payload, opcode_text=text))

    # ---- the line

    def dispatched(self, now: float) -> None:
        """The job has been offered to a client: whoever has the token may dial."""
        self._now = now
        self.pairing.open(now)
        if not self.began and self.phase is not Phase.OVER:
            self.deadlines.set("pairing", self.pairing.expires_at)

    def dialled(self, token: str, now: float) -> int | None:
        """Somebody dials: None lets them in, a close code refuses them."""
        self._now = now
        code = self._refusal(token, now)
        keep(self.dials, (now - self.origin_s, code), _MAX_DIALS)
        if code is None:
            self.phase = Phase.HANDSHAKE
            self._said_hello = self._answered = False
            self.deadlines.set("hello", now + self.options.hello_timeout_s)
        return code

    def _refusal(self, token: str, now: float) -> int | None:
        if self.phase is Phase.OVER:
            cancelled = self.outcome is not None and self.outcome.reason == "cancelled"
            return HANG_UP if cancelled else PAIRING_REFUSED
        if self.faults.refuse_dials > 0:
            self.faults.refuse_dials -= 1
            return PAIRING_REFUSED
        return self.pairing.refusal(token, now, live=self.phase is not Phase.WAITING)

    def line_lost(self, code: int | None, now: float) -> None:
        """The socket is gone; `code` is the client's close code, None for a drop without one."""
        self._now = now
        if self.phase in {Phase.WAITING, Phase.OVER}:
            return
        was_live = self.phase is Phase.LIVE
        self.phase = Phase.WAITING
        self.deadlines.clear("hello")
        if self._cancelling:
            if code != HANG_UP:
                self._note_violation(f"after job.cancel the socket closed with {code}, not {HANG_UP}")
            self.over("cancelled", "")
        elif was_live and code in HANG_UP_CODES:
            self.over("ended_by_agent", f"the client closed the socket with {code}")
        elif was_live:
            self.talk.replies.line_dropped()
            self.deadlines.set("redial", now + self.options.redial_window_s)
            self.tell(LineDropped(code))

    def received(self, data: str, now: float) -> None:
        """A text frame has come."""
        self._now = now
        if self.phase not in {Phase.HANDSHAKE, Phase.LIVE}:
            return
        try:
            frame, raw = parse_call_frame(data)
        except FrameError as error:
            self._record("in", "(invalid)", {"raw": data[:_KEPT_CHARS_OF_BAD_FRAME]}, len(data))
            self.fail(str(error))
            return
        self._record("in", frame.verb, raw, len(data))
        try:
            self._accept(frame)
        except FrameError as error:
            self.fail(str(error))
        self.tick(now)

    def received_nonsense(self, what: str, now: float) -> None:
        """Something came that is no text frame, or too big a one: `what` says so."""
        self._now = now
        if self.phase in {Phase.HANDSHAKE, Phase.LIVE}:
            self.fail(what)

    def _accept(self, frame: HelloFrame | VerbFrame) -> None:
        if isinstance(frame, HelloFrame):
            self._shake_hands(frame)
            return
        if not self._answered:
            raise FrameError(f"{frame.verb} before {'call.started' if self._said_hello else 'hello'}")
        if frame.verb not in self.negotiated_verbs:
            raise FrameError(f"{frame.verb}: a verb that was not negotiated")
        self._go_live()
        self._carry_out(frame)

    def _shake_hands(self, hello: HelloFrame) -> None:
        if self._said_hello:
            raise FrameError("hello: a second one on one socket")
        check_hello(hello, all_events=self.options.require_all_events)
        self._said_hello = True
        self.deadlines.clear("hello")
        offers = self.options.offers if self.faults.offers is None else self.faults.offers
        self.negotiated_verbs = tuple(verb for verb in offers if verb in hello.supported_verbs)
        events = [event for event in EVENTS if event in hello.supported_events]
        self._negotiated_events = frozenset(events)
        ack = outgoing.hello_ack(self.who, events, self.negotiated_verbs)
        match self.faults.next_handshake():
            case "silent":
                pass
            case "stalled":
                self.send(ack)
            case "started_first":
                self.send(outgoing.call_started(self.who))
                self.send(ack)
                self._answered = True
            case "good":
                self.send(ack)
                self.send(outgoing.call_started(self.who))
                self._answered = True
                self._go_live()
            case unknown:
                assert_never(unknown)

    def _go_live(self) -> None:
        if self.phase is Phase.LIVE:
            return
        self.phase = Phase.LIVE
        self.pairing.establish()
        self.deadlines.clear("pairing")
        self.deadlines.clear("redial")
        self.tell(Connected(again=self.began))
        self.began = True
        self.talk.greet()
        if self.faults.hostile:
            for payload in outgoing.hostile_frames(self.who):
                self.send_raw(payload, text=isinstance(payload, str), now=self._now)

    # ---- what the client asks for

    def _carry_out(self, verb: VerbFrame) -> None:
        match verb:
            case TextDeltaFrame(text):
                self.talk.delta(text, self._now)
            case TextEndFrame():
                self.talk.end(self._now)
            case SayFrame(text):
                self.talk.say("say", text, self._now)
            case FillerFrame(text):
                self.talk.say_if_idle(text, self._now)
            case InterruptFrame():
                self.talk.stop_speech(self._now)
            case _:
                self.tell(VerbDone({"event": verb.verb, **msgspec.structs.asdict(verb)}))
                self._carry_out_request(verb)

    def _carry_out_request(self, verb: EndCallFrame | TransferFrame | RoomFrame) -> None:
        match verb:
            case EndCallFrame(reason):
                self.end_when_spoken(reason)
            case TransferFrame():
                self._transfer(verb)
            case _:
                self.room.carry_out(verb)

    def end_when_spoken(self, detail: str) -> None:
        """The call ends when what is being said is said."""
        if self._end_detail is None:
            self._end_detail = detail
            self.voice.mark("end")

    def transfer(self, transfer: TransferRecord, handoff_s: float, now: float) -> str:
        """Somebody outside transfers the caller; returns the id of the participant who joins."""
        self.tick(now)
        participant_id = self.room.add_participant(transfer.transfer_type)
        self._connect_away(transfer, None, handoff_s)
        return participant_id

    def _connect_away(self, transfer: TransferRecord, announcement: str | None, handoff_s: float) -> None:
        """Cold: at once. Warm: after the announcement and `handoff_s` more (at speed 1)."""
        self._note_transfer(transfer)
        if transfer.mode == "cold":
            self.over("transferred", transfer.target)
        elif self._handoff_to is None:
            self._handoff_to = transfer.target
            self._handoff_s = handoff_s / self.options.speed
            if announcement:
                self.talk.say("announcement", announcement, self._now)
            self.voice.mark("announced")

    def _transfer(self, verb: TransferFrame) -> None:
        to_number = verb.transfer_type == "number"
        refused = number_refusal(verb.target, self.options.allowed_numbers) if to_number else None
        transfer = TransferRecord(transfer_type=verb.transfer_type, target=verb.target, mode=verb.mode, refused=refused)
        if refused is None:
            self._connect_away(transfer, verb.announcement, self.options.warm_handoff_s)
        else:
            self._note_transfer(transfer)
            self.talk.say("worker", REFUSED_TRANSFER_TEXT, self._now)

    def _note_transfer(self, transfer: TransferRecord) -> None:
        self.room.transfer(transfer)
        self.tell(Transferred(transfer))

    def _reached(self, marker: str) -> None:
        if marker == "end":
            self.over("ended_by_agent", self._end_detail or "")
        elif marker == "announced":
            self.deadlines.set("handoff", self._now + self._handoff_s)

    # ---- the caller

    def caller_says(self, text: str, *, final: bool, language: str | None, extra: RawFrame | None, now: float) -> int:
        """The caller talks; returns the turn's id. `ValueError` for a text that no frame can hold."""
        self.tick(now)
        if not final:
            self.talk.partial(text, language, extra)
            return self.talk.turn_id + 1
        turn_id = self.talk.final(text, language, extra, now)
        self.tick(now)
        return turn_id

    def caller_interrupts(self, heard_prefix: str | HeardPrefix | None, now: float) -> str | None:
        """The caller cuts in; returns the prefix that was sent."""
        self.tick(now)
        heard = self.talk.interrupt(now, heard_prefix)
        self.tick(now)
        return heard

    def send_event(self, frame: RawFrame, now: float) -> None:
        """Sends an event that nothing in the call has caused, such as `error`."""
        self.tick(now)
        self.send(frame)

    # ---- time

    def tick(self, now: float) -> None:
        """Does what is due by `now`."""
        self._now = now
        if self.phase is Phase.OVER:
            return
        for marker in self.talk.advance(now):
            self._reached(marker)
        for name in self.deadlines.due(now):
            self._timer_due(name)

    def _timer_due(self, name: str) -> None:
        match name:
            case "pairing":
                self._expired("failed", f"nobody dialled within {self.options.pairing_window_s:g} s")
            case "hello":
                self.fail(f"no hello within {self.options.hello_timeout_s:g} s")
            case "redial":
                self._expired("dropped", f"no redial within {self.options.redial_window_s:g} s")
            case "cancel":
                self.over("cancelled", "the worker had to close the socket")
            case "handoff":
                self.over("transferred", self._handoff_to or "")
            case _:
                raise ValueError(f"an unknown deadline: {name}")

    def _expired(self, reason: EndReason, detail: str) -> None:
        """Nobody came in time; whoever is in the middle of a handshake may still finish it."""
        if self.phase is Phase.HANDSHAKE:
            self.deadlines.set("pairing" if reason == "failed" else "redial", self._now + self.options.hello_timeout_s)
        else:
            self.over(reason, detail)

    # ---- the ends of a call

    def fail(self, reason: str) -> None:
        """The client broke the protocol: recorded, and the call is over."""
        if self.phase is not Phase.OVER:
            self._note_violation(reason)
            self.over("failed", reason, code=PROTOCOL_ERROR)

    def hang_up(self, now: float) -> None:
        """The caller hangs up."""
        self.tick(now)
        self.over("hangup", "")

    def cancel(self, now: float) -> None:
        """The job is cancelled: the client has to close its socket with 1000, or has none."""
        self.tick(now)
        if self.phase in {Phase.HANDSHAKE, Phase.LIVE}:
            self._cancelling = True
            self.deadlines.set("cancel", now + self.options.cancel_grace_s)
        else:
            self.over("cancelled", "")

    def close_line(self, code: int, now: float) -> None:
        """The worker closes the socket: with 1000 or 1001 a hang-up, with another code a drop."""
        self.tick(now)
        if code in HANG_UP_CODES:
            self.over("hangup", f"closed with {code}", code=code)
        elif self.phase in {Phase.HANDSHAKE, Phase.LIVE}:
            self._effects.append(CloseLine(code, ""))
            self.line_lost(code, now)

    def drop(self, now: float, *, for_good: bool) -> None:
        """The socket is cut without a close frame; `for_good` refuses every redial."""
        self.tick(now)
        if self.phase in {Phase.HANDSHAKE, Phase.LIVE}:
            self._effects.append(AbortLine())
            self.line_lost(None, now)
        if for_good:
            self.over("dropped", "redials are refused")

    def over(self, reason: EndReason, detail: str, *, code: int = HANG_UP) -> None:
        """The call ends; only the first end counts."""
        if self.phase is Phase.OVER:
            return
        connected = self.phase is not Phase.WAITING
        self.talk.finish(self._now)
        self.phase = Phase.OVER
        self.pairing.void()
        self.deadlines.clear_all()
        if connected:
            self._effects.append(CloseLine(code, detail if reason == "failed" else reason))
        self.outcome = VerbOutcome(reason, detail, tuple(self.violations))
        self.tell(Ended(self.outcome))

    def _note_violation(self, reason: str) -> None:
        if len(self.violations) < _MAX_VIOLATIONS:
            self.violations.append(reason)
        self.tell(Violated(reason))

    def _record(self, direction: Literal["in", "out"], event: str, raw: RawFrame, size: int) -> None:
        self.frames.add(LoggedFrame(direction, self._now - self.origin_s, event, raw), size)
