"""The shell of one call: dials, takes the line, and carries both ways what `relay` decides.

Everything between a socket and the log happens where it arrives, in one turn of the event loop: there is no task per
frame or piece of speech. Tasks are for what has to wait: a dial, the first steps of a call, the claim of a verb.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Final

from unpod.core import codec
from unpod.core import events as ev
from unpod.core.live import DELTA
from unpod.core.subjects import CallSubjects
from unpod.errors import Fenced, LogError, ProtocolViolation
from unpod.failpoints import reached
from unpod.ports import Message, Subscription, Timer
from unpod_bridge import outputs as do
from unpod_bridge.call_state import RelaySettings
from unpod_bridge.frames import read_frame
from unpod_bridge.ledger import Ledger, Writing
from unpod_bridge.link import Link
from unpod_bridge.outputs import Output
from unpod_bridge.owner_records import OwnerRecords
from unpod_bridge.placing import Job, LineServices, Place, appoint, take_line
from unpod_bridge.redial import LET_GO
from unpod_bridge.relay import Relay
from unpod_bridge.urls import with_token

__all__ = ["Job", "Line", "LineResult", "LineServices", "LineSettings", "Place"]

logger = logging.getLogger("unpod.bridge.line")

_LOGGED_FRAMES: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LineSettings:
    """Times in seconds; `busy` is how many records may wait for the log before the worker has to wait, too."""

    relay: RelaySettings = field(default_factory=RelaySettings)
    linger_s: float = 600.0
    busy: int = 1_000


@dataclass(frozen=True, slots=True)
class LineResult:
    """How a call went; `connected` is False where it never came up."""

    reason: str
    duration_s: float
    connected: bool


class Line:
    """One call on this bridge, from its assignment to its end."""

    def __init__(self, job: Job, place: Place, services: LineServices, settings: LineSettings | None = None) -> None:
        self._job = job
        self._place = place
        self._services = services
        self._settings = LineSettings() if settings is None else settings
        self._clock = services.clock
        self._relay = Relay(self._settings.relay)
        self._subjects: CallSubjects | None = None
        self._reader: OwnerRecords | None = None
        self._ledger: Ledger | None = None
        self._link = Link(services.dialer, job.job_id, lambda: with_token(job.bridge_url, job.call_token), self)
        self._tasks: set[asyncio.Task[None]] = set()
        self._subscriptions: list[Subscription] = []
        self._timer: Timer | None = None
        self._timer_at = 0.0
        self._flushing = False
        self._rejected = 0
        self._started_at: float | None = None
        self._done: asyncio.Future[LineResult] | None = None
        self._called_off = False
        self._place_open = True

    @property
    def session_id(self) -> str:
        """The session's id, "" before the call is up."""
        return self._relay.session_id

    async def run(self) -> LineResult:
        """Carry the call from the first dial to its end, and return how it went; everything is closed by then."""
        self._done = asyncio.get_running_loop().create_future()
        try:
            self._feed(self._relay.start(self._clock.now()))
            if self._called_off:
                self.cancel()
            result = await self._done
            if self._ledger is not None:
                await self._ledger.finish(self._settings.linger_s)
        finally:
            await self._close()
        return result

    def cancel(self) -> None:
        """The orchestrator has called the job off: close with 1000, dialling or in call."""
        if self._done is None:  # `run` has not begun yet
            self._called_off = True
        else:
            self._feed(self._relay.cancel(self._clock.now()))

    # ---------------------------------------------------------------------------------------------------- from outside

    def on_frame(self, data: bytes, *, binary: bool) -> None:
        """Take a frame of the worker."""
        frame = read_frame(data, binary=binary)
        if isinstance(frame.body, ev.FrameRejected):
            self._rejected += 1
            if self._rejected <= _LOGGED_FRAMES:
                logger.warning(
                    "job %s: a frame of %d bytes was rejected: %s", self._job.job_id, frame.body.size, frame.body.reason
                )
        self._feed(self._relay.on_frame(frame, self._clock.now()))
        ledger = self._ledger
        if ledger is not None and ledger.backlog > self._settings.busy:
            self._link.pause_reading()

    def on_pong(self, token: bytes) -> None:
        """Take a pong of the worker."""
        reached("line.delivered")
        self._feed(self._relay.on_pong(token))

    def on_lost(self, code: int | None, reason: str) -> None:
        """The socket is gone."""
        logger.info("job %s: the call socket is gone, close code %s", self._job.job_id, code)
        self._link.turn_away()
        self._feed(self._relay.on_lost(code, reason, self._clock.now()))

    def on_open(self) -> None:
        """The socket is open."""
        self._feed(self._relay.on_open(self._clock.now()))

    def on_dial_failed(self, status: int | None) -> None:
        """There is no socket."""
        self._feed(self._relay.on_dial_failed(status, self._clock.now()))

    def _on_live(self, message: Message) -> None:
        subjects = self._subjects
        if subjects is None:
            return
        if message.subject == subjects.delta:
            try:
                delta = DELTA.decode(message.data)
            except codec.MALFORMED as error:
                logger.warning("job %s: a piece of speech cannot be read: %s", self._job.job_id, codec.describe(error))
                return
            self._feed(self._relay.on_delta(delta, self._clock.now()))
        elif message.subject == subjects.text:
            self._on_record(message)

    def _on_record(self, message: Message) -> None:
        owned = None if self._reader is None else self._reader.read(message)
        if owned is None:
            return
        if owned.refusal:
            logger.warning(
                "job %s: command %d of the owner is refused: %s", self._job.job_id, owned.index, owned.refusal
            )
        self._feed(self._relay.on_owned(owned, self._clock.now()))

    # ------------------------------------------------------------------------------------------------------ carry out

    def _feed(self, outputs: list[Output]) -> None:
        """Carry out what the relay wants, and come back when it wants to be asked."""
        for output in outputs:
            _ACTS[type(output)](self, output)
        relay = self._relay
        if relay.joined and not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)
        deadline = relay.deadline
        if deadline is not None and (self._timer is None or deadline < self._timer_at):
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = deadline
            self._timer = self._clock.call_later(max(0.001, deadline - self._clock.now()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._feed(self._relay.tick(self._clock.now()))

    def _flush(self) -> None:
        self._flushing = False
        self._feed(self._relay.flush(self._clock.now()))

    def _dial(self, _: do.Dial) -> None:
        self._watch(self._link.dial())

    def _write(self, output: do.Write) -> None:
        self._link.write(output.data)

    def _ping(self, output: do.Ping) -> None:
        self._link.ping(output.token)

    def _hang_up(self, output: do.Close) -> None:
        self._link.close(output.code)

    def _store(self, output: do.Store) -> None:
        ledger = self._ledger
        if ledger is None:
            return
        ledger.put(output)
        if output.notify:
            self._spawn(self._tell_stored(ledger, output.notify))

    async def _tell_stored(self, ledger: Ledger, notify: str) -> None:
        await ledger.flush()
        reached("line.claim_stored")
        self._feed(self._relay.stored(notify, self._clock.now()))

    def _ask_again(self, output: do.AskAgain) -> None:
        if self._subjects is not None:
            self._spawn(self._services.bus.publish(self._subjects.again, codec.encode(output.again)))

    def _fetch(self, output: do.Fetch) -> None:
        if self._reader is not None:
            self._spawn(self._hand_in(self._reader, output))

    async def _hand_in(self, reader: OwnerRecords, wanted: do.Fetch) -> None:
        async for owned in reader.between(self._services.log, self._relay.owner.epoch, wanted.first, wanted.last):
            self._feed(self._relay.on_owned(owned, self._clock.now()))

    # ------------------------------------------------------------------------------------------------------- the start

    def _begin(self, output: do.Begin) -> None:
        self._started_at = self._clock.now()
        self._spawn(self._place_call(output))

    async def _place_call(self, begin: do.Begin) -> None:
        try:
            placed = await self._take_and_appoint(begin)
        except (LogError, ProtocolViolation) as error:
            logger.warning("job %s: the call is up, and cannot be placed: %s", self._job.job_id, error)
            placed = False
            if self._ledger is None:  # nothing of it is in the log
                self._link.close(LET_GO if isinstance(error, Fenced) else 1000)
                await self._give_back("the call could not be placed", LineResult("lost", 0.0, connected=False))
                return
        self._place_open = not placed
        self._feed(self._relay.begin())
        if not placed:
            self._feed(self._relay.end("error", "no runner has taken the call", self._clock.now()))

    async def _take_and_appoint(self, begin: do.Begin) -> bool:
        services, session = self._services, begin.session_id
        subjects = self._subjects = services.subjects.call(self._job.agent_id, session)
        self._reader = OwnerRecords(services.subjects, subjects)
        for subject, handler in ((subjects.all, self._on_record), (subjects.live, self._on_live)):
            self._subscriptions.append(await services.bus.subscribe(subject, handler))
        self._ledger = await take_line(services, subjects, self._job, session, self._open_ledger)
        epoch, first = await appoint(services, subjects, begin, self._ledger, self._place.runner_id)
        self._feed(self._relay.owner.appoint(epoch))
        return await self._place.start(session, epoch, first)

    def _open_ledger(self, writing: Writing) -> Ledger:
        services, subjects = self._services, self._services.subjects.call(self._job.agent_id, writing.session)
        return Ledger(
            services.log,
            services.bus,
            services.clock,
            subjects,
            writing,
            on_failure=self._on_log_failure,
            on_state=self._on_log_state,
        )

    # -------------------------------------------------------------------------------------------------------- the log

    def _on_log_failure(self, error: LogError) -> None:
        if isinstance(error, Fenced):
            logger.warning("job %s: another bridge holds the line", self._job.job_id)
            self._link.close(LET_GO)
            self._finish(LineResult("lost", self._duration(), connected=True))
            return
        logger.error("job %s: the event log takes no more: %s", self._job.job_id, error)
        self._feed(self._relay.end("error", "the event log takes no more", self._clock.now()))

    def _on_log_state(self, away: bool) -> None:  # noqa: FBT001 - the ledger's callback
        relay, ledger, now = self._relay, self._ledger, self._clock.now()
        if ledger is None or ledger.backlog < self._settings.busy // 4:
            self._link.resume_reading()
        if not away:
            self._feed(relay.log_back())
            return
        self._feed(relay.log_away(now))
        if ledger is not None and ledger.unstored_bytes > self._settings.relay.buffer_bytes:
            self._feed(relay.end("error", "too much waits for the event log", now))

    # -------------------------------------------------------------------------------------------------------- the end

    def _failed(self, output: do.Failed) -> None:
        log = logger.info if output.cancelled else logger.warning
        log("job %s: the call did not come up: %s", self._job.job_id, output.reason)
        self._spawn(self._release(output))

    async def _release(self, output: do.Failed) -> None:
        reason = "cancelled" if output.cancelled else "lost"
        await self._give_back(output.reason, LineResult(reason, 0.0, connected=False))

    async def _give_back(self, reason: str, result: LineResult | None = None) -> None:
        """Release the runner's place, once, and finish."""
        was_open, self._place_open = self._place_open, False
        try:
            if was_open:
                await self._place.release(reason)
        finally:
            if result is not None:
                self._finish(result)

    def _over(self, output: do.Over) -> None:
        self._link.turn_away()
        self._finish(LineResult(output.reason, self._duration(), connected=True))

    def _finish(self, result: LineResult) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(result)

    def _duration(self) -> float:
        return 0.0 if self._started_at is None else self._clock.now() - self._started_at

    async def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._link.close(LET_GO)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._place_open:
            self._spawn(self._give_back("the bridge has let the call go"))
            await asyncio.gather(*self._tasks, return_exceptions=True)
        for subscription in self._subscriptions:
            await subscription.close()
        if self._ledger is not None:
            await self._ledger.close()
        await self._link.wait_closed()

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        self._watch(asyncio.get_running_loop().create_task(work))

    def _watch(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._reap)

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, LogError):  # what waits for the log is asked for again, or ends with the call
            logger.warning("job %s: %s", self._job.job_id, error)
        elif error is not None:
            logger.error("job %s: %s", self._job.job_id, _where(error))
            self._link.close(LET_GO)
            self._finish(LineResult("error", self._duration(), connected=self._started_at is not None))


def _where(error: BaseException) -> str:
    """Say what has failed and where, without the error's text: it may hold what was said on a call."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return type(error).__name__ + (f" at {place.tb_frame.f_code.co_qualname}:{place.tb_lineno}" if place else "")


_ACTS: Final[dict[type[object], Callable[..., None]]] = {
    do.Dial: Line._dial,  # noqa: SLF001 - the class's own table
    do.Write: Line._write,  # noqa: SLF001
    do.Ping: Line._ping,  # noqa: SLF001
    do.Close: Line._hang_up,  # noqa: SLF001
    do.Store: Line._store,  # noqa: SLF001
    do.AskAgain: Line._ask_again,  # noqa: SLF001
    do.Fetch: Line._fetch,  # noqa: SLF001
    do.Begin: Line._begin,  # noqa: SLF001
    do.Failed: Line._failed,  # noqa: SLF001
    do.Over: Line._over,  # noqa: SLF001
}
