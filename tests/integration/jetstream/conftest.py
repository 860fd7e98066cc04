from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from unpod.jetstream import JetStreamLog, Nats, connect, open_log, topology
from unpod.jetstream.streams.topology import MIB
from unpod.processes import EmbeddedOptions, EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "integration/jetstream" in item.path.as_posix() and "directory" in getattr(item, "fixturenames", ()):
            item.add_marker("integration")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory for servers; who asks for it starts processes."""
    return tmp_path


@pytest.fixture
async def embedded(directory: Path) -> AsyncIterator[EmbeddedServer]:
    async with EmbeddedServer(EmbeddedOptions(directory / "embedded")) as server:
        yield server


@pytest.fixture
async def nats(embedded: EmbeddedServer) -> AsyncIterator[Nats]:
    async with connect(embedded.connection("test")) as nats:
        yield nats


@pytest.fixture
async def log(nats: Nats) -> JetStreamLog:
    return await open_log(nats, topology(max_bytes=64 * MIB).calls)
