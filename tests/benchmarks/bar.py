"""The bar: what is required, what the goal is, and what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from tests.benchmarks.dispatch import DISPATCHED
from tests.benchmarks.replay import KNOWN
from tests.benchmarks.rig import LIVE
from tests.benchmarks.turns import BURST, DIRECT, PACED, SATURATED, SPOKEN, STREAM, UNPOD, cpu, row

Found = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Limit:
    """One line of the bar. `value` is in `unit`, "x" for a ratio to direct; None where it was not measured."""

    what: str
    required: float
    goal: float
    unit: str
    value: float | None
    best: Literal["low", "high"] = "low"
    measured: str = ""
    why: str = ""
    """What is in the way, in a line; shown while it is not held."""

    @property
    def held(self) -> str:
        """Whether it is held: the goal, what is required, or not even that."""
        if self.value is None:
            return "not measured"
        sign = 1 if self.best == "low" else -1
        if sign * self.value <= sign * self.goal:
            return "goal"
        return "yes" if sign * self.value <= sign * self.required else "NO"


Figure = Callable[[dict[str, Any]], float]


def _versus(found: Found, sessions: int, manner: str, pieces: str, figure: Figure) -> tuple[float | None, str]:
    """Return the ratio of unpod's figure to direct's, and both as text."""
    ours = row(found.get("turns", {"rows": []}), UNPOD, sessions, manner, pieces)
    theirs = row(found.get("turns", {"rows": []}), DIRECT, sessions, manner, pieces)
    if ours is None or theirs is None or not figure(theirs):
        return None, ""
    mine, other = figure(ours), figure(theirs)
    return round(mine / other, 2), f"{mine:,.2f} / {other:,.2f}"


def _first(found: dict[str, Any]) -> float:
    return float(found["first_delta_p50_ms"])


def _end(found: dict[str, Any]) -> float:
    return float(found["reply_end_p50_ms"])


def _rate(found: dict[str, Any]) -> float:
    return float(found["turns_per_s"])


_HOPS: Final = (
    "two passes through nats-server and four more wake-ups: *floor*, which is that way with nothing on it, takes "
    "twice direct's time and more by itself (see the table); the rest is the work on the records (ADR 16)"
)
_FIRST_IS_MOST: Final = "what follows the first delta is quicker than direct's; the way of the first (above) is not"
_PAUSES: Final = (
    "what stops an event loop for milliseconds: the collector of young garbage, and the question of each "
    "second about all sessions; `slowest` in performance.json has when"
)


def _latency(found: Found) -> Iterator[Limit]:
    for count in (1, 1_000):
        name = f"paced, {count:,} session{'s' * (count > 1)}"
        ratio, both = _versus(found, count, PACED, STREAM, _first)
        yield Limit(f"first delta p50, {name} (ms)", 2.2, 1.5, "x", ratio, measured=both, why=_HOPS)
        ratio, both = _versus(found, count, PACED, STREAM, _end)
        yield Limit(f"reply's end p50, {name} (ms)", 0.9, 0.5, "x", ratio, measured=both, why=_FIRST_IS_MOST)
    ours = row(found.get("turns", {"rows": []}), UNPOD, 1_000, PACED, STREAM)
    p99 = None if ours is None else float(ours["first_delta_p99_ms"])
    yield Limit("first delta p99, 1,000 sessions paced", 5, 2, "ms", p99, why=_PAUSES)


_WORK: Final = (
    "bridge and runner each decode, decide and encode what direct does once, and the turn's records are stored; "
    "all of it shares two cores, and direct has little to do beside its one write per delta"
)
_ONE_BY_ONE: Final = "one turn at a time is the latency of a whole turn, not work: see the reply's end"
_WAKE_UPS: Final = (
    "a delta that comes alone passes three processes that sleep until then: what it costs is mostly being woken, "
    "and there is nothing to join"
)


def _throughput(found: Found) -> Iterator[Limit]:
    for count in (100, 1_000):
        ratio, both = _versus(found, count, SATURATED, STREAM, _rate)
        yield Limit(f"turns/s saturated, {count:,} sessions", 2.5, 4, "x", ratio, "high", both, _WORK)
        ratio, both = _versus(found, count, SATURATED, BURST, _rate)
        yield Limit(f"turns/s saturated, {count:,} sessions, bursts", 2.5, 8, "x", ratio, "high", both, _WORK)
    ratio, both = _versus(found, 1, SATURATED, STREAM, _rate)
    yield Limit("turns/s saturated, one session", 1, 1.5, "x", ratio, "high", both, _ONE_BY_ONE)


def _processor(found: Found) -> Iterator[Limit]:
    ratio, both = _versus(found, 1_000, SATURATED, BURST, cpu)
    yield Limit("CPU per turn, bursts, 1,000 sessions (ms)", 1, 0.3, "x", ratio, measured=both, why=_WORK)
    ratio, both = _versus(found, 1_000, PACED, SPOKEN, cpu)
    name = "CPU per turn, a delta each 20 ms, 1,000 sessions (ms)"
    yield Limit(name, 3, 1.5, "x", ratio, measured=both, why=_WAKE_UPS)


_KEPT: Final = {
    "nats": "it is resident memory: Go lets its heap grow to twice what is live, and the stream's buffer for writing "
    "takes 4 to 8 MB for all sessions together",
    LIVE: "subscriptions, ids of records for the window of duplicates, and that buffer",
    "runner": "tasks, queues and the history of each session",
    "bridge": "the call socket of each session, its relay and its subscriptions",
}


def _memory(found: Found) -> Iterator[Limit]:
    every = found.get("turns", {}).get("memory", ())
    kept: dict[str, float] = {}
    for each in every:
        if each["sessions"] == 1_000 and each["system"] == UNPOD:
            kept = each["kb"]
    limits = (("nats", 10, 6), (LIVE, 10, 6), ("runner", 25, 8), ("bridge", 30, 15))
    for name, required, goal in limits:
        title = "nats, what is live of it" if name == LIVE else name
        yield Limit(f"memory per session, {title}", required, goal, "KB", kept.get(name), why=_KEPT[name])


_READ: Final = "the codec, the fold and the receiving of each record take a core of their own (ADR 14)"


def _replays(found: Found) -> Iterator[Limit]:
    for size in (1_000, 10_000):
        rows = [each for each in found.get("replay", ()) if (each["records"], each["way"]) == (size, KNOWN)]
        rate = min((each["records_per_s"] / 1_000 for each in rows), default=None)
        first = max((each["first_ms"] for each in rows), default=None)
        name = f"replay of {size:,} records"
        yield Limit(f"{name}, thousand a second", 30, 100, "k/s", rate, "high", why=_READ)
        yield Limit(f"{name}, the first", 5, 1, "ms", first, why=_READ)


_DIAL: Final = (
    "between the two the bridge dials the call's socket, as direct does, for whom that alone takes about the limit "
    "with 50 at once; then it takes the line and appoints the owner in the log, one acknowledgement after the other"
)
_ONE_RUNNER: Final = "one runner takes all the calls of the dead one, and one bridge places them, on two cores"


def _recovery(found: Found) -> Iterator[Limit]:
    mine = next((each["p99_ms"] for each in found.get("dispatch", ()) if each["since"] == DISPATCHED), None)
    name = "the bridge's request for a runner to the entrypoint's first line, p99 at 50 at once"
    yield Limit(name, 20, 5, "ms", mine, why=_DIAL)
    for each in found.get("takeover", ()):
        name = f"a killed runner with {each['calls']:,} call{'s' * (each['calls'] > 1)}"
        yield Limit(f"{name}: the first has a new owner", 50, 5, "ms", each["first_owner_ms"], why=_ONE_RUNNER)
        yield Limit(f"{name}: all next turns work", 1_000, 100, "ms", each["turn_max_ms"], why=_ONE_RUNNER)


TALKING = 2_000
TALKING_P99_MS = 20.0
"""Sessions that talk count as held while the first delta's p99 is below this, and no turn is left out."""


