"""What the consumers can take, and how far they lag behind a thousand calls.

::

    python -m tests.benchmarks.consumers
    python -m tests.benchmarks.consumers --calls 200 --seconds 5 --json

Three figures for each of them. *Projected*: records a second through the codec and the projection alone, in this
process. *Consumed*: records a second of the real process, from a nats-server that has them all, until nothing waits;
traces go to a receiver that throws them away, and count all records, each of which they read. *Lag*: all three run at
once while the records of concurrent calls are written at the pace of speech, a turn of each call every five seconds; it
is sampled from the server, in records that are not acknowledged yet. The metrics and the analytics acknowledge once a
second, so theirs is half a second's records at the median at best; the traces count only what ends a span.
Everything shares this machine's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from statistics import median, quantiles
from typing import Final

from msgspec.structs import replace as with_changes
from tests.integration.consumers.http_server import Quiet, served
from tests.integration.consumers.process import Consumer, consuming
from tests.unit.consumers.records import AGENT, START, SUBJECTS, message

from unpod.core import codec
from unpod.core import events as ev
from unpod.core.commands import EndReply
from unpod.jetstream import JetStreamLog, Nats, connect, open_log
from unpod.jetstream.streams.api import ApiError, call
from unpod.jetstream.streams.topology import MIB, topology
from unpod.ports import Message
from unpod.processes import EmbeddedOptions, EmbeddedServer
from unpod_consumers.analytics import AnalyticsProjection
from unpod_consumers.exporters.parquet import ParquetFiles
from unpod_consumers.metrics import MetricsProjection
from unpod_consumers.projections.traces import CallTrace

NAMES: Final = ("metrics", "traces", "analytics")
TURN_EVERY_S: Final = 5.0
_TURNS: Final = 20
_TICK_S: Final = 0.05
_SAMPLE_S: Final = 0.1
_LOOK_S: Final = 0.005
_AT_ONCE: Final = 64
_LOG_BYTES: Final = 384 * MIB
_PATIENCE_S: Final = 120.0

Figures = dict[str, float]


def started(session: str) -> list[Message]:
    """Return the first record of a call. Placements are left out: their sequences would be the others' epochs."""
    return [message(session, "evt", ev.CallStarted(session_id=session), 1, 0.0)]


def turn(session: str, number: int) -> list[Message]:
    """Return the records of one turn, as bridge and owner write them."""
    told, written, at = 6 * number - 4, 4 * number - 3, number * TURN_EVERY_S
    spoken = ev.ReplySpoken(turn=number, deltas=20, chars=120)
    done = ev.TurnCompleted(
        turn_id=number,
        user_text="I have been waiting for my order for two weeks now",
        agent_text="I am sorry to hear that. " * 4,
        started_at=START + at,
        ended_at=START + at + 2,
        ttfa_ms=450.0 + number,
        asr_ms=120.0,
        llm_ttft_ms=210.0,
        llm_total_ms=700.0,
        tts_ttfb_ms=90.0,
        tokens_in=900,
        tokens_out=40,
        cost=0.0004,
        model="m",
        provider="p",
    )
    model = ev.LLMCalled(turn_id=number, model="m", provider="p", latency_ms=700.0, tokens_in=900, tokens_out=40)
    figures = ev.TurnMetrics(turn_id=number, ttfa_ms=450.0, asr_ms=120.0, llm_ttft_ms=210.0, tts_ttfb_ms=90.0)
    return [
        message(session, "evt", ev.UserText(text="I have been waiting for my order"), told, at),
        message(session, "evt", ev.StateChanged(state="speaking", turn_id=number), told + 1, at + 0.4),
        message(session, "ack", spoken, told + 2, at + 0.4),
        message(session, "run", model, written, at + 0.7),
        message(session, "cmd", EndReply(turn=number), written + 1, at + 0.7, identifier=f"{session}-{number}"),
        message(session, "ack", with_changes(spoken, ended=True), told + 3, at + 1.8),
        message(session, "evt", ev.StateChanged(state="listening", turn_id=number), told + 4, at + 1.9),
        message(session, "evt", figures, told + 5, at + 2),
        message(session, "run", done, written + 2, at + 2),
    ]


def ended(session: str, turns: int) -> list[Message]:
    """Return the last records of a call."""
    told, written, at = 6 * turns + 2, 4 * turns + 1, (turns + 1) * TURN_EVERY_S
    completed = ev.CallCompleted(
        call_id=session,
        agent_id=AGENT,
        runner_id="r",
        reason="hangup",
        started_at=START,
        ended_at=START + at,
        duration_s=at,
        turns=turns,
    )
    return [
        message(session, "evt", ev.CallEnded(reason="hangup"), told, at),
        message(session, "run", completed, written, at),
        message(session, "run", ev.SessionFinished(), written + 1, at),
    ]


