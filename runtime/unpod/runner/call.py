"""One call in a runner: a session, its context, and the developer's entrypoint around them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from unpod.core.call_context import context_fields
from unpod.core.dispatch_messages import Start
from unpod.core.positions import Positions, unpack
from unpod.core.subjects import Subjects
from unpod.errors import Fenced, LogError, LogUnavailable, ProtocolViolation
from unpod.ports import Bus, Clock, EventLog
from unpod.runner.context import CallContext
from unpod.runner.probation import HeldCall, Probation
from unpod.session.driver import Driver
from unpod.session.ownership import Ownership
from unpod.session.scope import entered
from unpod.session.session import Session
from unpod.session.settings import SessionSettings
from unpod.session.task_owner import belongs
from unpod.session.tracing import in_turn
from unpod.user_code import cancelled, ended, is_theirs

logger = logging.getLogger("unpod.runner")

ATTACH_S: Final = 10.0
ATTACH_PAUSE_S: Final = 0.2

Entrypoint = Callable[[CallContext], Awaitable[object]]
FinalState = str
"""`ended` or `failed`."""


@dataclass(frozen=True, slots=True)
class CallServices:
    """What every call of a runner shares. The two hooks must not raise."""

    log: EventLog
    bus: Bus
    clock: Clock
    subjects: Subjects
    runner_id: str
    agent_id: str
    probation: Probation
    settings: SessionSettings
    entrypoint: Entrypoint
    on_call_start: Callable[[CallContext], Awaitable[None]]
    on_call_end: Callable[[CallContext, FinalState], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class CallResult:
    """How a call went, as this runner saw it.

    Not `started` where its log could not be read, or where another runner has it now (`reason` is then `moved`).
    """

    session_id: str
    reason: str
    failed: bool
    duration_s: float
    started: bool


class RunningCall:
    """One call, from its start message to its cleanup."""

    def __init__(self, services: CallServices, start: Start) -> None:
        self.context: CallContext | None = None
        self._services = services
        self.start = replace(start, positions=b"")
        """What has started it, without the positions: they are let go of once they are read."""
        self._positions = _positions(start)
        self._abandoned = False
        self._going = asyncio.Event()
        self._held_call: HeldCall | None = None
        if not start.held:
            self._going.set()
        self._driver = Driver(
            Ownership(
                log=services.log,
                bus=services.bus,
                clock=services.clock,
                subjects=services.subjects,
                agent_id=start.agent,
                session_id=start.session,
                runner_id=services.runner_id,
                epoch=start.epoch,
                until_seq=start.until_seq,
            ),
            services.settings,
        )

    @property
    def epoch(self) -> int:
        """The epoch under which this runner owns the session."""
        return self.start.epoch

    @property
    def owner_index(self) -> int:
        """The index of the newest record that this runner has written."""
        return self._driver.kernel.outbox.index

    def stored(self, after: int) -> tuple[int, list[int]] | None:
        """Return where its records stand behind an index (`StoredPositions.stored`)."""
        return self._driver.kernel.outbox.stored(after)

    def forget(self, until: int) -> None:
        """The bridge knows where its records up to an index stand."""
        self._driver.kernel.outbox.forget(until)

    @property
    def bridge_index(self) -> int:
        """The index of the bridge's newest record that has come in."""
        return self._driver.inbox.index

    def expect(self, index: int) -> None:
        """Take a bridge's word that it has written up to `index`, and fetch what of that is missing."""
        self._driver.inbox.promised(index)

    @property
    def live(self) -> bool:
        """Whether the replay is over, and what comes in is handled."""
        return self._driver.live

    @property
    def bridge(self) -> str:
        """Which bridge holds the call's line, "" where that is not known yet."""
        return self._driver.inbox.bridge

    async def check_tail(self) -> None:
        """Fetch what has been missed while the connection was lost."""
        await self._driver.inbox.check()

    async def check_owner(self) -> None:
        """Let go of the call if another runner owns it: one that has nothing to write would not learn it."""
        await self._driver.kernel.ending.check_owner()

    def go(self) -> None:
        """Let the developer's code begin, which was held back."""
        self._going.set()

    def fence(self) -> None:
        """Let go of the call at once: it has a newer owner."""
        self._driver.kernel.ending.fence()

    def abandon(self) -> None:
        """Let go of the call at once; its log is left as it is."""
        self._abandoned = True
        self._driver.kernel.ending.abandon()
        self._going.set()

    async def run(self) -> CallResult:
        """Serve the call until its cleanup is over; never raises but for its own cancellation."""
        try:
            return await self._serve()
        except asyncio.CancelledError:
            self._driver.kernel.ending.abandon()
            await self._driver.finish(None)
            raise
        finally:
            if self._held_call is not None:
                self._held_call.leave()
            self._driver.release()

    async def _serve(self) -> CallResult:
        driver = self._driver
        try:
            await self._attach()
        except Fenced:
            logger.warning("session %s: another runner owns it now", self.start.session)
            await driver.finish(None)
            return CallResult(self.start.session, "moved", failed=False, duration_s=0.0, started=False)
        except LogError as error:
            logger.error("session %s: its log cannot be read: %s", self.start.session, error)  # noqa: TRY400
            await driver.finish(None)
            return CallResult(self.start.session, "error", failed=True, duration_s=0.0, started=False)
        started = driver.kernel.state.started
        if started is None:
            logger.error("session %s: its log has no call.started", self.start.session)
            driver.kernel.ending.abandon()
            await driver.finish(None)
            return CallResult(self.start.session, "error", failed=True, duration_s=0.0, started=False)
        if not await self._may_begin():
            await driver.finish(None)
            return CallResult(self.start.session, "moved", failed=False, duration_s=0.0, started=False)
        self.context = context = self._context()
        await self._services.on_call_start(context)
        ending = driver.kernel.ending
        gone = ending.fenced or self._abandoned  # its code must not begin where another runner runs it
        await driver.finish(None if gone else await self._run_entrypoint(context))
        if ending.fenced:
            return CallResult(self.start.session, "moved", failed=False, duration_s=0.0, started=False)
        await self._services.on_call_end(context, "failed" if ending.has_failed(driver.kernel.state) else "ended")
        state = driver.kernel.state
        duration = state.duration_s(driver.kernel.clock.now())
        return CallResult(self.start.session, ending.reason_of(state), ending.has_failed(state), duration, started=True)

    async def _attach(self) -> None:
        """Read the log; while it does not answer, try again for a while: the call is ours, and nobody else has it.

        Raises:
            LogError: it cannot be read, or another runner owns the session.
        """
        clock = self._services.clock
        until = clock.now() + ATTACH_S
        while True:
            try:
                await self._driver.attach(self._positions)
            except LogUnavailable:
                if clock.now() >= until:
                    raise
                await clock.sleep(ATTACH_PAUSE_S)
            else:
                self._positions = None
                return

    async def _may_begin(self) -> bool:
        """Wait while the call is held back; return False if it is not ours any more by then, or let go of."""
        self._driver.kernel.ending.on_fenced = self._going.set
        suspicion = self.start.suspicion
        if suspicion is not None and not self._going.is_set():
            self._held_call = held_call = self._services.probation.join(self.start, self._going.set)
            if not suspicion.cleanup:
                self._driver.kernel.outbox.on_progress = held_call.passed
        await self._going.wait()
        if self._held_call is not None and self._held_call.phase == "waits":  # let in out of turn, or lost
            self._held_call.leave()
        return not (self._driver.kernel.ending.fenced or self._abandoned)

    def _context(self) -> CallContext:
        started = self._driver.kernel.state.started
        assert started is not None  # noqa: S101 - `run` has just looked
        fields = context_fields(started, self._services.agent_id)
        self._driver.context = {
            "call_id": fields.call_id,
            "session_id": fields.session_id,
            "direction": fields.direction,
            "user_number": fields.user_number,
            "instructions": fields.instructions,
            "data": fields.data,
            "turn_number": 0,
        }
        return CallContext(
            call_id=fields.call_id,
            session_id=fields.session_id,
            agent_id=fields.agent_id,
            runner_id=fields.runner_id,
            direction=fields.direction,
            user_number=fields.user_number,
            instructions=fields.instructions,
            data=fields.data,
            room=fields.room,
            session=Session(self._driver),
        )

    async def _run_entrypoint(self, context: CallContext) -> BaseException | None:
        """Run the developer's code and return what it raised; once another runner owns the call, it is stopped."""
        with entered(self._driver.kernel.main), in_turn(context.session_id):
            work = asyncio.create_task(self._attempt(context), name=f"unpod-entrypoint-{context.session_id}")
        belongs(work, context.session_id)
        fenced = asyncio.get_running_loop().create_future()

        def let_go() -> None:
            work.cancel()
            fenced.set_result(None)

        self._driver.kernel.ending.on_fenced = let_go
        try:
            await asyncio.wait({work, fenced}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._driver.kernel.ending.on_fenced = None
            await (ended if fenced.done() else cancelled)({work})
        return None if work.cancelled() or not work.done() else work.result()

    async def _attempt(self, context: CallContext) -> BaseException | None:
        """Return what the entrypoint raises; `sys.exit()` in it ends the call, not the process with all other calls."""
        try:
            await self._services.entrypoint(context)
        except BaseException as error:
            if not is_theirs(error):
                raise
            if self._driver.kernel.ending.has_told(error):  # its clean-up used a step after the call was lost
                return error
            logger.error(  # noqa: TRY400
                "session %s: the entrypoint raised %s",
                context.session_id,
                type(error).__name__,
                exc_info=None if self._driver.kernel.state.paused else error,
            )
            return error
        return None


def _positions(start: Start) -> Positions | None:
    """Return where the call's records stand, None where that is not said."""
    if not start.positions:
        return None
    try:
        found = unpack(start.positions)
    except ProtocolViolation as error:
        logger.warning("session %s: %s; its log is searched", start.session, error)
        return None
    return Positions(found.seqs, min(found.through, start.until_seq))
