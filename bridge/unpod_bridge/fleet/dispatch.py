"""Finding a runner for a job, and the place that it holds for it.

The runners of a pool are asked on one subject, as a queue group: one of them answers. One that is full or out of
permits says so; what finds no taker is announced as queued, and asked again at each change in the fleet until its
deadline. A call that has lost its owner has none, and goes before all new ones. Nothing of it is stored.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

from unpod.core.codec import MALFORMED
from unpod.core.dispatch_messages import (
    OFFER_ANSWERED,
    TOLD,
    Answer,
    Hold,
    Offer,
    OfferAnswered,
    QueuedAnnounced,
    Release,
    Start,
    Suspicion,
    Told,
    encode,
)
from unpod.core.subjects import Subjects
from unpod.errors import LogError, LogUnavailable, NoResponders
from unpod.ports import Bus
from unpod_bridge.fleet.runners import Pool
from unpod_bridge.wire.control_frames import Reason

logger = logging.getLogger("unpod.bridge")

TRY_S = 0.3
"""How long one request may take: the group may pick a process that was stopped."""
PAUSE_S = (0.05, 0.1)
"""How long, at least and at most, to wait for a change before the runners are asked again."""
HOLD_TRIES = 2
START_S = 5.0
"""How long a runner may take to hear that its call has begun."""
RESUME_S = 1.5
"""The same for a call that another runner had: its caller waits."""
HASTE_S = 0.1
"""After how long without answer another is asked for such a call: the process that it had may be stopped, not dead."""
GONE_TRIES = 3
"""How often in a row nobody may be there to hear it."""
RELEASE_TRIES = 3
AVOID_S = 1.0
"""For how long a runner is not taken that has just failed."""
AVOID_PAUSE_S = 0.01
ANNOUNCE_S = 1.0
RESUMES = 64
"""How many sessions of one pool are offered at once: each is answered soon, rather than all of them late."""


@dataclass(slots=True)
class Ask:
    """A job that looks for a runner of a pool, until `until` (the event loop's time); both may be changed meanwhile."""

    job_id: str
    pool: Pool
    until: float


@dataclass(frozen=True, slots=True)
class Resumption:
    """A session that looks for another runner of its pool."""

    job_id: str
    pool: Pool
    session_id: str


class RunnerPlace:
    """The place that a runner holds for a job (`journal.placements.Place`)."""

    def __init__(
        self, dispatcher: Dispatcher, *, runner_id: str, job_id: str, pool: Pool, patience_s: float = START_S
    ) -> None:
        self.runner_id = runner_id
        self.waited_s: float | None = None
        """How long it was looked for; set by who has found it. Not of the event loop's time: uvloop's goes by 1 ms."""
        self.pool = pool
        self.lets_in = False
        """Whether the runner has said that it will let a call begin that is held: one of an older release does not."""
        self.on_begin: Callable[[str], Awaitable[None]] | None = None
        self._bus = dispatcher.bus
        self._subject = dispatcher.subjects.runner(runner_id)
        self._bridge_id = dispatcher.bridge_id
        self._job_id = job_id
        self._patience_s = patience_s
        self._nobody = 0

    async def hold(self, until: float) -> bool:
        """Confirm the place; return whether it is held. `until` is in the event loop's time."""
        now = asyncio.get_running_loop().time
        message = Hold(job=self._job_id, bridge=self._bridge_id)
        for _ in range(HOLD_TRIES):
            try:
                told = await self._tell(message, max(min(TRY_S, until - now()), 0.01))
            except asyncio.CancelledError:
                await self._publish_release("withdrawn")
                raise
            if told is not None:
                return told.ok
        await self._publish_release("not confirmed")
        return False

    async def begin(self, session_id: str) -> None:
        """The call is up, and nothing of it is in the log: whoever would go on with it must be able to find it."""
        if self.on_begin is not None:
            await self.on_begin(session_id)

    async def start(
        self,
        session_id: str,
        epoch: int,
        until_seq: int,
        *,
        suspicion: Suspicion | None = None,
        positions: bytes = b"",
    ) -> bool:
        """Tell the runner that the session is its own; return whether it has it (`dispatch_messages.Start`)."""
        message = Start(
            job=self._job_id,
            agent=self.pool.agent,
            session=session_id,
            epoch=epoch,
            until_seq=until_seq,
            bridge=self._bridge_id,
            held=suspicion is not None,
            suspicion=suspicion,
            positions=positions,
        )
        loop = asyncio.get_running_loop()
        until = loop.time() + self._patience_s
        self._nobody = 0
        while (left := until - loop.time()) > 0 and self._nobody < GONE_TRIES:
            told = await self._tell(message, min(TRY_S, left))
            if told is not None:
                self.lets_in = told.lets_in
                return told.ok
        return False

    async def keep(self) -> None:
        """Confirm the place, and do not wait for an answer: if it is gone, `start` finds out."""
        await self._send(Hold(job=self._job_id, bridge=self._bridge_id))

    async def release(self, reason: str) -> None:
        """Give the place back."""
        for _ in range(RELEASE_TRIES):
            if await self._tell(Release(job=self._job_id, reason=reason), TRY_S) is not None:
                return
        logger.warning("the runner %s does not answer to the release of a place", self.runner_id)

    async def decline(self) -> None:
        """Do not want the place after all; nobody waits for it to be given back."""
        await self._publish_release("declined")

    async def _publish_release(self, reason: str) -> None:
        await self._send(Release(job=self._job_id, reason=reason))

    async def _send(self, message: Hold | Release) -> None:
        try:
            await self._bus.publish(self._subject, encode(message))
        except LogError as error:
            logger.debug("a runner could not be told about a place: %s", type(error).__name__)

    async def _tell(self, message: Hold | Start | Release, timeout_s: float) -> Told | None:
        """Return the answer, or None after a pause where there is none."""
        began = asyncio.get_running_loop().time()
        try:
            answer = await self._bus.request(self._subject, encode(message), timeout_s=timeout_s)
            return TOLD.decode(answer.data)
        except MALFORMED:
            logger.warning("the runner %s gave an answer that cannot be read", self.runner_id)
            return Told(ok=False, reason="malformed")
        except LogError as error:
            self._nobody = self._nobody + 1 if isinstance(error, NoResponders) else 0
            logger.debug("the runner %s does not answer: %s", self.runner_id, type(error).__name__)
        await _pace(began)
        return None


class Queue:
    """What waits for a runner, announced at each change and each second."""

    def __init__(self, bus: Bus, subjects: Subjects, bridge_id: str) -> None:
        self._bus = bus
        self._subjects = subjects
        self._bridge_id = bridge_id
        self._waiting: dict[str, int] = {}

    @property
    def waiting(self) -> dict[str, int]:
        """How many jobs wait, by the name of the pool."""
        return dict(self._waiting)

    @asynccontextmanager
    async def entry(self, pool: str) -> AsyncIterator[None]:
        """Count one more while inside."""
        await self._change(pool, 1)
        try:
            yield
        finally:
            await self._change(pool, -1)

    async def announce(self) -> None:
        """Say again what waits; to be called each second."""
        for pool, count in tuple(self._waiting.items()):
            await self._say(pool, count)

    async def _change(self, pool: str, by: int) -> None:
        count = self._waiting.pop(pool, 0) + by
        if count:
            self._waiting[pool] = count
        await self._say(pool, count)

    async def _say(self, pool: str, count: int) -> None:
        message = QueuedAnnounced(bridge=self._bridge_id, agent=pool, count=count)
        try:
            await self._bus.publish(self._subjects.queued(pool), encode(message))
        except LogError as error:
            logger.debug("what waits could not be announced: %s", type(error).__name__)


class Dispatcher:
    """Asks the runners; `unheard` says why nobody of a pool listens: those without room or permits do not."""

    def __init__(
        self, bus: Bus, subjects: Subjects, bridge_id: str, unheard: Callable[[Pool], Reason] = lambda _: "at_capacity"
    ) -> None:
        self.bus = bus
        self.subjects = subjects
        self.bridge_id = bridge_id
        self._unheard = unheard
        self._resuming: Counter[Pool] = Counter()
        self._turns: dict[Pool, asyncio.Semaphore] = {}
        self._change = asyncio.Event()
        self.queue = Queue(bus, subjects, bridge_id)

    def changed(self) -> None:
        """Something about the fleet is new: those who wait ask again."""
        self._change.set()
        self._change = asyncio.Event()

    async def find(self, ask: Ask) -> RunnerPlace | Reason:
        """Return the place that a runner holds, or why there is none by the deadline.

        Raises:
            LogError: NATS does not let us ask.
        """
        began = perf_counter()
        found = await self._find(ask)
        if isinstance(found, RunnerPlace):
            found.waited_s = perf_counter() - began
        return found

    async def _find(self, ask: Ask) -> RunnerPlace | Reason:
        heard: set[Answer] = set()
        change = self._change
        found = await self._try(ask, heard)
        if isinstance(found, RunnerPlace):
            return found
        loop = asyncio.get_running_loop()
        async with self.queue.entry(ask.pool.name):
            while True:
                if found == "later":
                    await _until(change, min(random.uniform(*PAUSE_S), ask.until - loop.time()))  # noqa: S311 - spreads load
                if loop.time() >= ask.until:
                    return _reason(heard) if heard else self._unheard(ask.pool)
                change = self._change
                found = await self._try(ask, heard)
                if isinstance(found, RunnerPlace):
                    return found

    async def _try(self, ask: Ask, heard: set[Answer]) -> RunnerPlace | Literal["later", "again"]:
        """Ask once, and say when to ask again where nobody takes it: after a change or a pause, or at once."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        if self._resuming[ask.pool]:
            return "later"
        offer = Offer(job=ask.job_id, bridge=self.bridge_id, agent=ask.pool.agent)
        answer = await self._offer(self.subjects.dispatch(ask.pool.name), offer, ask.until - began)
        if answer is None:
            # Silence for so long: a process that was stopped has been asked, and another may answer.
            return "again" if loop.time() - began >= TRY_S / 2 else "later"
        if answer.answer != "taken":
            heard.add(answer.answer)
            return "later"
        place = RunnerPlace(self, runner_id=answer.runner, job_id=ask.job_id, pool=ask.pool)
        return place if await place.hold(ask.until) else "later"

    async def resume(self, wanted: Resumption, avoid: str = "") -> RunnerPlace:
        """Return the place that a runner holds for a session that has lost its owner, once there is one.

        No new job is offered meanwhile. `avoid` is a runner that has just failed: it is not taken at once again.
        """
        began = perf_counter()
        self._resuming[wanted.pool] += 1
        try:
            place = await self._try_in_turn(wanted, avoid)
            if place is None:
                async with self.queue.entry(wanted.pool.name):
                    while place is None:
                        avoided = avoid if perf_counter() < began + AVOID_S else ""
                        place = await self._try_in_turn(wanted, avoided)
        finally:
            self._resuming[wanted.pool] -= 1
            if not self._resuming[wanted.pool]:
                self._turns.pop(wanted.pool, None)
        place.waited_s = perf_counter() - began
        return place

    async def _try_in_turn(self, wanted: Resumption, avoid: str) -> RunnerPlace | None:
        async with self._turns.setdefault(wanted.pool, asyncio.Semaphore(RESUMES)):
            return await self._try_resume(wanted, avoid)

    async def _try_resume(self, wanted: Resumption, avoid: str) -> RunnerPlace | None:
        """Ask once; return after a change or a pause where nobody takes it, and after silence at once."""
        loop = asyncio.get_running_loop()
        began, change = loop.time(), self._change
        offer = Offer(
            job=wanted.job_id, bridge=self.bridge_id, agent=wanted.pool.agent, resume=True, session=wanted.session_id
        )
        answer = await self._offer_in_haste(self.subjects.resume(wanted.pool.name), offer)
        pause = random.uniform(*PAUSE_S)  # noqa: S311 - spreads load
        if answer is not None and answer.answer == "taken":
            place = RunnerPlace(
                self, runner_id=answer.runner, job_id=wanted.job_id, pool=wanted.pool, patience_s=RESUME_S
            )
            if answer.runner == avoid:
                await place.decline()
                pause = AVOID_PAUSE_S
            else:
                await place.keep()
                return place
        if answer is not None or loop.time() - began < TRY_S / 2:
            await _until(change, pause)
        return None

    async def _offer_in_haste(self, subject: str, offer: Offer) -> OfferAnswered | None:
        """Ask again while an answer is still out, and return the first that comes."""
        open_offers: set[asyncio.Task[OfferAnswered | None]] = set()
        until = asyncio.get_running_loop().time() + TRY_S
        try:
            while (left := until - asyncio.get_running_loop().time()) > 0:
                open_offers.add(asyncio.create_task(self._offer(subject, offer, TRY_S)))
                done, open_offers = await asyncio.wait(
                    open_offers, timeout=min(HASTE_S, left), return_when=asyncio.FIRST_COMPLETED
                )
                answers = [answer for task in done if (answer := task.result()) is not None]
                if answers or not open_offers:
                    return answers[0] if answers else None
        finally:
            for task in open_offers:
                task.cancel()
            await asyncio.gather(*open_offers, return_exceptions=True)
        return None

    async def _offer(self, subject: str, offer: Offer, left: float) -> OfferAnswered | None:
        if left <= 0:
            return None
        try:
            answer = await self.bus.request(subject, encode(offer), timeout_s=min(TRY_S, left))
            answered = OFFER_ANSWERED.decode(answer.data)
        except (NoResponders, LogUnavailable):
            return None
        except MALFORMED:
            logger.warning("a runner answered an offer with something that cannot be read")
            return None
        if answered.answer == "taken" and not answered.runner:
            logger.warning("a runner took a job without saying which runner it is")
            return None
        return answered


def _reason(heard: set[Answer]) -> Reason:
    if heard == {"rate_limited"}:
        return "rate_limited"
    return "draining" if heard == {"draining"} else "at_capacity"


async def _until(change: asyncio.Event, seconds: float) -> None:
    """Return at the change, or after a while."""
    try:
        async with asyncio.timeout(max(seconds, 0)):
            await change.wait()
    except TimeoutError:
        return


async def _pace(began: float) -> None:
    """Return no sooner than a pause after `began`, so that what fails at once is not tried in a loop."""
    left = began + PAUSE_S[0] - asyncio.get_running_loop().time()
    if left > 0:
        await asyncio.sleep(left)
