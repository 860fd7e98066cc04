"""What the hot paths do, counted and not timed: it is the same on every machine.

::

    python -m tests.benchmarks.hot_paths            # what they do now, beside what is recorded
    python -m tests.benchmarks.hot_paths --record   # this is what they shall do, for this version of Python
    python -m tests.benchmarks.hot_paths --profile turn

Counted are Python's instructions (bytecode) in the code of unpod, the calls of its functions (going on in a coroutine
or a generator counts as one), and the calls of C functions from there; not what the libraries, the tests' own caller
and their log in memory do. Each path runs once before it counts, so what is remembered
is warm. The system's time is in neither: a second write to a socket shows as one more call.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import inspect
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, Final

from tests.benchmarks import whole_runner
from tests.benchmarks.whole_bridge import carried
from tests.unit.bridge.wires import Wire
from tests.unit.core.call_log import CallLog

import unpod
import unpod_bridge
from unpod import CallContext
from unpod.core import codec
from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.decide import decide, follow_up
from unpod.core.decision import Settings
from unpod.core.envelope import to_headers
from unpod.core.headers import msg_id_of
from unpod.core.state import SessionState, evolve
from unpod.core.subjects import Subjects
from unpod.core.timers import due
from unpod.errors import LogError
from unpod.jetstream.connection.wire import Framing, decode_headers, encode_headers, encode_publish, fenced
from unpod.jetstream.log.writer import EncodedRecord, OrderedWriter
from unpod.ports import Fence, Stored
from unpod.testing import simulate_call

BASELINE: Final = Path(__file__).with_name("hot_paths.json")
VERSION: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
RUNTIME: Final = Path(unpod.__file__).parent
BRIDGE: Final = Path(unpod_bridge.__file__).parent
TURNS: Final = 20

Figures = dict[str, float]
Step = Callable[[], Awaitable[None]]


# ------------------------------------------------------------------------------------------------------------- counting


@cache
def _is_ours(file: str) -> bool:
    return Path(file).is_relative_to(BRIDGE) or (
        Path(file).is_relative_to(RUNTIME) and not Path(file).is_relative_to(RUNTIME / "testing")
    )


class Count:
    """Counts what runs between `begin` and `end`; `where` has the instructions by function."""

    def __init__(self) -> None:
        self.instructions = 0
        self.calls = 0
        self.c_calls = 0
        self.where: Counter[str] = Counter()

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:  # noqa: ANN401 - as `sys.settrace` has it
        if not _is_ours(frame.f_code.co_filename):
            return None
        if event == "call":
            self.calls += 1
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode":
            self.instructions += 1
            self.where[f"{frame.f_code.co_filename}:{frame.f_code.co_name}"] += 1
        return self._trace

    def _profile(self, frame: FrameType, event: str, _: Any) -> None:  # noqa: ANN401 - as `sys.setprofile` has it
        if event == "c_call" and _is_ours(frame.f_code.co_filename):
            self.c_calls += 1

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what the body does."""
        gc.collect()
        gc.disable()
        inspect.stack(0)[0].frame.f_trace_opcodes = True  # Python 3.12 counts none before some frame wants it
        sys.setprofile(self._profile)
        sys.settrace(self._trace)
        try:
            yield
        finally:
            sys.settrace(None)
            sys.setprofile(None)
            gc.enable()


# ---------------------------------------------------------------------------------------------------------------- paths


def call_log() -> CallLog:
    """Return a call of `TURNS` turns, as its log has it."""
    call = CallLog()
    for turn in range(1, TURNS + 1):
        call.now += 5.0
        call.bridge(ev.UserText(text="What is it?"))
        call.owner(cmd.EndReply(turn=turn, deltas=2, chars=140))
        call.bridge(ev.ReplySpoken(turn=turn, deltas=2, chars=140, ended=True))
        call.bridge(ev.TurnMetrics(turn_id=turn, asr_ms=1.0, tts_ttfb_ms=1.0))
        call.owner(ev.TurnCompleted(turn_id=turn, user_text="What is it?", agent_text="It is so. " * 14))
    return call


