"""This bridge among the others: it hears them, goes on with the calls of those that are gone, hands over its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from unpod.core.fleet import BridgeAnnounced
from unpod.errors import LogError, LogUnavailable
from unpod.jetstream.topology import info
from unpod_bridge.heirs import Heirs
from unpod_bridge.household import Household
from unpod_bridge.neighbours import ASK_TIMEOUT_S, OK, Neighbours

if TYPE_CHECKING:
    from unpod.jetstream import JetStreamLog, Nats
    from unpod.ports import Message, Subscription
    from unpod_bridge.control import ControlLink
    from unpod_bridge.dispatch import Dispatcher
    from unpod_bridge.job_records import JobRecord, Records
    from unpod_bridge.jobs import Jobs
    from unpod_bridge.peers import Peers
    from unpod_bridge.placing import LineServices
    from unpod_bridge.succession import Care

logger = logging.getLogger("unpod.bridge")

HEAR_S: Final = 1.0
"""How often the server is asked for a word, by which we know that we would hear the others."""


class Community:
    """What of a bridge has to do with other bridges.

    `own_link` returns the control link of a worker of ours, if it is, `make_link` one for another's job; `ended_ago`
    says how many seconds ago a process has lost its connection.
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
        own_link: Callable[[str], ControlLink | None],
        make_link: Callable[[JobRecord], ControlLink],
        ended_ago: Callable[[str], Awaitable[float | None]],
    ) -> None:
        self._nats = nats
        self._bridge_id = services.bridge_id
        self._stream = log.spec.name
        self._peers = peers
        self._loop = asyncio.get_running_loop()
        self._subjects = services.subjects
        self._own_link = own_link
        self._server_answered = care.watch.server_answered
        heirs = self._heirs = Heirs(
            services.bridge_id,
            records,
            lambda bridge: peers.alive(bridge, self._loop.time()),
            make=make_link,
            give_back=self._give_back,
            own=own_link,
        )
        self.household = Household(jobs, heirs, dispatcher, services, care)
        """The calls that come from other bridges."""
        self._neighbours = Neighbours(
            services.bridge_id,
            nats,
            services.subjects,
            records=records,
            peers=peers,
            household=self.household,
            end=self._end,
            ended_ago=ended_ago,
        )
        jobs.on_elsewhere = self._neighbours.forward_cancel
        self._tasks: list[asyncio.Task[None]] = []
        self._subscription: Subscription | None = None
        self._stop_listening: Callable[[], None] = lambda: None

    async def open(self) -> None:
        """Answer the others, and watch over them.

        Raises:
            LogError: NATS does not let us.
        """
        await self._neighbours.open()
        given_back = f"{self._subjects.bridge(self._bridge_id)}.worker"
        self._subscription = await self._nats.subscribe(given_back, self._on_given_back)
        self._stop_listening = self._nats.on_state(self._neighbours.connected)
        heard = self._peers.server_answered, self._server_answered
        self._tasks = [
            asyncio.create_task(self._neighbours.run(), name="unpod-neighbours"),
            asyncio.create_task(self._heirs.run(), name="unpod-heirs"),
            asyncio.create_task(keep_hearing(self._nats, *heard), name="unpod-hearing"),
        ]

    def hear(self, said: BridgeAnnounced) -> bool:
        """Take what a bridge says of itself; return whether it is new, and shall hear of us at once."""
        is_new = self._peers.hear(said, self._loop.time())
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
        if self._subscription is not None:
            await self._subscription.close()

    async def _give_back(self, home: str, worker: str) -> None:
        await self._nats.request(f"{self._subjects.bridge(home)}.worker", worker.encode(), timeout_s=ASK_TIMEOUT_S)

    def _on_given_back(self, message: Message) -> None:
        """A worker of ours was registered by another bridge, and is by nobody now."""
        link = self._own_link(message.data.decode("utf-8", "replace"))
        if link is not None:
            link.register_anew()
        if message.reply:
            try:
                self._nats.send(message.reply, OK)
            except LogError as error:  # it is told again
                logger.debug("a bridge could not be answered: %s", type(error).__name__)

    async def _end(self) -> int:
        found = await info(self._nats, self._stream)
        if found is None:
            raise LogUnavailable(f"the stream {self._stream} is gone")
        return int(found["state"]["last_seq"])


async def keep_hearing(nats: Nats, *heard: Callable[[float], None], every_s: float = HEAR_S) -> None:
    """Ask the server for a word, until cancelled: what we say ourselves does not come back to us (`no_echo`).

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
