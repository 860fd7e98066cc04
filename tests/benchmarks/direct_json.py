"""The least that one can do on a bare socket: `json`, and no turn that could be interrupted; no SDK does only that.

It stands beside *direct* on the page, outside the bar: what `websockets` alone costs.

::

    python -m tests.benchmarks.direct_json ws://127.0.0.1:9000
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from typing import Final

import uvloop
from tests.benchmarks.brain import Brain
from websockets.asyncio.client import ClientConnection, connect

_EVENTS: Final = ("user.text", "user.interrupted", "error", "metric", "turn.metrics", "state", "call.started")
_VERBS: Final = ("agent.text.delta", "agent.text.end", "agent.say", "agent.transfer", "agent.end_call")


async def work(url: str, pool: str, answer: Callable[[str, str], Coroutine[None, None, None]]) -> None:
    """Take jobs for a pool until the control socket is gone; `answer` gets each call's URL and the job's id."""
    calls: set[asyncio.Task[None]] = set()
    async with connect(f"{url}/v1/internal/workers", compression=None) as control:
        await control.send(json.dumps({"type": "register", "worker_id": f"{pool}#1", "pool": pool}))
        async for message in control:
            frame = json.loads(message)
            if frame["type"] == "job.assign":
                ack = {"type": "job.ack", "job_id": frame["job_id"], "assign_id": frame["assign_id"], "accepted": True}
                await control.send(json.dumps(ack))
                task = asyncio.create_task(
                    answer(f"{frame['bridge_url']}?token={frame['call_token']}", frame["job_id"])
                )
                calls.add(task)
                task.add_done_callback(calls.discard)


async def answer(url: str, _: str) -> None:
    """Answer the texts of one call."""
    brain = Brain()
    async with connect(url, compression=None) as call:
        await greet(call)
        async for message in call:
            frame = json.loads(message)
            if frame["event"] == "user.text" and frame["is_final"]:
                async for piece in brain.stream(frame["text"]):
                    await send(call, event="agent.text.delta", text=piece)
                await send(call, event="agent.text.end")


async def greet(call: ClientConnection) -> None:
    """Say what we speak."""
    await send(call, event="hello", protocol_version=2, supported_events=_EVENTS, supported_verbs=_VERBS)


async def send(call: ClientConnection, **frame: object) -> None:
    """Send one frame."""
    await call.send(json.dumps(frame))


if __name__ == "__main__":
    uvloop.run(work(sys.argv[1], "direct-json", answer))
