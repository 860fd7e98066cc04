"""This bridge among the others: it hears them, goes on with the calls of those that are gone, hands over its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from unpod.core.fleet import BridgeAnnounced
from unpod.errors import LogUnavailable
from unpod.jetstream.topology import info
from unpod_bridge.heirs import Heirs
from unpod_bridge.household import Household
from unpod_bridge.neighbours import Neighbours

if TYPE_CHECKING:
    from unpod.jetstream import JetStreamLog, Nats
    from unpod_bridge.control import ControlLink
    from unpod_bridge.dispatch import Dispatcher
    from unpod_bridge.job_records import JobRecord, Records
    from unpod_bridge.jobs import Jobs
    from unpod_bridge.peers import Peers
    from unpod_bridge.placing import LineServices
    from unpod_bridge.succession import Care


class Community:
    """What of a bridge has to do with other bridges.

    `make_link` returns a control link for a job's worker, `ended_ago` how many seconds ago a process has lost its
    connection.
    """

    def __init__(
        self,
        nats: Nats,
        log: JetStreamLog,
        peers: Peers,
        *,
        records: Records,
        jobs: Jobs,
        dispatcher: Dispatcher,
        services: LineServices,
        care: Care,
        make_link: Callable[[JobRecord], ControlLink],
        ended_ago: Callable[[str], Awaitable[float | None]],
    ) -> None:
        self._nats = nats
        self._bridge_id = services.bridge_id
        self._stream = log.spec.name
        self._peers = peers
        self._loop = asyncio.get_running_loop()
        heirs = Heirs(services.bridge_id, records, lambda bridge: peers.alive(bridge, self._loop.time()), make_link)
        self._heirs = heirs
        self._neighbours = Neighbours(
            services.bridge_id,
            nats,
            services.subjects,
            records=records,
            peers=peers,
            household=Household(jobs, heirs, dispatcher, services, care),
            end=self._end,
            ended_ago=ended_ago,
        )
        jobs.on_elsewhere = self._neighbours.forward_cancel
        self._tasks: list[asyncio.Task[None]] = []
        self._stop_listening: Callable[[], None] = lambda: None

    async def open(self) -> None:
        """Answer the others, and watch over them.

        Raises:
            LogError: NATS does not let us.
        """
        await self._neighbours.open()
        self._stop_listening = self._nats.on_state(self._neighbours.connected)
        self._tasks = [
            asyncio.create_task(self._neighbours.run(), name="unpod-neighbours"),
            asyncio.create_task(self._heirs.run(), name="unpod-heirs"),
        ]

    def hear(self, said: BridgeAnnounced) -> bool:
        """Take what a bridge says of itself; return whether it is new, and shall hear of us at once."""
        now = self._loop.time()
        if said.bridge == self._bridge_id:
            self._peers.echo(now)
        is_new = self._peers.hear(said, now)
        if not said.gone:
            self._neighbours.heard(said.bridge)
        self._neighbours.look()
        return is_new

    def takers(self) -> list[str]:
        """Return the other bridges that take calls."""
        return self._peers.takers(self._loop.time())

    def departed(self, process_id: str) -> None:
        """Some process has lost its connection."""
        self._neighbours.suspect(process_id)

    def drain(self) -> None:
        """Take no more calls of others."""
        self._neighbours.closed_to_orphans = True

    async def close(self) -> None:
        """Answer nobody any more."""
        self._stop_listening()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._neighbours.close()

    async def _end(self) -> int:
        found = await info(self._nats, self._stream)
        if found is None:
            raise LogUnavailable(f"the stream {self._stream} is gone")
        return int(found["state"]["last_seq"])
