"""The management clients: act on live sessions from a backend or an operator's tool."""

from __future__ import annotations

from typing import Literal, Self

from unpod.dot_env import environment
from unpod.management.auth import Auth
from unpod.management.background import Background
from unpod.management.blocking import BlockingSessions
from unpod.management.fleet import ManagementConnection, fleet_settings
from unpod.management.nats_sessions import FleetSessions
from unpod.management.rest_sessions import RestSessions
from unpod.management.sessions import Sessions
from unpod.management.settings import resolve
from unpod.management.transport import HttpTransport

_TIMEOUT_S = 10.0


class AsyncClient:
    """Live sessions from outside, for code in an event loop; `async with` closes its connections.

    Over NATS where that is configured (`nats_url`, `UNPOD_NATS_URL`, `NATS_URL` or `NATS_CONTEXT`, with `NATS_CREDS`),
    else, and with `nats_url=False`, over REST: then what is not passed comes from `UNPOD_API_KEY` (but
    `UNPOD_PLATFORM_TOKEN` wins over any key, and `auth` over both), `UNPOD_SERVICE_BASE_URL` or `UNPOD_BASE_URL`, and
    `UNPOD_ORCHESTRATOR_BASE_URL`. `actor` is who acts, for the record.

    Raises:
        ConfigurationError: there is no credential, or a URL cannot be used.
    """

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        orchestrator_base_url: str | None = None,
        auth: Auth | None = None,
        *,
        nats_url: str | Literal[False] | None = None,
        actor: str = "",
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        variables = environment()
        fleet = None if nats_url is False else fleet_settings(variables, nats_url, actor)
        self.sessions: Sessions
        self._way: ManagementConnection | HttpTransport
        if fleet is not None:
            self._way = ManagementConnection(fleet)
            self.sessions = FleetSessions(self._way)
        else:
            settings = resolve(api_key, base_url, orchestrator_base_url, variables, auth)
            self._way = HttpTransport(settings.headers, timeout_s)
            self.sessions = RestSessions(self._way, settings)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._way.close()


class Client:
    """Live sessions from outside, for code without an event loop; `with` closes its connections.

    Arguments and errors are `AsyncClient`'s. May be used from several threads.
    """

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        orchestrator_base_url: str | None = None,
        auth: Auth | None = None,
        *,
        nats_url: str | Literal[False] | None = None,
        actor: str = "",
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        self._client = AsyncClient(
            api_key, base_url, orchestrator_base_url, auth, nats_url=nats_url, actor=actor, timeout_s=timeout_s
        )
        self._background = Background()
        self.sessions = BlockingSessions(self._client.sessions, self._background.run)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the client cannot be used afterwards."""
        self._background.close(self._client.close)
