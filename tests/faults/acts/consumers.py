"""Faults of the consumers: the calls do not notice, and nothing is counted twice or left out."""

from __future__ import annotations

from tests.faults.scene import Scene
from tests.integration.consumers.process import consuming, from_start

KILLS = 3


async def killed_and_rerun(scene: Scene) -> None:
    """The metrics consumer is killed in mid-call, and started again, several times."""
    for _ in range(KILLS):
        async with consuming(scene.stack.server.url) as consumer:
            await consumer.up()
            await scene.some_words()
            consumer.process.kill()
            await consumer.process.wait()
    scene.mark()


async def it_counts_what_the_log_says(scene: Scene) -> None:
    """Once all calls are over, it has what a run from the log's first record gives."""
    url = scene.stack.server.url
    whole = await from_start(url)
    scene.expect(whole.get("unpod_calls_total") == len(scene.load.callers), f"{whole.get('unpod_calls_total')} calls")
    async with consuming(url) as consumer:
        await consumer.until("unpod_calls_total", whole["unpod_calls_total"])
        found = await consumer.until("unpod_consumer_lag", 0)
    for name, value in whole.items():
        if not name.startswith("unpod_consumer") and not name.endswith("_created"):
            scene.expect(abs(found.get(name, 0.0) - value) < 1e-6, f"{name} is {found.get(name)}, the log says {value}")
