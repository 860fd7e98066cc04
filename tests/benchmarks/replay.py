"""Reading a call back: from the question to the first and the last of its records, through the codec and the fold.

As a runner does that takes a call over, which its bridge has told where the records stand; and as whoever has to search
for them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from tests.benchmarks.filling import Publishable, filler
from tests.benchmarks.histories import PER_TURN, published, record_call

from unpod.core import codec
from unpod.core.positions import unpack
from unpod.core.state import SessionState, evolve
from unpod.core.subjects import Subjects
from unpod.errors import LogError
from unpod.jetstream import JetStreamLog, connect, open_log, topology
from unpod.jetstream.streams.topology import info
from unpod.processes import EmbeddedOptions, EmbeddedServer
from unpod_bridge.journal.positions import StreamPositions

_GIB: Final = 2**30
_SUBJECTS: Final = Subjects()
_LONG: Final = 100_000
"""A call of so many records is read once: it takes seconds."""
_OTHERS: Final = 10_000
"""How many other sessions the other records belong to."""

Tell = Callable[[str], None]

KNOWN: Final = "from where the bridge says that they stand"
SEARCH: Final = "by a search for their subjects"


def _others(records: int, start: int = 0) -> Iterator[Publishable]:
    """Yield records of other sessions."""
    data = b'{"type":"user.text","text":"What is it?"}'
    subjects = [f"unpod.call.agent.other-{number}.evt.user.text" for number in range(_OTHERS)]
    for number in range(start, start + records):
        yield subjects[number % _OTHERS], b"", data


def _stored(session: str, turns: int) -> Iterator[Publishable]:
    """Yield a call's records; the server would hold them to their fences, so these have another name, as long."""
    for record in record_call(session, turns):
        subject, block, data = published(session, record)
        yield subject, block.replace(b"Nats-Expected-Last-", b"Nats-Expected-Once-"), data


def _mixed(sizes: Sequence[int], others: int) -> Iterator[Publishable]:
    """Yield the records of a call of each size, spread evenly among those of others."""
    calls = [[*_stored(f"s{size}", size // PER_TURN)] for size in sizes]
    rest = _others(others)
    steps = max(sizes)
    per_step = max(1, others // steps)
    for step in range(steps):
        for records in calls:
            low, high = step * len(records) // steps, (step + 1) * len(records) // steps
            yield from records[low:high]
        for _, other in zip(range(per_step), rest, strict=False):
            yield other
    yield from rest


async def _charted(log: JetStreamLog, size: int, last: int) -> bytes:
    """Return what a bridge would hand over whose call this is, if a new owner's starting point were the last record."""
    stream_positions, call = StreamPositions(), _SUBJECTS.call("agent", f"s{size}")
    async for message in log.read(call.all):
        stream_positions.take(call, message)
    stream_positions.searched((), 0, last)
    return stream_positions.pack(last, last)


async def _replay(log: JetStreamLog, size: int, packed: bytes) -> tuple[float, float, int]:
    """Return after how many seconds the first and the last record were folded, and how many there were."""
    state, seen, first = SessionState(), 0, 0.0
    began = time.perf_counter()
    positions = unpack(packed) if packed else None
    async for message in log.read(_SUBJECTS.call("agent", f"s{size}").all, positions=positions):
        state = evolve(state, codec.read(_SUBJECTS, message.subject, message.headers, message.data, message.seq))
        seen += 1
        if seen == 1:
            first = time.perf_counter() - began
    took = time.perf_counter() - began
    if len(state.history) != size // PER_TURN:
        raise RuntimeError(f"the fold of {seen} records has {len(state.history)} of {size // PER_TURN} turns")
    return first, took, seen


async def _measure(log: JetStreamLog, size: int, last: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Return the figures of one call, read both ways in turns."""
    ways = {KNOWN: await _charted(log, size, last), SEARCH: b""}
    runs: dict[str, list[tuple[float, float, int]]] = {way: [] for way in ways}
    for _ in range(rounds if size < _LONG else 1):
        for way, packed in ways.items():
            runs[way].append(await _replay(log, size, packed))
    return (
        {
            "records": size,
            "way": way,
            "first_ms": round(median(first for first, _, _ in found) * 1000, 3),
            "records_per_s": round(median(seen / took for _, took, seen in found)),
        }
        for way, found in runs.items()
    )


async def measure(sizes: Sequence[int], others: Sequence[int], rounds: int, tell: Tell) -> list[dict[str, Any]]:
    """Return the figures of each size of a call, among so many records of others (ascending)."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="unpod-bench-") as folder:
        options = EmbeddedOptions(Path(folder), store_bytes=16 * _GIB)
        async with EmbeddedServer(options) as server, connect(server.connection()) as nats, filler(server.url) as fill:
            streams = topology(max_bytes=12 * _GIB)
            log = await open_log(nats, streams.calls)
            filled = 0
            for wanted in others:
                tell(f"filling a stream with {wanted:,} records")
                await fill.publish(_others(wanted - filled, filled) if filled else _mixed(sizes, wanted))
                filled = wanted
                found = await info(nats, streams.calls.name)
                stored, last = (0, 0) if found is None else (found["state"]["messages"], found["state"]["last_seq"])
                ours = sum(size // PER_TURN * PER_TURN + 2 for size in sizes)
                if stored != filled + ours:
                    raise LogError(f"{stored} records are stored, of {filled + ours}")
                for size in sizes:
                    tell(f"replay of {size:,} records among {wanted:,}")
                    rows += [{"others": wanted, **row} for row in await _measure(log, size, last, rounds)]
    return rows
