"""What a bridge shows to operators: the micro service `unpod-bridge`, and health over HTTP where a port is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from unpod.core.dispatch_messages import Registration
from unpod.core.subjects import Subjects
from unpod.jetstream import Nats
from unpod.ops import Endpoint, HealthServer, LogHealth, MicroService
from unpod.ops.log_health import SILENT
from unpod.ops.micro import page
from unpod_bridge.fleet.runners import Pool
from unpod_bridge.jobs.jobs import Jobs
from unpod_bridge.workers.control_link import ControlLink
from unpod_bridge.workers.registration import Registration as WorkerRegistration

NAME: Final = "unpod-bridge"


@dataclass(frozen=True, slots=True)
class AgentStats:
    """How an agent stands at a bridge; `registered_capacity` is what the orchestrator was told, None before it was."""

    registration: Registration
    capacity: int
    registered_capacity: int | None
    calls: int
    waiting: int


@dataclass(frozen=True, slots=True)
class BridgeStats:
    """A snapshot of one bridge; `calls` counts those still being dialled too."""

    calls: int
    draining: bool
    agents: dict[str, AgentStats]


@dataclass(frozen=True, slots=True)
class SessionShown:
    """A call whose line this bridge holds; `session` is "" while it is being dialled."""

    job: str
    session: str
    agent: str


class Ops:
    """Answers for one bridge; `drain` does what SIGTERM does."""

    def __init__(
        self,
        nats: Nats,
        subjects: Subjects,
        bridge_id: str,
        *,
        jobs: Jobs,
        links: Callable[[], Mapping[Pool, ControlLink]],
        drain: Callable[[], None],
        log_health: LogHealth,
        port: int | None,
    ) -> None:
        self._nats = nats
        self._jobs = jobs
        self._links = links
        self._drain = drain
        self._log_health = log_health
        self.draining = False
        mine = subjects.bridge(bridge_id)
        self._micro = MicroService(
            nats,
            name=NAME,
            instance=bridge_id,
            version=_version(),
            description="carries calls between the orchestrator's workers and runners",
            metadata={},
            endpoints=[
                Endpoint("stats", f"{mine}.stats", lambda _: self.stats(), data=self.stats),
                Endpoint("sessions", f"{mine}.sessions", lambda request: page(self.sessions(), request)),
                Endpoint("drain", f"{mine}.drain", self._on_drain),
            ],
        )
        self.health = None if port is None else HealthServer(port, self.missing)

    def stats(self) -> BridgeStats:
        """Return the figures as of now."""
        agents = {pool.name: _of(link.registration) for pool, link in self._links().items()}
        return BridgeStats(calls=self._jobs.calls, draining=self.draining, agents=agents)

    def sessions(self) -> list[SessionShown]:
        """Return the calls whose lines this bridge holds."""
        return [SessionShown(*call) for call in self._jobs.sessions()]

    def missing(self) -> list[str]:
        """Return what is missing for calls to come; called from another thread."""
        missing = [] if self._nats.connected else ["no connection to NATS"]
        if not missing and self._log_health.silent:
            missing.append(SILENT)
        if self.draining:
            missing.append("it drains")
        missing += [
            f"agent {pool.name}: {link.registration.state}"
            for pool, link in tuple(self._links().items())
            if link.registration.state != "registered"
        ]
        return missing

    async def open(self) -> None:
        """Answer from now on.

        Raises:
            ConfigurationError: the port cannot be listened on.
            LogError: NATS does not let us, or does not answer.
        """
        if self.health is not None:
            self.health.open()
        await self._micro.open()

    async def close(self) -> None:
        """Answer nobody any more."""
        await self._micro.close()
        if self.health is not None:
            await self.health.close()

    def _on_drain(self, _request: bytes) -> object:
        """Do what SIGTERM does."""
        self._drain()
        return {"draining": True}


def _of(registration: WorkerRegistration) -> AgentStats:
    return AgentStats(
        registration=registration.state,
        capacity=registration.capacity,
        registered_capacity=registration.registered_capacity,
        calls=registration.calls,
        waiting=registration.asking,
    )


def _version() -> str:
    try:
        return version("unpod")
    except PackageNotFoundError:  # run from a copy of the sources
        return ""
