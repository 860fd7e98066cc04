"""The agent of the fault tests, a process of its own: `python -m tests.faults.agent`, told what to do by its callers.

What it does beside the call (a charge, a clean-up, a hook that has run) it notes in the file `UNPOD_FAULTS_NOTES`, one
line each: that is the world outside, which no replay can take back.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import cast

from tests.faults.words import WORDS, Question, question

from unpod import AgentRunner, CallContext, Session, event_loop
from unpod.adapters.pieces import Piece, ToolCall
from unpod.adapters.scripted import ScriptedAdapter
from unpod.adapters.tools import THREADS as TOOL_THREADS
from unpod.adapters.tools import Tool, ToolSet
from unpod.core.replay.resume import OnResume
from unpod.core.subjects import Subjects
from unpod.jetstream import connect, nats_options, open_log, topology

BURN_S = float(os.environ.get("UNPOD_FAULTS_BURN_S", "1"))
FLOOD = int(os.environ.get("UNPOD_FAULTS_FLOOD", "300"))
POURED, POURED_CHARS = 200, 60_000
SPAM_CHARS = 4_000
HUGE = 10 * 1024 * 1024
LENGTH = int(os.environ.get("UNPOD_FAULTS_WORDS", str(WORDS)))
PIECE_S = float(os.environ.get("UNPOD_FAULTS_PIECE_S", "0.01"))
REPLY_TIMEOUT_S = float(os.environ.get("UNPOD_FAULTS_REPLY_TIMEOUT_S", "1"))
POLICY = cast("OnResume", os.environ.get("UNPOD_FAULTS_ON_RESUME", "continue"))
VERSION = os.environ.get("UNPOD_FAULTS_VERSION", "1")


def note(what: str, **fields: object) -> None:
    """Tell the world; a line of this size is written whole."""
    line = json.dumps({"what": what, "pid": os.getpid(), "at": time.monotonic(), **fields}) + "\n"
    handle = os.open(os.environ["UNPOD_FAULTS_NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)


class Brain(ScriptedAdapter):
    """Answers each question with its numbered words, or as badly as it is told to."""

    def __init__(self) -> None:
        super().__init__([], fallback=_answer, piece_delay_s=PIECE_S)

    async def stream(self, text: str) -> AsyncGenerator[Piece, None]:
        """Yield the answer."""
        orders = _asked(text).orders
        if "mute" in orders:
            return
        async for piece in super().stream(text):
            yield piece
            if "broken" in orders:
                raise RuntimeError("the brain is broken")
            if "stuck" in orders:
                await asyncio.Event().wait()
            if "huge" in orders:
                yield "x" * HUGE + " "


def _answer(text: str) -> str:
    asked = _asked(text)
    return asked.answer(WORDS if "brief" in asked.orders else LENGTH)


def _asked(text: str) -> Question:
    return question(text) or Question(0, 0)


Act = Callable[[Session, Question], Awaitable[None]]


async def _say(session: Session, asked: Question) -> None:
    await session.say(f"noted {asked.name}")


async def _step(session: Session, asked: Question) -> None:
    def charge(*, idempotency_key: str = "") -> str:
        note("charge", session=session.session_id, turn=asked.name, key=idempotency_key)
        return idempotency_key[:8]

    await session.say(f"charged {asked.name} {await session.step('charge', charge)}")


async def _count(session: Session, asked: Question) -> None:
    await session.say(f"counted {asked.name} {session.data['turns']}")


async def _stall(session: Session, asked: Question) -> None:
    """Whoever comes here first goes no further."""
    with Path(os.environ["UNPOD_FAULTS_NOTES"]).open(encoding="utf-8") as notes:  # noqa: ASYNC230 - a short one
        earlier = [note for note in map(json.loads, notes) if note["what"] == "stall" and note["turn"] == asked.name]
    note("stall", session=session.session_id, turn=asked.name)
    if not earlier:
        await asyncio.Event().wait()


async def _twice(session: Session, asked: Question) -> None:
    await session.say(f"first half {asked.name}")
    await asyncio.sleep(0.1)
    await session.say(f"second half {asked.name}")


async def _doom(session: Session, _: Question) -> None:
    session.data["doomed"] = True


async def _hang(_: Session, __: Question) -> None:
    await asyncio.Event().wait()


async def _threads(session: Session, asked: Question) -> None:
    """Hang in more threads than there are, by tools and by hand."""
    for _ in range(event_loop.THREADS + 10):
        _ = asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)
    tools = ToolSet([Tool(lambda: threading.Event().wait(), name="hang", timeout_s=0.2)])
    calls = [ToolCall("hang", {}, str(number)) for number in range(TOOL_THREADS + 10)]
    results = await asyncio.gather(*map(tools.call, calls))
    told = sum("TimeoutError" in str(result.result) for result in results)
    note("threads", session=session.session_id, turn=asked.name, told=told, of=len(calls))


async def _raise(_: Session, asked: Question) -> None:
    raise RuntimeError(f"this hook always raises: {asked.name}")


async def _burn(_: Session, __: Question) -> None:
    until = time.monotonic() + BURN_S
    while time.monotonic() < until:
        pass


async def _flood(session: Session, asked: Question) -> None:
    for number in range(FLOOD):
        await session.say(f"flood {asked.name} {number}")


async def _pour(session: Session, asked: Question) -> None:
    for number in range(POURED):
        await session.say(f"poured {asked.name} {number} ".ljust(POURED_CHARS, "x"))
        await asyncio.sleep(0.005)


async def _spam(session: Session, asked: Question) -> None:
    """Flood beside the call, where no hook's time ends it, until the caller has had enough."""

    async def spam() -> None:
        number = 0
        while not session.data.get("enough"):
            number += 1
            await session.say(f"spam {asked.name} {number} ".ljust(SPAM_CHARS, "x"))

    _ = session.spawn("spam", spam())


