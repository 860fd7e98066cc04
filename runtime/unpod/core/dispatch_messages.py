"""Who takes which call: what bridges and runners say to each other over core NATS. Nothing of it is stored.

A bridge that is assigned a job asks the runners of its agent (`Offer`, a queue group: one answers). The runner that
answers `taken` holds a place for the job. Once the call is up, the bridge appoints it owner in the log and tells it in
person (`Start`), or gives the place back (`Release`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, Literal, TypeVar

import msgspec
from msgspec import Struct

Answer = Literal["taken", "full", "rate_limited", "draining"]
ProbationPhase = Literal["begun", "over"]
Registration = Literal["connecting", "registered", "refused", "too_old", "unreachable"]
Refusal = Literal[
    "agent_id_mismatch",
    "at_capacity",
    "draining",
    "rate_limited",
    "log_full",
    "jobs_full",
    "jobs_away",
    "metadata",
]
"""Why a job is refused, for people and figures: the orchestrator knows the first four only."""


T = TypeVar("T")

IDS_CHARS: Final = 65_536
"""How many characters the ids in one message may have in all: naming each twice, with numbers, takes under 1 MB."""
PROBATION_S: Final = 2.0
"""For how long at most a call is on probation, from when it begins at a new owner."""


class RunnerAnnounced(Struct, frozen=True, kw_only=True):
    """A runner says that it is there: at its start, at each change, and each second.

    `held_back`: it has a place for a new call, and no permit yet.
    """

    runner: str
    agent: str
    capacity: int
    in_flight: int = 0
    queued: int = 0
    dev: bool = False
    draining: bool = False
    held_back: bool = False
    gone: bool = False
    version: str = ""


class BridgeAnnounced(Struct, frozen=True, kw_only=True):
    """A bridge says that it is there, and how its registration of each agent key (`agent`, `agent@dev`) stands.

    One that drains takes no more jobs, and other bridges may have those that it has released. `log_room` is what is
    free of the log, and `agent_rooms` what is left of the share of it that each agent may fill: 1.0 to 0.0; `jobs_room`
    is what is free of the job store. `log_behind` counts the nodes of the log that do not keep up, and `refused`, for
    each agent key, the jobs that were refused, by their reason.
    """

    bridge: str
    agents: dict[str, Registration] = {}
    detail: str = ""
    draining: bool = False
    gone: bool = False
    log_room: float | None = None
    jobs_room: float | None = None
    log_behind: int | None = None
    refused: dict[str, dict[Refusal, int]] = {}
    agent_rooms: dict[str, float] = {}


class BridgeAlive(Struct, frozen=True):
    """A bridge tells the others that its event loop turns; who hears that need not ask."""

    bridge: str


class Offer(Struct, frozen=True, kw_only=True):
    """A job waits for a runner; `session` is known when it is a call that another runner had."""

    job: str
    bridge: str
    agent: str
    resume: bool = False
    session: str = ""


class OfferAnswered(Struct, frozen=True, kw_only=True):
    """A runner's answer; `taken` holds a place for the job until `Start` or `Release`."""

    answer: Answer
    runner: str = ""


class Suspicion(Struct, frozen=True, kw_only=True):
    """A former owner may have died of this call.

    `silent_s` is how long ago its caller has spoken. `alone`: it was on probation with others when an owner died, and
    nobody may be there with it now. `cleanup`: only that is left of the call, so no record shows that it is past it.
    """

    silent_s: float = 0.0
    alone: bool = False
    cleanup: bool = False


class Start(Struct, frozen=True, kw_only=True, tag="start"):
    """The session is yours: `epoch` is the sequence of your `own` record; read the log up to `until_seq` and begin.

    `held`: read the log, but run none of the developer's code until this message comes again without it. With a
    `suspicion` it need not come again: the runner's own probation lets the call begin. `positions` (`core.positions`)
    say where the log's records stand; without, they are searched for.
    """

    job: str
    agent: str
    session: str
    epoch: int
    until_seq: int
    bridge: str = ""
    held: bool = False
    suspicion: Suspicion | None = None
    positions: bytes = b""


