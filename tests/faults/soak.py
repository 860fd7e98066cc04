"""`make soak`: thousands of short calls through one runner and one bridge, and what has grown by them: nothing.

Real processes: nats-server, a bridge, a runner, and the consumers of metrics and of traces. The first calls fill what
fills up once; what is there then is compared with what is there at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypedDict

from tests.faults.load import PATIENCE_S, Load, load
from tests.faults.process import Process, eventually, until
from tests.faults.stack import Setup, Stack, stack
from tests.integration.consumers.process import Consumer, consuming
from tests.integration.consumers.span_collector import Spans, over_http

from unpod.jetstream.streams.topology import info

GROWS: Final = 0.05
"""How much more memory there may be at the end."""
WINDOW_S: Final = 300.0
ID_BYTES: Final = 5_000
"""What nats-server keeps for each message in its window of duplicates, its collector lets the heap double included."""
LIVES: Final = ("Session", "Driver", "ReplyStream", "NewCall", "AdoptedCall")
"""Classes of which there is one for each call in progress, or two, whatever module they stand in."""
QUIET_S: Final = 90.0
WORDS: Final = 3


@dataclass(slots=True)
class Size:
    """How much a process has of everything."""

    rss_mb: float
    counts: dict[str, int] = field(default_factory=dict)
    objects: dict[str, int] = field(default_factory=dict)


class Told(TypedDict):
    """What a process says of itself (`tests.faults.watched`)."""

    tasks: int
    objects: dict[str, int]


@dataclass(slots=True)
class Soaked:
    """What was there after the first calls, and at the end, by process."""

    before: dict[str, Size]
    after: dict[str, Size]
    messages: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


async def soak(calls: int, first: int, at_once: int, directory: Path, *, grows: float = GROWS) -> Soaked:
    """Play so many calls, `at_once` at a time; what has grown by more than `grows` since the `first` is wrong."""
    runner_health = {"UNPOD_FAULTS_WATCH": str(directory / "watch")}
    agent = {"UNPOD_FAULTS_MODULE": "tests.faults.agent", "UNPOD_FAULTS_PIECE_S": "0", "UNPOD_FAULTS_WORDS": str(WORDS)}
    setup = Setup(
        runners=1,
        bridges=1,
        module="tests.faults.watched",
        agent_module="tests.faults.watched",
        bridge_env={**runner_health, "UNPOD_FAULTS_MODULE": "unpod_bridge"},
        runner_env={**runner_health, **agent, "UNPOD_FAULTS_CAPACITY": str(4 * at_once)},
        max_mb=900,
    )
    async with AsyncExitStack() as exits:
        stacked = await exits.enter_async_context(stack(directory, setup))
        endpoint = exits.enter_context(over_http(_Nowhere()))
        url = stacked.server.url
        consumers = {
            "metrics": await exits.enter_async_context(consuming(url)),
            "traces": await exits.enter_async_context(consuming(url, "traces", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)),
        }
        for consumer in consumers.values():
            await consumer.up()
        talking = await exits.enter_async_context(load(stacked.orchestrator, random.Random(1)))  # noqa: S311 - any
        talking.length = WORDS
        await _calls(talking, first, at_once)
        before, messages = await _sizes(stacked, consumers, directory)
        begun = time.monotonic()
        await _calls(talking, calls - first, at_once)
        seconds = time.monotonic() - begun
        after, then = await _sizes(stacked, consumers, directory)
        return _compared(Soaked(before, after, then - messages, seconds), at_once, grows)


class _Nowhere(Spans):
    """Takes spans and keeps none."""

    def take(self, request: object) -> bool:
        return True


async def _calls(talking: Load, count: int, at_once: int) -> None:
    left = iter(range(count))

    async def some() -> None:
        for _ in left:
            (caller,) = await talking.dial(1)
            await caller.answer(await caller.ask(), PATIENCE_S)
            await caller.call.hang_up()
            await caller.close()
            talking.callers.remove(caller)

    await asyncio.gather(*(some() for _ in range(at_once)))


# ------------------------------------------------------------------------------------------------------ what there is


async def _sizes(stacked: Stack, consumers: Mapping[str, Consumer], directory: Path) -> tuple[dict[str, Size], int]:
    """Return how much each process has once nothing is left to do, and how many messages the log has had."""
    messages = await _quiet(stacked, consumers)
    sizes = {"nats": _size(stacked.server.pid)}
    for name, process in (("runner", stacked.runners[0]), ("bridge", stacked.bridges[0])):
        told = await told_by(process, directory)
        sizes[name] = _size(process.pid)
        sizes[name].counts["tasks"] = told["tasks"]
        for kind in LIVES:
            if kind in told["objects"]:
                sizes[name].objects[kind] = told["objects"][kind]
    for name, consumer in consumers.items():
        sizes[name] = _size(consumer.process.pid)
    return sizes, messages


async def _quiet(stacked: Stack, consumers: Mapping[str, Consumer]) -> int:
    """Return how many messages there have been, once nobody writes any more and the consumers have read them all."""
    loop = asyncio.get_running_loop()
    last, since = -1, loop.time()

    async def is_quiet() -> bool:
        nonlocal last, since
        found = await info(stacked.nats, stacked.log.spec.name)
        newest = -1 if found is None else int(found["state"]["last_seq"])
        if newest != last:
            last, since = newest, loop.time()
        lags = [(await consumer.samples()).get("unpod_consumer_lag") for consumer in consumers.values()]
        return loop.time() - since > 1.0 and not any(lags)

    await eventually(is_quiet, "the consumers have read everything", QUIET_S)
    return last


async def told_by(process: Process, directory: Path) -> Told:
    """Return what a watched process says that it holds."""
    file = directory / f"watch.{process.pid}"
    file.unlink(missing_ok=True)
    process.ask()
    await until(file.exists, f"{process!r} tells what it holds")
    told: Told = json.loads(file.read_text())
    return told


def _size(pid: int) -> Size:
    home = Path(f"/proc/{pid}")
    sockets = 0
    for descriptor in (home / "fd").iterdir():
        with suppress(OSError):
            sockets += str(descriptor.readlink()).startswith("socket:")
    rss_mb = int((home / "status").read_text().split("VmRSS:")[1].split()[0]) / 1024
    return Size(rss_mb, {"threads": len(list((home / "task").iterdir())), "sockets": sockets})


def _compared(soaked: Soaked, at_once: int, grows: float) -> Soaked:
    kept = soaked.messages * min(1.0, WINDOW_S / max(soaked.seconds, 1.0))
    for name, after in soaked.after.items():
        before = soaked.before[name]
        allowed = before.rss_mb * (1 + grows)
        if name == "nats":
            allowed += kept * ID_BYTES / 2**20
        if after.rss_mb > allowed:
            soaked.wrong.append(f"{name}: {before.rss_mb:.1f} MiB, then {after.rss_mb:.1f} MiB of {allowed:.1f}")
        soaked.wrong += [
            f"{name}: {before.counts[what]} {what}, then {count}"
            for what, count in after.counts.items()
            if count > before.counts[what] * (1 + grows) + 3
        ]
        soaked.wrong += [
            f"{name}: {count} objects of {kind} after the last call, of which {at_once} went on at once"
            for kind, count in after.objects.items()
            if count > 2 * at_once
        ]
    return soaked


def table(soaked: Soaked) -> str:
    """Return what there was before and after."""
    lines = [f"{'process':10} {'':24} {'before':>10} {'after':>10}"]
    for name, after in soaked.after.items():
        before = soaked.before[name]
        lines.append(f"{name:10} {'MiB':24} {before.rss_mb:10.1f} {after.rss_mb:10.1f}")
        for what, count in after.counts.items():
            lines.append(f"{'':10} {what:24} {before.counts[what]:10} {count:10}")
        for kind, count in after.objects.items():
            lines.append(f"{'':10} {kind + ' objects':24} {before.objects.get(kind, 0):10} {count:10}")
    return "\n".join((*lines, f"{soaked.messages} records in between, {soaked.seconds:.0f} s", *soaked.wrong))


def main(argv: Sequence[str] | None = None) -> int:
    """Play it; return 1 where something has grown."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0, help="after how many it is measured; a tenth without")
    parser.add_argument("--at-once", type=int, default=24)
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="unpod-soak-") as directory:
        soaked = asyncio.run(soak(given.calls, given.first or given.calls // 10, given.at_once, Path(directory)))
    sys.stdout.write(table(soaked) + "\n")
    return 1 if soaked.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
