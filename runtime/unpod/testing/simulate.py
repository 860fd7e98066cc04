"""A whole call in memory: no server, no socket, no waiting.

::

    async with simulate_call(handle_call) as call:
        assert await call.user("hi") == "hello"
        await call.hang_up()
    assert call.reason == "hangup"
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count

from msgspec.structs import replace

from unpod.core import codec
from unpod.core import commands as cmd
from unpod.core.codec import Record
from unpod.core.controls import AnyControl
from unpod.core.dispatch_messages import Start
from unpod.core.envelope import from_headers
from unpod.core.live import DELTA
from unpod.core.metrics import CallMetrics, snapshot
from unpod.core.replay.ordering import merge
from unpod.core.state import SessionState, fold
from unpod.core.subjects import Subjects
from unpod.errors import UnpodError
from unpod.ports import Message
from unpod.runner.call import CallResult, CallServices, Entrypoint, RunningCall
from unpod.runner.context import CallContext
from unpod.runner.probation import Probation
from unpod.session.settings import SessionSettings
from unpod.testing.broker import MemoryBroker, matches
from unpod.testing.clock import VirtualClock, settle
from unpod.testing.line import ALL_VERBS, MemoryLine, Reply, Spoken
from unpod.testing.memory import MemoryLog

_numbers = count(1)


class SimulatedCall:
    """The caller's side of a simulated call, and what can be seen of it. Times in virtual seconds."""

    def __init__(
        self, line: MemoryLine, clock: VirtualClock, subjects: Subjects, runners: Runners, timeout_s: float
    ) -> None:
        self.clock = clock
        self.line = line
        self.result: CallResult | None = None
        self.crashes = 0
        self.points: list[str] = []
        """At what the runner could have been killed so far: each record of the call, and each piece of a reply."""
        self._runners = runners
        self._subjects = subjects
        self._timeout_s = timeout_s
        self._turns = 0
        self._unsure_until = 0
        self._runner: Runner
        self._context: CallContext | None = None
        self._crashing: asyncio.Task[None] | None = None
        self._crash_at: frozenset[int] = frozenset()

    # --- the caller ---------------------------------------------------------------------------------------------------

    async def user(self, text: str, *, language: str | None = None, wait: bool = True) -> str:
        """Say a final text; return the reply to it, or "" at once without `wait`."""
        frame: dict[str, object] = {"event": "user.text", "text": text, "is_final": True}
        if language is not None:
            frame["extra"] = {"language": language}
        self._turns += 1
        turn = self._turns
        await self.line.record(frame, "user.text")
        return (await self.reply(turn)).text if wait else ""

    async def reply(self, turn: int | None = None) -> Reply:
        """Return the reply to a turn (the last one said, unless told otherwise), once it has ended."""
        number = self._turns if turn is None else turn
        await self.until(lambda: number in self.line.replies and self.line.replies[number].ended)
        return self.line.replies.get(number, Reply(number))

    async def partial(self, text: str) -> None:
        """Say a text that is not final."""
        await self.frame("user.text", text=text, is_final=False)

    async def barge_in(self, heard: str | None = None) -> None:
        """Cut in; `heard` is what was heard of the reply so far, None where nobody knows."""
        await self.frame("user.interrupted", turn_id=self._turns, heard_prefix=heard)

    async def frame(self, event: str, **fields: object) -> None:
        """Send any frame of the speech worker."""
        await self.line.record({"event": event, **fields}, event)
        await settle()

    async def control(self, control: AnyControl) -> None:
        """Do something from outside (`unpod.core.controls`): it is admitted, and done."""
        await self.line.control(control)
        await self.settled()

    async def advance(self, seconds: float) -> None:
        """Let time pass."""
        await self.clock.advance(seconds)

    async def hang_up(self, reason: str = "hangup") -> None:
        """Hang up, and wait for the entrypoint's cleanup."""
        await self.line.end(reason)
        await self.ended()

    async def ended(self) -> str:
        """Return the reason of the call's end, once the entrypoint and its cleanup are over."""
        async with asyncio.timeout(self._timeout_s):
            while self.result is None:
                task = self._task
                await asyncio.wait({task})
                if self._crashing is not None:
                    await self._crashing
                if task is self._task:
                    self.result = await task
        return self.result.reason

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return once `condition` holds, or the call is over.

        Raises:
            TimeoutError: neither has come about.
        """
        async with asyncio.timeout(self._timeout_s):
            while not condition() and (self._crashing is not None or not self._task.done()):
                self.line.changed.clear()
                waiter = asyncio.ensure_future(self.line.changed.wait())
                await asyncio.wait({waiter, self._task, *self._crash_tasks}, return_when=asyncio.FIRST_COMPLETED)
                waiter.cancel()

    # --- trouble ------------------------------------------------------------------------------------------------------

    async def crash(self, *, bridge: bool = False) -> None:
        """Kill the runner as SIGKILL does, and let another one take the call over.

        With `bridge`, the bridge dies with it: nobody knows how far an open reply was spoken.
        """
        self._unsure_until = self._turns if bridge else 0
        self._kill()
        while self._crashing is not None:
            await self._crashing

    async def settled(self) -> None:
        """Return when all that goes on has come about, a takeover included; no time passes meanwhile."""
        await settle()
        while self._crashing is not None:
            await self._crashing
            await settle()

    def _kill(self) -> None:
        self._runner.kill()
        self.crashes += 1
        if self._crashing is None:
            self._crashing = asyncio.get_running_loop().create_task(self._take_over())

    async def _take_over(self) -> None:
        killed = 0
        while killed < self.crashes:  # it may have been killed again before it was there
            killed = self.crashes
            await self._runner.gone()
            self._runner = self._runners.start(self, await self.line.takeover(unsure_until=self._unsure_until))
            if killed < self.crashes:
                self._runner.kill()
            await self._runner.settled(len(self.points))
        self._crashing = None
        self._unsure_until = 0
        self.line.changed.set()

    def watch(self, crash_at: Iterable[int]) -> Callable[[Message], None]:
        """Return what watches the broker: it counts, and kills the runner at the given points."""
        self._crash_at = frozenset(crash_at)
        return self._on_message

    def _on_message(self, message: Message) -> None:
        point = self._point(message)
        if not point:
            return
        self.points.append(point)
        if len(self.points) in self._crash_at:
            self._kill()

    def _point(self, message: Message) -> str:
        if message.subject == self.line.call.delta:
            delta = DELTA.decode(message.data)
            return f"piece {delta.n} of the reply to text {delta.turn}"
        if not matches(self.line.call.all, message.subject):
            return ""
        return from_headers(message.headers).type

    @property
    def _task(self) -> asyncio.Task[CallResult]:
        return self._runner.task

    @property
    def _crash_tasks(self) -> set[asyncio.Task[None]]:
        return set() if self._crashing is None else {self._crashing}

    # --- what can be seen ---------------------------------------------------------------------------------------------

    @property
    def context(self) -> CallContext:
        """What the entrypoint was given; after a crash, what it was given in the new runner.

        Raises:
            UnpodError: it was not started.
        """
        if self._context is None:
            msg = "the call did not start"
            raise UnpodError(msg)
        return self._context

    @property
    def reason(self) -> str | None:
        """The reason of the call's end, None while it goes on."""
        return None if self.result is None else self.result.reason

    @property
    def spoken(self) -> Sequence[Spoken]:
        """What the caller heard, in order: ("say" or "reply", text)."""
        return tuple(self.line.spoken)

    @property
    def said(self) -> Sequence[str]:
        """What `say()` spoke, in order."""
        return tuple(text for kind, text in self.line.spoken if kind == "say")

    @property
    def commands(self) -> Sequence[cmd.AnyCommand]:
        """The commands that reached the bridge, in order."""
        return tuple(self.line.commands)

    async def records(self) -> list[Record]:
        """Return the call's log, in merged order."""
        pattern = self._subjects.session(self.line.session_id)
        found = [
            codec.read(self._subjects, message.subject, message.headers, message.data, message.seq)
            async for message in self.line.log.read(pattern)
        ]
        return merge(found)

    async def state(self) -> SessionState:
        """Return the fold of the call's log, as any other process would see it."""
        return fold(await self.records())

    async def metrics(self) -> CallMetrics:
        """Return the call's figures, folded from its log."""
        state = await self.state()
        return snapshot(state.metrics, state.duration_s(self.clock.now()))

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self, until_seq: int) -> None:
        """Start the entrypoint, and return when it has begun.

        Raises:
            UnpodError: it does not.
        """
        self._runner = self._runners.start(self, until_seq)
        await self.until(lambda: self._context is not None)
        _ = self.context

    def started(self, context: CallContext) -> None:
        """Take note of what an entrypoint is given."""
        self._context = context
        self.line.changed.set()

    async def close(self) -> None:
        """Hang up where the call still goes on, and release everything."""
        await self.line.end("hangup")
        try:
            await self.ended()
        finally:
            await self._runner.gone()
            await self.line.close()


