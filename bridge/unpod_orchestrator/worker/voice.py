"""The worker's voice: text that takes its time to be spoken, computed from the clock.

Pure. Nothing here runs: whoever asks says what time it is, and `advance` brings the voice up to then. Deltas and says
are one queue in order; a reply that pauses for its next delta keeps the floor.
"""

import enum
import unicodedata
from collections import deque
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

MAX_QUEUED_CHARS: Final = 2_000_000
"""What is written beyond that and not yet spoken is never spoken: the voice's memory is bounded."""

_EPSILON_CHARS: Final = 1e-6

UtteranceKind: TypeAlias = Literal["reply", "say", "filler", "worker", "announcement"]


@dataclass(eq=False)
class Utterance:
    """One thing said by one speaker; `heard` holds what the caller has heard of it so far.

    `cut` means that it stopped before its end, `interrupted` that the caller did that.
    """

    kind: UtteranceKind
    turn_id: int
    closed: bool = False
    started: bool = False
    cut: bool = False
    interrupted: bool = False
    heard: list[str] = field(default_factory=list)
    segments: int = 0

    @property
    def heard_text(self) -> str:
        """What was heard of the segments that are spoken or were cut."""
        return "".join(self.heard)


class Happened(enum.Enum):
    """What the passing of time does to an utterance."""

    STARTED = "started"
    FINISHED = "finished"


@dataclass(frozen=True)
class VoiceEvent:
    """An utterance began to be heard, or was heard to its end."""

    what: Happened
    utterance: Utterance


@dataclass(frozen=True)
class Reached:
    """The speech queued before this marker has been spoken."""

    marker: str


@dataclass(eq=False)
class _Segment:
    utterance: Utterance
    parts: list[str]
    length: int
    spoken: float = 0.0

    def text(self) -> str:
        if len(self.parts) > 1:
            self.parts = ["".join(self.parts)]
        return self.parts[0]


