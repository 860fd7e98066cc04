"""Recovery between bridges: this one hears the others, takes over calls of those that are gone, hands over its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from unpod.core.dispatch_messages import BridgeAlive, BridgeAnnounced, encode
from unpod.errors import LogError, LogUnavailable
from unpod.jetstream.streams.topology import info
from unpod_bridge.jobs.adopted_job import AdoptedJobs
from unpod_bridge.jobs.orphans import Orphans

if TYPE_CHECKING:
    from unpod.jetstream import JetStreamLog, Nats
    from unpod_bridge.call.takeover import Care
    from unpod_bridge.fleet.bridges import Bridges
    from unpod_bridge.fleet.dispatch import Dispatcher
    from unpod_bridge.jobs.jobs import Jobs
    from unpod_bridge.jobs.store import JobRecords
    from unpod_bridge.jobs.workers import Workers
    from unpod_bridge.journal.placements import LineServices

logger = logging.getLogger("unpod.bridge")

HEAR_S: Final = 1.0
"""How often NATS is asked for an answer, which shows that we would hear the other bridges."""


class Adoption:
    """All that a bridge does because of other bridges.

    `ended_ago` says how many seconds ago a process has lost its connection.
    """

    def __init__(
        self,
        nats: Nats,
        log: JetStreamLog,
        other_bridges: Bridges,
        *,
        records: JobRecords,
        jobs: Jobs,
        dispatcher: Dispatcher,
        services: LineServices,
        care: Care,
        workers: Workers,
        ended_ago: Callable[[str], Awaitable[float | None]],
    ) -> None:
        self._nats = nats
        self._bridge_id = services.bridge_id
        self._stream = log.spec.name
        self._other_bridges = other_bridges
        self._loop = asyncio.get_running_loop()
        self._subjects = services.subjects
        self._server_answered = care.runner_health.server_answered
        self.adopted_jobs = AdoptedJobs(jobs, workers, dispatcher, services, care)
        """The calls that come from other bridges."""
        self._orphans = Orphans(
            services.bridge_id,
            nats,
            services.subjects,
            records=records,
            other_bridges=other_bridges,
            adopted_jobs=self.adopted_jobs,
            end=self._end,
            ended_ago=ended_ago,
        )
        jobs.on_elsewhere = self._orphans.forward_cancel
        self._tasks: list[asyncio.Task[None]] = []
        self._stop_listening: Callable[[], None] = lambda: None

    async def open(self) -> None:
        """Answer the other bridges, and begin to watch them.

        Raises:
            LogError: NATS does not let us.
        """
        await self._orphans.open()
        self._stop_listening = self._nats.on_state(self._orphans.connected)
        heard = self._other_bridges.server_answered, self._server_answered
        self._tasks = [
            asyncio.create_task(self._orphans.run(), name="unpod-orphans"),
            asyncio.create_task(keep_hearing(self._nats, *heard), name="unpod-hearing"),
        ]

    def hear(self, said: BridgeAnnounced) -> bool:
        """Take what a bridge says of itself; return whether it is new, and shall hear of us at once."""
        is_new = self._other_bridges.hear(said, self._loop.time())
        if not said.gone:
            self._orphans.heard(said.bridge)
        self._orphans.look()
        return is_new

    def say_alive(self) -> None:
        """Tell the other bridges that we are there; to be called each 0.25 s."""
        try:
            self._nats.send(self._subjects.alive, encode(BridgeAlive(self._bridge_id)))
        except LogError as error:  # it is said again at once
            logger.debug("the other bridges could not be told: %s", type(error).__name__)

    def takers(self) -> list[str]:
        """Return the other bridges that take calls."""
        return self._other_bridges.takers(self._loop.time())

    def departed(self, process_id: str) -> None:
        """Some process has lost its connection."""
        self._orphans.suspect(process_id)

    def drain(self) -> None:
        """Take no more calls of others."""
        self._orphans.closed_to_orphans = True

    async def close(self) -> None:
        """Answer nobody any more."""
        self._stop_listening()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._orphans.close()

    async def _end(self) -> int:
        found = await info(self._nats, self._stream)
        if found is None:
            raise LogUnavailable(f"the stream {self._stream} is gone")
        return int(found["state"]["last_seq"])


async def keep_hearing(nats: Nats, *heard: Callable[[float], None], every_s: float = HEAR_S) -> None:
    """Ask NATS for an answer, until cancelled: what we say ourselves does not come back to us (`no_echo`).

    Each of `heard` is told when it has answered, in the event loop's time.
    """
    while True:
        try:
            await nats.flush(timeout_s=every_s)
        except LogError as error:
            logger.debug("NATS is not heard: %s", type(error).__name__)
        else:
            now = asyncio.get_running_loop().time()
            for tell in heard:
                tell(now)
        await asyncio.sleep(every_s)
