from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.contract.places import Client, Place, open_place

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture(params=["memory", pytest.param("jetstream", marks=pytest.mark.integration)])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    async with open_place(request.param, tmp_path / "nats") as place:
        yield place


@pytest.fixture
async def client(place: Place) -> Client:
    return await place.client()
