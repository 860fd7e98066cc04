"""Who is measured: an agent on unpod, and the same brain behind a bare WebSocket client.

::

    python -m tests.benchmarks.peers direct ws://127.0.0.1:9000
    UNPOD_NATS_URL=... python -m tests.benchmarks.peers unpod
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator
from typing import Final

import uvloop
from websockets.asyncio.client import ClientConnection, connect

from unpod import AgentRunner, CallContext

DELTAS: Final = 20
PIECES: Final = tuple(f"word {number} " for number in range(DELTAS))
REPLY: Final = "".join(PIECES)
DELTA_S: Final = 0.02

STREAM: Final = "stream"
"""A text: the reply's pieces come one after the other, other calls have their turn between them."""
BURST: Final = "burst"
"""A text: all pieces are there at once, as when a provider's packet holds many."""
SPOKEN: Final = "spoken"
"""A text: a piece each 20 ms, as a model writes them."""
BORN: Final = "born"
"""A text: the reply is when the entrypoint began, on the machine's monotonic clock."""

_EVENTS: Final = ("user.text", "user.interrupted", "error", "metric", "turn.metrics", "state", "call.started")
_VERBS: Final = ("agent.text.delta", "agent.text.end", "agent.say", "agent.transfer", "agent.end_call")


class Brain:
    """Answers with `DELTAS` pieces, in the manner that the text asks for."""

    def __init__(self) -> None:
        self._born = time.perf_counter()

    async def stream(self, text: str) -> AsyncGenerator[str, None]:
        """Yield the reply."""
        if text == BORN:
            yield repr(self._born)
            return
        for piece in PIECES:
            if text == STREAM:
                await asyncio.sleep(0)
            elif text == SPOKEN:
                await asyncio.sleep(DELTA_S)
            yield piece

    async def turn(self, _: str) -> str:
        """Return the reply."""
        return REPLY

    def assist(self, _: str) -> None:
        """Take no notice."""


# --------------------------------------------------------------------------------------------------------------- unpod


async def handle_call(ctx: CallContext) -> None:
    """Run one call."""
    ctx.session.dialog_machine = Brain()
    await ctx.session.run()


def run_unpod() -> None:
    """Run the agent, in the fleet that the environment names."""
    AgentRunner(
        handle_call, "unpod", max_sessions=20_000, permits_per_minute=None, drain_timeout_s=2, silence_timeout_s=None
    ).start()


# -------------------------------------------------------------------------------------------------------------- direct


async def run_direct(url: str) -> None:
    """Hold the calls' sockets in this process, with no broker between: nothing is recorded, nothing survives."""
    calls: set[asyncio.Task[None]] = set()
    async with connect(f"{url}/v1/internal/workers", compression=None) as control:
        await control.send(json.dumps({"type": "register", "worker_id": "direct#1", "pool": "direct"}))
        async for message in control:
            frame = json.loads(message)
            if frame["type"] == "job.assign":
                ack = {"type": "job.ack", "job_id": frame["job_id"], "assign_id": frame["assign_id"], "accepted": True}
                await control.send(json.dumps(ack))
                task = asyncio.create_task(answer(f"{frame['bridge_url']}?token={frame['call_token']}"))
                calls.add(task)
                task.add_done_callback(calls.discard)


async def answer(url: str) -> None:
    """Answer the texts of one call."""
    brain = Brain()
    async with connect(url, compression=None) as call:
        await send(call, event="hello", protocol_version=2, supported_events=_EVENTS, supported_verbs=_VERBS)
        async for message in call:
            frame = json.loads(message)
            if frame["event"] == "user.text" and frame["is_final"]:
                async for piece in brain.stream(frame["text"]):
                    await send(call, event="agent.text.delta", text=piece)
                await send(call, event="agent.text.end")


async def send(call: ClientConnection, **frame: object) -> None:
    """Send one frame."""
    await call.send(json.dumps(frame))


if __name__ == "__main__":
    if sys.argv[1] == "direct":
        uvloop.run(run_direct(sys.argv[2]))
    else:
        run_unpod()
