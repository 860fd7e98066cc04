"""The peer that the bar names: an SDK that holds the call's socket itself, with `websockets` and pydantic.

No broker between, nothing recorded, nothing that survives this process. Written as one would who ships such an SDK:
each frame is validated, a reply is a task that the caller can interrupt, a delta is sent as soon as it is there.

::

    python -m tests.benchmarks.direct ws://127.0.0.1:9000
"""

from __future__ import annotations

import asyncio
import logging
import sys
from contextlib import suppress
from typing import Final

import uvloop
from pydantic import BaseModel, ValidationError
from tests.benchmarks.brain import Brain
from tests.benchmarks.direct_wire import (
    CONTROL,
    EVENT,
    Hello,
    JobAck,
    JobAssign,
    Register,
    TextDelta,
    TextEnd,
    UserInterrupted,
    UserText,
)
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

logger = logging.getLogger("direct")

_HELLO: Final = Hello(
    supported_events=("user.text", "user.interrupted", "error", "metric", "turn.metrics", "state", "call.started"),
    supported_verbs=("agent.text.delta", "agent.text.end", "agent.say", "agent.transfer", "agent.end_call"),
)


class Worker:
    """Takes jobs, and answers each in a task of its own."""

    def __init__(self) -> None:
        self._calls: dict[str, asyncio.Task[None]] = {}

    async def run(self, url: str) -> None:
        """Serve until the control socket is gone."""
        async with connect(f"{url}/v1/internal/workers", compression=None) as control:
            await _send(control, Register(worker_id="direct#1", pool="direct"))
            async for message in control:
                frame = CONTROL.validate_json(message)
                if isinstance(frame, JobAssign):
                    await _send(control, JobAck(job_id=frame.job_id, assign_id=frame.assign_id))
                    self._begin(frame)
                elif frame.type == "job.cancel" and (call := self._calls.get(frame.job_id)):
                    call.cancel()

    def _begin(self, job: JobAssign) -> None:
        task = asyncio.create_task(_answer(f"{job.bridge_url}?token={job.call_token}"))
        self._calls[job.job_id] = task
        task.add_done_callback(lambda _: self._calls.pop(job.job_id, None))


async def _answer(url: str) -> None:
    async with connect(url, compression=None) as socket:
        await Call(socket).run()


class Call:
    """One call."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._brain = Brain()
        self._turn: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Answer until the caller has hung up."""
        await _send(self._socket, _HELLO)
        try:
            async for message in self._socket:
                try:
                    event = EVENT.validate_json(message)
                except ValidationError as error:
                    logger.warning("a frame of the worker is not valid: %d errors", error.error_count())
                    continue
                if isinstance(event, UserText) and event.is_final:
                    await self._interrupt()
                    self._turn = asyncio.create_task(self._reply(event.text))
                elif isinstance(event, UserInterrupted):
                    await self._interrupt()
        finally:
            await self._interrupt()

    async def _interrupt(self) -> None:
        """Stop the reply, if one is open, and end it; its task may not even have begun."""
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.cancel()
            await asyncio.wait((turn,))
            await self._end()

    async def _reply(self, text: str) -> None:
        with suppress(ConnectionClosed):  # the caller has hung up
            async for piece in self._brain.stream(text):
                await _send(self._socket, TextDelta(text=piece))
            self._turn = None
            await self._end()

    async def _end(self) -> None:
        with suppress(ConnectionClosed):
            await _send(self._socket, TextEnd())


async def _send(socket: ClientConnection, frame: BaseModel) -> None:
    await socket.send(frame.model_dump_json())


if __name__ == "__main__":
    uvloop.run(Worker().run(sys.argv[1]))
