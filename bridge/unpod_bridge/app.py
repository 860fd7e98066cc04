"""The bridge process: NATS, the fleet of runners, one control link per pool, the calls."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Final

from msgspec import Struct

from unpod.core import codec
from unpod.core import events as ev
from unpod.core.codec import MALFORMED
from unpod.core.dispatch_messages import BRIDGE_ANNOUNCED, RUNNER_ANNOUNCED, BridgeAnnounced, encode
from unpod.core.subjects import Subjects
from unpod.errors import ConfigurationError, LogError
from unpod.jetstream import JetStreamLog, JobStore, LogClock, Nats, open_jobs, open_log
from unpod.jetstream.connection.rights import check_rights
from unpod.ops import LogHealth
from unpod.ports import Message, Subscription
from unpod_bridge.call.owners import Owners
from unpod_bridge.call.placing import NewCall
from unpod_bridge.config import CONTROL_PATH, BridgeConfig, readable
from unpod_bridge.fleet.bridges import Bridges
from unpod_bridge.fleet.disconnects import Disconnects
from unpod_bridge.fleet.dispatch import Dispatcher, RunnerPlace
from unpod_bridge.fleet.runners import Fleet, Pool, Standing, share
from unpod_bridge.jobs.adopted_job import Revival
from unpod_bridge.jobs.adoption import Adoption
from unpod_bridge.jobs.dial_in import DialIn
from unpod_bridge.jobs.jobs import Jobs
from unpod_bridge.jobs.store import JobRecords
from unpod_bridge.jobs.workers import Workers
from unpod_bridge.journal.placements import LineServices, placement_headers
from unpod_bridge.journal.room import Fullness
from unpod_bridge.journal.stalls import StallDetector
from unpod_bridge.ops import Ops
from unpod_bridge.rights import bridge_rights
from unpod_bridge.transport.dial_in import DialInSockets
from unpod_bridge.transport.websocket import WebSocketDialer
from unpod_bridge.wire.job import Job
from unpod_bridge.workers.control_link import ControlLink
from unpod_bridge.workers.effects import Identity
from unpod_bridge.workers.registration import Registration

logger = logging.getLogger("unpod.bridge")

ANNOUNCE_S: Final = 1.0
SHARES_S: Final = 1.0
DOUBT_S: Final = 2.0
"""After how many seconds without an acknowledgement a record is stored to test the log."""
PROBE: Final = "log-probe"
"""The agent of the test records: no real one has that name."""
PROBE_S: Final = 1.0
LOOK_S: Final = 0.25
"""How often the fleet is looked at: whether a runner is silent, whether a capacity has been stable."""
DRAIN_S: Final = 60.0
"""How long calls that no other bridge takes may go on; then they are left for the next one that starts."""
LEAVE_S: Final = 3.0
ABANDON_S: Final = 2.0


class BridgeStop:
    """When to end: `gently` at the first signal, `now` at the second."""

    def __init__(self) -> None:
        self.gently = asyncio.Event()
        self.now = asyncio.Event()

    def ask(self) -> None:
        """Take a signal."""
        if self.gently.is_set():
            logger.warning("a second signal: ending at once")
            self.now.set()
        self.gently.set()


async def run_bridge(config: BridgeConfig) -> int:
    """Run a bridge until a signal ends it; return its exit status: 0, or 1 after an error, logged in one line."""
    stop = BridgeStop()
    bridge_id = f"bridge-{secrets.token_hex(4)}"
    with _signals(stop.ask):
        nats = Nats(replace(config.nats, name=bridge_id))
        try:
            await _first(nats.open(), stop.gently.wait())
            if stop.gently.is_set():
                return 0
            streams = config.streams.topology(config.prefix)
            await check_rights(nats, bridge_rights(Subjects(config.prefix), streams, bridge_id))
            log = await open_log(nats, streams.calls)
            store = await open_jobs(nats, streams.jobs)
            if not store.expires:
                logger.warning("finished jobs stay in the job store for days: `unpod streams check` says what to do")
            return await Bridge(bridge_id, config, nats, log, store).run(stop)
        except (ConfigurationError, LogError) as error:
            logger.error("%s", error)  # noqa: TRY400 - its text says what to do
            return 1
        finally:
            await nats.close()


class Bridge:
    """One bridge over an open connection."""

    def __init__(self, bridge_id: str, config: BridgeConfig, nats: Nats, log: JetStreamLog, store: JobStore) -> None:
        self.bridge_id = bridge_id
        self._config = config
        self._nats = nats
        self._loop = asyncio.get_running_loop()
        self._subjects = Subjects(config.prefix)
        self._fleet = Fleet()
        self._stalls = StallDetector()
        self._dialer = WebSocketDialer()
        dial_ins = DialInSockets(self._dialer, is_open=config.serving is not None)
        self._services = LineServices(
            log=log,
            bus=nats,
            subjects=self._subjects,
            clock=LogClock(),
            bridge_id=self.bridge_id,
            dialer=dial_ins,
            stalls=self._stalls,
        )
        self._dispatcher = Dispatcher(
            nats,
            self._subjects,
            self.bridge_id,
            unheard=lambda pool: self._fleet.standings().get(pool, Standing()).closed_for,
        )
        self._owners = Owners(nats, self._services, self._dispatcher, self._on_dead)
        self._disconnects = Disconnects(config.system, self._on_departed)
        other_bridges = Bridges(self._loop.time(), self.bridge_id)
        self._owners.suspects.accompanied = lambda: bool(other_bridges.takers(self._loop.time()))
        records = JobRecords(store, self.bridge_id, lambda bridge: other_bridges.alive(bridge, self._loop.time()))
        self._records = records
        self._log_health = LogHealth(log, logger)
        fullness = self._fullness = Fullness(
            log.usage,
            bound=log.spec.max_bytes,
            shares=self._services.shares,
            is_silent=lambda: self._log_health.silent,
            jobs=store.usage,
        )
        self._jobs = Jobs(self._dispatcher, records, fullness, self._make_line)
        self._workers = Workers(
            nats,
            self._subjects,
            self.bridge_id,
            records,
            lambda bridge: other_bridges.alive(bridge, self._loop.time()),
            make=self._make_link,
            changed=self._announce,
        )
        self._adoption = Adoption(
            nats,
            log,
            other_bridges,
            records=records,
            jobs=self._jobs,
            dispatcher=self._dispatcher,
            services=self._services,
            care=self._owners.care,
            workers=self._workers,
            ended_ago=self._disconnects.ended_ago,
        )
        self._dial_in = (
            None
            if config.serving is None
            else DialIn(
                config.serving,
                dial_ins,
                jobs=self._jobs,
                records=records,
                services=self._services,
                care=self._owners.care,
                workers=self._workers,
            )
        )
        self._draining = False

    # ---------------------------------------------------------------------------------------------------- life and end

    async def run(self, stop: BridgeStop) -> int:
        """Serve until `stop`, or until the orchestrator refuses us for good; return the exit status."""
        ops = Ops(
            self._nats,
            self._subjects,
            self.bridge_id,
            jobs=self._jobs,
            links=lambda: self._workers.own,
            drain=stop.gently.set,
            log_health=self._log_health,
            port=self._config.health_port,
        )
        try:
            await ops.open()
            return await self._run(stop, ops)
        finally:
            await ops.close()

    async def _run(self, stop: BridgeStop, ops: Ops) -> int:
        await self._records.open(self._nats)
        if self._dial_in is not None:
            await self._dial_in.open()
        subscriptions = [
            await self._nats.subscribe(self._subjects.runners, self._on_runner),
            await self._nats.subscribe(self._subjects.bridges, self._on_bridge),
        ]
        self._nats.on_state(self._stalls.connected)
        await self._owners.open()
        await self._workers.open()
        await self._adoption.open()
        where = readable(self._config.orchestrator_url)
        logger.info("%s is up: NATS %s, orchestrator %s", self.bridge_id, self._config.nats.readable(), where)
        keeping = asyncio.create_task(self._keep_house(), name="unpod-housekeeping")
        watching = asyncio.create_task(self._watch_log(), name="unpod-log-watch")
        hearing = asyncio.create_task(self._disconnects.run(), name="unpod-disconnects")
        standing_in = asyncio.create_task(self._workers.run(), name="unpod-inherited-workers")
        try:
            await _first(
                stop.gently.wait(), self._workers.failed.wait(), asyncio.shield(keeping), asyncio.shield(watching)
            )
            ops.draining = True
            await _first(self._drain(), stop.now.wait())
        finally:
            await self._end({keeping, watching, hearing, standing_in}, subscriptions)
        return 1 if self._workers.failed.is_set() or stop.now.is_set() else 0

    async def _drain(self) -> None:
        self._draining = True
        if self._jobs.calls:
            logger.info("no more calls are taken; waiting for %d to end, or to be handed over", self._jobs.calls)
        self._workers.drain()
        if self._dial_in is not None:
            self._dial_in.drain()
        self._adoption.drain()
        self._jobs.release()
        self._announce()
        try:
            async with asyncio.timeout(DRAIN_S):
                await self._jobs.until_idle()
        except TimeoutError:
            return
        await self._workers.until_left()

    async def _end(self, tasks: set[asyncio.Task[None]], subscriptions: Sequence[Subscription]) -> None:
        for task in tasks:
            task.cancel()
        await self._jobs.leave(LEAVE_S)
        await self._jobs.abandon(ABANDON_S)
        if self._dial_in is not None:
            await self._dial_in.close()
        await asyncio.wait(tasks, timeout=ABANDON_S)
        await self._workers.close(ABANDON_S)
        await self._adoption.close()
        await self._records.close()
        self._announce(gone=True)
        await self._owners.close()
        for subscription in subscriptions:
            await subscription.close()
        logger.info("%s has ended", self.bridge_id)

    async def _keep_house(self) -> None:
        said_at, losses = float("-inf"), 0
        while True:
            now = self._loop.time()
            self._stalls.check()
            if losses != self._stalls.losses or not self._stalls.up:  # we were cut off, so silence proves nothing
                losses = self._stalls.losses
                self._fleet.excuse(now)
            for runner in self._fleet.expire(now):
                logger.warning("the runner %s has fallen silent", runner)
            self._look(now)
            self._adoption.say_alive()
            if now - said_at >= ANNOUNCE_S:
                said_at = now
                self._announce()
                self._dispatcher.queue.announce()
            await asyncio.sleep(LOOK_S)

    async def _watch_log(self) -> None:
        """See what room the log has, and that no call and no agent takes more of it than its share."""
        while True:
            await self._fullness.full()
            if self._log_health.look() or self._services.log.silent_s > DOUBT_S:
                await self._probe()
            self._services.shares.look(
                self._fullness.free,
                self._loop.time(),
                agents=len({pool.agent for pool in self._workers.own}),
                bridges=1 + len(self._adoption.takers()),
            )
            await asyncio.sleep(SHARES_S)

    async def _probe(self) -> None:
        """Store a record of no call, to see whether the log stores again: no call may have anything to store."""
        subjects = self._subjects.call(PROBE, self.bridge_id)
        taken = ev.LineTaken(bridge=self.bridge_id, job_id="")
        headers = placement_headers(self._services, "line", taken, self.bridge_id)
        with suppress(LogError):
            await self._services.log.append(subjects.line, codec.encode(taken), headers, timeout_s=PROBE_S)

    # ----------------------------------------------------------------------------------------------------------- fleet

    def _on_runner(self, message: Message) -> None:
        try:
            said = RUNNER_ANNOUNCED.decode(message.data)
        except MALFORMED:
            logger.debug("a runner's announcement cannot be read")
            return
        if not (said.runner and said.agent):
            return
        now = self._loop.time()
        if said.gone:
            self._owners.runner_health.said_gone(said.runner)  # asked, not believed: anybody can say so
        elif self._fleet.hear(said, now):
            self._look(now)
            self._dispatcher.changed()

    def _on_dead(self, runner: str) -> None:
        if self._fleet.dead(runner):
            self._look(self._loop.time())
            self._dispatcher.changed()

    def _on_departed(self, process_id: str) -> None:
        if process_id.startswith("runner-"):
            self._owners.runner_health.said_gone(process_id)
        self._owners.suspects.departed(process_id)
        self._adoption.departed(process_id)

    def _on_bridge(self, message: Message) -> None:
        try:
            said = BRIDGE_ANNOUNCED.decode(message.data)
        except MALFORMED:
            logger.debug("a bridge's announcement cannot be read")
            return
        if self._adoption.hear(said):
            self._announce()

    def _look(self, now: float) -> None:
        """Bring the registrations in line with the runners that there are."""
        others = self._adoption.takers()
        standings = {pool: share(each, self.bridge_id, others) for pool, each in self._fleet.standings().items()}
        self._workers.look(standings, now)

    # ----------------------------------------------------------------------------------------------------------- parts

    def _make_link(self, pool: Pool, worker_id: str, on_change: Callable[[], None]) -> ControlLink:
        server = readable(self._config.orchestrator_url)
        serving_url = "" if self._config.serving is None else self._config.serving.url
        credential = self._config.credential
        me = Identity(pool.agent, worker_id, pool.dev, server, self._config.where, serving_url, credential.named)
        return ControlLink(
            Registration(me),
            dialer=self._dialer,
            url=self._config.orchestrator_url + CONTROL_PATH,
            headers=credential.headers,
            handler=self._jobs,
            on_change=on_change,
        )

    def _make_line(self, job: Job, place: RunnerPlace, inherited: bool) -> NewCall | Revival:  # noqa: FBT001
        if inherited:
            return self._adoption.adopted_jobs.begin(job, place)
        return NewCall(job, place, self._services, care=self._owners.care)

    def _announce(self, *, gone: bool = False) -> None:
        registrations = {pool.name: link.registration for pool, link in self._workers.own.items()}
        details = dict.fromkeys(registration.detail for registration in registrations.values() if registration.detail)
        message = BridgeAnnounced(
            bridge=self.bridge_id,
            agents={name: registration.state for name, registration in registrations.items()},
            detail="; ".join(details),
            draining=self._draining,
            gone=gone,
            log_room=self._fullness.room,
            jobs_room=self._fullness.jobs_room,
            log_behind=self._log_health.behind,
            refused={name: dict(link.refusals) for name, link in registrations.items() if link.refusals},
            agent_rooms=self._services.shares.room(),
        )
        self._publish(self._subjects.bridges, message)

    def _publish(self, subject: str, message: Struct) -> None:
        try:
            self._nats.send(subject, encode(message))
        except LogError as error:  # it is said again within a second
            logger.debug("could not announce: %s", type(error).__name__)


async def _first(*waits: Coroutine[object, object, object] | asyncio.Future[None]) -> None:
    """Return when the first is done, and end the others; what it raised is raised."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@contextmanager
def _signals(ask: Callable[[], None]) -> Iterator[None]:
    """Take SIGTERM and SIGINT while inside."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, ask)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