def whole_call(session: str, turns: int) -> list[Message]:
    """Return all records of a call."""
    return [*started(session), *(one for n in range(1, turns + 1) for one in turn(session, n)), *ended(session, turns)]


# --- projected --------------------------------------------------------------------------------------------------------


def projected(records: int) -> dict[str, Figures]:
    """Return records a second of each projection alone, calls interleaved as in a log."""
    calls = [whole_call(f"call-{number:06d}", _TURNS) for number in range(max(records // (9 * _TURNS + 4), 1))]
    rows = zip(*calls, strict=True)
    log = [
        Message(one.subject, one.data, one.headers, seq, seq * 1_000_000)
        for seq, one in enumerate((one for row in rows for one in row), 1)
    ]
    with tempfile.TemporaryDirectory() as directory:
        analytics = AnalyticsProjection(SUBJECTS, ParquetFiles(Path(directory)))
        return {
            "metrics": _timed(log, MetricsProjection(SUBJECTS)),
            "traces": _timed(log, _Traces()),
            "analytics": _timed(log, analytics),
        }


class _Traces:
    """What a replica of the traces does to a record, without reading it from the log."""

    def __init__(self) -> None:
        self._calls: dict[str, CallTrace] = {}

    def take(self, one: Message) -> None:
        record = codec.read(SUBJECTS, one.subject, one.headers, one.data, one.seq)
        session = record.envelope.session
        trace = self._calls.get(session)
        if trace is None:
            trace = self._calls[session] = CallTrace(session, AGENT)
        trace.take(record)


def _timed(log: Sequence[Message], projection: MetricsProjection | AnalyticsProjection | _Traces) -> Figures:
    began = time.perf_counter()
    for one in log:
        projection.take(one)
    return {"projected_per_s": round(len(log) / (time.perf_counter() - began))}


# --- consumed, and the lag --------------------------------------------------------------------------------------------


@contextmanager
def sink() -> Iterator[str]:
    """Take whatever is sent, and throw it away."""

    class Handler(Quiet, BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with served(Handler) as port:
        yield f"http://127.0.0.1:{port}"


@asynccontextmanager
async def running(url: str, name: str, directory: Path, endpoint: str) -> AsyncIterator[Consumer]:
    """Run one consumer as a process."""
    arguments = ("--directory", str(directory)) if name == "analytics" else ()
    settings = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{endpoint}/v1/traces"} if name == "traces" else {}
    async with consuming(url, name, *arguments, **settings) as consumer:
        yield consumer


async def write(log: JetStreamLog, calls: Sequence[Sequence[Message]]) -> None:
    """Write the records of calls, those of each in order."""

    async def one_call(messages: Sequence[Message]) -> None:
        for one in messages:
            await log.append(one.subject, one.data, one.headers)

    for first in range(0, len(calls), _AT_ONCE):
        await asyncio.gather(*(one_call(messages) for messages in calls[first : first + _AT_ONCE]))


async def lag_of(nats: Nats, log: JetStreamLog, name: str) -> int | None:
    """Return how many records a consumer has not acknowledged, None before it is there."""
    try:
        found = await call(nats, f"CONSUMER.INFO.{log.spec.name}.unpod-{name}")
    except ApiError:
        return None
    return int(found["num_pending"]) + int(found["num_ack_pending"])


async def _until(nats: Nats, log: JetStreamLog, names: Sequence[str], *, there: bool = False) -> None:
    """Return once nothing waits for the consumers; `there`, once they are there at all."""
    async with asyncio.timeout(_PATIENCE_S):
        for name in names:
            while (lag := await lag_of(nats, log, name)) is None or (lag and not there):  # noqa: ASYNC110 - a process
                await asyncio.sleep(_LOOK_S)


async def consumed(records: int) -> dict[str, Figures]:
    """Return records a second of each consumer's process, over a log that is there already."""
    calls = [whole_call(f"call-{number:06d}", _TURNS) for number in range(max(records // (9 * _TURNS + 4), 1))]
    total = sum(len(messages) for messages in calls)
    figures: dict[str, Figures] = {}
    async with AsyncExitStack() as stack:
        server, directory, endpoint = await _place(stack)
        nats = await stack.enter_async_context(connect(server.connection("bench")))
        log = await open_log(nats, topology(max_bytes=_LOG_BYTES).calls)
        await write(log, calls)
        for name in NAMES:
            async with running(server.url, name, directory / name, endpoint):
                await _until(nats, log, [name], there=True)
                began = time.perf_counter()
                await _until(nats, log, [name])
                figures[name] = {"consumed_per_s": round(total / (time.perf_counter() - began))}
    return figures


async def lagging(calls: int, seconds: float) -> dict[str, Figures]:
    """Return how far each consumer lags while calls go on at the pace of speech, all consumers at once."""
    samples: dict[str, list[int]] = {name: [] for name in NAMES}
    names = [f"live-{number:06d}" for number in range(calls)]
    async with AsyncExitStack() as stack:
        server, directory, endpoint = await _place(stack)
        nats = await stack.enter_async_context(connect(server.connection("bench")))
        log = await open_log(nats, topology(max_bytes=_LOG_BYTES).calls)
        for name in NAMES:
            await stack.enter_async_context(running(server.url, name, directory / name, endpoint))
        await write(log, [started(name) for name in names])
        await _until(nats, log, NAMES)
        sampling = asyncio.create_task(_sample(nats, log, samples))
        rate = await _pace(log, names, seconds)
        over = time.perf_counter()
        await _until(nats, log, NAMES)
        caught_up_s = time.perf_counter() - over
        sampling.cancel()
        await asyncio.wait({sampling})
    return {
        name: {
            "records_per_s": round(rate),
            "lag_p50_records": round(median(found)),
            "lag_p99_records": round(quantiles(found, n=100)[98]),
            "lag_p50_s": round(median(found) / rate, 2),
            "lag_p99_s": round(quantiles(found, n=100)[98] / rate, 2),
            "all_caught_up_s": round(caught_up_s, 2),
        }
        for name, found in samples.items()
    }


async def _pace(log: JetStreamLog, names: Sequence[str], seconds: float) -> float:
    """Write a turn of each call every few seconds, calls spread evenly; return how many records a second came out."""
    loop = asyncio.get_running_loop()
    began, written, due = loop.time(), 0, 0.0
    numbers = dict.fromkeys(names, 0)
    place = 0
    while (now := loop.time()) < began + seconds:
        due = (now - began) * len(names) / TURN_EVERY_S
        batch: list[list[Message]] = []
        while place < due:
            name = names[place % len(names)]
            numbers[name] += 1
            batch.append(turn(name, numbers[name]))
            place += 1
        await write(log, batch)
        written += sum(len(messages) for messages in batch)
        await asyncio.sleep(max(_TICK_S - (loop.time() - now), 0))
    return written / (loop.time() - began)


async def _sample(nats: Nats, log: JetStreamLog, samples: dict[str, list[int]]) -> None:
    while True:
        for name, found in samples.items():
            found.append(await lag_of(nats, log, name) or 0)
        await asyncio.sleep(_SAMPLE_S)


async def _place(stack: AsyncExitStack) -> tuple[EmbeddedServer, Path, str]:
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    endpoint = stack.enter_context(sink())
    server = await stack.enter_async_context(EmbeddedServer(EmbeddedOptions(directory / "nats")))
    return server, directory, endpoint


# --- the report -------------------------------------------------------------------------------------------------------


async def bench(records: int, calls: int, seconds: float) -> dict[str, Figures]:
    """Return all figures by consumer."""
    parts = [projected(records), await consumed(records), await lagging(calls, seconds)]
    return {name: {figure: value for part in parts for figure, value in part[name].items()} for name in NAMES}


def table(results: dict[str, Figures]) -> str:
    """Return the figures as text."""
    lines = [f"{'':10} {'projected':>12} {'consumed':>12} {'lag p50':>16} {'lag p99':>16}"]
    for name, found in results.items():
        lag = [f"{found[f'lag_{at}_records']:g} ({found[f'lag_{at}_s']:g} s)" for at in ("p50", "p99")]
        rates = [f"{found[f'{kind}_per_s']:,.0f}/s" for kind in ("projected", "consumed")]
        lines.append(f"{name:10} {rates[0]:>12} {rates[1]:>12} {lag[0]:>16} {lag[1]:>16}")
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark, and print what came out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--records", type=int, default=50_000, help="records in the log (default: %(default)s)")
    parser.add_argument("--calls", type=int, default=1_000, help="concurrent calls (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long they go on (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    options = parser.parse_args()
    results = asyncio.run(bench(options.records, options.calls, options.seconds))
    if options.json:
        sys.stdout.write(json.dumps(results) + "\n")
        return
    rate = results["metrics"]["records_per_s"]
    head = (
        f"{options.records:,} records; then {options.calls:,} calls, {rate:,.0f} records/s, for {options.seconds:g} s"
    )
    sys.stdout.write(f"{head}\n\n{table(results)}\n")


if __name__ == "__main__":
    main()
