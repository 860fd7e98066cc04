"""The local orchestrator over real sockets, driven by a client of the wire that is written here, in this file."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
import websockets
from unpod_bridge.orchestrator import (
    ALL_VERBS,
    EVENTS,
    WIRE_VERBS,
    BargesIn,
    Call,
    CallFaults,
    CallOverError,
    CallRefused,
    CallerSaid,
    Connected,
    ControlFaults,
    DeltaCame,
    Drops,
    Ended,
    ExpectsEnd,
    ExpectsRecordingPaused,
    ExpectsRecordingResumed,
    ExpectsTransfer,
    HangsUp,
    HearsAll,
    HearsReply,
    HearsSpeech,
    LocalOrchestrator,
    ReplyEnded,
    Says,
    Scenario,
    SpeechProgress,
    Waits,
)

KEY = "sk_local"
AGENT = "front-desk"

Frame = dict[str, Any]
Brain = Callable[["Line"], Awaitable[None]]


class Line:
    """A call socket, shaken hands with."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self.socket = socket
        self.ack: Frame = {}
        self.started: Frame = {}

    async def hello(self, **changes: Any) -> None:
        hello = {
            "event": "hello",
            "protocol_version": 2,
            "supported_events": list(EVENTS),
            "supported_verbs": list(ALL_VERBS),
        }
        await self.send({**hello, **changes})
        self.ack = await self.next("hello.ack")
        self.started = await self.next("call.started")

    async def send(self, frame: Frame) -> None:
        await self.socket.send(json.dumps(frame))

    async def next(self, event: str | None = None) -> Frame:
        """The next frame of that name, or of any."""
        while True:
            frame: Frame = json.loads(await self.socket.recv())
            if event in {None, frame["event"]}:
                return frame

    async def final_text(self) -> str:
        while True:
            frame = await self.next("user.text")
            if frame["is_final"]:
                return str(frame["text"])

    async def reply(self, *deltas: str) -> None:
        for delta in deltas:
            await self.send({"event": "agent.text.delta", "text": delta})
        await self.send({"event": "agent.text.end"})

    async def say(self, text: str) -> None:
        await self.send({"event": "agent.say", "text": text})

    async def end_call(self, reason: str = "completed") -> None:
        await self.send({"event": "agent.end_call", "reason": reason})

    async def close_code(self) -> int | None:
        await self.socket.wait_closed()
        return self.socket.close_code


async def dial(assign: Frame) -> Line:
    glue = "&" if "?" in assign["bridge_url"] else "?"
    return Line(await websockets.connect(f"{assign['bridge_url']}{glue}token={assign['call_token']}"))


async def echo(line: Line) -> None:
    """A brain that says back what it hears."""
    while True:
        text = await line.final_text()
        await line.reply("You said: ", text)


