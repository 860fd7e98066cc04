from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.unit.management.rest_server import Server, start

from unpod.management import AsyncClient

VARIABLES = (
    "UNPOD_API_KEY",
    "UNPOD_BASE_URL",
    "UNPOD_SERVICE_BASE_URL",
    "UNPOD_ORCHESTRATOR_BASE_URL",
    "UNPOD_PLATFORM_TOKEN",
    "UNPOD_ORG_HANDLE",
)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    running = Server()
    runner = await start(running)
    yield running
    await runner.cleanup()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(api_key="sk-secret-1", base_url=f"{server.url}/platform", timeout_s=5) as opened:
        yield opened
