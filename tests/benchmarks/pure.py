"""The fold and the codec, with nothing around them: records per second on one core."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

from tests.benchmarks.histories import published, record_call

from unpod.core import codec
from unpod.core.envelope import to_headers
from unpod.core.state import SessionState, evolve
from unpod.core.subjects import Subjects
from unpod.jetstream.connection.wire import decode_headers, encode_headers


def _rate(step: Callable[[], None], records: int, rounds: int) -> float:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return round(records / median(times))


def measure(turns: int, rounds: int) -> dict[str, Any]:
    """Return records per second of a call of so many turns: fold, encode, decode."""
    records = record_call("s1", turns)
    subjects = Subjects()

    def fold() -> None:
        state = SessionState()
        for record in records:
            state = evolve(state, record)

    def encode() -> None:
        for record in records:
            encode_headers(to_headers(record.envelope))
            codec.encode(record.body)

    raw = [published("s1", record) for record in records]

    def decode() -> None:
        for subject, block, data in raw:
            codec.read(subjects, subject, decode_headers(block), data)

    steps = {"fold": fold, "encode": encode, "decode": decode}
    figures = {f"{name}_per_s": _rate(step, len(records), rounds) for name, step in steps.items()}
    return {"records": len(records), **figures}
