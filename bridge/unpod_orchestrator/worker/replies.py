"""Which replies are open, and how many `agent.text.end` the client owes.

Pure. A final user text opens the reply that answers it, in order; a delta with no reply open opens one by itself; each
is ended exactly once, interrupted or not. What goes beyond that is the client's fault, with two exceptions that the
client cannot know better:

- after `user.interrupted` without a `heard_prefix` between replies the client gives its adapter a note; where that
  makes it say nothing, one end may come all the same;
- after a drop it cannot know whether its last end arrived: one repetition is harmless.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from unpod_orchestrator.wire.call_frames import FrameError
from unpod_orchestrator.worker.voice import Utterance

MAX_KEPT_CHARS: Final = 32_000_000
"""How much text of completed replies a call remembers; the oldest is forgotten first."""


@dataclass(eq=False)
class WrittenReply:
    """One reply: open until `ended_s`; `text` is what was written, which need not be what was heard."""

    turn_id: int
    answers_user: bool
    asked_s: float
    first_delta_s: float | None = None
    ended_s: float | None = None
    cut_off: bool = False
    utterance: Utterance | None = None
    parts: list[str] = field(default_factory=list)
    chars: int = 0

    @property
    def text(self) -> str:
        """Everything that the client wrote for this reply, but for deltas that were too much (`ReplyQueue`)."""
        if len(self.parts) > 1:
            self.parts = ["".join(self.parts)]
        return self.parts[0] if self.parts else ""

    @property
    def interrupted(self) -> bool:
        """Whether the caller cut in, while it was written or while it was spoken."""
        return self.cut_off or (self.utterance is not None and self.utterance.interrupted)

    def add(self, text: str, now: float, most_chars: int) -> None:
        """One more delta, kept unless it makes the text longer than `most_chars`."""
        if self.first_delta_s is None:
            self.first_delta_s = now
        if self.chars + len(text) <= most_chars:
            self.chars += len(text)
            self.parts.append(text)


class ReplyQueue:
    """The replies of one call, the open ones in the order in which they have to end."""

    def __init__(self, most_chars: int = MAX_KEPT_CHARS) -> None:
        self._most_chars = most_chars
        self._open: deque[WrittenReply] = deque()
        self._kept_chars = 0
        self._spare_nudge_ends = 0
        self._spare_redial_end = False
        self.completed: list[WrittenReply] = []
        self.completed_total = 0

    @property
    def owed(self) -> int:
        """How many ends the client still owes."""
        return len(self._open)

    @property
    def current(self) -> WrittenReply | None:
        """The reply that the next delta belongs to, if one is open."""
        return self._open[0] if self._open else None

    def user_turn(self, turn_id: int, now: float) -> None:
        """The caller has said something: the client owes a reply."""
        self._open.append(WrittenReply(turn_id=turn_id, answers_user=True, asked_s=now))

    def delta(self, text: str, turn_id: int, now: float) -> WrittenReply:
        """The reply that a delta belongs to, opened by it where none was."""
        if not self._open:
            self._open.append(WrittenReply(turn_id=turn_id, answers_user=False, asked_s=now))
        reply = self._open[0]
        reply.add(text, now, self._most_chars)
        return reply

    def end(self, now: float) -> WrittenReply | None:
        """The reply that is ended; None for an end that may be surplus; `FrameError` for one that may not."""
        if not self._open:
            self._spend_spare_end()
            return None
        reply = self._open.popleft()
        reply.ended_s = now
        self._spare_redial_end = False
        self._keep(reply)
        return reply

    def interrupt(self, *, heard_something: bool) -> None:
        """The caller cut in: the open reply, if any, is not to be heard further."""
        if self._open:
            self._open[0].cut_off = True
        elif not heard_something:
            self._spare_nudge_ends += 1

    def line_dropped(self) -> None:
        """The socket is gone: the client cannot know whether its last end arrived, so it may repeat it once."""
        self._spare_redial_end = True

    def _spend_spare_end(self) -> None:
        if self._spare_redial_end:
            self._spare_redial_end = False
        elif self._spare_nudge_ends:
            self._spare_nudge_ends -= 1
        else:
            raise FrameError("agent.text.end: no reply is open")

    def _keep(self, reply: WrittenReply) -> None:
        self.completed.append(reply)
        self.completed_total += 1
        self._kept_chars += reply.chars
        while self._kept_chars > self._most_chars and len(self.completed) > 1:
            self._kept_chars -= self.completed.pop(0).chars
