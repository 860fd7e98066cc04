"""From the orchestrator's job to the first line of the agent's entrypoint, for calls that come all at once.

Three clocks are started for a call on unpod: when its `job.assign` leaves the load generator; when NATS has the
bridge's request for a runner, which is what "dispatch" means in the bar; and when the record is stored that makes the
runner the owner. All run on one machine. To see the requests, NATS keeps a copy in a stream of the benchmark's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, Final

from tests.benchmarks.brain import BORN
from tests.benchmarks.line import LineCall
from tests.benchmarks.rig import SYSTEMS, UNPOD, Rig, rig
from tests.benchmarks.turns import percentile

from unpod.core.dispatch_messages import OFFER
from unpod.core.subjects import Subjects
from unpod.errors import LogError
from unpod.jetstream import JetStreamLog, Nats, StreamSpec, connect, open_log, topology
from unpod.jetstream.streams.api import call as ask

ASSIGNED: Final = "job.assign"
DISPATCHED: Final = "dispatch"
APPOINTED: Final = "owner.appointed"
SINCE: Final = (ASSIGNED, DISPATCHED, APPOINTED)
"""When the clock starts."""

_SUBJECTS: Final = Subjects()
_OFFERS: Final = StreamSpec("BENCH_OFFERS", (_SUBJECTS.dispatch(UNPOD),), 2**23, 2**16, 3600.0)

Tell = Callable[[str], None]


async def _watch(nats: Nats) -> JetStreamLog:
    """Have NATS keep what bridges ask runners; it answers nobody, so that the runner's is the only answer."""
    config = {**_OFFERS.config(), "storage": "memory", "no_ack": True, "duplicate_window": 0}
    await ask(nats, f"STREAM.CREATE.{_OFFERS.name}", config)
    return JetStreamLog(nats, _OFFERS)


async def _since(offers: JetStreamLog, log: JetStreamLog, calls: Sequence[LineCall]) -> dict[str, dict[str, float]]:
    """Return when each call was dispatched and had an owner, in seconds since 1970, by its job."""
    asked: dict[str, float] = {}
    async for message in offers.read(_SUBJECTS.dispatch(UNPOD)):
        asked.setdefault(OFFER.decode(message.data).job, message.time_ns / 1e9)
    owned: dict[str, float] = {}
    for call in calls:
        record = await log.last(_SUBJECTS.call(UNPOD, call.name).own)
        if record is None:
            raise LogError(f"{call.name} has no owner")
        owned[call.job_id] = record.time_ns / 1e9
    return {DISPATCHED: asked, APPOINTED: owned}


async def _round(systems: Rig, system: str, at_once: int) -> tuple[list[LineCall], dict[str, float]]:
    """Place calls, and return when the entrypoint of each began, in seconds since 1970."""
    calls = await systems.line.place(system, at_once, at_once)
    epoch = time.time() - time.perf_counter()
    born = {call.job_id: float((await call.turn(BORN)).text) + epoch for call in calls}
    return calls, born


async def measure(at_once: int, rounds: int, tell: Tell) -> list[dict[str, Any]]:
    """Return the figures of each system, in milliseconds; for unpod since each of `SINCE`."""
    times: dict[tuple[str, str], list[float]] = {(system, ASSIGNED): [] for system in SYSTEMS}
    times |= {(UNPOD, since): [] for since in SINCE}
    async with rig() as systems, connect(systems.server.connection("bench")) as nats:
        offers, log = await _watch(nats), await open_log(nats, topology().calls)
        for number in range(rounds + 1):
            tell(f"{at_once} calls at once, round {number} of {rounds}")
            for system in SYSTEMS:
                calls, born = await _round(systems, system, at_once)
                epoch = time.time() - time.perf_counter()
                began = {ASSIGNED: {call.job_id: call.assigned_at + epoch for call in calls}}
                if system == UNPOD:
                    began |= await _since(offers, log, calls)
                for since, at in began.items() if number else ():  # the first round warms up
                    times[system, since] += [(born[job] - at[job]) * 1000 for job in born]
                for call in calls:
                    call.hang_up()
    return [
        {"system": system, "since": since, "at_once": at_once, "p50_ms": round(median(each), 3)}
        | {"p99_ms": percentile(each, 0.99)}
        for (system, since), each in times.items()
    ]