class Runner:
    """One runner process, as far as a call can tell."""

    def __init__(self, log: MemoryLog, call: RunningCall) -> None:
        self._log = log
        self._call = call
        self.task = asyncio.get_running_loop().create_task(call.run(), name="unpod-simulated-call")

    def kill(self) -> None:
        """From now on nothing of it reaches anybody."""
        self._log.available = False
        self._log.frozen = True
        self.task.cancel()

    async def settled(self, points: int) -> None:
        """Return when it has gone through the past, of so many points, or waits for something in there."""
        for _ in range(10 * points):
            if self._call.live or self.task.done():
                break
            await asyncio.sleep(0)
        await settle()

    async def gone(self) -> None:
        """Return once nothing of it runs."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


class Runners:
    """Makes runners for a simulated call."""

    def __init__(
        self,
        broker: MemoryBroker,
        clock: VirtualClock,
        subjects: Subjects,
        entrypoint: Entrypoint,
        settings: SessionSettings,
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._subjects = subjects
        self._entrypoint = entrypoint
        self._settings = settings

    def start(self, simulated: SimulatedCall, until_seq: int) -> Runner:
        """Start a runner that owns the call from here on."""
        log, line, agent_id = MemoryLog(self._broker), simulated.line, self._settings.agent_id

        async def on_start(context: CallContext) -> None:
            simulated.started(context)

        async def on_end(_: CallContext, __: str) -> None:
            return

        services = CallServices(
            log=log,
            bus=log,
            clock=self._clock,
            subjects=self._subjects,
            runner_id=f"runner-{simulated.crashes}",
            agent_id=agent_id,
            probation=Probation(self._clock, lambda _start, _phase: None),
            settings=self._settings,
            entrypoint=self._entrypoint,
            on_call_start=on_start,
            on_call_end=on_end,
        )
        start = Start(job="job-1", agent=agent_id, session=line.session_id, epoch=line.epoch, until_seq=until_seq)
        runner = Runner(log, RunningCall(services, start))
        runner.task.add_done_callback(lambda _: line.changed.set())
        return runner


@asynccontextmanager
async def simulate_call(
    entrypoint: Entrypoint,
    *,
    agent_id: str = "agent",
    session_id: str | None = None,
    metadata: Mapping[str, object] | None = None,
    verbs: Sequence[str] = ALL_VERBS,
    frame: Mapping[str, object] | None = None,
    settings: SessionSettings | None = None,
    crash_at: int | Iterable[int] | None = None,
    timeout_s: float = 5.0,
) -> AsyncIterator[SimulatedCall]:
    """Run an entrypoint on a call in memory, and hang up at the end where the call still goes on.

    `metadata` and `frame` go into the call's `call.started`; `verbs` is what the speech worker negotiates. Timers of
    the session run on a virtual clock (`call.advance`); `timeout_s` is real time, for what the test waits for.

    With `crash_at`, the runner is killed right after the call's `crash_at`-th record or piece of a reply from its start
    on (`call.points` names them), and another one takes over; with several, each time.
    """
    clock, subjects = VirtualClock(), Subjects()
    broker = MemoryBroker(now_ns=clock.now_ns)
    session = session_id or f"call-{next(_numbers)}"
    line = MemoryLine(MemoryLog(broker), clock, subjects, agent_id, session)
    until_seq = await line.open(metadata or {}, verbs, frame or {})
    options = replace(settings or SessionSettings(), agent_id=agent_id)
    runners = Runners(broker, clock, subjects, entrypoint, options)
    simulated = SimulatedCall(line, clock, subjects, runners, timeout_s)
    clock.settled = simulated.settled
    broker.watch = simulated.watch((crash_at,) if isinstance(crash_at, int) else crash_at or ())
    try:
        await simulated.start(until_seq)
        await settle()
        yield simulated
    finally:
        await simulated.close()
