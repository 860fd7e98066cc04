"""Writes docs/explanation/performance.md, and its plots, from docs/explanation/performance.json.

::

    python -m tests.benchmarks.page
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from tests.benchmarks import bar, dispatch, fleet, plots
from tests.benchmarks.rig import FLOOR, LIVE
from tests.benchmarks.turns import UNPOD

FOLDER: Final = Path(__file__).parents[2] / "docs" / "explanation"
PAGE: Final = FOLDER / "performance.md"
DATA: Final = FOLDER / "performance.json"

_HEAD: Final = """\
# Performance

<!-- Written by `make bench` from performance.json; `python -m tests.benchmarks.page` writes it again. -->

A call through bridge, NATS and a runner, beside *direct*: an SDK that holds the call's socket itself, with `websockets`
and pydantic, no broker and no log, so that a call dies with its process. Same adapter, same load generator, on uvloop,
in turns, in one run. *direct-json* is what little can be done with less: `json`, and no turn that could be interrupted.
*floor* is the way through a broker with nothing on it: no log, no records, no state.
"""
_HOW: Final = """\
## How it was measured

- Whole processes: nats-server (file storage, one node), bridge, runner, and the load generator, which plays the
  orchestrator with WebSocket frames of its own. All share the cores of one machine.
- A turn is one text and a reply of 20 pieces. *stream*: a yield to the event loop before each piece; *burst*: all there
  at once; *spoken*: one each 20 ms, so the first delta includes the adapter's own 20 ms.