class Hold(Struct, frozen=True, kw_only=True, tag="hold"):
    """The bridge has your answer and keeps the place; a runner that does not hear this within a second forgets it."""

    job: str
    bridge: str = ""


class Release(Struct, frozen=True, kw_only=True, tag="release"):
    """The job is no more: the place is free."""

    job: str
    reason: str = ""


class Told(Struct, frozen=True, kw_only=True):
    """A runner's answer to `Hold`, `Start` and `Release`; not `ok` where it knows nothing of the job.

    `lets_in`: the runner will let the held call begin by itself, and say so.
    """

    ok: bool
    reason: str = ""
    lets_in: bool = False


class Ping(Struct, frozen=True, kw_only=True):
    """A bridge asks a runner how it is: which sessions it has placed there, with its own last index of each.

    `after` has those of which it wants to know where records stand, and the owner's index up to which it knows.
    """

    bridge: str
    sessions: dict[str, int] = {}
    after: dict[str, int] = {}


class Pulse(Struct, frozen=True, kw_only=True):
    """A runner's answer: for each session that it knows, its epoch and its own last index.

    `lag_s` is how long its event loop has not turned: over 5 s, calls are moved elsewhere. `culprit` is the session in
    whose code it stands still, where that is known. `stored` answers `Ping.after`: the stream sequences of the records
    that the log has acknowledged, and behind which of the owner's indexes they come.
    """

    runner: str
    lag_s: float = 0.0
    culprit: str = ""
    sessions: dict[str, tuple[int, int]] = {}
    stored: dict[str, tuple[int, list[int]]] = {}


class HandOver(Struct, frozen=True, kw_only=True):
    """A runner lets go of sessions (it drains): the bridge finds them another owner, between turns where it can."""

    runner: str
    sessions: tuple[str, ...] = ()


class ProbationTold(Struct, frozen=True, kw_only=True):
    """A runner tells the bridge of a session that was held: it begins now; or it is past what its former owner died of.

    The end is told only where the bridge does not hear it from what the session says.
    """

    runner: str
    session: str
    epoch: int
    phase: ProbationPhase


class ProbationAnnounced(Struct, frozen=True, kw_only=True):
    """A bridge tells the others which of its sessions are on probation at a runner, of which it may die."""

    bridge: str
    runner: str
    session: str
    phase: ProbationPhase


class QueuedAnnounced(Struct, frozen=True, kw_only=True):
    """How many jobs of an agent wait at a bridge for a runner; said at each change, and each second while any wait."""

    bridge: str
    agent: str
    count: int


ToRunner = Hold | Start | Release

_encode = msgspec.json.Encoder().encode
RUNNER_ANNOUNCED = msgspec.json.Decoder(RunnerAnnounced)
BRIDGE_ANNOUNCED = msgspec.json.Decoder(BridgeAnnounced)
BRIDGE_ALIVE = msgspec.json.Decoder(BridgeAlive)
PING = msgspec.json.Decoder(Ping)
PULSE = msgspec.json.Decoder(Pulse)
HAND_OVER = msgspec.json.Decoder(HandOver)
PROBATION_TOLD = msgspec.json.Decoder(ProbationTold)
OFFER = msgspec.json.Decoder(Offer)
OFFER_ANSWERED = msgspec.json.Decoder(OfferAnswered)
TO_RUNNER = msgspec.json.Decoder(ToRunner)
TOLD = msgspec.json.Decoder(Told)
PROBATION_ANNOUNCED = msgspec.json.Decoder(ProbationAnnounced)
QUEUED_ANNOUNCED = msgspec.json.Decoder(QueuedAnnounced)


def encode(message: Struct) -> bytes:
    """Return a message's bytes."""
    return _encode(message)


def sendable(items: Sequence[T], id_of: Callable[[T], str], *, most: int) -> Iterator[Sequence[T]]:
    """Yield `items` in parts whose ids fit into one message each: `most` at once, fewer where ids are long."""
    start = chars = 0
    for end, item in enumerate(items):
        chars += len(id_of(item))
        if end - start == most or (chars > IDS_CHARS and end > start):
            yield items[start:end]
            start, chars = end, len(id_of(item))
    if start < len(items):
        yield items[start:]
