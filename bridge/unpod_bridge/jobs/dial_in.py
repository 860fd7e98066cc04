"""The serve transport: workers dial in, and each that is let in brings a call, or comes back to one.

There is no assignment: what it would say, the query of the dialled URL and `call.started` say. The runner is looked for
once the agent is known, and the job's record is made then, so that another bridge can go on with the call.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from secrets import token_hex
from typing import Final

from msgspec import structs

from unpod.errors import LogUnavailable
from unpod_bridge.call.dialed_in import DialedInCall
from unpod_bridge.call.takeover import Care
from unpod_bridge.fleet.dispatch import Ask, RunnerPlace
from unpod_bridge.fleet.runners import Pool
from unpod_bridge.jobs.jobs import Jobs, OnBegin, shown
from unpod_bridge.jobs.store import Claim, JobRecords
from unpod_bridge.jobs.workers import Workers
from unpod_bridge.journal.placements import LineServices
from unpod_bridge.transport.dial_in import DialInSockets, address
from unpod_bridge.transport.serving import Serving
from unpod_bridge.transport.websocket_server import Arrival, Listener
from unpod_bridge.wire.job import Job
from unpod_bridge.wire.signed_urls import DialInCaller, Refusal, SignedUrls, key_of
from unpod_bridge.workers.control_link import ControlLink

logger = logging.getLogger("unpod.bridge")

ASK_S: Final = 10.0
"""How long a runner is looked for: the caller is on the line already."""
LOOK_S: Final = 0.1
REFUSED: Final = 1000


class DialIn:
    """Lets workers in (`websocket_server.Host`)."""

    def __init__(
        self,
        where: Serving,
        dial_ins: DialInSockets,
        *,
        jobs: Jobs,
        records: JobRecords,
        services: LineServices,
        care: Care,
        workers: Workers,
    ) -> None:
        self._where = where
        self._dial_ins = dial_ins
        self._jobs = jobs
        self._records = records
        self._services = services
        self._care = care
        self._workers = workers
        self._urls = SignedUrls(where.secret.encode())
        self._listener = Listener(where.host, where.port)
        self._draining = False
        self._calls: set[str] = set()

    async def open(self) -> None:
        """Listen; raises ConfigurationError."""
        await self._listener.open(self)
        logger.info("workers may dial in on port %d%s", self._where.port, "" if self._where.secret else ", unsigned")

    def drain(self) -> None:
        """Let no new calls in; workers may come back to those that are here."""
        self._draining = True

    async def close(self) -> None:
        """Listen no more."""
        self._dial_ins.close()
        await self._listener.close()

    # ------------------------------------------------------------------------------------------------- who is let in

    def is_open_to(self, target: str) -> bool:
        """Whether a worker may come in (`Host.is_open_to`)."""
        return not self._draining or self._expects(key_of(target))

    def arrived(self, arrival: Arrival) -> None:
        """Let a worker in, or not (`Host.arrived`)."""
        caller = self._urls.admit(arrival.target, time.time_ns() // 1_000_000)
        if isinstance(caller, Refusal):
            logger.warning("a worker that has dialled in is refused: %s", caller.reason)
            arrival.refuse(REFUSED)
            return
        key = caller.key or token_hex(8)
        known = self._expects(key)
        self._dial_ins.enter(key, arrival)
        if not known:
            self._receive(caller, key)

    def _expects(self, key: str) -> bool:
        """Whether a call of that key is here, be it that its first socket has come in this moment."""
        return key in self._calls or self._dial_ins.expects(key)

    def _receive(self, caller: DialInCaller, key: str) -> None:
        # It waits a while: this bridge may be about to go on with the call, or to dial it.
        if caller.job_id and self._records.elsewhere(caller.job_id):
            logger.info("job %s: its worker has come; the call lives at another bridge", shown(caller.job_id))
        elif caller.job_id and self._jobs.has(caller.job_id):
            logger.info("job %s: its worker has come under another name, or before it is dialled", shown(caller.job_id))
        else:
            dial_in_call = DialInCall(self, caller.job_id or f"job-{token_hex(8)}", key)
            self._calls.add(key)
            self._jobs.carry(dial_in_call.job, dial_in_call, dial_in_call, dial_in_call.line)

    # -------------------------------------------------------------------------------------------- what DialInCall needs

    def line(self, dial_in_call: DialInCall, find: Callable[[str], Awaitable[RunnerPlace]]) -> DialedInCall:
        """Return the object that carries a call."""
        return DialedInCall(dial_in_call.job, find, self._services, care=self._care)

    async def place(self, dial_in_call: DialInCall, agent: str) -> tuple[RunnerPlace, Claim, ControlLink]:
        """Return a place for a call, this bridge's claim of it, and the registration that it counts for.

        Raises:
            LogUnavailable: nobody takes it; the text says why.
        """
        until = asyncio.get_running_loop().time() + ASK_S
        pool, link = await self._pool(agent, until)
        worker_id = link.registration.identity.worker_id
        job = structs.replace(dial_in_call.job, agent_id=pool.agent, dev=pool.dev, worker_id=worker_id)
        found = await self._jobs.find_place(Ask(job, until))
        if found == "elsewhere":
            raise LogUnavailable("its call lives at another bridge")
        if isinstance(found, str):
            link.registration.refusals[found] += 1
            raise LogUnavailable(f"no new call of the agent {shown(pool.name)} is taken: {found}")
        place, claim = found
        return place, claim, link

    def forget(self, key: str) -> None:
        """The call of that key is over."""
        self._calls.discard(key)
        self._dial_ins.forget(key)

    async def _pool(self, agent: str, until: float) -> tuple[Pool, ControlLink]:
        """Return whose call it is: the agent's that it names, else the only one's; a runner may be about to come."""
        loop = asyncio.get_running_loop()
        while True:
            links = self._workers.own
            for pool in (Pool(agent), Pool(agent, dev=True)):
                if pool in links:
                    return pool, links[pool]
            if len(links) == 1:
                return next(iter(links.items()))
            if loop.time() >= until:
                break
            await asyncio.sleep(LOOK_S)
        known = ", ".join(sorted(shown(pool.name) for pool in links)) or "none"
        raise LogUnavailable(f"call.started names the agent {shown(agent)}, and these are served here: {known}")


class DialInCall:
    """One call that was dialled in.

    Its worker (`workers.WorkerJobs`) and its claim (`jobs.Claiming`) wait for its agent's name.
    """

    def __init__(self, dial_in: DialIn, job_id: str, key: str) -> None:
        self._dial_in = dial_in
        self._key = key
        self._claim: Claim | None = None
        self._link: ControlLink | None = None
        self.job = Job(job_id, call_id="", agent_id="", bridge_url=address(key), call_token="")

    def line(self, on_begin: OnBegin) -> DialedInCall:
        """Return the object that carries the call."""

        async def find(agent: str) -> RunnerPlace:
            place, self._claim, self._link = await self._dial_in.place(self, agent)
            place.on_begin = on_begin
            return place

        return self._dial_in.line(self, find)

    # ----------------------------------------------------------------------------------------------------------- worker

    def up(self, job_id: str) -> None:
        """The call counts from here on."""
        if self._link is not None:
            self._link.registration.enter(job_id)

    def ended(self, job_id: str) -> None:
        """It counts no more, and its worker is not waited for."""
        if self._link is not None:
            self._link.ended(job_id)
        self._dial_in.forget(self._key)

    def taken_away(self) -> None:
        """Another bridge has taken it."""
        if self._link is not None:
            self._link.taken_away()

    # ------------------------------------------------------------------------------------------------------------ claim

    async def begun(self, session_id: str) -> None:
        """The call is up; raises Fenced where another bridge has the job."""
        if self._claim is not None:
            await self._claim.begun(session_id)

    async def release(self) -> None:
        """Let another bridge have the call."""
        if self._claim is not None:
            await self._claim.release()

    async def leave(self) -> None:
        """The call is let go of."""
        if self._claim is not None:
            await self._claim.leave()

    async def drop(self) -> None:
        """The job is over."""
        if self._claim is not None:
            await self._claim.drop()