@asynccontextmanager
async def fold() -> AsyncIterator[Step]:
    """A call's records through the fold."""
    records = call_log().records

    async def step() -> None:
        state = SessionState()
        for record in records:
            state = evolve(state, record)
        assert len(state.history) == TURNS

    yield step


@asynccontextmanager
async def encoding() -> AsyncIterator[Step]:
    """A call's records, made into what is published."""
    records = call_log().records

    async def step() -> None:
        for record in records:
            block = encode_headers(to_headers(record.envelope))
            encode_publish("unpod.call.agent.s1.evt.user.text", "_INBOX.1.2", block, codec.encode(record.body))

    yield step


@asynccontextmanager
async def decoding() -> AsyncIterator[Step]:
    """A call's records, read from the bytes that the socket has received."""
    subjects, read = Subjects(), list[codec.Record]()
    call, received = subjects.call("agent", "s1"), b""
    for record in call_log().records:
        tag = record.envelope.type.partition(".")[2]
        named = {"evt": call.evt, "run": call.run}.get(record.channel)
        subject = getattr(call, record.channel) if named is None else named(tag)
        placed = Fence(call.line if record.channel in codec.BRIDGE_CHANNELS else call.own, record.envelope.epoch)
        block = fenced(encode_headers(to_headers(record.envelope)), subject, placed)
        data = codec.encode(record.body)
        received += b"HMSG %b 1 %d %d\r\n" % (subject.encode(), len(block), len(block) + len(data))
        received += block + data + b"\r\n"

    def on_message(_: int, subject: bytes, __: bytes, block: bytes, data: bytes) -> None:
        read.append(codec.read(subjects, subject.decode(), decode_headers(block), data))

    framing = Framing(on_message)

    async def step() -> None:
        read.clear()
        framing.feed(received)
        assert len(read) == 2 + 5 * TURNS

    yield step


@asynccontextmanager
async def deciding() -> AsyncIterator[Step]:
    """A call's records, and what the session decides on each."""
    records, settings = call_log().records, Settings()

    async def step() -> None:
        state = SessionState()
        for record in records:
            state = evolve(state, record)
            decide(state, record, record.envelope.time, settings)
            follow_up(state, record.envelope.time, settings)
            due(state, settings)

    yield step


@asynccontextmanager
async def protocol() -> AsyncIterator[Step]:
    """`TURNS` turns through the bridge's state machine: frames and pieces of speech in, frames and records out."""
    wire = Wire().up()
    turn = 0

    async def step() -> None:
        nonlocal turn
        for _ in range(TURNS):
            turn += 1
            wire.says("user.text", text="What is it?")
            wire.speaks(turn, 1, "It ")
            wire.speaks(turn, 2, "is so.")
            wire.ends(turn, 2)
            wire.flush()
            wire.pong()
            wire.says("turn.metrics", turn_id=turn, asr_ms=1.0)
            wire.out.clear()

    yield step


@asynccontextmanager
async def bridge() -> AsyncIterator[Step]:
    """`TURNS` turns through the whole bridge, from the call socket's bytes to NATS's and back."""
    async with carried() as scene:

        async def step() -> None:
            for _ in range(TURNS):
                await scene.turn()

        yield step


class _Log:
    """Takes every record, and acknowledges it at once."""

    up = True

    def __init__(self) -> None:
        self.stored = 0

    def encode(self, subject: str, data: bytes, headers: Any, fence: Fence | None) -> EncodedRecord:  # noqa: ANN401
        """Return the record."""
        return EncodedRecord(subject, data, encode_headers(headers), len(data), msg_id_of(headers), fence)

    def transmit(
        self, _: EncodedRecord, __: float, answer: Callable[[Stored | LogError], None], /
    ) -> Callable[[], None]:
        """Acknowledge it."""
        self.stored += 1
        asyncio.get_running_loop().call_soon(answer, Stored(self.stored))
        return lambda: None

    async def find(self, _: EncodedRecord) -> Stored | None:
        """Return nothing."""
        return None

    async def holds(self, _: EncodedRecord, __: int) -> bool:
        """Say yes."""
        return True

    def when_up(self, _: Callable[[], None]) -> Callable[[], None]:
        """Never call back."""
        return lambda: None