def talking(found: Found) -> int | None:
    """Return the most sessions that talked at once and were held; None where too few were tried to know."""
    talks = found.get("scale", {}).get("talking", ())
    held = [
        each["sessions"]
        for each in talks
        if each["first_delta_p99_ms"] <= TALKING_P99_MS and each["answered"] >= each["due"]
    ]
    tried = max((each["sessions"] for each in talks), default=0)
    return max(held, default=0) if tried >= TALKING else None


def _scale(found: Found) -> Iterator[Limit]:
    name = "sessions with turns every 5 s, p99 first delta up to 20 ms"
    yield Limit(name, TALKING, 10_000, "", talking(found), "high", why=_PAUSES)


def limits(found: Found) -> list[Limit]:
    """Return the lines of the bar."""
    parts = (_latency, _throughput, _processor, _replays, _memory, _recovery, _scale)
    return [limit for part in parts for limit in part(found)]


def cells(limit: Limit) -> tuple[str, ...]:
    """Return one line of the table."""
    sign, unit = ("≤" if limit.best == "low" else "≥"), "\u00d7" if limit.unit == "x" else f" {limit.unit}".rstrip()
    value = "" if limit.value is None else f"{limit.value:,g}{unit}"
    return (
        limit.what,
        f"{sign} {limit.required:,g}{unit}",
        f"{sign} {limit.goal:,g}{unit}",
        limit.measured,
        value,
        limit.held,
    )


HEAD = ("", "required", "goal", "unpod / direct", "result", "held")


def obstacles(found: Found) -> list[str]:
    """Return what is in the way of the lines that are not held; those with the same reason together."""
    reasons: dict[str, list[str]] = {}
    for limit in limits(found):
        if limit.held == "NO":
            reasons.setdefault(limit.why, []).append(limit.what)
    return [f"{'; '.join(whats)}: {why}." for why, whats in reasons.items()]


def missing(found: Found) -> list[str]:
    """Return what did not come back whole: turns without an answer, replies that are not what was said."""
    return [
        f"{each['system']}, {each['sessions']} sessions, {each['manner']} {each['pieces']}: "
        f"{each['asked'] - each['answered']} of {each['asked']} turns not answered, {each['wrong']} replies not whole"
        for each in found.get("turns", {"rows": []})["rows"]
        if each["asked"] != each["answered"] or each["wrong"]
    ]


def table(found: Found) -> str:
    """Return the bar as text, and below it whatever is missing."""
    rows = [HEAD, *map(cells, limits(found))]
    widths = [max(len(line[column]) for line in rows) for column in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in rows]
    return "\n".join(
        [*lines, "", *obstacles(found), "", *(missing(found) or ["Every turn was answered, every reply was whole."])]
    )