class Voice:
    """Speaks at `chars_per_s`, `first_audio_s` after it is given something while silent."""

    def __init__(self, chars_per_s: float, first_audio_s: float, most_chars: int = MAX_QUEUED_CHARS) -> None:
        self._most_chars = most_chars
        self._rate = chars_per_s
        self._first_audio_s = first_audio_s
        self._queue: deque[_Segment | str] = deque()
        self._open: Utterance | None = None
        self._at = 0.0
        self._queued_chars = 0
        self._done_chars = 0
        self._events: list[VoiceEvent | Reached] = []

    @property
    def current(self) -> Utterance | None:
        """What has the floor: the utterance being spoken or next to be, else the reply that waits for more text."""
        for item in self._queue:
            if isinstance(item, _Segment):
                return item.utterance
        return self._open

    @property
    def speaking(self) -> bool:
        """Whether the caller hears something, a pause inside an unfinished reply included."""
        current = self.current
        return current is not None and current.started

    @property
    def silent(self) -> bool:
        """Whether nothing is being spoken nor waiting to be."""
        return self.current is None

    @property
    def spoken_chars(self) -> int:
        """How many characters have been heard, all utterances together, up to the last `advance`."""
        head = self._queue[0] if self._queue else None
        partial = int(head.spoken + _EPSILON_CHARS) if isinstance(head, _Segment) else 0
        return self._done_chars + partial

    def begin(self, kind: UtteranceKind, turn_id: int) -> Utterance:
        """A new utterance, still without text; a reply keeps the floor until it is closed."""
        utterance = Utterance(kind=kind, turn_id=turn_id)
        if kind == "reply":
            self._open = utterance
        return utterance

    def extend(self, utterance: Utterance, text: str, now: float) -> None:
        """More text for an utterance; without effect once it was cut, or where too much is queued already."""
        self.advance_clock(now)
        if utterance.cut or not text or self._queued_chars + len(text) > self._most_chars:
            return
        if not self._queue:
            self._at = max(self._at, now) + (0.0 if utterance.started else self._first_audio_s)
        self._queued_chars += len(text)
        tail = self._queue[-1] if self._queue else None
        if isinstance(tail, _Segment) and tail.utterance is utterance:
            tail.parts.append(text)
            tail.length += len(text)
            return
        self._queue.append(_Segment(utterance, [text], len(text)))
        utterance.segments += 1

    def close(self, utterance: Utterance, now: float) -> None:
        """No more text comes for this utterance."""
        self.advance_clock(now)
        utterance.closed = True
        if utterance is self._open:
            self._open = None
        if not utterance.cut and not utterance.segments:
            self._events.append(VoiceEvent(Happened.FINISHED, utterance))

    def mark(self, marker: str) -> None:
        """Asks for `Reached(marker)` when what is queued now has been spoken or discarded."""
        self._queue.append(marker)

    def cut(self, now: float) -> list[Utterance]:
        """Stops at once and returns what was cut, each with what was heard of it; markers are kept."""
        self.advance_clock(now)
        cut = [] if self._open is None else [self._open]
        for position, item in enumerate(self._queue):
            if isinstance(item, str):
                continue
            if position == 0:
                item.utterance.heard.append(_whole_words(item.text(), int(item.spoken + _EPSILON_CHARS)))
                self._done_chars += int(item.spoken + _EPSILON_CHARS)
            if item.utterance not in cut:
                cut.append(item.utterance)
        for utterance in cut:
            utterance.cut = True
            utterance.segments = 0
        self._queue = deque(item for item in self._queue if isinstance(item, str))
        self._open = None
        self._queued_chars = 0
        self._at = now
        return cut

    def advance(self, now: float) -> list[VoiceEvent | Reached]:
        """Speaks up to `now`; what began, ended or was reached since the last call, in order."""
        self.advance_clock(now)
        events, self._events = self._events, []
        return events

    def advance_clock(self, now: float) -> None:
        """Speaks up to `now` and keeps the events for the next `advance`."""
        while self._queue:
            head = self._queue[0]
            if isinstance(head, str):
                self._queue.popleft()
                self._events.append(Reached(head))
            elif self._at > now or not self._speak(head, now):
                return

    def _speak(self, head: _Segment, now: float) -> bool:
        """Speaks the head of the queue up to `now`; true when it is spoken."""
        utterance = head.utterance
        if not utterance.started:
            utterance.started = True
            self._events.append(VoiceEvent(Happened.STARTED, utterance))
        end = self._at + (head.length - head.spoken) / self._rate
        if end > now:
            head.spoken += (now - self._at) * self._rate
            self._at = now
            return False
        self._at = end
        self._queue.popleft()
        self._queued_chars -= head.length
        self._done_chars += head.length
        utterance.segments -= 1
        utterance.heard.append(head.text())
        if utterance.closed and not utterance.segments:
            self._events.append(VoiceEvent(Happened.FINISHED, utterance))
        return True

    def next_event(self) -> float | None:
        """When `advance` has something to tell next, if nothing changes until then."""
        if self._events:
            return self._at
        head = self._queue[0] if self._queue else None
        if head is None:
            return None
        if isinstance(head, str) or not head.utterance.started:
            return self._at
        return self._at + (head.length - head.spoken) / self._rate

    def when_spoken(self, chars: int) -> float | None:
        """When `spoken_chars` reaches `chars`; None where the text for it is not there yet."""
        missing = chars - self.spoken_chars
        head = self._queue[0] if self._queue else None
        spoken = int(head.spoken + _EPSILON_CHARS) if isinstance(head, _Segment) else 0
        if missing > self._queued_chars - spoken:
            return None
        fraction = head.spoken - spoken if isinstance(head, _Segment) else 0.0
        return self._at + max(0.0, missing - fraction) / self._rate

    def heard_so_far(self, utterance: Utterance) -> str:
        """What was heard of an utterance up to the last `advance`, whole words only."""
        head = self._queue[0] if self._queue else None
        if not isinstance(head, _Segment) or head.utterance is not utterance:
            return utterance.heard_text
        return utterance.heard_text + _whole_words(head.text(), int(head.spoken + _EPSILON_CHARS))


def _whole_words(text: str, spoken: int) -> str:
    """The first `spoken` characters, without a word that was begun only."""
    if spoken >= len(text):
        return text
    end = spoken
    while end > 0 and not _is_boundary(text[end - 1], text[end]):
        end -= 1
    return text[:end].rstrip()


def _is_boundary(before: str, after: str) -> bool:
    return before.isspace() or after.isspace() or _is_word_of_its_own(before) or _is_word_of_its_own(after)


def _is_word_of_its_own(character: str) -> bool:
    """Scripts without spaces between words: any character may be the last one heard."""
    return unicodedata.east_asian_width(character) in {"W", "F"}
