"""The jobs of one bridge: from their assignment, over the place at a runner and the call, to their end.

Each job that is taken has a record in the job store before its call is dialled, so that another bridge can dial it again
when this one has died. A record holds the call's token: runners may not read the store.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Literal, Protocol

import msgspec
from msgspec import Struct

from unpod.core.codec import MALFORMED
from unpod.errors import Fenced, LogError, UnpodError
from unpod_bridge.control import ControlLink
from unpod_bridge.dispatch import Ask, Dispatcher, RunnerPlace
from unpod_bridge.fleet import Pool
from unpod_bridge.registration import Assigned

logger = logging.getLogger("unpod.bridge")

USAGE_LIMIT = 0.9
"""How full the log may be before new calls are refused: the rest is for the calls in progress."""
USAGE_FRESH_S = 3.0


class JobRecord(Struct, frozen=True, kw_only=True):
    """What another bridge needs to dial a job's call again."""

    job: str
    agent: str
    dev: bool = False
    worker: str
    bridge: str
    call: str
    bridge_url: str
    token: str
    state: Literal["dialing", "up"] = "dialing"
    session: str = ""

    def __repr__(self) -> str:
        return f"JobRecord(job={self.job!r}, bridge={self.bridge!r}, state={self.state!r})"


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(JobRecord).decode


class Entry(Protocol):
    """A record as it is stored."""

    @property
    def value(self) -> bytes:
        """Its bytes."""
        ...

    @property
    def revision(self) -> int:
        """What an update or delete must name."""
        ...


class Store(Protocol):
    """Where job records are kept (`unpod.jetstream.JobStore`)."""

    async def create(self, key: str, value: bytes) -> int:
        """Store a new record; `Fenced` if there is one."""
        ...

    async def update(self, key: str, value: bytes, revision: int) -> int:
        """Replace the record of a revision."""
        ...

    async def delete(self, key: str, revision: int) -> None:
        """Delete the record of a revision."""
        ...

    async def get(self, key: str) -> Entry | None:
        """Return the record, if there is one."""
        ...


class Result(Protocol):
    """How a call went."""

    @property
    def reason(self) -> str:
        """Why it ended."""
        ...

    @property
    def duration_s(self) -> float:
        """How long it was up."""
        ...

    @property
    def connected(self) -> bool:
        """Whether it was up at all."""
        ...


class Line(Protocol):
    """One call's line (`unpod_bridge.line.Line`)."""

    async def run(self) -> Result:
        """Carry the call to its end."""
        ...

    def cancel(self) -> None:
        """End the call, dialling or up."""
        ...


MakeLine = Callable[[Assigned, RunnerPlace], Line]


class Fullness:
    """Whether the log has room for more calls; asked at most every few seconds."""

    def __init__(self, usage: Callable[[], Coroutine[object, object, float]]) -> None:
        self._usage = usage
        self._asked_at = float("-inf")
        self._full = False

    async def full(self) -> bool:
        """Return whether new calls are to be refused; a log that does not answer is taken to be as it was."""
        now = asyncio.get_running_loop().time()
        if now - self._asked_at < USAGE_FRESH_S:
            return self._full
        self._asked_at = now
        try:
            usage = await self._usage()
        except LogError as error:
            logger.debug("how full the log is cannot be known: %s", type(error).__name__)
            return self._full
        full = usage >= USAGE_LIMIT
        if full and not self._full:
            logger.error("the log is %.0f %% full: new calls are refused until there is room", usage * 100)
        self._full = full
        return full


@dataclass(slots=True)
class _Search:
    link: ControlLink
    ask: Ask
    job: Assigned
    task: asyncio.Task[None] | None = None


@dataclass(slots=True)
class _Call:
    link: ControlLink
    job: Assigned
    place: RunnerPlace
    record: JobRecord = field(repr=False)
    revision: int
    line: Line | None = None
    writing: asyncio.Task[None] | None = None


class Jobs:
    """All jobs of this bridge (`control.Desk`)."""

    def __init__(
        self,
        *,
        bridge_id: str,
        dispatcher: Dispatcher,
        store: Store,
        fullness: Fullness,
        alive: Callable[[str], bool],
        make_line: MakeLine,
    ) -> None:
        self._bridge_id = bridge_id
        self._dispatcher = dispatcher
        self._store = store
        self._fullness = fullness
        self._alive = alive
        self._make_line = make_line
        self._searches: dict[str, _Search] = {}
        self._promised: dict[str, _Call] = {}
        self._calls: dict[str, _Call] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    # ---------------------------------------------------------------------------------------------------------- state

    @property
    def calls(self) -> int:
        """How many calls there are, those still being dialled among them."""
        return len(self._calls)

    async def until_idle(self) -> None:
        """Return once nothing is looked for, no call is there, and every record is written."""
        await self._idle.wait()

    async def abandon(self, grace_s: float) -> None:
        """End everything at once; what has not ended after `grace_s` is left."""
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=grace_s)

    # ----------------------------------------------------------------------------------------------------------- desk

    def find(self, link: ControlLink, job: Assigned) -> None:
        """Look for a runner (`Desk.find`)."""
        identity = link.registration.identity
        search = _Search(link, Ask(job.job_id, Pool(identity.agent_id, identity.dev), job.ask_until), job)
        self._searches[job.job_id] = search
        search.task = self._spawn(self._search(search), f"unpod-search-{job.job_id}")

    def extend(self, job: Assigned) -> None:
        """The job has come again (`Desk.extend`)."""
        search = self._searches.get(job.job_id)
        if search is not None:
            search.job = job
            search.ask.until = job.ask_until

    def withdraw(self, job_id: str) -> None:
        """Stop looking (`Desk.withdraw`)."""
        search = self._searches.pop(job_id, None)
        if search is not None and search.task is not None:
            search.task.cancel()

    def dial(self, job: Assigned) -> None:
        """Begin the call (`Desk.dial`)."""
        call = self._promised.pop(job.job_id)
        call.job = job
        self._calls[job.job_id] = call
        call.line = self._make_line(job, call.place)
        call.place.on_start = lambda session_id: self._begun(call, session_id)
        self._spawn(self._carry(call, call.line), f"unpod-call-{job.job_id}")

    def cancel(self, job_id: str) -> None:
        """End the call (`Desk.cancel`)."""
        call = self._calls.get(job_id)
        if call is not None and call.line is not None:
            call.line.cancel()
