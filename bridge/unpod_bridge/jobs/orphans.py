"""The other bridges: which are gone, whose calls are then ours to take, and what the living ask of each other.

A bridge that is gone leaves records of its jobs. The living share them: each takes those that fall to it as all reckon
it alike, and a moment later what is left. It is a compare-and-set that decides, so each call goes to one. A bridge that
drains releases its records, and lets go of a call when another has taken it and asks for it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, TypeVar

from unpod.core.codec import MALFORMED
from unpod.core.dispatch_messages import BRIDGE_ALIVE
from unpod.core.ids import derive
from unpod.core.subjects import Subjects
from unpod.errors import LogError, NoResponders
from unpod.ports import Bus, Message, Subscription
from unpod_bridge.fleet.bridges import Bridges, Gone
from unpod_bridge.jobs.store import Claim, JobRecord, JobRecords, Kept
from unpod_bridge.protocol.recovered_log import NEVER

logger = logging.getLogger("unpod.bridge")

T = TypeVar("T")

LOOK_S: Final = 0.25
ROUND_S: Final = 15.0
"""How often all records are looked at, for what nobody has heard of."""
CALL_OFF_S: Final = 1.0
"""How often the bridge that has a job is told that it is called off, until its record is gone."""
ASK_TIMEOUT_S: Final = 0.5
YIELD_TIMEOUT_S: Final = 5.0
AT_ONCE: Final = 50
"""How many calls are taken over at the same time."""
SPARE_S: Final = (0.3, 0.6)
"""How many seconds, at least and at most, we wait before we take jobs that another bridge was to take."""
OK: Final = b"ok"


@dataclass(frozen=True, slots=True)
class Orphan:
    """A job that we have taken from another bridge, as it was there.

    From the sequence `deaf_from` of the log on, and from `deaf_since` on (the event loop's time), that bridge has heard
    nothing; one that stands still has done nothing since `still_since`. `let_go` asks one that is alive to hand the
    call over, and returns whether it has.
    """

    record: JobRecord
    deaf_from: int = NEVER
    deaf_since: float | None = None
    still_since: float | None = None
    let_go: Callable[[], Awaitable[bool]] | None = None


@dataclass(slots=True)
class Deafness:
    """Since when a bridge hears nothing any more (the event loop's time), and where the log ended after that."""

    since: asyncio.Task[float]
    end: asyncio.Task[int]


class AdoptingBridge(Protocol):
    """What a bridge does for the other bridges; nothing here raises."""

    def adopt(self, orphan: Orphan, claim: Claim) -> None:
        """Go on with another bridge's call."""
        ...

    async def let_go(self, job_id: str) -> bool:
        """Hand a call over; return whether all of it is stored and its socket is closed."""
        ...

    def cancel(self, job_id: str) -> None:
        """End a call that the orchestrator has called off, if it is here."""
        ...


async def _has_let_go() -> bool:
    return True


def _orphan(
    record: JobRecord,
    *,
    deaf_from: int = NEVER,
    deaf_since: float | None = None,
    still_since: float | None = None,
) -> Orphan:
    if record.state == "left":
        return Orphan(record, let_go=_has_let_go)
    return Orphan(record, deaf_from, deaf_since, still_since)


class Orphans:
    """Watches the other bridges, and takes the calls of those that are gone.

    `end` returns the log's last sequence, `ended_ago` how many seconds ago a process has lost its connection, if that
    can be known.
    """

    def __init__(
        self,
        bridge_id: str,
        bus: Bus,
        subjects: Subjects,
        *,
        records: JobRecords,
        other_bridges: Bridges,
        adopted_jobs: AdoptingBridge,
        end: Callable[[], Coroutine[object, object, int]],
        ended_ago: Callable[[str], Awaitable[float | None]],
        ask_timeout_s: float = ASK_TIMEOUT_S,
        call_off_s: float = CALL_OFF_S,
    ) -> None:
        self._bridge_id = bridge_id
        self._bus = bus
        self._subjects = subjects
        self._records = records
        self._other_bridges = other_bridges
        self._adopted_jobs = adopted_jobs
        self._end = end
        self._ended_ago = ended_ago
        self._ask_timeout_s = ask_timeout_s
        self._call_off_s = call_off_s
        self._loop = asyncio.get_running_loop()
        self._deaf: dict[str, Deafness] = {}
        self._relieved: set[str] = set()
        self._named: set[str] = set()
        """Bridges that some record has named since we looked last."""
        self._succeeding: set[str] = set()
        self._called_off: dict[str, float] = {}
        self._taking = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[object]] = set()
        self._wake = asyncio.Event()
        self._subscriptions: list[Subscription] = []
        self._losses = 0
        self._up = True
        self.closed_to_orphans = False
        records.on_change(self._changed)

    async def open(self) -> None:
        """Answer the other bridges, and hear them; raises LogError."""
        mine = self._subjects.bridge(self._bridge_id)
        for subject, handler in (
            (self._subjects.alive, self._on_alive),
            (f"{mine}.ping", self._on_ping),
            (f"{mine}.yield", self._on_yield),
            (f"{mine}.cancel", self._on_cancel),
        ):
            self._subscriptions.append(await self._bus.subscribe(subject, handler))

    async def run(self) -> None:
        """Watch the other bridges, until cancelled."""
        round_at = self._loop.time()
        while True:
            if round_at <= self._loop.time():
                round_at = self._loop.time() + ROUND_S
                self._look_round()
            self._look()
            wait_s = min(LOOK_S, max(0.01, (self._other_bridges.next_at() or float("inf")) - self._loop.time()))
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    async def close(self) -> None:
        """Answer nobody any more: from here on we are gone."""
        for subscription in self._subscriptions:
            await subscription.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ------------------------------------------------------------------------------------------------- what is heard

    def heard(self, bridge: str) -> None:
        """A bridge is there: it has spoken, or has answered."""
        self._deaf.pop(bridge, None)
        self._other_bridges.answered(bridge, self._loop.time())

    def look(self) -> None:
        """Something is new: look at once."""
        self._wake.set()

    def suspect(self, bridge: str) -> None:
        """The server says that a bridge's connection has ended."""
        if bridge.startswith("bridge-") and bridge != self._bridge_id:
            self._note_deaf(bridge)
            self._other_bridges.suspect(bridge, self._loop.time())
            self._wake.set()

    def connected(self, up: bool) -> None:  # noqa: FBT001 - a listener of the connection
        """Our own connection was lost, or is back; what was about to be judged by its silence is not."""
        self._up = up
        if not up:
            self._losses += 1
            self._other_bridges.cut_off()
        else:
            self._other_bridges.reconnected(self._loop.time())
            self._records.reload()
            self._look_round()

    def forward_cancel(self, job_id: str) -> None:
        """The orchestrator calls a job off that is not here: tell whoever has it, until it is over."""
        record = self._records.get(job_id)
        if record is not None:
            self._pass_on(record)

    def _pass_on(self, record: JobRecord) -> None:
        self._called_off[record.job.job_id] = self._loop.time() + self._call_off_s
        if record.bridge == self._bridge_id:
            self._adopted_jobs.cancel(record.job.job_id)
            return
        try:
            self._bus.send(f"{self._subjects.bridge(record.bridge)}.cancel", record.job.job_id.encode())
        except LogError as error:
            logger.debug("a bridge could not be told what is called off: %s", type(error).__name__)

    def _changed(self, job_id: str, kept: Kept | None) -> None:
        """A record is new, has changed, or is gone."""
        if kept is None:
            self._called_off.pop(job_id, None)
            return
        if job_id in self._called_off:
            self._pass_on(kept.record)
        if kept.record.bridge != self._bridge_id:
            self._named.add(kept.record.bridge)
            self._wake.set()

    def _on_alive(self, message: Message) -> None:
        try:
            self.heard(BRIDGE_ALIVE.decode(message.data).bridge)
        except MALFORMED:
            logger.debug("what a bridge says cannot be read")

    def _on_ping(self, message: Message) -> None:
        self._answer(message, OK)

    def _on_cancel(self, message: Message) -> None:
        self._adopted_jobs.cancel(message.data.decode("utf-8", "replace"))

    def _on_yield(self, message: Message) -> None:
        self._spawn(self._let_go(message))

    async def _let_go(self, message: Message) -> None:
        let_go = await self._adopted_jobs.let_go(message.data.decode("utf-8", "replace"))
        self._answer(message, OK if let_go else b"")

    def _answer(self, message: Message, data: bytes) -> None:
        if message.reply:
            try:
                self._bus.send(message.reply, data)
            except LogError as error:
                logger.debug("a bridge could not be answered: %s", type(error).__name__)

    # -------------------------------------------------------------------------------------------------------- watching

    def _look_round(self) -> None:
        """Ask after every bridge that a record names: it may have been gone before we came."""
        self._named |= {kept.record.bridge for kept in self._records.all()} - {self._bridge_id}
        self._wake.set()

    def _look(self) -> None:
        now = self._loop.time()
        for bridge in self._other_bridges.due(now):
            if bridge != self._bridge_id:
                self._spawn(self._ask(bridge))
        for gone in self._other_bridges.gone(now):
            self._lost(gone)
        self._heed_records(now)
        if not self.closed_to_orphans:
            for bridge in self._other_bridges.draining():
                if bridge not in self._relieved:
                    self._relieved.add(bridge)
                    self._spawn(self._relieve(bridge))

    def _heed_records(self, now: float) -> None:
        """Look after the bridges that records name, and after the jobs that are called off."""
        named, self._named = self._named, set()
        for bridge in named:
            if not self._other_bridges.is_gone(bridge):
                self._other_bridges.doubt(bridge, now)
            elif bridge in self._succeeding:
                self._named.add(bridge)
            else:
                self._begin(bridge, partial(self._succeed, bridge))
        for job_id in [job_id for job_id, at in self._called_off.items() if at <= now]:
            del self._called_off[job_id]
            self.forward_cancel(job_id)

    async def _ask(self, bridge: str) -> None:
        try:
            await self._bus.request(f"{self._subjects.bridge(bridge)}.ping", b"", timeout_s=self._ask_timeout_s)
        except NoResponders:
            self._note_deaf(bridge)
            self._other_bridges.nobody(bridge, self._loop.time())
        else:
            self.heard(bridge)
        self._wake.set()

    def _lost(self, gone: Gone) -> None:
        if gone.bridge == self._bridge_id:
            return
        how = {"said": "has ended", "nobody": "is gone", "silent": "has fallen silent"}[gone.how]
        logger.info("%s %s", gone.bridge, how)
        silent = gone.how == "silent"
        self._begin(
            gone.bridge,
            partial(self._succeed, gone.bridge, gone.since)
            if silent
            else partial(self._sweep, gone.bridge, self._losses),
        )

    # -------------------------------------------------------------------------------------------------- taking of calls

    def _begin(self, bridge: str, succeed: Callable[[], Coroutine[object, object, None]]) -> None:
        """Take a bridge's calls; what comes to light of it meanwhile is taken afterwards."""

        async def begin() -> None:
            try:
                await succeed()
            finally:
                self._succeeding.discard(bridge)

        self._succeeding.add(bridge)
        self._spawn(begin())

    async def _succeed(self, bridge: str, still_since: float | None = None) -> None:
        """Take the calls of a bridge that is silent, unless it is there after all; stopped or cut off, it may act."""
        losses = self._losses
        try:
            await self._bus.request(f"{self._subjects.bridge(bridge)}.ping", b"", timeout_s=self._ask_timeout_s)
        except NoResponders:
            await self._sweep(bridge, losses)
        except LogError:
            await self._sweep(bridge, losses, make=partial(_orphan, still_since=still_since))
        else:
            logger.info("%s is there again", bridge)
            self._other_bridges.doubt(bridge, self._loop.time())

    async def _sweep(self, bridge: str, losses: int, *, make: Callable[[JobRecord], Orphan] | None = None) -> None:
        """Take the calls of a bridge that is gone, as found when our connection had been lost so many times.

        `make` makes an orphan of a record where the bridge may act still.
        """
        make = await self._knowing(bridge) if make is None else make
        is_gone = partial(self._is_gone_still, bridge, losses)
        if not is_gone():
            logger.info("%s is not taken for gone: it has spoken since, or our connection was lost", bridge)
            self._deaf.pop(bridge, None)
            self._other_bridges.doubt(bridge, self._loop.time())
            return
        ours, theirs = self._shares(kept for kept in self._records.all() if kept.record.bridge == bridge)
        taken = await self._take_all(ours, make, is_gone)
        if theirs:
            await asyncio.sleep(random.uniform(*SPARE_S))  # noqa: S311 - spreads load
            taken += await self._take_all(theirs, make, is_gone)
        self._deaf.pop(bridge, None)
        if taken:
            logger.warning("%d calls of %s are taken over", taken, bridge)

    def _is_gone_still(self, bridge: str, losses: int) -> bool:
        """Whether it has not spoken since, and we would have heard it: our connection has been lost so many times."""
        return self._up and losses == self._losses and self._other_bridges.is_gone(bridge)

    async def _relieve(self, bridge: str) -> None:
        """Take what a bridge has released, as long as it drains."""
        is_first = True
        try:
            while bridge in self._other_bridges.draining() and not self.closed_to_orphans:
                records = [kept for kept in self._records.all() if kept.record.bridge == bridge]
                ours, theirs = self._shares(kept for kept in records if kept.record.state == "released")
                wanted = ours if is_first else [*ours, *theirs]
                taken = await self._take_all(wanted, self._handed_over, lambda: True)
                is_first = False
                if taken:
                    logger.info("%d calls of %s, which drains, are taken over", taken, bridge)
                await asyncio.sleep(LOOK_S)
        finally:
            self._relieved.discard(bridge)

    def _shares(self, orphans: Iterable[Kept]) -> tuple[list[Kept], list[Kept]]:
        """Return which orphans are ours to take, and which another's, as everybody reckons it."""
        takers = [self._bridge_id, *self._other_bridges.takers(self._loop.time())]
        ours: list[Kept] = []
        theirs: list[Kept] = []
        for kept in orphans:
            taker = min(takers, key=lambda bridge: derive(kept.record.job.job_id, bridge))
            (ours if taker == self._bridge_id else theirs).append(kept)
        return ours, theirs

    async def _take_all(
        self, orphans: Iterable[Kept], make: Callable[[JobRecord], Orphan], may: Callable[[], bool]
    ) -> int:
        return sum(await asyncio.gather(*(self._take(kept, make, may) for kept in orphans)))

    async def _take(self, kept: Kept, make: Callable[[JobRecord], Orphan], may: Callable[[], bool]) -> bool:
        async with self._taking:
            if self.closed_to_orphans or not may():
                return False
            try:
                claim = await self._records.take(kept)
            except LogError as error:
                logger.warning("job %s: whether it is ours cannot be known: %s", kept.record.job.job_id, error)
                return False
        if claim is None:
            return False
        self._adopted_jobs.adopt(make(kept.record), claim)
        return True

    def _handed_over(self, record: JobRecord) -> Orphan:
        return Orphan(record, let_go=lambda: self._ask_for(record))

    def _note_deaf(self, bridge: str) -> None:
        """From now on it hears nothing, unless it is found to be there; the server may know since when."""
        if bridge not in self._deaf:
            since = self._own(self._since(bridge, self._loop.time()))
            self._deaf[bridge] = Deafness(since, self._own(self._end()))

    async def _knowing(self, bridge: str) -> Callable[[JobRecord], Orphan]:
        """Return how to make orphans of a bridge's jobs, knowing since when it hears nothing."""
        self._note_deaf(bridge)
        deaf = self._deaf[bridge]
        try:
            deaf_from = await deaf.end + 1
        except LogError as error:
            logger.warning("where the log ends cannot be known: %s", type(error).__name__)
            deaf_from = NEVER - 1
        return partial(_orphan, deaf_from=deaf_from, deaf_since=await deaf.since)

    async def _since(self, bridge: str, noticed_at: float) -> float:
        ago = await self._ended_ago(bridge)
        return noticed_at if ago is None else min(noticed_at, self._loop.time() - ago)

    async def _ask_for(self, record: JobRecord) -> bool:
        subject = f"{self._subjects.bridge(record.bridge)}.yield"
        try:
            answer = await self._bus.request(subject, record.job.job_id.encode(), timeout_s=YIELD_TIMEOUT_S)
        except LogError as error:
            logger.info("job %s: %s does not hand it over: %s", record.job.job_id, record.bridge, type(error).__name__)
            return False
        return answer.data == OK

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        _ = self._own(work)

    def _own(self, work: Coroutine[object, object, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work, name="unpod-orphans")
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[T]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            level = logging.DEBUG if isinstance(error, LogError) else logging.ERROR
            logger.log(level, "%s: %s", task.get_name(), type(error).__name__)
