"""What a fleet of 100,000 concurrent calls needs, worked out from what was measured on one machine."""

from __future__ import annotations

from math import ceil
from typing import Any, Final

from tests.benchmarks.turns import PACED, SATURATED, SPOKEN, STREAM, UNPOD, row

CALLS: Final = 100_000
TURN_EVERY_S: Final = 10.0
"""How often a caller and an agent take turns, in a conversation: an assumption."""
BUSY: Final = 0.6
"""How busy a core may be: the rest is for a peak, and for a neighbour that has just died. An assumption."""
CALL_S: Final = 240
RECORDS_PER_TURN: Final = 5
"""What a turn writes: the text, the reply's end, what was spoken, the speech's figures, the turn."""
REPLICAS: Final = 3

Need = tuple[str, str, str]


def _processes(found: dict[str, Any], rate: float, sessions: int) -> list[Need]:
    turn = row(found["turns"], UNPOD, sessions, PACED, SPOKEN)
    assert turn is not None
    every = found["turns"]["memory"]
    memory = next(each["kb"] for each in every if (each["system"], each["sessions"]) == (UNPOD, sessions))
    lines: list[Need] = []
    for name in ("runner", "bridge", "nats"):
        copies = REPLICAS if name == "nats" else 1
        spent, kept = turn["cpu_ms_per_turn"][name], memory[name]
        on = f", on each of {copies} replicas" if copies > 1 else ""
        cores = ceil(rate * spent * copies / 1000 / BUSY)
        lines.append((f"cores, {name}", f"{cores:,}", f"{spent:.2f} ms per turn{on}; {BUSY:.0%} busy"))
        size = CALLS * kept * copies / 1024**2
        lines.append((f"memory, {name}", f"{size:,.1f} GB", f"{kept:g} KB per session{on}; without the process itself"))
    return lines


def needs(found: dict[str, Any]) -> list[Need]:
    """Return what is needed, how much, and how that comes about; from turns with a delta each 20 ms."""
    sessions = max(each["sessions"] for each in found["turns"]["rows"])
    rate = CALLS / TURN_EVERY_S
    size = found["scale"]["stored"]["bytes_per_record"]
    written = rate * RECORDS_PER_TURN * size
    fastest = row(found["turns"], UNPOD, sessions, SATURATED, STREAM)
    assert fastest is not None
    one = fastest["turns_per_s"] * BUSY
    stored = f"{RECORDS_PER_TURN} records of {size} bytes a turn"
    return [
        ("turns a second", f"{rate:,.0f}", f"a turn every {TURN_EVERY_S:g} s in each call"),
        *_processes(found, rate, sessions),
        (
            "log of one call",
            f"{CALL_S / TURN_EVERY_S * RECORDS_PER_TURN * size / 1024:,.0f} KB",
            f"{stored}, {CALL_S} s",
        ),
        ("log, written", f"{written / 1e6:,.1f} MB/s", f"{written * 86_400 / 1e12:.1f} TB a day on each replica"),
        ("streams", f"{ceil(rate / one):,}", f"{one:,.0f} turns a second each: what one took here, {BUSY:.0%} of it"),
    ]