@asynccontextmanager
async def writing() -> AsyncIterator[Step]:
    """A call's records through its ordered writer."""
    log, records = _Log(), call_log().records
    writer = OrderedWriter(log)

    async def step() -> None:
        for record in records:
            writer.put("unpod.call.agent.s1.cmd", b"{}", to_headers(record.envelope))
        await writer.flush()

    yield step
    await writer.close()


async def _brain(_: str) -> AsyncIterator[str]:
    for word in ("It ", "is ", "what ", "it ", "is."):
        await asyncio.sleep(0)
        yield word


async def _agent(ctx: CallContext) -> None:
    ctx.session.dialog_machine = _brain
    await ctx.session.run()


@asynccontextmanager
async def turn() -> AsyncIterator[Step]:
    """`TURNS` turns through a whole session, in memory."""
    number = 0
    async with simulate_call(_agent) as call:

        async def step() -> None:
            nonlocal number
            for _ in range(TURNS):
                number += 1
                assert await call.user("What is it?") == "It is what it is."
                await call.frame("turn.metrics", turn_id=number, asr_ms=1.0)

        yield step


@asynccontextmanager
async def runner() -> AsyncIterator[Step]:
    """`TURNS` turns through the whole runner, from NATS's bytes to NATS's bytes."""
    async with whole_runner.carried(_agent) as scene:

        async def step() -> None:
            for _ in range(TURNS):
                await scene.turn()

        yield step


@asynccontextmanager
async def takeover() -> AsyncIterator[Step]:
    """A call of two turns, taken over by another runner: from its start message to the present."""
    async with whole_runner.carried(_agent) as scene:
        await scene.turn()
        await scene.turn()
        past = scene.moved()

    async def step() -> None:
        async with whole_runner.carried(_agent, past):
            pass

    yield step


RECORDS: Final = 2 + 5 * TURNS
PATHS: Final[dict[str, tuple[Callable[[], Any], int]]] = {
    "fold": (fold, RECORDS),
    "encoding": (encoding, RECORDS),
    "decoding": (decoding, RECORDS),
    "deciding": (deciding, RECORDS),
    "relay": (protocol, TURNS),
    "bridge": (bridge, TURNS),
    "writing": (writing, RECORDS),
    "turn": (turn, TURNS),
    "runner": (runner, TURNS),
    "takeover": (takeover, 1),
}
"""Each path, and of how many records or turns its figures are the mean."""


async def count(name: str) -> Count:
    """Return what one path does."""
    path, _ = PATHS[name]
    counted = Count()
    async with path() as step:
        await step()
        with counted.counting():
            await step()
    return counted


def measure() -> dict[str, Figures]:
    """Return the figures of all paths, per record or turn."""
    found: dict[str, Figures] = {}
    for name, (_, parts) in PATHS.items():
        counted = asyncio.run(count(name))
        found[name] = {
            "instructions": round(counted.instructions / parts, 1),
            "calls": round(counted.calls / parts, 1),
            "c_calls": round(counted.c_calls / parts, 1),
        }
    return found


def recorded() -> dict[str, dict[str, Figures]]:
    """Return the baseline: by version of Python, then by path."""
    found: dict[str, dict[str, Figures]] = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    return found


def main() -> None:
    """Print what the paths do, or record it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--record", action="store_true", help=f"write it to {BASELINE.name}")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument("--profile", choices=PATHS, help="print where one path's instructions are")
    options = parser.parse_args()
    if options.profile:
        for where, times in asyncio.run(count(options.profile)).where.most_common(40):
            sys.stdout.write(f"{times / PATHS[options.profile][1]:>9.1f}  {where}\n")
        return
    found, before = measure(), recorded()
    if options.json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    for name, figures in found.items():
        for kind, now in figures.items():
            former = before.get(VERSION, {}).get(name, {}).get(kind)
            change = "" if not former else f"  recorded {former:>8.1f}  {now / former - 1:+.1%}"
            sys.stdout.write(f"{name:<10}{kind:<14}{now:>9.1f}{change}\n")
    if options.record:
        BASELINE.write_text(json.dumps({**before, VERSION: found}, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
