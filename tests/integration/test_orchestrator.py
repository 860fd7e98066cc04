"""The local orchestrator over real sockets, driven by a client of the wire that is written here, in this file."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Literal, Self
from urllib.parse import quote

import httpx2
import pytest
import websockets

from unpod_orchestrator import (
    ALL_VERBS,
    EVENTS,
    WIRE_VERBS,
    BargesIn,
    CallerSaid,
    CallFaults,
    CallOverError,
    CallRefused,
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
    LocalCall,
    LocalOrchestrator,
    ReplyEnded,
    Says,
    Scenario,
    SpeechProgress,
    Waits,
    serve_forever,
)
from unpod_orchestrator.faults import KeyRefusal

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
        self.ready = asyncio.Event()

    async def hello(self, **changes: object) -> None:
        hello = {
            "event": "hello",
            "protocol_version": 2,
            "supported_events": list(EVENTS),
            "supported_verbs": list(ALL_VERBS),
        }
        await self.send({**hello, **changes})
        self.ack = await self.next("hello.ack")
        self.started = await self.next("call.started")
        self.ready.set()

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
    """An adapter that says back what it hears."""
    while True:
        text = await line.final_text()
        await line.reply("You said: ", text)


class Client:
    """A worker as the wire has it: registers, beats, takes every job, and lets `brain` talk."""

    def __init__(
        self,
        orchestrator: LocalOrchestrator,
        brain: Brain = echo,
        *,
        agent_id: str = AGENT,
        room: int = 10,
        number: int = 1,
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
        self.tasks: set[asyncio.Task[None]] = set()
        self.control: websockets.ClientConnection | None = None

    async def __aenter__(self) -> Self:
        self.control = await websockets.connect(
            f"{self.orchestrator.url}/v1/internal/workers",
            additional_headers={"Authorization": f"Bearer {KEY}"},
            ping_interval=None,  # its liveness is the heartbeat's
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

    def start(self, work: Coroutine[Any, Any, None]) -> None:
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
async def a_call(
    orchestrator: LocalOrchestrator,
    brain: Brain = echo,
    *,
    metadata: Frame | None = None,
    session_id: str | None = None,
    faults: CallFaults | None = None,
) -> AsyncIterator[tuple[LocalCall, Client]]:
    async with Client(orchestrator, brain) as client:
        call = await orchestrator.place_call(AGENT, metadata=metadata, session_id=session_id, faults=faults)
        await call.connected()
        await client.lines[-1].ready.wait()
        yield call, client


def frames_out(call: LocalCall, event: str) -> list[Frame]:
    return [frame.raw for frame in call.frames if frame.direction == "out" and frame.event == event]


async def test_a_call_from_placing_to_hanging_up(orchestrator: LocalOrchestrator) -> None:
    async with a_call(orchestrator, metadata={"user_number": "+15551230000"}) as (call, client):
        assert client.registered == {"type": "registered", "transport_ack": "dial_out", "heartbeat_interval_s": 10}
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
        assert [(said.role, said.text) for said in call.transcript] == [
            ("caller", "hello"),
            ("agent", "You said: hello"),
        ]
        assert [frame["state"] for frame in frames_out(call, "state")] == [
            "listening",
            "thinking",
            "speaking",
            "listening",
        ]
        assert frames_out(call, "user.text")[-1]["extra"] == {"language": "en"}


async def idle(line: Line) -> None:
    """An adapter that leaves the line to the test."""
    await line.socket.wait_closed()


def refuse_with(reason: str) -> Callable[[Frame], Frame | None]:
    return lambda _: {"accepted": False, "reason": reason}


async def upgrade_fails(orchestrator: LocalOrchestrator, key: str) -> int:
    with pytest.raises(websockets.InvalidStatus) as refused:
        await websockets.connect(
            f"{orchestrator.url}/v1/internal/workers", additional_headers={"Authorization": f"Bearer {key}"}
        )
    return refused.value.response.status_code


async def test_barge_in_says_exactly_what_was_heard(orchestrator: LocalOrchestrator) -> None:
    story = "Once upon a time there was a very long story which nobody ever wanted to hear to its very end. " * 20
    told: list[str] = []

    async def storyteller(line: Line) -> None:
        await line.final_text()
        await line.send({"event": "agent.text.delta", "text": story})
        told.append((await line.next("user.interrupted"))["heard_prefix"])
        await line.send({"event": "agent.text.end"})
        await line.final_text()
        await line.reply("Sorry.")

    async with a_call(orchestrator, storyteller) as (call, _):
        await call.user("tell me")
        await call.spoken(chars=100)
        heard = await call.barge_in("wait")
        assert heard is not None
        assert len(heard) > 80
        assert story.startswith(heard + " ")
        assert await call.reply() == "Sorry."
        await call.hang_up()
        assert told == [heard]
        assert ("agent", heard) in [(said.role, said.text) for said in call.transcript]
        assert not call.violations


async def test_two_texts_during_a_reply_are_answered_in_order(orchestrator: LocalOrchestrator) -> None:
    async with a_call(orchestrator, idle) as (call, client):
        line = client.lines[0]
        await call.user("one")
        await call.user("two")
        assert call.ends_owed == 2
        await line.reply("first")
        await line.reply("second")
        assert [await call.reply(), await call.reply()] == ["first", "second"]
        assert [reply.turn_id for reply in call.replies] == [1, 2]


async def test_the_agent_ends_the_call_after_its_last_words(orchestrator: LocalOrchestrator) -> None:
    async def polite(line: Line) -> None:
        await line.say("Goodbye, and thank you for calling.")
        await line.end_call("completed")

    async with a_call(orchestrator, polite) as (call, client):
        outcome = await call.ended()
        assert (outcome.reason, outcome.detail) == ("ended_by_agent", "completed")
        assert [said.text for said in call.transcript] == ["Goodbye, and thank you for calling."]
        assert await client.lines[0].close_code() == 1000


@pytest.mark.parametrize(
    ("send", "violation"),
    [
        (lambda line: line.socket.send(b"{}"), "a binary frame"),
        (lambda line: line.socket.send("x" * ((1 << 20) + 1)), "a frame of more than 1 MiB"),
        (lambda line: line.socket.send("not json"), "not JSON (DecodeError)"),
        (lambda line: line.send({"event": "agent.text.end"}), "agent.text.end: no reply is open"),
        (lambda line: line.send({"event": "agent.text.delta", "text": ""}), "agent.text.delta: an empty delta"),
        (lambda line: line.send({"event": "agent.fly"}), "unknown verb 'agent.fly'"),
        (
            lambda line: line.send({"event": "agent.say", "text": 3}),
            "agent.say: Expected `str`, got `int` - at `$.text`",
        ),
    ],
)
async def test_a_client_that_breaks_the_protocol_loses_the_call(
    orchestrator: LocalOrchestrator, send: Callable[[Line], Awaitable[None]], violation: str
) -> None:
    async with a_call(orchestrator, idle) as (call, client):
        await send(client.lines[0])
        outcome = await call.ended()
        assert str(outcome) == f"failed: {violation}"
        assert outcome.violations == (violation,)
        assert await client.lines[0].close_code() in {1002, 1009}
        with pytest.raises(CallOverError, match="failed"):
            await call.user("hello?")


async def test_bad_utf8_is_a_violation(orchestrator: LocalOrchestrator) -> None:
    async with a_call(orchestrator, idle) as (call, client):
        await client.lines[0].socket.send(b'{"event": "\xff"}', text=True)
        assert str(await call.ended()) == "failed: a broken WebSocket frame (1007)"


async def test_wrong_tokens_and_second_sockets_are_refused(orchestrator: LocalOrchestrator) -> None:
    async with a_call(orchestrator, idle) as (call, client):
        assign = client.assigns[0]
        assert await (await dial({**assign, "call_token": "x"})).close_code() == 4003
        assert (
            await (await dial({**assign, "bridge_url": f"{orchestrator.url}/v1/calls/x/bridge"})).close_code() == 4003
        )
        assert await (await dial(assign)).close_code() == 4009
        assert call.live


async def test_after_a_drop_the_call_goes_on(orchestrator: LocalOrchestrator) -> None:
    async with a_call(orchestrator, idle) as (call, client):
        await call.user("before")
        call.drop()
        assert await client.lines[0].close_code() == 1006
        line = await dial(client.assigns[0])
        client.lines.append(line)
        await line.hello()
        await line.reply("still here")
        assert await call.reply() == "still here"
        assert line.started == client.lines[0].started
        await call.user("after")
        assert await line.final_text() == "after"
        assert [code for _, code in call.dials] == [None, None]


async def test_a_client_that_vanishes_is_a_drop_and_one_that_closes_is_not(orchestrator: LocalOrchestrator) -> None:
    async with a_call(orchestrator, idle) as (call, client):
        client.lines[0].socket.transport.abort()
        await call.observed(lambda seen: not seen.live, "the drop")
        assert not call.over
        line = await dial(client.assigns[0])
        await line.hello()
        await call.connected()
        await line.socket.close(1000)
        assert str(await call.ended()) == "ended_by_agent: the client closed the socket with 1000"


async def test_a_drop_for_good_refuses_redials(orchestrator: LocalOrchestrator) -> None:
    async with a_call(orchestrator, idle) as (call, client):
        call.drop(for_good=True)
        assert await (await dial(client.assigns[0])).close_code() == 4003
        assert (await call.ended()).reason == "dropped"


async def test_a_line_that_nobody_redials_is_dropped() -> None:
    async with LocalOrchestrator(redial_window_s=0.05) as orchestrator, a_call(orchestrator, idle) as (call, _):
        call.drop()
        assert str(await call.ended()) == "dropped: no redial within 0.05 s"


async def test_a_worker_that_stops_reading_answers_redials_with_4009(orchestrator: LocalOrchestrator) -> None:
    async with a_call(orchestrator, idle) as (call, client):
        call.pause_reading()
        client.lines[0].socket.transport.abort()
        assert await (await dial(client.assigns[0])).close_code() == 4009
        call.resume_reading()
        await call.observed(lambda seen: not seen.live, "the drop is noticed")
        line = await dial(client.assigns[0])
        await line.hello()
        await line.socket.close()


@pytest.mark.parametrize("faults", [CallFaults(stalled_handshakes=1), CallFaults(silent_handshakes=1)])
async def test_a_stalled_handshake_can_be_dialled_again(orchestrator: LocalOrchestrator, faults: CallFaults) -> None:
    async with Client(orchestrator, idle) as client:
        client.dials = False
        call = await orchestrator.place_call(AGENT, faults=faults)
        stalled = await dial(client.assigns[0])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stalled.hello(), 0.05)
        await stalled.socket.close()
        line = await dial(client.assigns[0])
        await line.hello()
        await call.connected()
        await line.socket.close()


async def test_dials_can_be_refused_first(orchestrator: LocalOrchestrator) -> None:
    async with Client(orchestrator, idle) as client:
        client.dials = False
        call = await orchestrator.place_call(AGENT, faults=CallFaults(refuse_dials=1, refuse_upgrades=1))
        with pytest.raises(websockets.InvalidStatus):
            await dial(client.assigns[0])
        assert await (await dial(client.assigns[0])).close_code() == 4003
        line = await dial(client.assigns[0])
        await line.hello()
        await call.connected()
        await line.socket.close()


async def test_raw_frames_codes_and_events_go_out_as_they_are(orchestrator: LocalOrchestrator) -> None:
    async with a_call(orchestrator, idle) as (call, client):
        line = client.lines[0]
        await line.next("state")
        call.send_raw("nonsense")
        call.send_raw(b"\x00")
        call.send_frame({"event": "weather.changed"})
        call.send_error("warn", "tts", "slow", "a hiccup")
        call.send_metric()
        assert await line.socket.recv() == "nonsense"
        assert await line.socket.recv() == b"\x00"
        assert (await line.next("error"))["severity"] == "warn"
        assert (await line.next("metric"))["turns"] == 0
        call.send_raw(b"\xff", text=True)
        with pytest.raises(websockets.ConnectionClosedError):
            await line.socket.recv()
        await call.observed(lambda seen: not seen.live, "the client left")
        line = await dial(client.assigns[0])
        await line.hello()
        call.close(1012)
        assert await line.close_code() == 1012
        assert not call.over


async def test_a_hostile_worker_goes_on_with_the_call(orchestrator: LocalOrchestrator) -> None:
    async with Client(orchestrator, idle) as client:
        client.dials = False
        call = await orchestrator.place_call(AGENT, faults=CallFaults(hostile=True))
        line = await dial(client.assigns[0])
        await line.hello()
        await call.user("and now?")
        seen: list[str | bytes] = []
        while not seen or "and now?" not in str(seen[-1]):
            seen.append(await line.socket.recv())
        assert any(isinstance(data, bytes) for data in seen)
        await line.socket.close()


async def test_fewer_verbs_can_be_negotiated() -> None:
    async with LocalOrchestrator(offers=WIRE_VERBS) as orchestrator, a_call(orchestrator, idle) as (call, client):
        assert client.lines[0].ack["negotiated_verbs"] == list(WIRE_VERBS)
        await client.lines[0].send({"event": "agent.interrupt"})
        assert str(await call.ended()) == "failed: agent.interrupt: a verb that was not negotiated"


# ---- jobs


async def test_three_tries_with_a_fresh_assign_id_each(orchestrator: LocalOrchestrator) -> None:
    async with Client(orchestrator) as client:
        client.answer = refuse_with("rate_limited")
        with pytest.raises(CallRefused) as refused:
            await orchestrator.place_call(AGENT)
        assert refused.value.reasons == ("rate_limited",) * 3
        assert len({assign["assign_id"] for assign in client.assigns}) == 3
        assert len({assign["job_id"] for assign in client.assigns}) == 1
        assert await (await dial(client.assigns[0])).close_code() == 4003


async def test_no_answer_in_time_is_a_refusal_and_another_worker_is_asked(orchestrator: LocalOrchestrator) -> None:
    async with Client(orchestrator, number=1, room=9) as deaf, Client(orchestrator, idle, number=2, room=1) as good:
        deaf.answer = lambda _: None
        call = await orchestrator.place_call(AGENT, deadline_ms=50)
        assert call.worker_id == good.worker_id
        assert len(deaf.assigns) == 1
        late = deaf.assigns[0]
        await deaf.send({"type": "job.ack", "job_id": late["job_id"], "assign_id": late["assign_id"], "accepted": True})
        await call.connected()
        assert not orchestrator.violations


async def test_without_a_worker_or_room_the_call_is_refused(orchestrator: LocalOrchestrator) -> None:
    with pytest.raises(CallRefused, match="no worker is registered"):
        await orchestrator.place_call(AGENT, deadline_ms=10)
    async with Client(orchestrator, room=0) as client:
        with pytest.raises(CallRefused, match="at_capacity"):
            await orchestrator.place_call(AGENT, deadline_ms=10)
        assert not client.assigns
        client.answer = refuse_with("at_capacity")
        with pytest.raises(CallRefused, match="at_capacity"):
            await orchestrator.place_call(AGENT, even_if_full=True)
        assert len(client.assigns) == 3


async def test_room_comes_back_when_a_call_ends(orchestrator: LocalOrchestrator) -> None:
    async with Client(orchestrator, idle, room=1):
        first = await orchestrator.place_call(AGENT)
        with pytest.raises(CallRefused):
            await orchestrator.place_call(AGENT, deadline_ms=10)
        await first.connected()
        await first.hang_up()
        second = await orchestrator.place_call(AGENT, deadline_ms=10)
        await second.connected()


async def test_calls_go_where_the_most_room_is(orchestrator: LocalOrchestrator) -> None:
    async with (
        Client(orchestrator, idle, number=1, room=1) as small,
        Client(orchestrator, idle, number=2, room=3) as big,
    ):
        calls = [await orchestrator.place_call(AGENT) for _ in range(4)]
        assert (len(small.assigns), len(big.assigns)) == (1, 3)
        await asyncio.gather(*(call.connected() for call in calls))


async def test_the_control_socket_drops_in_mid_assign(orchestrator: LocalOrchestrator) -> None:
    async with Client(orchestrator, number=1, room=9) as first, Client(orchestrator, idle, number=2) as second:

        def drop(_: Frame) -> Frame | None:
            orchestrator.drop_control(first.worker_id)
            return None

        first.answer = drop
        call = await orchestrator.place_call(AGENT)
        assert call.worker_id == second.worker_id


async def test_a_job_can_be_assigned_again_while_its_call_lives(orchestrator: LocalOrchestrator) -> None:
    async with a_call(orchestrator, idle) as (call, client):
        assert await orchestrator.reassign(call.job_id) is None
        first, second = client.assigns
        assert first["assign_id"] != second["assign_id"]
        assert {**first, "assign_id": ""} == {**second, "assign_id": ""}
        client.answer = refuse_with("draining")
        assert await orchestrator.reassign(call.job_id) == "draining"
        assert call.worker_id == client.worker_id
        assert call.live
        with pytest.raises(ValueError, match="no such job"):
            await orchestrator.reassign("nobody's")


async def test_an_assign_can_come_without_its_id(orchestrator: LocalOrchestrator) -> None:
    async with a_call(orchestrator, idle, faults=CallFaults(omit_assign_id=True)) as (_, client):
        assert "assign_id" not in client.assigns[0]


async def test_cancel_in_call_and_before_the_dial(orchestrator: LocalOrchestrator) -> None:
    async with a_call(orchestrator, idle) as (call, client):
        orchestrator.cancel(call.job_id)
        assert str(await call.ended()) == "cancelled"
        assert not call.violations
        client.dials = False
        undialled = await orchestrator.place_call(AGENT)
        orchestrator.cancel(undialled.job_id)
        assert str(await undialled.ended()) == "cancelled"
        assert await (await dial(client.assigns[1])).close_code() == 1000
        orchestrator.cancel("unknown")
        await orchestrator.wait_until(lambda: len(orchestrator.control_frames) > 0, "")
        assert client.cancels[:2] == [call.job_id, undialled.job_id]


async def test_a_client_that_ignores_a_cancel_is_closed(orchestrator: LocalOrchestrator) -> None:
    async with Client(orchestrator, idle) as client:
        client.dials = False
        call = await orchestrator.place_call(AGENT)
        line = await dial(client.assigns[0])
        await line.hello()
        orchestrator.cancel(call.job_id)
        assert await line.close_code() == 1000
        assert str(await call.ended()) == "cancelled: the worker had to close the socket"


# ---- control sockets


@pytest.mark.parametrize(
    ("frames", "violation"),
    [
        ([{"type": "heartbeat", "active_jobs": 0, "worker_id": "w"}], "heartbeat before register"),
        ([{"type": "register"}], "register: Object missing required field `worker_id`"),
        ([{"type": "knock"}], "unknown control frame 'knock'"),
        (["x" * (1 << 21)], "a frame of more than 1 MiB"),
        ([b"binary"], "a binary frame"),
    ],
)
async def test_a_control_frame_that_breaks_the_protocol_closes_the_socket(
    orchestrator: LocalOrchestrator, frames: list[Any], violation: str
) -> None:
    async with websockets.connect(
        f"{orchestrator.url}/v1/internal/workers", additional_headers={"Authorization": f"Bearer {KEY}"}
    ) as control:
        for frame in frames:
            await control.send(json.dumps(frame) if isinstance(frame, dict) else frame)
        await control.wait_closed()
        assert control.close_code in {1002, 1009}
    await orchestrator.wait_until(lambda: bool(orchestrator.violations), "no violation")
    assert orchestrator.violations[0].startswith(violation)


@pytest.mark.parametrize(
    ("frame", "violation"),
    [
        ({"type": "heartbeat", "active_jobs": 0, "worker_id": "other"}, "the worker_id is not the registered one"),
        ({"type": "job.ack", "job_id": "j", "assign_id": "a", "accepted": True}, "no such job was assigned"),
        ({"type": "register", "worker_id": "desk#2"}, "Object missing required field"),
    ],
)
async def test_a_registered_client_can_break_the_protocol_too(
    orchestrator: LocalOrchestrator, frame: Frame, violation: str
) -> None:
    async with Client(orchestrator) as client:
        await client.send(frame)
        await orchestrator.wait_until(lambda: not orchestrator.workers, "the worker is still there")
        assert violation in orchestrator.violations[0]


async def test_optional_news_and_another_registration_are_welcome(orchestrator: LocalOrchestrator) -> None:
    async with Client(orchestrator, room=1) as client:
        await client.send({"type": "state.changed", "job_id": "j", "state": "talking"})
        await client.send({"type": "job.completed", "job_id": "j", "final_state": "completed", "duration_s": 3})
        client.room = 7
        await client.send(client.registration())
        await orchestrator.wait_until(
            lambda: [worker.capabilities.max_concurrent for worker in orchestrator.workers] == [7], "still 1"
        )
        assert not orchestrator.violations


async def test_a_worker_that_stops_beating_is_forgotten() -> None:
    async with (
        LocalOrchestrator(heartbeat_interval_s=1, speed=50) as orchestrator,
        a_call(orchestrator) as (call, client),
    ):
        await orchestrator.wait_until(lambda: not orchestrator.workers, "still known", timeout_s=5.0)
        assert client.control is not None
        await client.control.wait_closed()
        assert client.control.close_code == 1001
        await call.user("are you there?")  # calls in flight do not notice
        assert await call.reply() == "You said: are you there?"


async def test_a_worker_that_beats_as_it_is_told_is_never_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    ahead, clock = [0.0], loop.time
    monkeypatch.setattr(loop, "time", lambda: clock() + ahead[0])
    async with LocalOrchestrator(ping_interval_s=None) as orchestrator, Client(orchestrator) as client:
        interval: int = client.registered["heartbeat_interval_s"]
        for beats in range(2, 6):
            ahead[0] += 3 * interval  # two beats are lost, and the third is just in time
            await client.beat()
            await orchestrator.wait_until(lambda beats=beats: orchestrator.workers[0].heartbeats == beats, "no beat")  # type: ignore[misc]
        ahead[0] += 4 * interval
        await orchestrator.wait_until(lambda: not orchestrator.workers, "still known")


async def test_calls_do_not_notice_a_lost_control_socket(orchestrator: LocalOrchestrator) -> None:
    async with a_call(orchestrator) as (call, client):
        orchestrator.drop_control()
        await orchestrator.wait_until(lambda: not orchestrator.workers, "still known")
        await call.user("hi")
        assert await call.reply() == "You said: hi"
        async with Client(orchestrator) as again:
            assert again.worker_id == client.worker_id
            assert [worker.jobs for worker in orchestrator.workers] == [{call.job_id}]
            orchestrator.cancel(call.job_id)
            await call.observed(lambda _: bool(again.cancels), "the cancel", timeout_s=10.0)


async def test_keys_are_checked(orchestrator: LocalOrchestrator) -> None:
    for fault, status in (("http_401", 401), ("http_403", 403)):
        orchestrator.faults.refuse_key = fault  # type: ignore[assignment]
        assert await upgrade_fails(orchestrator, KEY) == status
    refusals: list[tuple[KeyRefusal | None, str, int]] = [
        (None, "wrong", 4001),
        ("close_4001", KEY, 4001),
        ("close_1008", KEY, 1008),
    ]
    for refusal, key, code in refusals:
        orchestrator.faults.refuse_key = refusal
        control = await websockets.connect(
            f"{orchestrator.url}/v1/internal/workers", additional_headers={"Authorization": f"Bearer {key}"}
        )
        await control.wait_closed()
        assert control.close_code == code


@pytest.mark.parametrize(
    ("token", "org", "admitted"),
    [("tok", "acme", True), ("tok", "", False), ("tok", "other", False), (KEY, "acme", False)],
)
async def test_a_platform_token_with_its_organisation_registers_too(token: str, org: str, *, admitted: bool) -> None:
    async with LocalOrchestrator(platform_tokens={"tok"}, org_handle="acme") as orchestrator:
        shown = {"Authorization": f"Token {token}"} | ({"Org-Handle": org} if org else {})
        url = f"{orchestrator.url}/v1/internal/workers"
        async with websockets.connect(url, additional_headers=shown) as control:
            capabilities = {
                "voice_profiles": [],
                "max_concurrent": 1,
                "agent_id": AGENT,
                "transport": "dial_out",
                "kind": "brain",
            }
            frame = {"type": "register", "worker_id": f"{AGENT}#0", "pool": AGENT, "capabilities": capabilities}
            if admitted:
                await control.send(json.dumps(frame))
                assert json.loads(await control.recv())["type"] == "registered"
            else:
                await control.wait_closed()
                assert control.close_code == 4001


async def test_an_old_orchestrator_says_so() -> None:
    faults = ControlFaults(transport_ack=None, omit_heartbeat_interval=True)
    async with LocalOrchestrator(faults=faults) as orchestrator, Client(orchestrator) as client:
        assert client.registered == {"type": "registered", "transport_ack": None}


async def test_pools_are_apart(orchestrator: LocalOrchestrator) -> None:
    client = Client(orchestrator, idle)
    client.pool = f"{AGENT}@dev"
    async with client:
        with pytest.raises(CallRefused):
            await orchestrator.place_call(AGENT, deadline_ms=10)
        with pytest.raises(TimeoutError, match="no worker"):
            await orchestrator.wait_for_worker(AGENT, timeout_s=0.01)
        await orchestrator.wait_for_worker(AGENT, pool=f"{AGENT}@dev")
        await (await orchestrator.place_call(AGENT, pool=f"{AGENT}@dev")).connected()


# ---- REST


@pytest.fixture
async def http(orchestrator: LocalOrchestrator) -> AsyncIterator[httpx2.AsyncClient]:
    headers = {"Authorization": f"Bearer {KEY}", "X-Request-Id": "r-1"}
    async with httpx2.AsyncClient(base_url=orchestrator.http_url, headers=headers) as client:
        yield client


async def test_sessions_can_be_listed_shown_and_ended(
    orchestrator: LocalOrchestrator, http: httpx2.AsyncClient
) -> None:
    async with a_call(orchestrator) as (call, _):
        await call.user("hi")
        await call.reply()
        await call.silence()
        shown = (await http.get(f"/v1/sessions/{call.session_id}")).json()
        assert (shown["status"], shown["ended_at"], shown["end_reason"]) == ("active", None, None)
        assert [(line["role"], line["content"]) for line in shown["transcript"]] == [
            ("user", "hi"),
            ("agent", "You said: hi"),
        ]
        assert isinstance(shown["duration_s"], int)
        assert [row["session_id"] for row in (await http.get("/platform/v1/sessions")).json()] == [call.session_id]
        ended = await http.post(f"/orchestrator/v1/sessions/{call.session_id}/end")
        assert ended.json()["session_id"] == call.session_id
        assert ended.headers["X-Request-Id"] == "r-1"
        assert str(await call.ended()) == "ended_by_agent: ended over REST"
        again = await http.post(f"/v1/sessions/{call.session_id}/end")
        assert (again.status_code, again.json()["error"]["code"]) == (409, "session_ended")


async def test_rest_transfers(orchestrator: LocalOrchestrator, http: httpx2.AsyncClient) -> None:
    async with a_call(orchestrator) as (call, _):
        url = f"/v1/sessions/{call.session_id}/transfer"
        for body in (
            {},
            {"to": {"type": "fax", "config": {}}},
            {"to": {"type": "sip", "config": {"number": "12"}}},
            {"to": {"type": "sip", "config": {"number": 12}}},
            {"to": {"type": "agent", "config": {}}, "mode": "tepid"},
        ):
            assert (await http.post(url, json=body)).status_code == 422
        to = {"type": "sip", "config": {"number": "+15551230000"}}
        gone = await http.post(url, json={"to": to, "drop_participant_id": "nobody"})
        assert gone.json()["error"]["code"] == "participant_not_found"
        done = await http.post(
            url, json={"to": to, "mode": "warm", "warm_handoff_ms": 500, "drop_participant_id": "agent"}
        )
        assert done.json() == {
            "session_id": call.session_id,
            "added_participant_id": "participant-1",
            "removed_participant_id": "agent",
            "mode": "warm",
        }
        assert str(await call.ended()) == "transferred: +15551230000"


async def test_rest_merges(orchestrator: LocalOrchestrator, http: httpx2.AsyncClient) -> None:
    async with Client(orchestrator, idle):
        primary, secondary = [await orchestrator.place_call(AGENT) for _ in range(2)]
        await primary.connected()
        await secondary.connected()
        body = {
            "drop_participants": [{"participant_id": "agent"}, "nobody"],
            "primary_session_id": primary.session_id,
            "secondary_session_ids": [secondary.session_id, primary.session_id, "nobody"],
        }
        merged = (await http.post("/v1/sessions/merge", json=body)).json()
        assert [outcome["status"] for outcome in merged["outcomes"]] == ["merged", "failed", "failed"]
        assert merged["outcomes"][0]["moved_participant_ids"] == ["caller"]
        assert (await secondary.ended()).reason == "transferred"
        assert primary.merged == [secondary.session_id]
        assert "agent" not in primary.participants
        assert (await http.post("/v1/sessions/merge", json={**body, "drop_participants": [{}]})).status_code == 422
        assert (await http.post("/v1/sessions/merge", json={**body, "secondary_session_ids": []})).status_code == 422


async def test_rest_wants_a_key_and_knows_its_sessions(
    orchestrator: LocalOrchestrator, http: httpx2.AsyncClient
) -> None:
    assert (await http.get("/v1/sessions/nobody")).json() == {
        "error": {"code": "session_not_found", "message": "there is no such session"}
    }
    for value in ("", "Bearer wrong", "Token sk_local", "Basic sk_local", "Bearer \xff"):
        refused = await http.get("/v1/sessions", headers={b"Authorization": value.encode("latin-1")})
        assert refused.status_code == 401
        assert "sk_local" not in refused.text


@pytest.mark.parametrize("wrapping", ["data", "envelope"])
async def test_answers_can_be_wrapped(wrapping: Literal["data", "envelope"]) -> None:
    async with (
        LocalOrchestrator(wrapping=wrapping, platform_tokens={"pt"}, org_handle="acme") as orchestrator,
        httpx2.AsyncClient(base_url=orchestrator.http_url, headers={"Authorization": "Token pt"}) as http,
    ):
        assert (await http.get("/v1/sessions")).status_code == 401
        body = (await http.get("/v1/sessions", headers={"Org-Handle": "acme"})).json()
        assert body["data"] == []
        assert ("status_code" in body) is (wrapping == "envelope")


async def test_sessions_with_odd_ids_can_be_reached(orchestrator: LocalOrchestrator, http: httpx2.AsyncClient) -> None:
    odd = "a/b {c} * > \r\n 😀 ?#%"
    async with a_call(orchestrator, session_id=odd) as (_, client):
        assert client.lines[0].started["session_id"] == odd
        response = await http.get(httpx2.URL("/v1/sessions/" + quote(odd, safe="")))
        assert response.json()["session_id"] == odd
        with pytest.raises(ValueError, match="session_id"):
            await orchestrator.place_call(AGENT, session_id=odd)


# ---- the development API


async def test_a_call_can_be_driven_from_another_process(
    orchestrator: LocalOrchestrator, http: httpx2.AsyncClient
) -> None:
    script = [{"step": "says", "text": "hi"}, {"step": "hears_reply", "contains": "hi"}, {"step": "hears_all"}]
    assert (
        await http.post("/_local/calls", json={"agent_id": AGENT, "script": [{"step": "sings"}]})
    ).status_code == 422
    async with Client(orchestrator):
        placed = await http.post("/_local/calls", json={"agent_id": AGENT, "metadata": {"x": 1}, "script": script})
        assert placed.status_code == 201
        session_id = placed.json()["session_id"]
        call = orchestrator.call(session_id)
        assert call is not None
        await call.ended()
        listed = (await http.get("/_local/calls")).json()["calls"]
        assert [(each["session_id"], each["outcome"]["reason"]) for each in listed] == [(session_id, "hangup")]
        shown = (await http.get(f"/_local/calls/{session_id}")).json()
        assert shown["script"] == {"ok": True, "failures": []}
        assert shown["outcome"]["reason"] == "hangup"
        assert shown["frames"][0]["event"] == "hello"
        assert (await http.post(f"/_local/calls/{session_id}/script", json={"script": script})).status_code == 409
        assert (await http.get("/_local/workers")).json()["workers"][0]["pool"] == AGENT
    assert (await http.get("/_local/calls/nobody")).status_code == 404
    assert (await http.get("/_local/workers", headers={"Authorization": "Bearer no"})).status_code == 401


async def test_more_steps_can_be_played_on_a_call(orchestrator: LocalOrchestrator, http: httpx2.AsyncClient) -> None:
    async with a_call(orchestrator) as (call, _):
        more = await http.post(f"/_local/calls/{call.session_id}/script", json={"script": [{"step": "hangs_up"}]})
        assert more.status_code == 202
        assert (await call.ended()).reason == "hangup"


# ---- scenarios and live views


async def test_a_scenario_of_everything(orchestrator: LocalOrchestrator) -> None:
    async def agent(line: Line) -> None:
        await line.say("Welcome.")
        await line.final_text()
        await line.send({"event": "recording.pause", "reason": "PII"})
        await line.send({"event": "agent.text.delta", "text": "a long answer " * 50})
        await line.next("user.interrupted")
        await line.send({"event": "recording.resume"})
        await line.send({"event": "agent.text.end"})
        await line.final_text()
        await line.reply("As you wish.")
        await line.send({"event": "agent.transfer", "transfer_type": "number", "target": "110", "mode": "cold"})
        await line.final_text()
        await line.reply("Goodbye.")
        await line.end_call("completed")

    scenario = Scenario(
        "everything",
        [
            HearsSpeech("Welcome."),
            Says("I want to talk", language="en", partials=True),
            ExpectsRecordingPaused(),
            BargesIn(after_chars=25, says="stop"),
            ExpectsRecordingResumed(),
            HearsReply(contains="wish"),
            ExpectsTransfer("110", refused=True),
            HearsSpeech("cannot connect you", role="worker"),
            HearsAll(),
            Waits(0.1),
            Says("bye"),
            HearsReply(matches="^Good"),
            ExpectsEnd("ended_by_agent", reason="completed"),
        ],
    )
    async with Client(orchestrator, agent):
        result = await scenario.play(orchestrator, AGENT)
    assert result.ok, str(result)
    assert str(result) == "everything: ok"


@pytest.mark.parametrize(
    ("steps", "failure"),
    [
        ([Says("hi"), HearsReply(contains="nope")], "step 2, HearsReply: the reply does not contain 'nope'"),
        ([Says("hi"), HearsReply(matches="^x$")], "step 2, HearsReply: the reply does not match"),
        ([HearsReply(within_s=0.01)], "step 1, HearsReply: waited 0.01 s for: a complete reply"),
        ([HangsUp(), Says("hi")], "step 2, Says: the call ended (hangup) before the call was connected"),
        ([ExpectsEnd("transferred", within_s=0.01)], "step 1, ExpectsEnd: waited 0.01 s for: the call's end"),
        (
            [HangsUp(), ExpectsEnd("transferred", "x")],
            "step 2, ExpectsEnd: expected transferred: x, but the call hangup",
        ),
        ([Drops(within_s=0.3)], "step 1, Drops: waited 0.3 s for: the call was connected"),
        ([Drops(redial=False), Says("hi")], "step 2, Says: the call ended (dropped: redials are refused)"),
        ([Says("x" * (1 << 20))], "step 1, Says: a frame of"),
    ],
)
async def test_a_scenario_fails_readably(orchestrator: LocalOrchestrator, steps: list[Any], failure: str) -> None:
    async with Client(orchestrator):
        result = await Scenario("wrong", steps).play(orchestrator, AGENT)
    assert not result.ok
    assert result.failures[0].startswith(failure)


async def test_a_scenario_that_nobody_takes_fails(orchestrator: LocalOrchestrator) -> None:
    async with Client(orchestrator) as client:
        client.answer = refuse_with("draining")
        result = await Scenario("refused", [HangsUp()]).play(orchestrator, AGENT)
    assert result.call is None
    assert result.failures == ["nobody takes the call: draining"]


async def test_a_watcher_sees_the_call_as_it_happens(orchestrator: LocalOrchestrator) -> None:
    async with Client(orchestrator):
        call = await orchestrator.place_call(AGENT)
        watcher = call.subscribe()
        await call.user("a rather long sentence, so that it takes a while to say it again")
        await call.silence()
        await call.hang_up()
        happenings = [happening async for happening in watcher]
    kinds = [type(happening) for happening in happenings]
    assert kinds[0] is Connected
    assert kinds[-1] is Ended
    for kind in (CallerSaid, DeltaCame, ReplyEnded, SpeechProgress):
        assert kind in kinds
    assert [happening async for happening in call.subscribe()] == [happenings[-1]]


# ---- robustness


async def test_a_hundred_calls_at_once() -> None:
    async with LocalOrchestrator(speed=50) as orchestrator, Client(orchestrator, room=100):
        calls = [await orchestrator.place_call(AGENT) for _ in range(100)]

        async def talk(call: LocalCall) -> None:
            for number in range(5):
                await call.user(f"turn {number}")
                assert await call.reply() == f"You said: turn {number}"
            await call.hang_up()

        await asyncio.gather(*map(talk, calls))
        assert all(str(call.outcome) == "hangup" for call in calls)
        assert len(asyncio.all_tasks()) < 520


async def test_a_flood_is_survived_and_bounded(orchestrator: LocalOrchestrator) -> None:
    async with a_call(orchestrator, idle) as (call, client):
        line = client.lines[0]
        for _ in range(200):
            await line.send({"event": "agent.text.delta", "text": "x" * 50_000})
        await line.send({"event": "agent.text.end"})
        assert len(await call.reply()) == 10_000_000
        assert call.live


async def test_a_client_that_stops_reading_is_cut_off(orchestrator: LocalOrchestrator) -> None:
    async with a_call(orchestrator, idle) as (call, client):
        client.lines[0].socket.transport.pause_reading()
        text = "x" * 500_000
        while call.live:
            await call.partial(text)
            await asyncio.sleep(0)
        assert not call.over
        client.lines[0].socket.transport.abort()


async def test_a_client_that_answers_no_ping_is_a_drop() -> None:
    async with LocalOrchestrator(ping_interval_s=0.1) as orchestrator, a_call(orchestrator, idle) as (call, client):
        client.lines[0].socket.transport.pause_reading()
        await call.observed(lambda seen: not seen.live, "the drop is noticed")
        assert not call.over
        client.lines[0].socket.transport.abort()


async def test_stopping_gives_up_a_call_that_is_being_placed() -> None:
    async with LocalOrchestrator() as orchestrator:
        placing = asyncio.create_task(orchestrator.place_call(AGENT, deadline_ms=60_000))
        await asyncio.sleep(0)
        assert len(orchestrator.calls) == 1
    with pytest.raises(CallRefused, match="the call is over"):
        await placing


async def test_stopping_ends_everything_soon_and_leaves_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    before = asyncio.all_tasks()
    orchestrator = LocalOrchestrator()
    await orchestrator.start()
    async with Client(orchestrator, idle, room=5) as client:
        calls = [await orchestrator.place_call(AGENT) for _ in range(3)]
        for call in calls:
            await call.connected()
            await call.user("my secret is 4711")
        calls[0].pause_reading()
        async with asyncio.timeout(15):
            await orchestrator.stop()
        assert {await line.close_code() for line in client.lines} <= {1000, 1006}
        assert all(call.over for call in calls)
        ours = {task for task in asyncio.all_tasks() - before if "unpod_bridge" in repr(task.get_coro())}
        assert not ours
    await orchestrator.stop()
    secrets = [KEY, "4711", *(call.token for call in calls)]
    library = [record.getMessage() for record in caplog.records if record.name.startswith(("unpod", "aiohttp"))]
    assert library
    assert not [message for message in library if any(secret in message for secret in secrets)]
    assert not any(secret in repr([orchestrator, calls, calls[0].frames]) for secret in [KEY, calls[0].token])


async def test_control_frames_show_no_token(orchestrator: LocalOrchestrator) -> None:
    async with a_call(orchestrator, idle) as (call, _):
        assert call.token not in repr(orchestrator.control_frames)
        assert "job.assign" in [frame.event for frame in orchestrator.control_frames]


async def test_a_port_that_is_taken_is_an_error(orchestrator: LocalOrchestrator) -> None:
    second = LocalOrchestrator(port=orchestrator.port)
    with pytest.raises(OSError, match="address already in use"):
        await second.start()


async def test_ended_calls_are_forgotten_in_time() -> None:
    async with LocalOrchestrator(keep_ended_calls=2) as orchestrator, Client(orchestrator, idle):
        for _ in range(4):
            call = await orchestrator.place_call(AGENT)
            await call.connected()
            await call.hang_up()
        assert len(orchestrator.calls) == 2


async def test_it_serves_until_it_is_cancelled() -> None:
    ready: asyncio.Future[LocalOrchestrator] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve_forever(port=0, api_keys={"k"}, on_ready=ready.set_result))
    orchestrator = await ready
    async with httpx2.AsyncClient(base_url=orchestrator.http_url, headers={"Authorization": "Bearer k"}) as http:
        assert (await http.get("/_local/workers")).json() == {"workers": []}
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
