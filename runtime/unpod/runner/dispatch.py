"""How calls come to a runner: it listens for offers while it has room, and a bridge starts what it was promised.

A runner without room, without permits or in a drain does not listen, so that the bridge's question goes to another;
what is on its way meanwhile is answered `full`, `rate_limited` or `draining`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, assert_never

from unpod.core.codec import MALFORMED
from unpod.core.dispatch_messages import (
    OFFER,
    TO_RUNNER,
    Answer,
    Hold,
    Offer,
    OfferAnswered,
    Release,
    Start,
    Told,
    encode,
)
from unpod.errors import LogError, UnpodError

if TYPE_CHECKING:
    from msgspec import Struct

    from unpod.core.subjects import Subjects
    from unpod.ports import Bus, Clock, Message, Subscription, Timer
    from unpod.runner.capacity import Capacity

logger = logging.getLogger("unpod.runner")

QUEUE: Final = "runners"
_RETRY_S: Final = 1.0


class Dispatch:
    """Offers in, calls out.

    `begin` is told of each call to run, `go` of one that was held and is not any more, `changed` of each change of what
    is taken, `over` of the task that listens, if that has ended by itself.
    """

    def __init__(
        self,
        bus: Bus,
        subjects: Subjects,
        clock: Clock,
        capacity: Capacity,
        *,
        agent_id: str,
        agent_key: str,
        runner_id: str,
        begin: Callable[[Start], None],
        go: Callable[[Start], None],
        changed: Callable[[], None],
        over: Callable[[asyncio.Task[None]], None],
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._capacity = capacity
        self._agent_id = agent_id
        self._runner_id = runner_id
        self._offers_on = subjects.dispatch(agent_key)
        self._resumes_on = subjects.resume(agent_key)
        self._told_on = subjects.runner(runner_id)
        self._begin = begin
        self._go = go
        self._on_change = changed
        self._over = over
        self._offers: Subscription | None = None
        self._resumes: Subscription | None = None
        self._told: Subscription | None = None
        self._listening = asyncio.Lock()
        self._look = asyncio.Event()
        self._timer: Timer | None = None
        self._loop: asyncio.Task[None] | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._told_of_permits = False
        self.draining = False

    @property
    def listening(self) -> bool:
        """Whether offers are being heard."""
        return self._offers is not None

    async def open(self) -> None:
        """Begin to take calls.

        Raises:
            LogError: NATS does not let us, or does not answer.
        """
        self._told = await self._bus.subscribe(self._told_on, self._on_told)
        await self._listen_or_not()
        self._loop = asyncio.create_task(self._keep_up(), name="unpod-dispatch")
        self._loop.add_done_callback(self._over)

    async def drain(self) -> None:
        """Take no new call; once this returns, none is offered any more. What was promised is still taken."""
        self.draining = True
        await self._listen_or_not()

    async def close(self) -> None:
        """Hear nothing more."""
        self.draining = True
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.wait({self._loop})
        if self._timer is not None:
            self._timer.cancel()
        for subscription in (self._offers, self._resumes, self._told):
            if subscription is not None:
                await subscription.close()
        self._offers = self._resumes = self._told = None

    async def idle(self) -> None:
        """Return when no place is taken."""
        await self._idle.wait()

    def changed(self) -> None:
        """Look again at whether there is room."""
        if self._capacity.taken:
            self._idle.clear()
        else:
            self._idle.set()
        self._look.set()
        self._on_change()

    # ---------------------------------------------------------------------------------- listening while there is room

    async def _keep_up(self) -> None:
        while True:
            self._set_timer(self._capacity.next_change_in(self._clock.now()))
            await self._look.wait()
            self._look.clear()
            self._forget()
            try:
                await self._listen_or_not()
            except LogError as error:
                logger.warning("cannot listen for calls: %s; trying again", error)
                self._set_timer(_RETRY_S)
                await self._look.wait()
                self._look.set()

    async def _listen_or_not(self) -> None:
        """Listen for what can be taken: a new call needs a place and a permit, one that is taken over a place."""
        async with self._listening:
            new = not self.draining and self._capacity.room(self._clock.now())
            self._tell_of_permits()
            self._offers = await self._listen(self._offers, self._offers_on, wanted=new)
            resumed = not self.draining and self._capacity.has_place
            self._resumes = await self._listen(self._resumes, self._resumes_on, wanted=resumed)

    def _tell_of_permits(self) -> None:
        if self._told_of_permits or self.draining or not self._capacity.held_back(self._clock.now()):
            return
        self._told_of_permits = True
        logger.warning(
            "there is room, and new calls are refused: AgentRunner(permits_per_minute=...) limits how many may begin "
            "in a minute; None is no limit (this is said once)"
        )

    async def _listen(self, current: Subscription | None, subject: str, *, wanted: bool) -> Subscription | None:
        if wanted and current is None:
            return await self._bus.subscribe(subject, self._on_offer, queue=QUEUE)
        if current is not None and not wanted:
            await current.close()
            return None
        return current

    def _set_timer(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self._clock.call_later(seconds, self._look.set)

    def _forget(self) -> None:
        forgotten = self._capacity.forget(self._clock.now())
        for place in forgotten:
            if place.held:
                logger.warning("job %s was promised a place, and its bridge has fallen silent: forgotten", place.job)
            else:
                logger.debug("job %s was not confirmed in time: forgotten", place.job)
        if forgotten:
            self.changed()

    # -------------------------------------------------------------------------------------------------------- answering

    def _on_offer(self, message: Message) -> None:
        try:
            offer = OFFER.decode(message.data)
        except MALFORMED:
            logger.warning("an offer of %d bytes cannot be read", len(message.data))
            return
        self._answer(message, OfferAnswered(answer=self._take(offer), runner=self._runner_id))

    def _take(self, offer: Offer) -> Answer:
        if self.draining:
            return "draining"
        answer = self._capacity.offer(offer.job, self._clock.now(), resume=offer.resume)
        self.changed()
        return answer

    def _on_told(self, message: Message) -> None:
        try:
            told = TO_RUNNER.decode(message.data)
        except MALFORMED:
            logger.warning("a message of %d bytes to this runner cannot be read", len(message.data))
            return
        match told:
            case Hold():
                answer = _told(self._capacity.hold(told.job, self._clock.now()), "no place is kept for this job")
            case Start():
                answer = self._start(told)
            case Release():
                answer = _told(self._capacity.release(told.job), "no place is kept for this job")
            case _:
                assert_never(told)
        self._answer(message, answer)
        self.changed()

    def _start(self, start: Start) -> Told:
        if start.agent != self._agent_id:
            return Told(ok=False, reason="agent_id_mismatch")
        match self._capacity.start(start.job, start.epoch, self._clock.now()):
            case "begin":
                return self._begin_call(start)
            case "again":
                if not start.held:
                    self._go(start)
                return Told(ok=True, reason="begun already", lets_in=start.suspicion is not None)
            case "unknown":
                return Told(ok=False, reason="no place is kept for this job")

    def _begin_call(self, start: Start) -> Told:
        try:
            self._begin(start)
        except UnpodError as error:
            logger.warning("session %r cannot be run: %s", start.session[:200], error)
            self._capacity.finish(start.job, start.epoch)
            return Told(ok=False, reason=type(error).__name__)
        return Told(ok=True, lets_in=start.suspicion is not None)

    def _answer(self, message: Message, answer: Struct) -> None:
        if not message.reply:
            return
        try:
            self._bus.send(message.reply, encode(answer))
        except LogError as error:  # whoever asked will ask again
            logger.debug("an answer could not be sent: %s", type(error).__name__)


def _told(ok: bool, otherwise: str) -> Told:  # noqa: FBT001 - it is what the message says
    return Told(ok=ok, reason="" if ok else otherwise)
