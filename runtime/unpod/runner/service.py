"""One run of a runner, on a log and a bus that are there already."""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from unpod.core.codec import MALFORMED
from unpod.core.dispatch_messages import (
    BRIDGE_ANNOUNCED,
    QUEUED_ANNOUNCED,
    RUNNER_ANNOUNCED,
    HandOver,
    ProbationTold,
    RunnerAnnounced,
    encode,
    sendable,
)
from unpod.errors import ConfigurationError, LogError, OrchestratorTooOld, RunnerAuthError, RunnerBroken, UnpodError
from unpod.ops.log_health import SILENT, LogHealth
from unpod.runner.bridges import KnownBridges, RegistrationStatus
from unpod.runner.call import CallResult, CallServices, Entrypoint, RunningCall
from unpod.runner.calls import Calls, InCall, RunnerSession
from unpod.runner.capacity import Capacity
from unpod.runner.dispatch import Dispatch
from unpod.runner.drain import Drain, DrainMode, RunnerStop
from unpod.runner.peers import Peers
from unpod.runner.presence import Announcer
from unpod.runner.probation import Probation

if TYPE_CHECKING:
    from unpod.core.dispatch_messages import ProbationPhase, Start
    from unpod.core.subjects import Subjects
    from unpod.ports import Bus, Clock, EventLog, Message, Subscription, Timer
    from unpod.runner.context import CallContext
    from unpod.runner.runner_hooks import RunnerHooks
    from unpod.runner.stats import LastHour, RunnerStats
    from unpod.session.settings import SessionSettings

logger = logging.getLogger("unpod.runner")

BRIDGE_EXPECTED_S: Final = 5.0
HAND_OVER_EVERY_S: Final = 1.0
HAND_OVER_CHUNK: Final = 2_000
"""How many sessions one message may name: it has to stay under the server's limit."""
HELD_BACK_S: Final = 2.0
BAD_SETTINGS: Final = 2
"""The exit status of a program whose settings are missing or wrong: starting it again would change nothing."""


@dataclass(frozen=True, slots=True)
class RunnerOptions:
    """What a runner was made with, checked; times in seconds."""

    entrypoint: Entrypoint
    agent_id: str
    capacity: int
    permits_per_minute: float | None
    drain_timeout_s: float
    dev: bool
    settings: SessionSettings
    version: str = ""
    drain: DrainMode = "wait"

    @property
    def agent_key(self) -> str:
        """The pool from which its calls come: dev runners and others never mix."""
        return f"{self.agent_id}@dev" if self.dev else self.agent_id


@dataclass(frozen=True, slots=True)
class RunnerPorts:
    """What a runner needs from outside (`unpod.ports`), and the subjects that it uses."""

    log: EventLog
    bus: Bus
    clock: Clock
    subjects: Subjects


