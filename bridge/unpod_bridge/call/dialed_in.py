"""The shell of a call whose worker has dialled in: only `call.started` says which agent it is for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msgspec import structs

from unpod.core import events as ev
from unpod.errors import ProtocolViolation
from unpod_bridge.call.placing import NewCall
from unpod_bridge.call.settings import LineSettings
from unpod_bridge.call.takeover import Care
from unpod_bridge.fleet.dispatch import RunnerPlace
from unpod_bridge.journal.placements import LineServices
from unpod_bridge.protocol import outputs as do
from unpod_bridge.wire.job import Job


class DialedInCall(NewCall):
    """A new call on this bridge; `find` returns the place that a runner of the agent named ("" for none) holds.

    Until the agent is known there is no place, and nothing of the call is in the log. `find` raises LogError.
    """

    def __init__(
        self,
        job: Job,
        find: Callable[[str], Awaitable[RunnerPlace]],
        services: LineServices,
        settings: LineSettings | None = None,
        care: Care | None = None,
    ) -> None:
        super().__init__(job, _Nowhere(), services, settings, care)
        self._find = find
        self._place_open = False

    async def _take_and_appoint(self, begin: do.Begin) -> bool:
        started = begin.started.body
        named = started.agent_id if isinstance(started, ev.CallStarted) else None
        place = await self._find(named or "")
        self._place, self._place_open = place, True
        self._job = structs.replace(self._job, agent_id=place.pool.agent, dev=place.pool.dev)
        return await super()._take_and_appoint(begin)


class _Nowhere:
    """The place of a call whose agent is not known yet (`placements.Place`)."""

    runner_id = ""
    waited_s = None

    async def begin(self, session_id: str) -> None:
        """Nobody is told."""
        raise ProtocolViolation(f"the call {session_id!r} has no place")

    async def start(self, session_id: str, epoch: int, until_seq: int, *, positions: bytes = b"") -> bool:
        """Nobody starts."""
        del session_id, epoch, until_seq, positions
        return False

    async def release(self, reason: str) -> None:
        """There is nothing to give back."""