async def _enough(session: Session, _: Question) -> None:
    session.data["enough"] = True


async def _litter(session: Session, __: Question) -> None:
    """Write what nobody has asked for into the call's part of the log, past the runtime, as long as there is a call."""

    async def litter() -> None:
        options = nats_options(os.environ)
        assert options is not None
        subject = Subjects().call("agent", session.session_id).run("litter")
        async with connect(options) as nats:
            log = await open_log(nats, topology().calls)
            while True:
                await log.append(subject, b"x" * SPAM_CHARS, {})

    _ = session.spawn("litter", litter())


async def _kill(_: Session, __: Question) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def _exit(_: Session, __: Question) -> None:
    os._exit(1)


async def _transfer(session: Session, asked: Question) -> None:
    await session.transfer(f"queue-{asked.name}", transfer_type="human", mode="warm")


async def _refer(session: Session, _: Question) -> None:
    await session.transfer("nobody's number")


async def _pause(session: Session, _: Question) -> None:
    await session.recording.pause("card number")


async def _resume(session: Session, _: Question) -> None:
    await session.recording.resume()


async def _end(session: Session, _: Question) -> None:
    await session.end("done")


ORDERS: dict[str, Act] = {
    "say": _say, "count": _count, "step": _step, "stall": _stall, "hang": _hang, "raise": _raise, "burn": _burn,
    "flood": _flood, "pour": _pour, "kill": _kill, "exit": _exit, "transfer": _transfer, "pause": _pause,
    "resume": _resume, "end": _end, "twice": _twice, "doom": _doom, "threads": _threads, "refer": _refer,
    "spam": _spam, "enough": _enough, "litter": _litter,
}  # fmt: skip


async def handle(ctx: CallContext) -> None:
    """One call."""
    session = ctx.session
    note("begun", session=session.session_id, replaying=session.replaying)
    session.dialog_machine = Brain()
    session.on_resume = POLICY
    session._driver.set(reply_timeout_s=REPLY_TIMEOUT_S)

    @session.on("user_turn")
    async def obey(text: str) -> None:
        session.data["turns"] = _number(session.data.get("turns")) + 1
        asked = _asked(text)
        note("turn", session=session.session_id, turn=asked.name, replaying=session.replaying)
        if VERSION == "2":
            await session.say(f"version 2 notes {asked.name}")
        for order, act in ORDERS.items():
            if order in asked.orders:
                await act(session, asked)

    @session.on("error")
    def failed(code: str, message: str, severity: str, source: str) -> None:
        note("error", session=session.session_id, code=code, severity=severity, source=source, length=len(message))

    await session.say(f"welcome {session.session_id}")
    if VERSION == "2":
        await session.say(f"version 2 welcomes {session.session_id}")
    reason = await session.run()
    note("over", session=session.session_id, reason=reason)
    await session.step("bill", note, "bill", session=session.session_id)
    if session.data.get("doomed"):
        os.kill(os.getpid(), signal.SIGKILL)
    note("cleaned", session=session.session_id)


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def main() -> None:
    """Run the agent until a signal ends it."""
    runner = AgentRunner(
        handle,
        os.environ.get("UNPOD_FAULTS_AGENT", "agent"),
        max_sessions=int(os.environ.get("UNPOD_FAULTS_CAPACITY", "60")),
        permits_per_minute=None,
        drain_timeout_s=float(os.environ.get("UNPOD_FAULTS_DRAIN_S", "60")),
        silence_timeout_s=None,
        hook_timeout_s=1.0,
        on_adapter_error=None,  # each reply is known by its words
    )
    sys.stdout.write(f"{runner.runner_id} is here\n")
    sys.stdout.flush()
    runner.start()


if __name__ == "__main__":
    main()