class Service:
    """Announces itself, takes calls and runs them, until it is asked to stop or cannot go on."""

    def __init__(
        self,
        plan: RunnerOptions,
        ports: RunnerPorts,
        runner_id: str,
        *,
        hooks: RunnerHooks,
        last_hour: LastHour,
        inside: InCall,
    ) -> None:
        self.plan = plan
        self.runner_id = runner_id
        self._ports = ports
        self._last_hour = last_hour
        self._failure: asyncio.Future[UnpodError] = asyncio.get_running_loop().create_future()
        self._bridges = KnownBridges(plan.agent_key)
        self._peers = Peers(runner_id, plan.agent_key)
        self._standing: RegistrationStatus | None = None
        self._was_ready = False
        self._settled = threading.Event()
        self._up = True
        self._subscriptions: list[Subscription] = []
        self._patience: Timer | None = None
        self._checking: asyncio.Task[None] | None = None
        self._services = CallServices(
            log=ports.log,
            bus=ports.bus,
            clock=ports.clock,
            subjects=ports.subjects,
            runner_id=runner_id,
            agent_id=plan.agent_id,
            probation=Probation(ports.clock, self._tell_probation),
            settings=msgspec.structs.replace(plan.settings, agent_id=plan.agent_id),
            entrypoint=plan.entrypoint,
            on_call_start=hooks.call_start,
            on_call_end=hooks.call_end,
        )
        self._log_health = LogHealth(ports.log, logger)
        self._capacity = Capacity(plan.capacity, plan.permits_per_minute, ports.clock.now())
        self._calls = Calls(self._make_call, self._over, inside)
        self._presence = Announcer(ports.bus, ports.subjects.runners, ports.clock, self._announcement, self._ended)
        self._dispatch = Dispatch(
            ports.bus,
            ports.subjects,
            ports.clock,
            self._capacity,
            agent_id=plan.agent_id,
            agent_key=plan.agent_key,
            runner_id=runner_id,
            begin=self._calls.begin,
            go=self._calls.go,
            changed=self._presence.changed,
            over=self._ended,
        )
        self._drain = Drain(
            clock=ports.clock,
            dispatch=self._dispatch,
            calls=self._calls,
            capacity=self._capacity,
            presence=self._presence,
            hooks=hooks,
            can_hand_over=self._can_hand_over,
            hand_over=self._hand_over,
        )

    # ---------------------------------------------------------------------------------------------------- what it tells

    def contexts(self) -> list[CallContext]:
        """Return the contexts of the calls that are running."""
        return self._calls.contexts()

    def find(self, session_id: str) -> RunningCall | None:
        """Return the call of a session that runs here; may be called from any thread."""
        return self._calls.find(session_id)

    def connected(self, up: bool) -> None:  # noqa: FBT001 - a listener of the connection
        """The connection is lost, or back: then each session looks for what it has missed."""
        self._up = up
        if not up:
            return
        if self._checking is not None:
            self._checking.cancel()
        self._checking = asyncio.get_running_loop().create_task(self._calls.check_tails(), name="unpod-check-tails")

    def stats(self) -> RunnerStats:
        """Return the figures as of now."""
        now = self._ports.clock.now()
        return self._last_hour.snapshot(
            now, in_flight=len(self._calls), queued=self._bridges.queued(now), capacity=self._capacity.limit
        )

    def sessions(self) -> list[RunnerSession]:
        """Return the sessions that run here."""
        return self._calls.shown()

    def missing(self) -> list[str]:
        """Return what is missing for new calls to come, [] for nothing; may be called from any thread."""
        missing = [str(self._failure.result())] if self._failure.done() else []
        if not self._up:
            missing.append("no connection to NATS")
        elif self._log_health.silent:
            missing.append(SILENT)
        if self._dispatch.draining:
            missing.append("it drains")
        standing = self._standing
        if standing is None:
            missing.append(f"no bridge speaks for agent {self.plan.agent_key}")
        elif standing.registration != "registered":
            missing.append(f"the orchestrator: {standing.registration}")
        return missing

    def _announcement(self, *, gone: bool = False) -> RunnerAnnounced:
        self._log_health.look()
        return RunnerAnnounced(
            runner=self.runner_id,
            agent=self.plan.agent_id,
            capacity=self._capacity.limit,
            in_flight=len(self._calls),
            queued=self._bridges.queued(self._ports.clock.now()),
            dev=self.plan.dev,
            draining=self._dispatch.draining,
            held_back=self._capacity.held_back(self._ports.clock.now()),
            gone=gone,
            version=self.plan.version,
        )

    # --------------------------------------------------------------------------------------------------- life and death

    async def open(self) -> None:
        """Begin to take calls.

        Raises:
            LogError: NATS does not let us, or does not answer.
        """
        subjects, bus = self._ports.subjects, self._ports.bus
        self._subscriptions.append(await bus.subscribe(subjects.bridges, self._on_bridge))
        self._subscriptions.append(await bus.subscribe(subjects.runners, self._on_runner))
        self._peers.listens(self._ports.clock.now())
        self._subscriptions.append(await bus.subscribe(subjects.queued(self.plan.agent_key), self._on_queued))
        await self._dispatch.open()
        self._presence.start()
        self._patience = self._ports.clock.call_later(BRIDGE_EXPECTED_S, self._no_bridge)

    async def serve(self, stop: RunnerStop) -> None:
        """Run calls until asked to stop, or until it makes no sense to go on; then drain.

        Raises:
            UnpodError: why it makes no sense to go on: the key is refused, the orchestrator is too old.
        """
        await stop.unless_requested(self._failed())
        await self._drain.run(stop, self.plan.drain_timeout_s, self.plan.drain)
        if self._failure.done():
            raise self._failure.result()

    async def close(self) -> None:
        """Say that it is gone, and hear nothing more; calls that still run are abandoned."""
        if self._patience is not None:
            self._patience.cancel()
        if self._checking is not None:
            self._checking.cancel()
        self._settled.set()
        await self._dispatch.close()
        await self._drain.let_go()
        await self._presence.stop(self._announcement(gone=True))
        for subscription in self._subscriptions:
            await subscription.close()

    def fail(self, reason: UnpodError) -> None:
        """Make `serve` end with this error; a later one changes nothing."""
        if not self._failure.done():
            self._failure.set_result(reason)
        self._settled.set()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A task has ended without which no call would come here any more."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            logger.error("%s has stopped", task.get_name(), exc_info=error)
            self.fail(
                RunnerBroken(f"{task.get_name()} has stopped ({type(error).__name__}): no call would come any more")
            )

    async def _failed(self) -> None:
        await asyncio.shield(self._failure)

    # ------------------------------------------------------------------------------------------------------------ calls

    def _make_call(self, start: Start) -> RunningCall:
        return RunningCall(self._services, start)

    async def _can_hand_over(self) -> bool:
        """Return whether another runner could take calls of ours, once all had time to say that they are there."""
        clock = self._ports.clock
        if not self._peers.any_with_room(clock.now()):
            await clock.sleep(self._peers.unheard_s(clock.now()))
        return self._peers.any_with_room(clock.now())

    async def _hand_over(self) -> None:
        """Ask the bridges for other runners, again and again; each call goes on here until another runner has it."""
        while True:
            for bridge, sessions in self._calls.by_bridge().items():
                for part in sendable(sessions, str, most=HAND_OVER_CHUNK):
                    await self._hand_over_to_peers(bridge, tuple(part))
            await self._ports.clock.sleep(HAND_OVER_EVERY_S)
            await self._calls.check_owners()

    def _tell_probation(self, start: Start, phase: ProbationPhase) -> None:
        """Tell a bridge how a held call goes on; where that is lost, it cannot know which call we died of."""
        said = ProbationTold(runner=self.runner_id, session=start.session, epoch=start.epoch, phase=phase)
        call = self._calls.find(start.session)
        bridge = start.bridge if call is None else call.bridge or start.bridge
        if not bridge:
            return
        try:
            self._ports.bus.send(self._ports.subjects.bridge(bridge), encode(said))
        except LogError as error:
            logger.debug("a bridge could not be told of a probation: %s", type(error).__name__)

    async def _hand_over_to_peers(self, bridge: str, sessions: tuple[str, ...]) -> None:
        message = encode(HandOver(runner=self.runner_id, sessions=sessions))
        try:
            await self._ports.bus.publish(self._ports.subjects.bridge(bridge), message)
        except LogError as error:
            logger.debug("a bridge could not be asked for other runners: %s", type(error).__name__)

    def _over(self, start: Start, result: CallResult | None) -> None:
        self._capacity.finish(start.job, start.epoch)
        if result is not None and result.started:
            self._last_hour.add(
                result.session_id,
                ended_at=self._ports.clock.now(),
                duration_s=result.duration_s,
                failed=result.failed,
            )
        self._dispatch.changed()

    # ---------------------------------------------------------------------------------------------------------- bridges

    def _on_queued(self, message: Message) -> None:
        try:
            said = QUEUED_ANNOUNCED.decode(message.data)
        except MALFORMED:
            logger.debug("an announcement of %d bytes cannot be read", len(message.data))
            return
        self._bridges.heard_queued(said, self._ports.clock.now())
        self._presence.changed()

    def _on_runner(self, message: Message) -> None:
        try:
            self._peers.heard(RUNNER_ANNOUNCED.decode(message.data), self._ports.clock.now())
        except MALFORMED:
            logger.debug("an announcement of %d bytes cannot be read", len(message.data))

    def _on_bridge(self, message: Message) -> None:
        try:
            said = BRIDGE_ANNOUNCED.decode(message.data)
        except MALFORMED:
            logger.debug("an announcement of %d bytes cannot be read", len(message.data))
            return
        now = self._ports.clock.now()
        self._bridges.heard(said, now)
        standing = self._bridges.standing(now)
        if standing is not None and standing != self._standing:
            self._stands(standing)
        self._standing = standing

    def _stands(self, standing: RegistrationStatus) -> None:
        match standing.registration:
            case "registered":
                self._registered()
            case "refused":
                self.fail(RunnerAuthError(_why(standing, "UNPOD_API_KEY", "the orchestrator refuses the key")))
            case "too_old":
                self.fail(OrchestratorTooOld(_why(standing, "transport", "the orchestrator is too old for us")))
            case "unreachable":
                why = _why(standing, "UNPOD_ORCHESTRATOR_URL", "the orchestrator does not answer")
                logger.warning("%s; trying again", why)
            case "connecting":
                logger.debug("registering agent %s", self.plan.agent_key)

    def _registered(self) -> None:
        if not self._was_ready:
            logger.info("ready: agent %s, capacity %d", self.plan.agent_key, self._capacity.limit)
        elif self._standing is None or self._standing.registration != "registered":
            logger.info("registered with the orchestrator again: agent %s", self.plan.agent_key)
        self._was_ready = True
        self._settled.set()

    def _no_bridge(self) -> None:
        if self._standing is None:
            logger.warning(
                "no bridge speaks for agent %s on %s: start one with `unpod bridge`",
                self.plan.agent_key,
                self._ports.subjects.bridges,
            )

    def bridge_died(self, status: int, last_words: str) -> bool:
        """Take in that the bridge of this runner has ended; return whether it shall be started again."""
        if self._failure.done():
            return False
        if status == BAD_SETTINGS:
            words = last_words.removeprefix("unpod bridge: ") or f"the bridge cannot run (exit status {status})"
            self.fail(ConfigurationError(words))
            return False
        return True

    def hold_back(self, level: int) -> bool:
        """Whether a line of the bridge's log is not to be told: an error that this runner is about to end with.

        Called from another thread, which waits a moment for the bridge's announcement: the two may come in any order.
        """
        if level < logging.ERROR:
            return False
        self._settled.wait(HELD_BACK_S)
        return self._failure.done()


def _why(standing: RegistrationStatus, must_name: str, otherwise: str) -> str:
    """Return what a bridge says of how the agent stands, if it names what to look at."""
    if must_name in standing.detail:
        return standing.detail
    return f"{otherwise}: check {must_name}" + (f" ({standing.detail})" if standing.detail else "")
