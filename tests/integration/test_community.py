"""A bridge among others, on a real connection to NATS."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import replace
from pathlib import Path

from unpod.core.dispatch_messages import BridgeAnnounced
from unpod.jetstream import connect
from unpod.processes import EmbeddedOptions, EmbeddedServer
from unpod_bridge.fleet.bridges import SILENT_S, Bridges, Gone
from unpod_bridge.jobs.adoption import keep_hearing


async def test_nobody_is_taken_for_silent_while_nats_stands_still(tmp_path: Path) -> None:
    now = asyncio.get_running_loop().time
    async with EmbeddedServer(EmbeddedOptions(tmp_path)) as server:
        patient = replace(server.connection("bridge-1"), no_echo=True, ping_interval_s=60.0)
        async with connect(patient) as nats:
            other_bridges = Bridges(now())
            hearing = asyncio.create_task(keep_hearing(nats, other_bridges.server_answered, every_s=0.2))
            try:
                await nats.flush(timeout_s=5)
                os.kill(server.pid, signal.SIGSTOP)
                other_bridges.hear(BridgeAnnounced(bridge="bridge-2"), now())
                await asyncio.sleep(SILENT_S + 0.2)  # as long as it has to be silent
                assert nats.connected
                assert other_bridges.gone(now()) == []
                assert other_bridges.takers(now()) == ["bridge-2"]
                os.kill(server.pid, signal.SIGCONT)
                async with asyncio.timeout(SILENT_S + 5):
                    while not (gone := other_bridges.gone(now())):  # noqa: ASYNC110 - time has no event
                        await asyncio.sleep(0.05)
                assert gone == [Gone("bridge-2", "silent")]
            finally:
                os.kill(server.pid, signal.SIGCONT)
                hearing.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await hearing
