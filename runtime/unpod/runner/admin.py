"""What a runner shows to operators: the micro service `unpod-runner`, and health over HTTP where a port is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from unpod.ops.health import HealthServer
from unpod.ops.micro import Endpoint, MicroService, page

if TYPE_CHECKING:
    from unpod.core.subjects import Subjects
    from unpod.ports import Bus
    from unpod.runner.drain import RunnerStop
    from unpod.runner.service import Service

NAME: Final = "unpod-runner"


class Admin:
    """Answers for one run of a runner."""

    def __init__(self, service: Service, bus: Bus, subjects: Subjects, stop: RunnerStop, port: int | None) -> None:
        self._service = service
        self._stop = stop
        plan, mine = service.plan, subjects.runner(service.runner_id)
        self._micro = MicroService(
            bus,
            name=NAME,
            instance=service.runner_id,
            version=plan.version,
            description=f"takes the calls of agent {plan.agent_key}",
            metadata={"agent": plan.agent_id, "dev": str(plan.dev).lower()},
            endpoints=[
                Endpoint("stats", f"{mine}.stats", lambda _: service.stats(), data=service.stats),
                Endpoint("sessions", f"{mine}.sessions", lambda request: page(service.sessions(), request)),
                Endpoint("drain", f"{mine}.drain", self._drain),
            ],
        )
        self.health = None if port is None else HealthServer(port, service.missing)

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

    def _drain(self, _request: bytes) -> object:
        """Do what SIGTERM does."""
        self._stop.requested.set()
        return {"draining": True}
