"""How a call that has just come up gets its line, its owner and its first records.

In this order: the line (so that no other bridge writes), what the worker said, the owner's placement, and the receipt
with which the owner's history begins. The owner folds up to that receipt, and only then is live.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Final, Protocol

from unpod.core import events as ev
from unpod.core import ids
from unpod.core.codec import encode
from unpod.core.envelope import Envelope, from_headers, source, to_headers
from unpod.core.subjects import CallSubjects, Subjects
from unpod.errors import Fenced, ProtocolViolation
from unpod.ports import Bus, Clock, EventLog, Fence, Message
from unpod_bridge.fleet.horizon import Horizon
from unpod_bridge.journal.journal import Journal, Writing
from unpod_bridge.journal.shares import Shares
from unpod_bridge.journal.stalls import StallDetector
from unpod_bridge.journal.until_answered import shown, until_answered
from unpod_bridge.protocol.outputs import Begin, Store
from unpod_bridge.transport.sockets import Dialer
from unpod_bridge.wire.job import Job

LAG_S: Final = 5.0
LAG_PAUSE_S: Final = 0.02


class Place(Protocol):
    """The place that a runner holds for a job."""

    @property
    def runner_id(self) -> str:
        """Which runner holds it."""
        ...

    @property
    def waited_s(self) -> float | None:
        """How long it was looked for, None where that is not known."""
        ...

    async def begin(self, session_id: str) -> None:
        """The call is up; return once its session is known to whoever would go on with it. Raises Fenced."""
        ...

    async def start(self, session_id: str, epoch: int, until_seq: int, *, positions: bytes = b"") -> bool:
        """Tell the runner that the session is its own; return False if it does not answer, or does not want it."""
        ...

    async def release(self, reason: str) -> None:
        """Give the place back: the call never came up."""
        ...


ANCHOR_S: Final = 10.0
"""For how many seconds an offset that was looked up is used: clocks drift apart by under a millisecond in that time."""


class Anchor:
    """The log's time less this machine's, which is the same for all calls of a bridge."""

    __slots__ = ("_at", "_offset_s")

    def __init__(self) -> None:
        self._offset_s = 0.0
        self._at = float("-inf")

    def cast(self, offset_s: float, now: float) -> None:
        """It is known as of now."""
        self._offset_s, self._at = offset_s, now

    def holds(self, now: float) -> float | None:
        """Return it, None where it was looked up too long ago."""
        return self._offset_s if now - self._at < ANCHOR_S else None


AT_ONCE: Final = 4
"""How many calls of a bridge read at once what they have missed: a server that is late must not be asked by all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineServices:
    """What a line needs from the outside."""

    log: EventLog
    bus: Bus
    subjects: Subjects
    clock: Clock
    bridge_id: str
    dialer: Dialer
    stalls: StallDetector | None = None
    reading: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    """Whose turn it is to read what an owner has written and the tail has not shown."""
    horizon: Horizon = field(default_factory=Horizon)
    shares: Shares = field(default_factory=Shares)
    anchor: Anchor = field(default_factory=Anchor)


PATIENCE_S: Final = 30.0
"""How long a placement waits for a log that is away: as long as a call that is up may be without it."""


async def take_line(
    services: LineServices,
    subjects: CallSubjects,
    job: Job,
    session_id: str,
    *,
    after: int = 0,
    patience_s: float = PATIENCE_S,
) -> Writing:
    """Take the line of a session, anchor our time to the log's, and return how to write from here on.

    `after` is the sequence of the former line record, where another bridge has had the call. A log that is away is
    waited for, for `patience_s`.

    Raises:
        Fenced: another bridge holds the line.
        LogError: the log does not answer.
    """
    log = services.log
    taken = ev.LineTaken(bridge=services.bridge_id, job_id=job.job_id)
    headers = placement_headers(services, "line", taken, session_id)
    fence = Fence(subjects.line, after)
    stored = await log.append(subjects.line, encode(taken), headers, fence=fence, timeout_s=patience_s)
    # The line of a new call need not be read back: if another bridge takes it right after this, our next write fails.
    offset_s = None if after else services.anchor.holds(services.clock.now())
    if offset_s is None:
        offset_s = await _offset_s(services, subjects, stored.seq)
    return Writing(session=session_id, source=source("bridge", services.bridge_id), epoch=stored.seq, offset_s=offset_s)


async def _offset_s(services: LineServices, subjects: CallSubjects, seq: int) -> float:
    """Return the log's time less ours, from the line record that was stored just now."""
    asked_at = services.clock.now()
    record = await until_answered(
        services.clock, lambda: shown(services.log, subjects.line, seq), LAG_S, pause_s=LAG_PAUSE_S
    )
    if record.seq != seq:
        raise Fenced("another bridge has taken the line")
    offset_s = record.time_ns / 1e9 - asked_at if record.time_ns else 0.0
    services.anchor.cast(offset_s, asked_at)
    return offset_s


async def appoint(
    services: LineServices,
    subjects: CallSubjects,
    begin: Begin,
    journal: Journal,
    place: Place,
    *,
    after: int = 0,
    patience_s: float = PATIENCE_S,
) -> tuple[int, int]:
    """Store what the worker said and make the runner the owner; return its epoch and where its history begins.

    `after` is the sequence of a former appointment that has come to nothing. `patience_s` as in `take_line`.

    Raises:
        LogError: the log does not answer, or another bridge has been quicker.
    """
    journal.put(Store("evt", begin.hello.body, begin.hello.data))
    journal.put(Store("evt", begin.started.body, begin.started.data))
    await journal.flush()
    runner_id = place.runner_id
    owner = ev.OwnerAppointed(runner=runner_id, waited_ms=waited_ms(place))
    headers = placement_headers(services, "own", owner, begin.session_id)
    fence = Fence(subjects.own, after)
    own = await services.log.append(subjects.own, encode(owner), headers, fence=fence, timeout_s=patience_s)
    journal.stream_positions.placed(own.seq)
    journal.stream_positions.searched((), 0, own.seq)  # nobody has owned it before
    first = await journal.append(ev.OwnerChanged(epoch=own.seq, runner=runner_id))
    return own.seq, first.seq


def waited_ms(place: Place) -> float | None:
    """Return how long a place was looked for, as a record has it."""
    return None if place.waited_s is None else place.waited_s * 1_000


def placement_headers(services: LineServices, kind: str, body: ev.Placement, session_id: str) -> Mapping[str, str]:
    """Return the headers of a placement.

    Its id is made once for each attempt to place a call: with one that could be derived again, a second attempt would
    be told that this very record is stored already, and believe that it holds the line.
    """
    return to_headers(
        Envelope(
            id=ids.derive(kind, session_id, services.bridge_id, token_hex(8)),
            type=f"{kind}.{ev.tag_of(body)}",
            source=source("bridge", services.bridge_id),
            session=session_id,
            time=services.clock.now(),
            epoch=0,
            index=0,
        )
    )


def placed_by(services: LineServices, message: Message) -> bool:
    """Whether a placement is this bridge's own."""
    try:
        return from_headers(message.headers).source == source("bridge", services.bridge_id)
    except ProtocolViolation:
        return False
