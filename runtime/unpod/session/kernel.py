"""What all parts of one session share: whose it is, what has happened, and the one way to write.

It knows none of these parts. The driver makes them, and gives each what it needs of the others.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from dataclasses import dataclass, field
from typing import Final

from msgspec.structs import replace

from unpod.core import commands as cmd
from unpod.core import decision as d
from unpod.core import events as ev
from unpod.core.codec import Record
from unpod.core.events import tag_of
from unpod.core.ids import command_id
from unpod.core.replay.history import History
from unpod.core.state import SessionState, evolve
from unpod.session.ending import Ending
from unpod.session.hooks import Hooks
from unpod.session.log_time import SessionClock
from unpod.session.outbox import Outbox
from unpod.session.outcomes import Outcomes
from unpod.session.ownership import Ownership
from unpod.session.scope import Scope, main_scope
from unpod.session.settings import SessionSettings
from unpod.session.watermark import Watermark
from unpod.session.work_queue import WorkQueue

logger = logging.getLogger("unpod.session")

CORE: Final = "core"
"""The handler name of what the session does by itself."""


@dataclass(slots=True)
class Replayed:
    """The past, while it is replayed; what is written meanwhile stands after all of it."""

    end: SessionState
    """The session's state at its end."""
    seen: int
    """The bridge's newest record in it."""
    now: float
    """The time of the record that is gone through."""
    written: list[Record] = field(default_factory=list)

    @property
    def paused(self) -> bool:
        """Whether texts must not be kept: at the end of the past, or since a pause that was written meanwhile."""
        if self.end.paused or any(pending.withheld for pending in self.end.queue):
            return True
        return any(isinstance(record.body, cmd.PauseRecording) for record in self.written)


class SessionKernel:
    """One session: its owner, its state, and its records; each is folded in the tick in which it is written."""

    def __init__(self, ownership: Ownership, settings: SessionSettings) -> None:
        self.clock = SessionClock(ownership.clock)
        self.ownership = ownership = dataclasses.replace(ownership, clock=self.clock)
        self.settings = replace(settings, agent_id=ownership.agent_id)
        self.state = SessionState()
        self.past: History | None = None
        """What former owners have done, known once the log has been read."""
        self.replayed: Replayed | None = None
        self.main = main_scope()
        self.hooks = Hooks()
        self.chores: set[asyncio.Task[object]] = set()
        """What the developer's code has spawned."""
        self.watermark = Watermark()
        self.work_queue = WorkQueue(self.hooks, self.watermark)
        self.outcomes = Outcomes(self.clock)
        self.ending = Ending(ownership, self.work_queue.wake, on_lost=self.outcomes.over)
        self.outbox = Outbox(ownership, on_failure=self.ending.lose)
        self.heard_end = False
        """Whether the bridge has said that the call is over, though that may come after all that is replayed."""

    @property
    def over(self) -> bool:
        """Whether the call is over, which may be known before `run` takes note of it, but not while it is replayed."""
        return self.state.over or (self.heard_end and self.replayed is None)

    def now(self) -> float:
        """Return the log's time: of the record that is replayed, or the present."""
        return self.clock.now() if self.replayed is None else self.replayed.now

    def record(self, fact: ev.SessionEvent, cause: str) -> None:
        """Store a fact."""
        self.append(d.Append(fact), cause)

    def append(self, step: d.Append, cause: str = CORE, scope: Scope | None = None, now: float | None = None) -> Record:
        """Store what a decision says, fold it, and return its record; `scope` is of the handler that asked for it.

        `now` is the clock's time, for whoever has just read it.

        Raises:
            RecordTooLarge: it cannot be stored.
        """
        body, session = step.body, self.ownership.session_id
        identifier = ""
        if step.cause:
            scope, identifier = None, command_id(session, step.cause, CORE, tag_of(body), 0)
        elif isinstance(body, cmd.Command):
            identifier = (scope or Scope(cause, CORE)).command_id(session, tag_of(body))
        if isinstance(body, cmd.EndReply) and body.reason == "empty":
            logger.warning("session %s, turn %d: the adapter had nothing to say", session, body.turn)
        replayed = self.replayed
        seen = self.state.bridge_index if replayed is None else replayed.seen
        record = self.outbox.append(
            body,
            now=self.clock.now() if now is None else now,
            cause=cause,
            seen=seen,
            settled=self.watermark.say(seen, self.outbox.index),
            hidden=self.state.private or (replayed is not None and replayed.paused),
            handler="" if scope is None else scope.handler,
            command_id=identifier,
        )
        if replayed is None:
            self.state = evolve(self.state, record)
        else:
            replayed.written.append(record)
        if isinstance(body, ev.TurnCompleted):
            self.work_queue.turn_over(body.turn_id)
        return record