class Client:
    """A worker as the wire has it: registers, beats, takes every job, and lets `brain` talk."""

    def __init__(
        self, orchestrator: LocalOrchestrator, brain: Brain = echo, *, agent_id: str = AGENT, room: int = 10, number: int = 1
    ) -> None:
        self.orchestrator = orchestrator
        self.brain = brain
        self.agent_id = agent_id
        self.room = room
        self.worker_id = f"{agent_id}#{number:08x}"
        self.pool = agent_id
        self.answer: Callable[[Frame], Frame | None] = lambda _: {"accepted": True, "reason": None}
        self.assigns: list[Frame] = []
        self.cancels: list[str] = []
        self.lines: list[Line] = []
        self.registered: Frame = {}
        self.dials = True
        self.ready = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()
        self.control: websockets.ClientConnection | None = None

    async def __aenter__(self) -> "Client":
        self.control = await websockets.connect(
            f"{self.orchestrator.url}/v1/internal/workers", additional_headers={"Authorization": f"Bearer {KEY}"}
        )
        await self.send(self.registration())
        self.registered = json.loads(await self.control.recv())
        await self.beat()
        self.start(self.listen())
        await self.orchestrator.wait_until(
            lambda: any(w.worker_id == self.worker_id and w.heartbeats for w in self.orchestrator.workers), "no beat"
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for line in self.lines:
            await line.socket.close()
        if self.control is not None:
            await self.control.close()

    def start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def registration(self) -> Frame:
        return {
            "type": "register",
            "worker_id": self.worker_id,
            "pool": self.pool,
            "capabilities": {
                "voice_profiles": [],
                "max_concurrent": self.room,
                "agent_id": self.agent_id,
                "transport": "dial_out",
                "kind": "brain",
                "hostname": "here",
                "address": None,
                "region": None,
                "deployment": "local",
                "something_new": 1,
            },
        }

    async def send(self, frame: Frame) -> None:
        assert self.control is not None
        await self.control.send(json.dumps(frame))

    async def beat(self, active_jobs: int = 0) -> None:
        await self.send({"type": "heartbeat", "active_jobs": active_jobs, "worker_id": self.worker_id})

    async def listen(self) -> None:
        assert self.control is not None
        with contextlib.suppress(websockets.ConnectionClosed):
            async for data in self.control:
                frame = json.loads(data)
                if frame["type"] == "job.assign":
                    await self.assigned(frame)
                elif frame["type"] == "job.cancel":
                    self.cancels.append(frame["job_id"])
                    for line in self.lines:
                        await line.socket.close(1000)

    async def assigned(self, assign: Frame) -> None:
        known = any(earlier["job_id"] == assign["job_id"] for earlier in self.assigns)
        self.assigns.append(assign)
        answer = self.answer(assign)
        if answer is None:
            return
        ids = {"job_id": assign["job_id"], "assign_id": assign.get("assign_id", "")}
        await self.send({"type": "job.ack", **ids, **answer})
        if answer["accepted"] and self.dials and not known:
            self.start(self.talk(assign))

    async def talk(self, assign: Frame) -> None:
        line = await dial(assign)
        self.lines.append(line)
        with contextlib.suppress(websockets.ConnectionClosed):
            await line.hello()
            await self.brain(line)


@pytest.fixture
async def orchestrator() -> AsyncIterator[LocalOrchestrator]:
    async with LocalOrchestrator(speed=50, retry_pause_s=0.01, cancel_grace_s=0.3) as running:
        yield running


@contextlib.asynccontextmanager
async def a_call(orchestrator: LocalOrchestrator, brain: Brain = echo, **options: Any) -> AsyncIterator[tuple[Call, Client]]:
    async with Client(orchestrator, brain) as client:
        call = await orchestrator.place_call(AGENT, **options)
        await call.connected()
        yield call, client


def frames_out(call: Call, event: str) -> list[Frame]:
    return [frame.raw for frame in call.frames if frame.direction == "out" and frame.event == event]


async def test_a_call_from_placing_to_hanging_up(orchestrator: LocalOrchestrator) -> None:
    async with a_call(orchestrator, metadata={"user_number": "+15551230000"}) as (call, client):
        assert client.registered == {"type": "registered", "transport_ack": "dial_out", "heartbeat_interval_s": 30}
        line = client.lines[0]
        assert line.ack["negotiated_verbs"] == list(ALL_VERBS)
        assert line.started["metadata"] == {"user_number": "+15551230000"}
        assert line.started["session_id"] == call.session_id
        await call.partial("hel")
        await call.user("hello", language="en")
        assert await call.reply() == "You said: hello"
        await call.silence()
        await call.hang_up()
        outcome = await call.ended()
        assert (outcome.reason, outcome.violations) == ("hangup", ())
        assert await line.close_code() == 1000
        assert [(said.role, said.text) for said in call.transcript] == [("caller", "hello"), ("agent", "You said: hello")]
        assert [frame["state"] for frame in frames_out(call, "state")] == ["listening", "thinking", "speaking", "listening"]
        assert frames_out(call, "user.text")[-1]["extra"] == {"language": "en"}


async def test_barge_in_says_exactly_what_was_heard(orchestrator: LocalOrchestrator) -> None:
    story = "Once upon a time there was a very long story which nobody ever wanted to hear to its very end. " * 20

    async def storyteller(line: Line) -> None:
        await line.final_text()
        await line.send({"event": "agent.text.delta", "text": story})
        interrupted = await line.next("user.interrupted")
        line.heard = interrupted["heard_prefix"]  # type: ignore[attr-defined]
        await line.send({"event": "agent.text.end"})
        await line.final_text()
        await line.reply("Sorry.")

    async with a_call(orchestrator, storyteller) as (call, _):
        await call.user("tell me")
        await call.spoken(chars=100)
        heard = await call.barge_in("wait")
        assert heard is not None
        assert story.startswith(heard)
        assert len(heard) > 80
        assert story[len(heard)] == " "
        assert await call.reply() == "Sorry."
        await call.hang_up()
        assert ("agent", heard) in [(said.role, said.text) for said in call.transcript]
        assert not call.violations
