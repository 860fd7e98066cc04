"""Connections that calls share: bounded, and closed when nobody uses them any more."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

import pytest
import uvloop

from unpod.adapters.shared import KEPT, close_clients, shared


class Client:
    """Counts how many of it are open."""

    open_now = 0

    def __init__(self) -> None:
        Client.open_now += 1

    async def aclose(self) -> None:
        Client.open_now -= 1


class Adapter:
    """Holds a client as long as it lives."""

    def __init__(self, settings: str) -> None:
        self.client = shared(self, Client, settings, Client)


@pytest.mark.slow
async def test_as_many_clients_as_are_used_and_a_few_more() -> None:
    one, same = Adapter("one"), Adapter("one")
    assert one.client is same.client
    for tenant in range(200):
        Adapter(f"tenant {tenant}")
        gc.collect()
    await asyncio.sleep(0)
    assert Client.open_now <= KEPT + 2, "those of the two that live, and the one asked for last"
    assert Adapter("one").client is one.client, "one that is used is not closed, however long ago it was asked for"
    used = [Adapter(f"tenant {tenant}") for tenant in range(3 * KEPT)]
    assert len({adapter.client for adapter in used}) == 3 * KEPT
    await close_clients()
    assert Client.open_now == 0


@pytest.mark.parametrize("make_loop", [None, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_loop_that_ends_closes_its_clients(make_loop: Callable[[], asyncio.AbstractEventLoop] | None) -> None:
    async def one_call() -> Adapter:
        return Adapter("one")

    with asyncio.Runner(loop_factory=make_loop) as runner:
        held = runner.run(one_call())
        assert Client.open_now == 1
    assert Client.open_now == 0
    assert held.client is not None
