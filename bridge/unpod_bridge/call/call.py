"""The shell of one call: carries both ways, between the worker's socket and the log, what `protocol` decides.

Everything between a socket and the log happens where it arrives, in one turn of the event loop: there is no task per
frame or piece of speech. Tasks are for what has to wait: a dial, the first steps of a call, the claim of a verb. How a
call comes here is for `placing` (it is new) and `adopting` (another bridge had it).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Final, TypeVar

from unpod.core import codec
from unpod.core import events as ev
from unpod.core.live import DELTA, SPOKEN, Spoken
from unpod.core.subjects import CallSubjects
from unpod.errors import Fenced, LogError, LogUnavailable
from unpod.failpoints import armed, reached
from unpod.ports import Message, Subscription
from unpod_bridge.call.defects import whereabouts
from unpod_bridge.call.log_health import LogWatch
from unpod_bridge.call.settings import MOVED, LineResult, LineSettings
from unpod_bridge.call.takeover import Care, OwnerTakeover
from unpod_bridge.call.timers import Wakeups
from unpod_bridge.fleet.dispatch import Resumption
from unpod_bridge.fleet.runners import Pool
from unpod_bridge.journal.control_log import ControlReader
from unpod_bridge.journal.journal import Journal, Writing
from unpod_bridge.journal.lease import LineLease
from unpod_bridge.journal.placements import LineServices, placed_by
from unpod_bridge.journal.positions import StreamPositions
from unpod_bridge.journal.until_answered import until_answered
from unpod_bridge.protocol import outputs as do
from unpod_bridge.protocol.call_protocol import CallProtocol
from unpod_bridge.protocol.controls import Asked
from unpod_bridge.protocol.outputs import Output
from unpod_bridge.protocol.owner_records import OwnerRecords
from unpod_bridge.protocol.reconnect import LET_GO
from unpod_bridge.protocol.state import is_command_token
from unpod_bridge.transport.call_socket import Link
from unpod_bridge.wire.call_frames import problem_of, read_frame
from unpod_bridge.wire.job import Job
from unpod_bridge.wire.urls import with_token

logger = logging.getLogger("unpod.bridge.line")

T = TypeVar("T")

SURE_S: Final = 0.5
"""How long a call that is handed over waits to know what has become of its last verb."""
LOOK_S: Final = 0.01
STORED_S: Final = 0.1
"""Within what time the log has mostly stored, or refused, what is heard on its way there."""
_LOGGED_FRAMES: Final = 20


class Call:
    """One call on this bridge, however it came here. Without `care`, nobody looks after its owner."""

    def __init__(
        self, job: Job, services: LineServices, settings: LineSettings | None = None, care: Care | None = None
    ) -> None:
        self._job = job
        self._services = services
        self._settings = LineSettings() if settings is None else settings
        self._clock = services.clock
        self._loop = asyncio.get_running_loop()
        self._protocol = CallProtocol(self._settings.protocol)
        self._session_id = ""
        """What is still known of it when the call is over."""
        self._subjects: CallSubjects | None = None
        self._reader: OwnerRecords | None = None
        self._journal: Journal | None = None
        self._controls: ControlReader | None = None
        self._care = care
        self._owner_takeover: OwnerTakeover | None = None
        self._link = Link(services.dialer, job.job_id, lambda: with_token(job.bridge_url, job.call_token), self)
        self._tasks: set[asyncio.Task[None]] = set()
        self._subscriptions: list[Subscription] = []
        self._wakeups = Wakeups(self._protocol, self._clock, self._feed)
        self._flawed = 0
        self._found = 0
        self._started_at: float | None = None
        self._done: asyncio.Future[LineResult] | None = None
        self._called_off = False
        self._lease = LineLease(services, self._settings.protocol.buffer_s)
        self._certain: Spoken | None = None
        """How far speech had come when it became doubtful whose the line is."""
        self._left: asyncio.Future[None] | None = None  # an idle asyncio.Event is 700 bytes for each call
        self._log_watch = LogWatch(self._protocol, self._link, self._settings, services, self._feed)

    @property
    def session_id(self) -> str:
        """The session's id, "" before the call is up."""
        return self._session_id or self._protocol.session_id

    @property
    def agent_id(self) -> str:
        """Whose call it is."""
        return self._job.agent_id

    @property
    def volume(self) -> int:
        """How much of the log it takes by now, in bytes, about."""
        heard = 0 if self._reader is None else self._reader.volume
        return self._found + heard + (0 if self._journal is None else self._journal.volume)

    def overrun(self) -> None:
        """It has written more than its share of the log (`shares.Sharer`)."""
        detail = f"it has written {self.volume // 1024} KiB, more than one call may of what is free in the event log"
        logger.error("job %s: %s", self._job.job_id, detail)
        self._services.shares.leave(self)
        self._feed(self._protocol.end("error", detail, self._clock.now()))

    async def run(self) -> LineResult:
        """Carry the call to its end, and return how it went; everything is closed by then."""
        self._done = self._loop.create_future()
        after: Call | None = None
        try:
            self._enter()
            if self._called_off:
                self.cancel()
            result = await self._done
            if self._journal is not None and result.reason != MOVED:
                await self._journal.finish(self._settings.linger_s)
                if self._owner_takeover is not None and self._journal.failure is None:
                    await self._owner_takeover.call_ended()
                    await self._hang_up()
                    after = self
        finally:
            if after is None:
                await self._close()
        return replace(result, after=after)

    async def clean_up(self) -> None:
        """Return once the session of this call, which has ended, is closed, or nothing can be done about it."""
        try:
            if self._owner_takeover is not None:
                await self._owner_takeover.closed.wait()
        finally:
            await self._close()

    async def leave_cleanup(self) -> None:
        """Let another bridge see to it."""
        if self._owner_takeover is not None:
            await self._owner_takeover.close()

    def _enter(self) -> None:
        raise NotImplementedError

    def cancel(self) -> None:
        """The orchestrator has called the job off: close with 1000, dialling or in call."""
        if self._done is None:  # `run` has not begun yet
            self._called_off = True
        elif not self._done.done():
            self._feed(self._protocol.cancel(self._clock.now()))

    async def let_go(self) -> bool:
        """Hand the call over to another bridge; return whether everything about it is stored, and its socket closed."""
        if self._done is None or self._done.done():
            return False
        if self._journal is None:
            self._move("another bridge has the job")
            return False
        journal, owner = self._journal, self._protocol.owner
        left = self._left = self._left or self._loop.create_future()
        until = self._clock.now() + SURE_S
        while owner.unsure and self._clock.now() < until:
            await self._clock.sleep(LOOK_S)
        if self._owner_takeover is not None:
            await self._owner_takeover.close()
        self._feed(self._protocol.leave(self._clock.now()))
        await asyncio.shield(left)
        try:
            await journal.flush()
        except LogError as error:
            logger.warning("job %s: it is handed over, and not all of it is stored: %s", self._job.job_id, error)
            return False
        finally:
            self._move("handed over to another bridge")
        return True

    # ---------------------------------------------------------------------------------------------------- from outside

    def on_frame(self, data: bytes, *, binary: bool) -> None:
        """Take a frame of the worker."""
        frame = read_frame(data, binary=binary)
        body = frame.body
        if isinstance(body, ev.FrameRejected) or (isinstance(body, ev.WorkerFact) and body.flaws):
            self._flawed += 1
            if self._flawed <= _LOGGED_FRAMES:
                logger.warning("job %s: %s", self._job.job_id, problem_of(body))
        self._feed(self._protocol.on_frame(frame, self._clock.now()))
        journal = self._journal
        if journal is not None and journal.backlog > self._settings.busy:
            self._link.pause_reading()

    def on_pong(self, token: bytes) -> None:
        """Take a pong of the worker."""
        if is_command_token(token):
            reached("line.delivered")
        self._feed(self._protocol.on_pong(token, self._clock.now()))

    def on_lost(self, code: int | None, reason: str) -> None:
        """The socket is gone."""
        logger.info("job %s: the call socket is gone, close code %s", self._job.job_id, code)
        self._link.turn_away()
        self._feed(self._protocol.on_lost(code, reason, self._clock.now()))

    def on_open(self) -> None:
        """The socket is open."""
        self._feed(self._protocol.on_open(self._clock.now()))

    def on_dial_failed(self, status: int | None) -> None:
        """There is no socket."""
        self._feed(self._protocol.on_dial_failed(status, self._clock.now()))

    def _on_live(self, message: Message) -> None:
        subjects = self._subjects
        if subjects is None:
            return
        self._doubt_what_is_heard()
        if message.subject == subjects.delta:
            try:
                delta = DELTA.decode(message.data)
            except codec.MALFORMED as error:
                logger.warning("job %s: a piece of speech cannot be read: %s", self._job.job_id, codec.describe(error))
                return
            self._feed(self._protocol.on_delta(delta, self._clock.now()))
            if self._owner_takeover is not None:
                self._owner_takeover.on_delta(delta.epoch)
        elif message.subject == subjects.text:
            self._on_record(message)
        elif message.subject == subjects.spoken:
            try:
                self._feed(self._protocol.on_spoken(SPOKEN.decode(message.data), self._clock.now()))
            except codec.MALFORMED as error:
                logger.warning("job %s: a last word cannot be read: %s", self._job.job_id, codec.describe(error))

    def _on_record(self, message: Message) -> None:
        if self._subjects is not None and message.subject == self._subjects.ctl:
            if self._controls is not None and self._controls.hint(message):
                self._spawn(self._controls.read())
            return
        if self._subjects is not None and message.subject == self._subjects.own:
            if not placed_by(self._services, message):
                self._spawn(self._look_for_another_owner())
            return
        owned = None if self._reader is None else self._reader.read(message)
        if owned is None:
            return
        self._doubt_what_is_heard()
        if owned.refusal:
            logger.warning(
                "job %s: command %d of the owner is refused: %s", self._job.job_id, owned.index, owned.refusal
            )
        self._feed(self._protocol.on_owned(owned, self._clock.now()))
        if self._owner_takeover is not None:
            self._owner_takeover.on_record(message.subject, owned)

    async def _look_for_another_owner(self) -> None:
        """Another bridge has tried to appoint one: what was heard is stored a moment later, or refused."""
        await self._clock.sleep(STORED_S)
        if self._owner_takeover is not None:
            await self._owner_takeover.displaced()

    # ------------------------------------------------------------------------------------------------------ carry out

    def _feed(self, outputs: list[Output]) -> None:
        """Carry out what the protocol wants, and come back when it wants to be asked."""
        if outputs:
            lease = self._lease
            if lease.is_doubtful():
                self._spawn(self._make_sure())
            if lease.holds(outputs):
                return
            for output in outputs:
                _ACTS[type(output)](self, output)
        self._wakeups.look()

    def _dial(self, _: do.Dial) -> None:
        self._watch(self._link.dial(self._may_dial))

    def _store(self, output: do.Store) -> None:
        journal = self._journal
        if journal is None:
            return
        if armed() and isinstance(output.body, ev.ReplySpoken) and output.body.ended:
            self._loop.call_soon(reached, "line.reply_ended")  # the frame leaves before that
        journal.put(output)
        if output.notify:
            self._spawn(self._tell_stored(journal, output.notify))

    async def _tell_stored(self, journal: Journal, notify: str) -> None:
        await journal.flush()
        reached("line.claim_stored")
        self._feed(self._protocol.stored(notify, self._clock.now()))

    def _ask_again(self, output: do.AskAgain) -> None:
        if self._subjects is not None:
            self._spawn(self._services.bus.publish(self._subjects.again, codec.encode(output.again)))

    def _fetch(self, output: do.Fetch) -> None:
        if self._reader is not None:
            self._spawn(self._hand_in(self._reader, output))

    async def _hand_in(self, reader: OwnerRecords, wanted: do.Fetch) -> None:
        async with self._services.reading:
            if self._protocol.owner.index >= wanted.last:
                return  # it has come by itself meanwhile
            async for owned in reader.between(
                self._services.log, self._protocol.owner.epoch, wanted.first, wanted.last
            ):
                self._feed(self._protocol.on_owned(owned, self._clock.now()))

    # ------------------------------------------------------------------------------------------------------- its owner

    def _look_after(self, care: Care, journal: Journal) -> OwnerTakeover:
        """Care for the owner from here on."""
        job = self._job
        wanted = Resumption(job.job_id, Pool(job.agent_id, job.dev), self.session_id)
        self._owner_takeover = OwnerTakeover(
            wanted, self._services, care, self._protocol, journal, feed=self._feed, failed=self._on_log_failure
        )
        return self._owner_takeover

    def _hear_controls(self, subjects: CallSubjects, since: int) -> None:
        """Answer what is asked from outside, from here on and since `since`."""
        services = self._services
        self._controls = ControlReader(
            services.log, self._clock, services.subjects, subjects, since=since, ask=self._on_control
        )
        if self._controls.hint(None):
            self._spawn(self._controls.read())

    def _on_control(self, asked: Asked) -> None:
        self._feed(self._protocol.admission.ask(asked, self._clock.now()))

    async def _listen(self, session_id: str) -> CallSubjects:
        """Hear the session's owner from here on."""
        bus, subjects = self._services.bus, self._services.subjects.call(self._job.agent_id, session_id)
        self._subjects, self._reader = subjects, OwnerRecords(subjects)
        self._subscriptions += await bus.subscribe_all({subjects.live: self._on_live, subjects.all: self._on_record})
        return subjects

    async def _persist(self, work: Callable[[], Awaitable[T]]) -> T:
        """Return what `work` returns; a log that is away is waited for, as long as a call may be without it."""
        return await until_answered(self._clock, work, self._settings.protocol.buffer_s)

    def _open_journal(self, writing: Writing, stream_positions: StreamPositions | None = None) -> Journal:
        services, subjects = self._services, self._services.subjects.call(self._job.agent_id, writing.session)
        self._lease.begin(subjects.line, writing.epoch)
        self._protocol.admission.tell_time(writing.offset_s)
        if stream_positions is None:
            stream_positions = StreamPositions(services.horizon)
            stream_positions.placed(writing.epoch)
        journal = Journal(
            services.log,
            services.bus,
            services.clock,
            subjects,
            writing,
            on_failure=self._on_log_failure,
            on_state=self._log_watch.on_state,
            stream_positions=stream_positions,
        )
        self._log_watch.begin(journal, self._doubt)
        services.shares.enter(self)
        return journal

    # -------------------------------------------------------------------------------------------------------- the log

    def _on_log_failure(self, error: LogError) -> None:
        if self._done is None or self._done.done():
            return  # told in the tick after the call's end, when there is nothing left of it
        if isinstance(error, Fenced) and not error.absent:
            self._move()
            return
        logger.error("job %s: the event log takes no more: %s", self._job.job_id, error)
        detail = (
            "its records are gone from the event log" if isinstance(error, Fenced) else "the event log takes no more"
        )
        self._feed(self._protocol.end("error", detail, self._clock.now()))

    def _on_no_answer(self, error: LogUnavailable) -> None:
        """Whose the line is cannot be known: that does not make it another's."""
        logger.error("job %s: it cannot be known whose its line is: %s", self._job.job_id, error)
        self._feed(self._protocol.end("error", "the event log does not say whose the line is", self._clock.now()))

    # ------------------------------------------------------------------------------------------------ is it still ours

    def _doubt(self) -> None:
        """This process has stood still: look after the line though nothing is to be done."""
        if self._lease.is_doubtful():
            self._spawn(self._make_sure())

    async def _make_sure(self) -> None:
        lease = self._lease
        try:
            ours = await lease.settle(self._is_over)
        except LogUnavailable as error:
            self._feed(lease.release())
            self._on_no_answer(error)
            return
        if ours:
            self._feed(lease.release())
        else:
            self._move()

    async def _may_dial(self) -> bool:
        try:
            ours = await self._lease.is_ours(self._is_over)
        except LogUnavailable as error:
            self._on_no_answer(error)
            return False
        if not ours:
            self._move()
        return ours

    def _is_over(self) -> bool:
        return self._protocol.phase == "over"

    def _doubt_what_is_heard(self) -> None:
        """What is said after a lost connection may be meant for another bridge: nothing of it is carried out before."""
        if self._lease.hear():
            self._certain = self._protocol.spoken

    def _say_last_word(self) -> None:
        """Tell who has the line now what was spoken here; the log refuses that. What was held up was not spoken."""
        spoken = self._certain if self._lease.holding else self._protocol.spoken
        if self._subjects is None or spoken is None:
            return
        try:
            self._services.bus.send(self._subjects.spoken, codec.encode(spoken))
        except LogError as error:
            logger.debug("job %s: its last word is lost: %s", self._job.job_id, type(error).__name__)

    def _move(self, why: str = "another bridge holds the line") -> None:
        """The call goes on elsewhere: whatever waits to be done here is not, and its socket is let go."""
        logger.warning("job %s: %s; its socket is let go", self._job.job_id, why)
        self._say_last_word()
        self._lease.end()
        self._link.close(LET_GO)
        self._finish(LineResult(MOVED, self._duration(), connected=True))

    def _have_left(self) -> None:
        if self._left is not None and not self._left.done():
            self._left.set_result(None)

    # -------------------------------------------------------------------------------------------------------- the end

    def _failed(self, output: do.Failed) -> None:
        raise NotImplementedError

    def _begin(self, output: do.Begin) -> None:
        raise NotImplementedError

    def _over(self, output: do.Over) -> None:
        self._link.turn_away()
        self._finish(LineResult(output.reason, self._duration(), connected=True))

    def _finish(self, result: LineResult) -> None:
        self._have_left()  # whoever waits for it to be handed over need not any more
        if self._done is not None and not self._done.done():
            self._done.set_result(result)

    def _duration(self) -> float:
        return 0.0 if self._started_at is None else self._clock.now() - self._started_at

    async def _hang_up(self) -> None:
        """The call is over, whatever is left to do for its session."""
        self._services.shares.leave(self)
        self._log_watch.close()
        self._wakeups.close()
        self._link.close(LET_GO)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._link.wait_closed()

    async def _close(self) -> None:
        if self._owner_takeover is not None:
            await self._owner_takeover.close()
        await self._hang_up()
        for subscription in self._subscriptions:
            await subscription.close()
        if self._journal is not None:
            await self._journal.close()
        self._dissolve()

    def _dissolve(self) -> None:
        """Let go of everything: a call refers to itself all around, and would live until the next full collection."""
        if self._left is not None:
            return  # it is being handed over, and something of it is still asked
        session_id, done = self.session_id, self._done
        for part in (self._protocol, self._link, self._log_watch, self._journal, self):
            if part is not None:
                vars(part).clear()
        self._session_id, self._done = session_id, done

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        self._watch(self._loop.create_task(work))

    def _watch(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._reap)

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, LogError):  # what waits for the log is asked for again, or ends with the call
            logger.warning("job %s: %s", self._job.job_id, error)
        elif error is not None:
            logger.error("job %s: %s", self._job.job_id, whereabouts(error))
            self._defect()

    def _defect(self) -> None:
        """A defect of ours ends the call, and only it: with its end in the log, where there is anything of it."""
        try:
            if self._journal is not None:
                now = self._clock.now()
                self._feed([*self._protocol.begin(now), *self._protocol.end("error", "a defect in the bridge", now)])
        except Exception as worse:  # noqa: BLE001 - whatever it is, the call is over
            logger.error("job %s: %s", self._job.job_id, whereabouts(worse))  # noqa: TRY400
        self._link.close(LET_GO)
        self._finish(LineResult("error", self._duration(), connected=self._started_at is not None))


_ACTS: Final[dict[type[object], Callable[..., None]]] = {
    do.Begin: lambda line, output: line._begin(output),  # noqa: SLF001 - the class's own table
    do.Failed: lambda line, output: line._failed(output),  # noqa: SLF001
    do.Dial: Call._dial,  # noqa: SLF001
    do.Write: lambda line, output: line._link.write(output.data),  # noqa: SLF001
    do.Ping: lambda line, output: line._link.ping(output.token),  # noqa: SLF001
    do.Close: lambda line, output: line._link.close(output.code),  # noqa: SLF001
    do.Leave: lambda line, output: line._link.leave(output.code),  # noqa: SLF001
    do.Left: lambda line, _: line._have_left(),  # noqa: SLF001
    do.Store: Call._store,  # noqa: SLF001
    do.AskAgain: Call._ask_again,  # noqa: SLF001
    do.Fetch: Call._fetch,  # noqa: SLF001
    do.Over: Call._over,  # noqa: SLF001
}
