"""Recording calls for posterity: what this version writes must be readable by every later one.

`python -m tests.histories.recorder DIRECTORY` records the calls below, each into `<name>.jsonl` (a record per line, as
it stands in the log) and `<name>.expected.json` (what a fold must make of it). A released version's files are never
written again: a new version has a new directory.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from unpod import CallContext, LLMCall, ToolCall, ToolResult
from unpod.adapters import Piece, Rule
from unpod.core import codec
from unpod.core.codec import Record
from unpod.core.controls import (
    EndSession,
    HandBack,
    InterruptAgent,
    PauseAgent,
    PauseSessionRecording,
    ResumeAgent,
    ResumeSessionRecording,
    SaySomething,
    TakeOver,
    TransferSession,
    Whisper,
)
from unpod.core.metrics import snapshot
from unpod.core.replay.ordering import merge
from unpod.core.state import SessionState, fold
from unpod.core.subjects import Subjects
from unpod.ports import Message
from unpod.testing import ScriptedAdapter, SimulatedCall, simulate_call


class Line(Struct):
    """One record, as it stands in the log."""

    subject: str
    headers: dict[str, str]
    data: str
    seq: int


def read_history(path: Path) -> list[Record]:
    """Return the records of a call, in merged order."""
    subjects = Subjects()
    lines = [msgspec.json.decode(line, type=Line) for line in path.read_bytes().splitlines()]
    return merge(codec.read(subjects, at.subject, at.headers, at.data.encode(), at.seq) for at in lines)


def essence(state: SessionState) -> dict[str, object]:
    """Return what must not change about a call that is over, whoever reads it."""
    essentials = msgspec.json.encode(
        {
            "session_id": state.session_id,
            "runner_id": state.runner_id,
            "indexes": [state.bridge_index, state.owner_index],
            "takeovers": state.takeovers,
            "negotiated": sorted(state.negotiated),
            "turn_count": state.turn_count,
            "interruptions": state.interruptions,
            # `tools` is filled in for developers only, and never in the fold
            "history": [
                {name: value for name, value in msgspec.structs.asdict(exchange).items() if name != "tools"}
                for exchange in state.history
            ],
            "paused": state.paused,
            "ending": state.ending,
            "ended": state.ended,
            "flags": [state.ending == "transferred", state.failed, state.completed, state.finished],
            "open": [state.turn is not None, len(state.queue)],
            "metrics": snapshot(state.metrics, state.duration_s(state.ended_at)),
        }
    )
    return msgspec.json.decode(essentials, type=dict[str, object])


# --- the calls --------------------------------------------------------------------------------------------------------


async def answer(ctx: CallContext) -> None:
    """Greet, look orders up, charge cards off the record, and say goodbye."""
    session = ctx.session
    found: list[Piece] = [
        ToolCall("lookup", {"order": 7}, "t1"),
        ToolResult("lookup", {"state": "sent"}, "t1"),
        LLMCall(model="gpt", provider="acme", latency_ms=120.0, tokens_in=100, tokens_out=20, cost=0.25),
        "It was sent on Monday, by the way.",
    ]
    rules = [Rule("order", found), Rule("card", "Thank you."), Rule("bye", "Goodbye.", closing=True)]
    session.dialog_machine = ScriptedAdapter(rules, fallback="Yes?")

    @session.on("user_turn")
    async def off_the_record(text: str) -> None:
        if "card" in text:
            await session.recording.pause("PII")
        elif session.recording.paused:
            await session.recording.resume()
        if "nobody" in text:
            raise LookupError("nobody of that name")

    await session.say("Hello!")
    await session.set_filler("One moment.")
    session.data["reason"] = await session.run()


async def conversation(call: SimulatedCall) -> None:
    """Let a caller do all that callers do."""
    await call.partial("where is")
    await call.user("where is my order?", language="en")
    await call.frame("state", state="speaking", turn_id=1)
    await call.frame("turn.metrics", turn_id=1, ttfa_ms=400.0, asr_ms=100.0, tts_ttfb_ms=60.0, llm_total_ms=300.0)
    await call.barge_in("It was sent")
    await call.frame("state", state="listening", turn_id=1)
    await call.advance(11)
    await call.user("I want to pay by card")
    await call.advance(1)
    await call.user("4111 1111 1111 1111")
    await call.advance(1)
    await call.user("is nobody there?")
    await call.frame("metric", ttfa_ms=390, turns=4, cost_usd_so_far=0.05, region="eu")
    await call.frame("error", severity="warn", source="tts", code="slow", message="synthesis was slow")
    await call.frame("user.emotion", mood="good")
    await call.barge_in()
    await call.user("bye", wait=False)
    await call.ended()


async def takeover(call: SimulatedCall) -> None:
    """Let two runners die, one between turns and one in mid-reply."""
    await call.user("hello?")
    await call.advance(1)
    await call.crash()
    await call.user("where is my order?", wait=False)
    await call.crash()
    await call.reply()
    await call.advance(1)
    await call.hang_up()


async def supervised(call: SimulatedCall) -> None:
    """Let a supervisor whisper, pause, take the call over and hand it back, and end it, and a runner die meanwhile."""
    await call.user("hello?")
    await call.control(Whisper(actor="ann", text="offer the refund"))
    await call.control(PauseAgent(actor="ann"))
    await call.user("are you there?")
    await call.control(ResumeAgent(actor="ann"))
    await call.control(TakeOver(actor="ann", reason="angry caller"))
    await call.control(TakeOver(actor="bob"))
    await call.control(SaySomething(actor="ann", text="This is Ann."))
    await call.user("at last")
    await call.crash()
    await call.control(HandBack(actor="ann"))
    await call.control(PauseSessionRecording(actor="ann", reason="PII"))
    await call.user("4111 1111 1111 1111")
    await call.control(ResumeSessionRecording(actor="ann"))
    await call.user("where is my order?", wait=False)
    await call.control(InterruptAgent(actor="ann"))
    await call.control(TransferSession(actor="ann", to_type="sip", to_config={"number": "+15551230000"}, mode="warm"))
    await call.control(EndSession(actor="ann", reason="enough"))
    await call.ended()


CALLS: dict[str, Callable[[SimulatedCall], Awaitable[None]]] = {
    "conversation": conversation,
    "supervised": supervised,
    "takeover": takeover,
}


def record(name: str, directory: Path) -> Path:
    """Record one of the calls and return where it stands."""
    messages = asyncio.run(_played(name))
    lines = [Line(m.subject, dict(m.headers), m.data.decode(), m.seq) for m in messages]
    path = directory / f"{name}.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    expected = msgspec.json.encode(essence(fold(read_history(path))), order="sorted")
    path.with_suffix(".expected.json").write_bytes(msgspec.json.format(expected) + b"\n")
    return path


async def _played(name: str) -> list[Message]:
    async with simulate_call(answer, agent_id="agt_1", session_id=f"history-{name}") as call:
        await CALLS[name](call)
    return call.line.log.broker.records


def main(directory: Path) -> None:
    """Record all the calls."""
    directory.mkdir()
    for name in CALLS:
        record(name, directory)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
