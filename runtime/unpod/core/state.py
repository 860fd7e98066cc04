"""All that is known of a session, and what happens to it too often to be stored. `evolve.py` has the rules."""

from __future__ import annotations

from msgspec import Struct

from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core import figures, turns
from unpod.core.metrics import MetricsState
from unpod.core.supervision import Supervision
from unpod.core.turns import PendingTurn, Turn


class Exchange(Struct, frozen=True):
    """A completed turn as the brain's memory has it; `heard` is what the caller heard of the reply, None if unknown."""

    turn: int
    user: str | None
    agent: str | None
    heard: str | None
    withheld: bool = False


class SessionState(Struct, frozen=True, kw_only=True):
    """All that is known of a session from its log.

    `tells_state`: the worker has sent `state` frames. `counts_turns`: nothing that it has sent contradicts that its
    `turn_id` is the number of a final text, from 1. `ender` is the control from outside that has ended it, or "".
    """

    session_id: str = ""
    runner_id: str = ""
    bridge_index: int = 0
    owner_index: int = 0
    epoch: int = 0
    line_epoch: int = 0
    void_after: int = 0
    takeovers: int = 0
    started: ev.CallStarted | None = None
    started_at: float = 0.0
    timed_from: float = 0.0
    negotiated: frozenset[str] = frozenset()
    queue: tuple[PendingTurn, ...] = ()
    turn: Turn | None = None
    turn_count: int = 0
    reply_ends: dict[int, cmd.EndReply] = {}
    history: tuple[Exchange, ...] = ()
    interruptions: int = 0
    speaking: bool = False
    tells_state: bool = False
    counts_turns: bool = True
    quiet_since: float = 0.0
    silences: int = 0
    paused: bool = False
    resuming: str = ""
    supervision: Supervision = Supervision()
    ending: str | None = None
    ender: str = ""
    dropped: bool = False
    ended: ev.CallEnded | None = None
    ended_at: float = 0.0
    failed: bool = False
    completed: bool = False
    finished: bool = False
    usage: dict[int, turns.Usage] = {}
    metrics: MetricsState = MetricsState()

    @property
    def over(self) -> bool:
        """Whether nothing more can be said on this call."""
        return self.ended is not None or self.ending is not None

    @property
    def private(self) -> bool:
        """Whether what is said now, or what the open turn is about, must not be kept."""
        return self.paused or (self.turn is not None and self.turn.withheld)

    @property
    def awaits_voice(self) -> bool:
        """Whether the reply of the open turn has not begun to be heard, and the worker will say when it does.

        A reply that was cut off may never be.
        """
        turn = self.turn
        return self.tells_state and turn is not None and bool(turn.sent) and not (turn.voiced or turn.interrupted)

    @property
    def has_withheld(self) -> bool:
        """Whether the conversation so far, as a brain remembers it, has parts that must not be kept."""
        if self.private or any(exchange.withheld for exchange in self.history):
            return True
        return any(pending.withheld for pending in self.queue)

    def is_late(self, body: ev.TurnMetrics, turn: int) -> bool:
        """Whether the worker's figures are those of a turn before `turn`, as far as they say."""
        return self.counts_turns and figures.names_earlier(body.turn_id, turn)

    def duration_s(self, now: float) -> float:
        """Return the seconds from the call's start to its end, or to `now`."""
        if not self.started_at:
            return 0.0
        return max(0.0, (self.ended_at or now) - self.started_at)


class BrainAsked(Struct, frozen=True):
    """The text of a turn went to the brain."""

    turn: int
    at: float


class TurnOpened(Struct, frozen=True):
    """The first waiting text has its turn."""

    at: float


class DeltaSent(Struct, frozen=True):
    """A piece of the reply left."""

    turn: int
    text: str
    at: float


class TurnResumed(Struct, frozen=True):
    """A takeover goes on with the first waiting text, whose turn a former owner had opened."""

    turn: Turn


LocalEvent = BrainAsked | TurnOpened | TurnResumed | DeltaSent
