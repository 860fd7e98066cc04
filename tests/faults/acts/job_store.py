"""Faults of the job store: rows 49 and 50."""

from __future__ import annotations

import asyncio
from secrets import token_hex
from typing import Final

from tests.faults.load import PATIENCE_S
from tests.faults.process import eventually, until
from tests.faults.scene import Scene

from unpod.errors import LogFull
from unpod.jetstream import JetStreamLog, JobStore, open_log, topology
from unpod.jetstream.streams.api import call as api
from unpod.jetstream.streams.topology import info
from unpod_orchestrator import CallRefused

FILL_BYTES: Final = 200_000
FINISHED: Final = 5_000
ALL_FINISHED: Final = 30_000
"""How many finished jobs there are: by the first release's measure, reading so many took a bridge 0.87 s."""
AT_ONCE: Final = 200


async def full(scene: Scene) -> None:
    """The job store is full: calls in progress do not notice, new ones are refused, until there is room."""
    log = await _log(scene)
    await scene.some_words()
    size = FILL_BYTES
    while size > 1:
        try:
            await log.append(f"{_base(log)}filler.{token_hex(4)}", b"x" * size, {})
        except LogFull:
            size //= 2
    await until(lambda: "the job store is" in _said(scene), "a bridge says that the job store is full", PATIENCE_S)
    scene.mark()
    await _takes_none(scene)
    await scene.load.answers(2)
    await _one_hangs_up(scene)
    await api(scene.stack.nats, f"STREAM.PURGE.{log.spec.name}", {"filter": f"{_base(log)}filler.*"})
    await _takes_some_again(scene)


async def away(scene: Scene) -> None:
    """The job store takes nothing for a while: calls in progress do not notice, new ones are refused."""
    log = await _log(scene)
    await scene.some_words()
    found = await info(scene.stack.nats, log.spec.name)
    assert found is not None
    config = found["config"]
    await api(scene.stack.nats, f"STREAM.UPDATE.{log.spec.name}", {**config, "subjects": ["away.jobs.>"]})
    scene.mark()
    await _takes_none(scene)
    await _one_hangs_up(scene)
    await scene.load.answers(2)
    await asyncio.sleep(scene.bounds.away_s)
    await api(scene.stack.nats, f"STREAM.UPDATE.{log.spec.name}", config)
    await _takes_some_again(scene)


async def no_job_is_left(scene: Scene) -> None:
    """All calls are over, those too that ended while their records could not be deleted: none is in the store."""
    store = JobStore(await _log(scene))

    async def is_empty() -> bool:
        return await store.keys() == []

    await eventually(is_empty, "a job store without jobs")


async def many_finished(scene: Scene) -> None:
    """There were many calls before these; then a bridge is killed, and another one starts."""
    log = await _log(scene)
    count = ALL_FINISHED if scene.bounds.whole else FINISHED
    former, enough = JobStore(log), asyncio.Semaphore(AT_ONCE)

    async def finish(number: int) -> None:
        async with enough:
            if number % 2:
                await former.delete(f"old-{number}", await former.create(f"old-{number}", b"{}"))
            else:  # as a release did that let its markers stay
                subject = f"{_base(log)}old-{number}"
                await log.append(
                    subject, b"", {"KV-Operation": "DEL", "Nats-Msg-Id": subject, "Unpod-Key": f"old-{number}"}
                )

    await asyncio.gather(*(finish(number) for number in range(count)))
    await scene.spread()
    victim = await scene.a_bridge()
    await scene.some_words()
    scene.mark()
    await scene.kill(victim)
    began = asyncio.get_running_loop().time()
    await scene.stack.start_bridge()
    await scene.stack.ready()
    scene.figures["start_s"] = asyncio.get_running_loop().time() - began
    began = asyncio.get_running_loop().time()
    await scene.load.dial(1)
    scene.figures["place_s"] = asyncio.get_running_loop().time() - began
    scene.load.talk(scene.load.callers[-1])


async def _log(scene: Scene) -> JetStreamLog:
    return await open_log(scene.stack.nats, topology().jobs)


def _base(log: JetStreamLog) -> str:
    return log.spec.subjects[0].removesuffix(">")


def _said(scene: Scene) -> str:
    return "".join(bridge.text for bridge in scene.stack.bridges)


async def _one_hangs_up(scene: Scene) -> None:
    """End one call, between two turns: its record cannot be deleted now."""
    caller = scene.load.living[0]
    caller.hush()
    await caller.quiet()
    await caller.call.hang_up()


async def _takes_none(scene: Scene) -> None:
    try:
        call = await scene.stack.orchestrator.place_call("agent")
    except CallRefused as refused:
        scene.expect(set(refused.reasons) == {"at_capacity"}, f"a new call is refused with {refused.reasons}")
    else:
        scene.expect(False, "a new call is taken")  # noqa: FBT003 - it never holds
        await call.hang_up()


async def _takes_some_again(scene: Scene) -> None:
    async def is_taken() -> bool:
        try:
            await scene.load.dial(1)
        except CallRefused:
            return False
        return True

    await eventually(is_taken, "new calls are taken again")
    scene.load.talk(scene.load.callers[-1])
