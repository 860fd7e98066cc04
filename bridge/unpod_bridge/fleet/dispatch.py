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
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from math import inf
from time import perf_counter
from typing import Final

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
from unpod_bridge.wire.job import Job

logger = logging.getLogger("unpod.bridge")

HOLD_TRIES: Final = 2
GONE_TRIES: Final = 3
"""After so many tries in a row that nobody hears, `start` gives the runner up."""
RELEASE_TRIES: Final = 3
RESUMES: Final = 64
"""How many sessions of one pool are offered at once: each is answered soon, rather than all of them late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchTimes:
    """How long runners are waited for, in seconds."""

    try_s: float = 0.3
    """How long one request may take: the group may pick a process that was stopped."""
    pause_s: tuple[float, float] = (0.05, 0.1)
    """How long, at least and at most, to wait for a change before the runners are asked again."""
    start_s: float = 5.0
    """How long a runner may take to hear that its call has begun."""
    resume_s: float = 1.5
    """The same for a call that another runner had: its caller waits."""
    haste_s: float = 0.1
    """After how long without answer another is asked for such a call: who has the first may be stopped, not dead."""
    avoid_s: float = 1.0
    """For how long a runner is not taken that has just failed."""
    avoid_pause_s: float = 0.01


TIMES: Final = DispatchTimes()


@dataclass(slots=True)
class Ask:
    """A job that looks for a runner until `until` (the event loop's time); both may be changed meanwhile."""

    job: Job
    until: float
    found: bool = False
    """Whether a runner keeps a place for it."""

    @property
    def pool(self) -> Pool:
        """Whose runners are asked."""
        return Pool(self.job.agent_id, self.job.dev)


@dataclass(frozen=True, slots=True)
class Resumption:
    """A session that looks for another runner of its pool."""

    job_id: str
    pool: Pool
    session_id: str


class RunnerPlace:
    """The place that a runner keeps for a job (`journal.placements.Place`)."""

    def __init__(
        self, dispatcher: Dispatcher, runner_id: str, job_id: str, pool: Pool, *, resumes: bool = False
    ) -> None:
        self.runner_id = runner_id
        self.waited_s: float | None = None
        """How many seconds it was looked for, set by who found it. (Not by the event loop's clock: uvloop's steps are 1
        ms.)
        """
        self.pool = pool
        self.lets_in = False
        """Whether the runner has said that it will let a call begin that is held: one of an older release does not."""
        self.on_begin: Callable[[str], Awaitable[None]] | None = None
        self._bus = dispatcher.bus
        self._subject = dispatcher.subjects.runner(runner_id)
        self._bridge_id = dispatcher.bridge_id
        self._job_id = job_id
        self._times = dispatcher.times
        self._patience_s = self._times.resume_s if resumes else self._times.start_s
        self._nobody = 0

    async def hold(self, until: float) -> bool:
        """Confirm the place; return whether it is held. `until` is in the event loop's time."""
        now = asyncio.get_running_loop().time
        message = Hold(job=self._job_id, bridge=self._bridge_id)
        for _ in range(HOLD_TRIES):
            try:
                told = await self._tell(message, max(min(self._times.try_s, until - now()), 0.01))
            except asyncio.CancelledError:
                self._send(Release(job=self._job_id, reason="withdrawn"))
                raise
            if told is not None:
                return told.ok
        self._send(Release(job=self._job_id, reason="not confirmed"))
        return False

    async def begin(self, session_id: str) -> None:
        """The call is up, and the log has its line at most: whoever would go on with it must be able to find it."""
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
            told = await self._tell(message, min(self._times.try_s, left))
            if told is not None:
                self.lets_in = told.lets_in
                return told.ok
        return False

    def keep(self) -> None:
        """Confirm the place, and do not wait for an answer: if it is gone, `start` finds out."""
        self._send(Hold(job=self._job_id, bridge=self._bridge_id))

    async def release(self, reason: str) -> None:
        """Give the place back."""
        for _ in range(RELEASE_TRIES):
            if await self._tell(Release(job=self._job_id, reason=reason), self._times.try_s) is not None:
                return
        logger.warning("the runner %s does not answer to the release of a place", self.runner_id)

    def decline(self) -> None:
        """Do not want the place after all; nobody waits for it to be given back."""
        self._send(Release(job=self._job_id, reason="declined"))

    def _send(self, message: Hold | Release) -> None:
        try:
            self._bus.send(self._subject, encode(message))
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
        await _pace(began, self._times.pause_s[0])
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

    @contextmanager
    def entry(self, pool: str) -> Iterator[None]:
        """Count one more while inside."""
        self._change(pool, 1)
        try:
            yield
        finally:
            self._change(pool, -1)

    def announce(self) -> None:
        """Say again what waits; to be called each second."""
        for pool, count in tuple(self._waiting.items()):
            self._say(pool, count)

    def _change(self, pool: str, by: int) -> None:
        count = self._waiting.pop(pool, 0) + by
        if count:
            self._waiting[pool] = count
        self._say(pool, count)

    def _say(self, pool: str, count: int) -> None:
        message = QueuedAnnounced(bridge=self._bridge_id, agent=pool, count=count)
        try:
            self._bus.send(self._subjects.queued(pool), encode(message))
        except LogError as error:
            logger.debug("what waits could not be announced: %s", type(error).__name__)


class Dispatcher:
    """Asks the runners; `unheard` says why nobody of a pool listens: those without room or permits do not."""

    def __init__(
        self,
        bus: Bus,
        subjects: Subjects,
        bridge_id: str,
        unheard: Callable[[Pool], Reason] = lambda _: "at_capacity",
        *,
        times: DispatchTimes = TIMES,
    ) -> None:
        self.bus = bus
        self.subjects = subjects
        self.bridge_id = bridge_id
        self.times = times
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
        """Return the place that a runner keeps, or why there is none by the deadline.

        Raises:
            LogError: NATS does not let us ask.
        """
        pool, loop = ask.pool, asyncio.get_running_loop()
        offer = Offer(job=ask.job.job_id, bridge=self.bridge_id, agent=pool.agent)
        heard: set[Answer] = set()

        async def ask_once() -> OfferAnswered | None:
            if self._resuming[pool]:
                return None
            answer = await self._offer(self.subjects.dispatch(pool.name), offer, ask.until - loop.time())
            if answer is not None:
                heard.add(answer.answer)
            return answer

        place = await self._search(offer, pool, ask_once, nullcontext(), lambda: ask.until - loop.time())
        return place or (_reason(heard) if heard else self._unheard(pool))

    async def resume(self, wanted: Resumption, avoid: str = "") -> RunnerPlace:
        """Return the place that a runner keeps for a session that has lost its owner, once there is one.

        No new job is offered meanwhile. `avoid` is a runner that has just failed: it is not taken at once again.
        """
        pool = wanted.pool
        subject = self.subjects.resume(pool.name)
        offer = Offer(
            job=wanted.job_id, bridge=self.bridge_id, agent=pool.agent, resume=True, session=wanted.session_id
        )
        turns = self._turns.setdefault(pool, asyncio.Semaphore(RESUMES))
        self._resuming[pool] += 1
        try:
            place = await self._search(offer, pool, lambda: self._offer_in_haste(subject, offer), turns, avoid=avoid)
        finally:
            self._resuming[pool] -= 1
            if not self._resuming[pool]:
                self._turns.pop(pool, None)
        assert place is not None  # noqa: S101 - it has no deadline
        return place

    async def _search(
        self,
        offer: Offer,
        pool: Pool,
        ask_once: Callable[[], Awaitable[OfferAnswered | None]],
        turns: AbstractAsyncContextManager[None],
        left_s: Callable[[], float] = lambda: inf,
        *,
        avoid: str = "",
    ) -> RunnerPlace | None:
        """Ask, each time in its turn, until a runner takes the job; None once no time is left.

        The runner hears that its place is kept, and nobody waits for that: if it has none any more, `start` finds out.
        """
        loop, times = asyncio.get_running_loop(), self.times
        began = perf_counter()
        with ExitStack() as queued:
            waits = False
            while True:
                async with turns:
                    change, asked_at = self._change, loop.time()
                    answer = await ask_once()
                    pause_s = random.uniform(*times.pause_s)  # noqa: S311 - spreads load
                    if answer is not None and answer.answer == "taken":
                        place = RunnerPlace(self, answer.runner, offer.job, pool, resumes=offer.resume)
                        if answer.runner != avoid or perf_counter() >= began + times.avoid_s:
                            place.keep()
                            place.waited_s = perf_counter() - began
                            return place
                        place.decline()
                        pause_s = times.avoid_pause_s
                    if not waits:
                        waits = True
                        queued.enter_context(self.queue.entry(pool.name))
                    # No pause after a long silence: a process that was stopped had the question, and another may answer
                    # at once.
                    if answer is not None or loop.time() - asked_at < times.try_s / 2:
                        await _until(change, min(pause_s, left_s()))
                if left_s() <= 0:
                    return None

    async def _offer_in_haste(self, subject: str, offer: Offer) -> OfferAnswered | None:
        """Ask again while an answer is still out, and return the first that comes."""
        open_offers: set[asyncio.Task[OfferAnswered | None]] = set()
        until = asyncio.get_running_loop().time() + self.times.try_s
        try:
            while (left := until - asyncio.get_running_loop().time()) > 0:
                open_offers.add(asyncio.create_task(self._offer(subject, offer, self.times.try_s)))
                done, open_offers = await asyncio.wait(
                    open_offers, timeout=min(self.times.haste_s, left), return_when=asyncio.FIRST_COMPLETED
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
            answer = await self.bus.request(subject, encode(offer), timeout_s=min(self.times.try_s, left))
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


async def _pace(began: float, pause_s: float) -> None:
    """Return no sooner than a pause after `began`, so that what fails at once is not tried in a loop."""
    left = began + pause_s - asyncio.get_running_loop().time()
    if left > 0:
        await asyncio.sleep(left)
