"""Reading a call back: from the question to the first and the last of its records, through the codec and the fold."""

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
from unpod.core.state import SessionState, evolve
from unpod.core.subjects import Subjects
from unpod.errors import LogError
from unpod.jetstream import EmbeddedOptions, EmbeddedServer, JetStreamLog, connect, open_log, topology
from unpod.jetstream.topology import info

_GIB: Final = 2**30
_SUBJECTS: Final = Subjects()
_LONG: Final = 100_000
"""A call of so many records is read once: it takes seconds."""
_OTHERS: Final = 10_000
"""How many other sessions the other records belong to."""

Tell = Callable[[str], None]


def _others(records: int, start: int = 0) -> Iterator[Publishable]:
    """Yield records of other sessions."""
    data = b'{"type":"user.text","text":"What is it?"}'
    subjects = [f"unpod.call.agent.other-{number}.evt.user.text" for number in range(_OTHERS)]
    for number in range(start, start + records):
        yield subjects[number % _OTHERS], b"", data


def _mixed(sizes: Sequence[int], others: int) -> Iterator[Publishable]:
    """Yield the records of a call of each size, spread evenly among those of others."""
    calls = [[published(f"s{size}", record) for record in record_call(f"s{size}", size // PER_TURN)] for size in sizes]
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


async def _replay(log: JetStreamLog, size: int) -> tuple[float, float, int]:
    """Return after how many seconds the first and the last record were folded, and how many there were."""
    state, seen, first = SessionState(), 0, 0.0
    began = time.perf_counter()
    async for message in log.read(_SUBJECTS.call("agent", f"s{size}").all):
        state = evolve(state, codec.read(_SUBJECTS, message.subject, message.headers, message.data, message.seq))
        seen += 1
        if seen == 1:
            first = time.perf_counter() - began
    took = time.perf_counter() - began
    if len(state.history) != size // PER_TURN:
        raise RuntimeError(f"the fold of {seen} records has {len(state.history)} of {size // PER_TURN} turns")
    return first, took, seen


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
                stored = 0 if found is None else found["state"]["messages"]
                ours = sum(size // PER_TURN * PER_TURN + 2 for size in sizes)
                if stored != filled + ours:
                    raise LogError(f"{stored} records are stored, of {filled + ours}")
                for size in sizes:
                    tell(f"replay of {size:,} records among {wanted:,}")
                    runs = [await _replay(log, size) for _ in range(rounds if size < _LONG else 1)]
                    rows.append(
                        {
                            "records": size,
                            "others": wanted,
                            "first_ms": round(median(first for first, _, _ in runs) * 1000, 3),
                            "records_per_s": round(median(seen / took for _, took, seen in runs)),
                        }
                    )
    return rows
