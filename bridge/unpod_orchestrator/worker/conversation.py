"""Who says what to whom in one call: the caller's turns, the agent's replies, what is heard, and what it took.

Pure. It stands above the replies and the voice, and gives frames and happenings to whoever made it.
"""

import enum
from collections import deque
from collections.abc import Callable
from typing import Final

from unpod_orchestrator.wire import outgoing
from unpod_orchestrator.wire.call_frames import RawFrame
from unpod_orchestrator.wire.outgoing import CallIdentity, CallState, TurnTimes
from unpod_orchestrator.worker.bounded import keep
from unpod_orchestrator.worker.happenings import (
    AnyHappening,
    CallerSaid,
    CallStateChanged,
    DeltaCame,
    Interrupted,
    ReplyEnded,
    Role,
    SpeechProgress,
    TranscriptEntry,
)
from unpod_orchestrator.worker.replies import ReplyQueue, WrittenReply
from unpod_orchestrator.worker.voice import Happened, Reached, Utterance, UtteranceKind, Voice, VoiceEvent


class HeardPrefix(enum.Enum):
    """Stands where an interruption's `heard_prefix` is not given."""

    AUTOMATIC = "automatic"
    """The prefix is what was heard by the clock."""


FIRST_AUDIO_MS: Final = 120.0
"""Simulated: from the first delta to the first audio, at speed 1."""

_MAX_LINES: Final = 5_000
_MAX_TURNS_MEASURED: Final = 500
_USD_PER_CHAR: Final = 0.000_015
_USD_PER_TURN: Final = 0.000_4


def asr_ms(turn_id: int) -> float:
    """Simulated: how long it took to recognise a turn's words; varies from turn to turn, always in the same way."""
    return 120.0 + turn_id * 37 % 80


def tts_ttfb_ms(turn_id: int) -> float:
    """Simulated: how long a turn's first audio took; varies like `asr_ms`."""
    return FIRST_AUDIO_MS - 30.0 + turn_id * 23 % 60


