"""The path of a turn through a broker with nothing on it: no log, no records, no state, no typed frames.

A relay holds the call's socket and passes each frame on to a subject; a runner answers on another one. Same NATS client
as unpod's, same `websockets` as the peers', the reply's pieces joined as unpod joins them. What is slower than this is
unpod's own work; this itself is what two processes more on the way cost on this machine.

::

    python -m tests.benchmarks.floor relay ws://127.0.0.1:9000
    python -m tests.benchmarks.floor runner

Both with `UNPOD_NATS_URL` set.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from functools import partial
from typing import Final

import uvloop
from tests.benchmarks.brain import SPOKEN, Brain
from tests.benchmarks.direct_json import greet, work
from websockets.asyncio.client import connect

from unpod.jetstream import Nats, NatsOptions
from unpod.jetstream import connect as connect_nats
from unpod.ports import Message

_FROM: Final = "floor.from."
_TO: Final = "floor.to."


def _frame(**fields: object) -> str:
    return json.dumps(fields)


async def relay(url: str, nats: Nats) -> None:
    """Take jobs, and pass their frames on in both directions, until the control socket is gone."""
    await work(url, "floor", partial(_call, nats))


async def _call(nats: Nats, url: str, name: str) -> None:
    async with connect(url, compression=None) as call:
        frames: asyncio.Queue[bytes] = asyncio.Queue()
        there = await nats.subscribe(f"{_TO}{name}", lambda message: frames.put_nowait(message.data))

        async def speak() -> None:
            while True:
                await call.send(await frames.get(), text=True)

        speaking = asyncio.create_task(speak())
        await greet(call)
        try:
            async for message in call:
                nats.send(f"{_FROM}{name}", message.encode() if isinstance(message, str) else message)
        finally:
            speaking.cancel()
            await there.close()


async def run(nats: Nats) -> None:
    """Answer every text of every call."""
    turns: set[asyncio.Task[None]] = set()

    def heard(message: Message) -> None:
        frame = json.loads(message.data)
        if frame["event"] == "user.text":
            task = asyncio.create_task(_answer(nats, _TO + message.subject.removeprefix(_FROM), frame["text"]))
            turns.add(task)
            task.add_done_callback(turns.discard)

    await nats.subscribe(f"{_FROM}*", heard)
    await asyncio.Event().wait()


async def _answer(nats: Nats, to: str, text: str) -> None:
    """Send the first piece by itself and the others as one, except where they come slowly."""
    alone, held = True, ""
    async for piece in Brain().stream(text):
        if alone:
            nats.send(to, _frame(event="agent.text.delta", text=piece).encode())
            alone = text == SPOKEN
        else:
            held += piece
    if held:
        nats.send(to, _frame(event="agent.text.delta", text=held).encode())
    nats.send(to, _frame(event="agent.text.end").encode())


async def main(role: str, url: str) -> None:
    """Run one of the two processes."""
    async with connect_nats(NatsOptions((os.environ["UNPOD_NATS_URL"],), name=f"floor-{role}")) as nats:
        await (relay(url, nats) if role == "relay" else run(nats))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[-1]))