- *Paced*: 60 turns a second in all (fewer where so few sessions can't). *Saturated*: each session asks again as soon
  as it has its reply.
- p50 is the median of the rounds' medians; p99 is of all turns of all rounds. Systems take turns, the first one
  changes each round, and a first round warms up. A paced round begins when no process has anything left to do.
- CPU is what /proc says of each process's threads, idle work included. Memory is the growth of resident memory while
  calls are placed; of nats-server, which has Go's settings as they come (GOGC=100, no limit), also of what is live on
  the heap just after a collection.
- On: the log with its acknowledgements, fencing, and deduplication; `sync_interval` as the table says (1 s is what
  the embedded server has; "always" flushes each record). What is not here: replicas, TLS, a network.
- *direct* validates each frame as one of a union of models, serializes models, runs each turn in a task that the
  caller can interrupt, and sends each delta as it comes (`tests/benchmarks/direct.py`).
- Dispatch begins when NATS has the bridge's request for a runner, by the server's clock.
- Replay goes through the codec and the fold, and begins with the list of where the records stand.
- A takeover begins with SIGKILL; every call asks at that moment.
"""


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def _turns(found: dict[str, Any]) -> str:
    head = (
        "sessions",
        "turns",
        "system",
        "sync",
        "first p50 / p99",
        "end p50 / p99",
        "turns/s",
        "CPU per turn",
        "load",
    )
    rows = []
    for row in found["turns"]["rows"]:
        spent = dict(row["cpu_ms_per_turn"])
        load = spent.pop("load")
        parts = " + ".join(f"{name} {spent[name]:.2f}" for name in _ON_THE_WAY if name in spent)
        rows.append(
            (
                f"{row['sessions']:,}",
                f"{row['manner']}, {row['pieces']}",
                row["system"],
                row["sync"] if row["system"] == UNPOD else "",
                f"{row['first_delta_p50_ms']:.2f} / {row['first_delta_p99_ms']:.1f}",
                f"{row['reply_end_p50_ms']:.2f} / {row['reply_end_p99_ms']:.1f}",
                f"{row['turns_per_s']:,.0f}",
                parts,
                f"{load:.2f}",
            )
        )
    asked = sum(row["asked"] for row in found["turns"]["rows"])
    whole = bar.missing(found) or ["every turn was answered, and every reply was whole."]
    return f"## Turns\n\nTimes in ms. Of {asked:,} turns: {' '.join(whole)}\n\n{_table(head, rows)}\n"


def _turns_and_memory(found: dict[str, Any]) -> str:
    return f"{_turns(found)}\n{_memory(found)}"


_REPLAY: Final = """
A takeover reads a call's history from where its bridge says that it stands, the first 32,000 or so of each writer;
what is behind them, it searches for. The bridge itself searches for what the former owner has written since its last
ping. Whoever reads a call without being told searches for all of it: a bridge that adopts it, the console, the exports.
"""


def _replay(found: dict[str, Any]) -> str:
    rows = [
        (f"{row['records']:,}", f"{row['others']:,}", row["way"], row["first_ms"], f"{row['records_per_s']:,}")
        for row in found["replay"]
    ]
    return "## Replay\n\n" + _table(("records", "of others", "read", "first, ms", "records/s"), rows) + "\n" + _REPLAY


def _pure(found: dict[str, Any]) -> str:
    figures = found["pure"]
    rows = [(name, f"{figures[f'{name}_per_s']:,}") for name in ("fold", "encode", "decode")]
    return "## The fold and the codec, alone\n\n" + _table(("", "records/s on one core"), rows) + "\n"


_SINCE: Final = {
    dispatch.ASSIGNED: "the orchestrator's `job.assign`",
    dispatch.DISPATCHED: "the bridge's request for a runner; the bridge then dials the call",
    dispatch.APPOINTED: "the record that makes the runner the owner; the call is up by then",
}


def _dispatch(found: dict[str, Any]) -> str:
    rows = [
        (row["system"], _SINCE[row["since"]], row["at_once"], row["p50_ms"], row["p99_ms"]) for row in found["dispatch"]
    ]
    head = ("system", "from", "calls at once", "p50, ms", "p99, ms")
    return "## To the entrypoint's first line\n\n" + _table(head, rows) + "\n"


def _takeover(found: dict[str, Any]) -> str:
    names = ("calls", "first_owner_ms", "owner_p50_ms", "turn_p50_ms", "turn_p99_ms", "turn_max_ms", "lost")
    head = ("calls of the runner", "first new owner", "owner p50", "turn answered p50", "p99", "last", "lost")
    rows = [tuple(row[name] for name in names) for row in found["takeover"]]
    return "## Takeover\n\nMilliseconds from SIGKILL.\n\n" + _table(head, rows) + "\n"


_SCALE = """\
## More and more sessions on one runner and one bridge

The same 60 turns a second in all, whatever is attached; CPU in ms per turn, idle as a share of one core, memory per
session more than the first ones (that of nats-server grows with the records of the last minutes, too):

{}

![CPU per turn against sessions](performance-cost.png)

All of them talk, a turn every 5 s each, of the sort *stream*; CPU as a share of one core, of two that all have:

{}
"""


_ON_THE_WAY: Final = ("nats", "bridge", "relay", "runner")
_SHARES: Final = ("nats", "bridge", "runner", "load")
_KEPT: Final = ("nats", LIVE, "bridge", "runner")


def _memory(found: dict[str, Any]) -> str:
    rows = [
        (f"{row['sessions']:,}", row["system"], row["sync"], *(row["kb"].get(name, "") for name in _KEPT))
        for row in found["turns"]["memory"]
        if row["system"] != FLOOR  # which keeps nothing
    ]
    head = ("sessions", "system", "sync", "nats", "of it live", "bridge", "runner")
    return "## Memory\n\nKB per session, once placed.\n\n" + _table(head, rows) + "\n"


def _scale(found: dict[str, Any]) -> str:
    rows = [
        (
            f"{row['sessions']:,}",
            row["first_delta_p50_ms"],
            row["first_delta_p99_ms"],
            *(row["cpu_ms_per_turn"][name] for name in ("nats", "bridge", "runner")),
            *(f"{row['idle'][name]:.1%}" for name in ("nats", "bridge", "runner")),
            *(row["kb"].get(name, "") for name in _KEPT),
        )
        for row in found["scale"]["attached"]
    ]
    head = (
        *("sessions", "first p50, ms", "p99", "CPU ms: nats", "bridge", "runner", "idle: nats", "bridge", "runner"),
        *("KB: nats", "of it live", "bridge", "runner"),
    )
    talks = [
        (
            f"{row['sessions']:,}",
            row["first_delta_p50_ms"],
            row["first_delta_p99_ms"],
            f"{row['answered']} of {row['due']}",
            *(
                f"{spent * row['turns_per_s'] / 1000:.0%}"
                for spent in (row["cpu_ms_per_turn"][name] for name in _SHARES)
            ),
        )
        for row in found["scale"]["talking"]
    ]
    talked = _table(("sessions", "first p50, ms", "p99", "turns answered", *_SHARES), talks)
    return _SCALE.format(_table(head, rows), talked)


def _consumers(found: dict[str, Any]) -> str:
    figures = found["consumers"]
    names = list(dict.fromkeys(name for each in figures.values() for name in each))
    rows = [
        (consumer, *(f"{each[name]:,}" if name in each else "" for name in names)) for consumer, each in figures.items()
    ]
    return "## Consumers\n\n" + _table(("", *names), rows) + "\n"


_ON_PAPER = f"""\
## On paper: {fleet.CALLS:,} calls at once

From *spoken* turns above. Their pace of 60 a second in all spreads the cost of being awake over few turns, so the cores
are an upper bound. Nobody has run it; replicas are counted as so many times the work, and their network is not in it.

%s

Shards are subject prefixes: a set of bridges and runners and one stream have a `UNPOD_SUBJECT_PREFIX` of their own, and
a call stays with its prefix for life. Nothing is shared between them, so the parts add up.
"""


def _fleet(found: dict[str, Any]) -> str:
    return _ON_PAPER % _table(("", "needs", "because"), fleet.needs(found))


def _machine(found: dict[str, Any]) -> str:
    rows = []
    for name, run in sorted(found["runs"].items()):
        about = run["machine"]
        before, after = (", ".join(map(str, each)) for each in (about["load_average"], run["load_average_after"]))
        what = f"{about['cpu']}, {about['cores']} cores, {about['memory_gb']} GB"
        with_ = f"Python {about['python']}, nats-server {about['nats_server']}, websockets {about['websockets']}"
        rows.append((name, about["at"], what, with_, before, after, "quick" if run["quick"] else "full"))
    head = ("section", "at", "machine", "with", "load average before", "after", "run")
    return "## The runs\n\n" + _table(head, rows) + "\n"


def render(found: dict[str, Any]) -> str:
    """Return the page's text."""
    limits = _table(("", *bar.HEAD[1:]), map(bar.cells, bar.limits(found)))
    not_held = "\n".join(f"- {line}" for line in bar.obstacles(found))
    bars = f"## The bar\n\n{limits}\n" + (
        f"\nWhat is in the way of those that are not held:\n\n{not_held}\n" if not_held else ""
    )
    parts = [_HEAD, bars, "![Latency against sessions](performance-latency.png)\n", _HOW]
    sections = {
        "turns": _turns_and_memory,
        "pure": _pure,
        "replay": _replay,
        "dispatch": _dispatch,
        "takeover": _takeover,
        "scale": _scale,
        "consumers": _consumers,
    }
    parts += [section(found) for name, section in sections.items() if name in found]
    if {"turns", "scale"} <= found.keys():
        parts.append(_fleet(found))
    parts.append(_machine(found))
    return "\n".join(parts)


def write(found: dict[str, Any]) -> None:
    """Write page and plots."""
    PAGE.write_text(render(found))
    plots.latency(found, FOLDER / "performance-latency.png")
    if "scale" in found:
        plots.cost(found, FOLDER / "performance-cost.png")


if __name__ == "__main__":
    write(json.loads(DATA.read_text()))
