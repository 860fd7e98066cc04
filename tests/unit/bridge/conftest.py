from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.unit.bridge.call.takeover_rig import House, a_house


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with a_house() as made:
        yield made