class Conversation:
    """One call's talk. `send` gets frames for the client, `tell` what happened for those who watch."""

    def __init__(
        self,
        who: CallIdentity,
        voice: Voice,
        *,
        origin_s: float,
        send: Callable[[RawFrame], None],
        tell: Callable[[AnyHappening], None],
    ) -> None:
        self._who = who
        self._voice = voice
        self._origin_s = origin_s
        self._send = send
        self._tell = tell
        self._state: CallState = "idle"
        self._chars_before_turn = 0
        self._reached: list[str] = []
        self._times: deque[TurnTimes] = deque(maxlen=_MAX_TURNS_MEASURED)
        self.replies = ReplyQueue()
        self.turn_id = 0
        self.transcript: list[TranscriptEntry] = []

    @property
    def state(self) -> CallState:
        """What the call is doing, as last told to the client."""
        return self._state

    # ---- the caller

    def partial(self, text: str, language: str | None, extra: RawFrame | None) -> None:
        """The caller is talking; nothing is final yet. `ValueError` for a text that no frame can hold."""
        self._send(outgoing.user_text(text, is_final=False, language=language, extra=extra))
        self._tell(CallerSaid(text, is_final=False, turn_id=self.turn_id + 1))

    def final(self, text: str, language: str | None, extra: RawFrame | None, now: float) -> int:
        """The caller has said something: a turn begins, whose id is returned. `ValueError` like `partial`."""
        self._catch_up(now)
        self._send(outgoing.user_text(text, is_final=True, language=language, extra=extra))
        self.turn_id += 1
        self._chars_before_turn = self._voice.spoken_chars
        self.replies.user_turn(self.turn_id, now)
        self._heard("caller", text, now)
        self._tell(CallerSaid(text, is_final=True, turn_id=self.turn_id))
        self._settle()
        return self.turn_id

    def interrupt(self, now: float, heard_prefix: str | HeardPrefix | None = HeardPrefix.AUTOMATIC) -> str | None:
        """The caller cuts in: speech stops, what was heard goes out as the prefix; None where nothing was said."""
        self._catch_up(now)
        floor = self._voice.current
        open_reply = self.replies.current
        for utterance in self._stop_speech(now):
            utterance.interrupted = True
        heard = None if floor is None else floor.heard_text
        if not isinstance(heard_prefix, HeardPrefix):
            heard = heard_prefix
        self.replies.interrupt(heard_something=bool(heard))
        turn_id = self.turn_id
        if floor is not None:
            turn_id = floor.turn_id
        elif open_reply is not None:
            turn_id = open_reply.turn_id
        self._send(outgoing.user_interrupted(turn_id, heard))
        self._tell(Interrupted(turn_id, heard))
        self._enter("interrupted")
        return heard

    # ---- the agent

    def delta(self, text: str, now: float) -> None:
        """A piece of the open reply; it is spoken unless the caller cut that reply off."""
        reply = self.replies.delta(text, self.turn_id, now)
        self._tell(DeltaCame(text, reply.turn_id))
        if reply.interrupted:
            return
        if reply.utterance is None or reply.utterance.cut:
            reply.utterance = self._voice.begin("reply", reply.turn_id)
        self._voice.extend(reply.utterance, text, now)

    def end(self, now: float) -> None:
        """The open reply is written to its end; `FrameError` where none is open."""
        reply = self.replies.end(now)
        if reply is None:
            return
        if reply.utterance is not None:
            self._voice.close(reply.utterance, now)
        self._tell(ReplyEnded(reply.text, reply.turn_id, reply.interrupted))
        if reply.answers_user:
            self._measure(reply, now)
        self._settle()

    def say(self, kind: UtteranceKind, text: str, now: float) -> None:
        """Something is said as it stands, after what is queued already."""
        utterance = self._voice.begin(kind, self.turn_id)
        self._voice.extend(utterance, text, now)
        self._voice.close(utterance, now)

    def say_if_idle(self, text: str, now: float) -> None:
        """A filler: said only where nothing else is."""
        self._voice.advance_clock(now)
        if self._voice.silent:
            self.say("filler", text, now)

    def stop_speech(self, now: float) -> None:
        """Speech stops at once by the agent's own wish; what the client owes stays as it is."""
        self._catch_up(now)
        self._stop_speech(now)

    # ---- time

    def advance(self, now: float) -> list[str]:
        """Brings speech up to `now`; returns the markers that were reached."""
        self._catch_up(now)
        if self._state != "interrupted":
            self._settle()
        reached, self._reached = self._reached, []
        return reached

    def _catch_up(self, now: float) -> None:
        for event in self._voice.advance(now):
            match event:
                case Reached(marker):
                    self._reached.append(marker)
                case VoiceEvent(Happened.STARTED):
                    self._enter("speaking")
                case VoiceEvent(Happened.FINISHED, utterance):
                    self._spoken(utterance, now)
                case _:
                    pass

    def progress(self, now: float) -> SpeechProgress | None:
        """What has been heard of what is being spoken; None while nothing is."""
        self._voice.advance_clock(now)
        current = self._voice.current
        if current is None or not current.started:
            return None
        return SpeechProgress(_role(current), self._voice.heard_so_far(current), done=False)

    def spoken_this_turn(self, now: float) -> int:
        """How many characters of the agent's have been heard since the caller's last final words."""
        self._voice.advance_clock(now)
        return self._voice.spoken_chars - self._chars_before_turn

    def when_spoken_this_turn(self, chars: int) -> float | None:
        """When `spoken_this_turn` reaches `chars`; None where that much has not been written yet."""
        return self._voice.when_spoken(self._chars_before_turn + chars)

    def finish(self, now: float) -> None:
        """The call is over: what is being spoken was heard up to here."""
        self._catch_up(now)
        self._stop_speech(now)
        self._state = "idle"

    # ---- frames about the talk

    def greet(self) -> None:
        """Tells a client that has just shaken hands what the call is doing."""
        if self._state == "idle":
            self._enter("listening")
        else:
            self._send(outgoing.state(self._state, self.turn_id))

    def metric(self) -> None:
        """Sends the call's figures so far."""
        cost = self._voice.spoken_chars * _USD_PER_CHAR + self.turn_id * _USD_PER_TURN
        self._send(outgoing.metric(list(self._times), cost))

    def _measure(self, reply: WrittenReply, now: float) -> None:
        first = reply.first_delta_s
        times = TurnTimes(
            turn_id=reply.turn_id,
            asr_ms=asr_ms(reply.turn_id),
            llm_ttft_ms=None if first is None else _ms(first - reply.asked_s),
            llm_total_ms=_ms(now - reply.asked_s),
            tts_ttfb_ms=None if first is None else tts_ttfb_ms(reply.turn_id),
        )
        self._times.append(times)
        self._send(outgoing.turn_metrics(self._who.call_id, times))
        self.metric()

    def _stop_speech(self, now: float) -> list[Utterance]:
        cut = self._voice.cut(now)
        for utterance in cut:
            self._spoken(utterance, now)
        return cut

    def _spoken(self, utterance: Utterance, now: float) -> None:
        heard = utterance.heard_text
        if heard:
            self._heard(_role(utterance), heard, now)
        self._tell(SpeechProgress(_role(utterance), heard, done=True))

    def _heard(self, role: Role, text: str, now: float) -> None:
        keep(self.transcript, TranscriptEntry(role, text, now - self._origin_s), _MAX_LINES)

    def _settle(self) -> None:
        if self._voice.speaking:
            self._enter("speaking")
        elif self._voice.silent and self._state != "idle":
            self._enter("thinking" if self.replies.owed else "listening")

    def _enter(self, state: CallState) -> None:
        if state == self._state:
            return
        self._state = state
        self._send(outgoing.state(state, self.turn_id))
        self._tell(CallStateChanged(state, self.turn_id))


def _role(utterance: Utterance) -> Role:
    return "worker" if utterance.kind == "worker" else "agent"


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
