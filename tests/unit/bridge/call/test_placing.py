from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from tests.unit.bridge.call.call_rig import SUBJECTS, TOKEN, FakePlace, FakeSocket, FakeWorker, Rig, call

from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.live import AGAIN, LIVE_SUBJECT, Again
from unpod.errors import Fenced
from unpod.ports import Message
from unpod.testing.memory import MemoryLog
from unpod_bridge.call.placing import LineResult, LineSettings, NewCall
from unpod_bridge.call.settings import MOVED
from unpod_bridge.journal.placements import take_line
from unpod_bridge.protocol.state import ProtocolSettings
from unpod_bridge.transport.sockets import DialError
from unpod_bridge.wire.call_frames import VERBS
from unpod_bridge.wire.job import Job

FAST = LineSettings(protocol=replace(ProtocolSettings(), buffer_s=3.0))


async def test_a_call_comes_up_with_its_first_records_in_order() -> None:
    async with call() as rig:
        assert rig.types() == ["line.taken", "hello.ack", "call.started", "owner.appointed", "owner.changed"]
        assert rig.place.started == [("session-1", 4, 5)]
        line, hello, started, own, changed = rig.records()
        assert changed.body == ev.OwnerChanged(epoch=4, runner="runner-1")
        assert [record.envelope.index for record in (hello, started, changed)] == [1, 2, 3]
        assert {record.envelope.epoch for record in (hello, started, changed)} == {line.seq}
        assert (line.envelope.index, line.envelope.epoch, own.envelope.index) == (0, 0, 0)
        assert own.body == ev.OwnerAppointed(runner="runner-1")
        assert {record.envelope.source for record in rig.records()} == {"/unpod/bridge/bridge-1"}


async def test_a_call_is_named_in_its_jobs_record_beside_its_line_and_before_all_else() -> None:
    worker, subjects = FakeWorker(), SUBJECTS.call("agent-1", "session-1")
    worker.script.append(lambda _: None)
    async with call(worker=worker, up=False) as rig:
        named = asyncio.Event()

        async def begin(session_id: str) -> None:
            del session_id
            await named.wait()

        rig.place.begin = begin  # type: ignore[method-assign]
        worker.greet(worker.socket)
        await rig.settle()
        assert rig.types() == ["line.taken"]
        named.set()
        await rig.settle()
        assert len(rig.records()) == 5
        assert len(rig.records(subjects.channel_of(subjects.own))) == 1


async def test_a_call_whose_job_is_another_bridges_is_left_to_it_with_its_line() -> None:
    worker = FakeWorker()
    worker.script.append(lambda _: None)
    async with call(worker=worker, up=False) as rig:

        async def begin(session_id: str) -> None:
            del session_id
            raise Fenced("another bridge has the job")

        rig.place.begin = begin  # type: ignore[method-assign]
        worker.greet(worker.socket)
        assert (await rig.result()).reason == "lost"
        assert (rig.types(), rig.place.released, worker.socket.closed) == (
            ["line.taken"],
            ["the call could not be placed"],
            1012,
        )
        other, place = FakeWorker(), FakePlace()
        services = replace(rig.services, log=MemoryLog(rig.broker), bridge_id="bridge-2", dialer=other)
        line = NewCall(Job("job-1", "call-1", "agent-1", "ws://w/c", TOKEN), place, services, inherited=True)
        goes_on = asyncio.get_running_loop().create_task(line.run())
        await rig.until(lambda: bool(place.started))
        assert rig.types("line") == ["line.taken"] * 2
        assert rig.types("own") == ["owner.appointed"]
        goes_on.cancel()
        await asyncio.wait({goes_on})


async def test_the_url_carries_the_token_and_nothing_else_does(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    worker = FakeWorker()
    worker.script.append(DialError("ws://w/c cannot be reached"))
    async with call(worker=worker, up=False) as rig:
        await rig.clock.advance(0.3)
        assert worker.socket.url == "ws://w/c?a=1&token=t0p-s3cret%26token"
        assert TOKEN not in repr(rig.line._job)
        worker.socket.raw(b'{"token":"' + TOKEN.encode())
        await rig.settle()
        assert "s3cret" not in caplog.text
        assert all(b"s3cret" not in record.data for record in rig.records())


async def test_a_text_is_in_the_log_as_it_came_in_the_turn_in_which_it_was_read() -> None:
    async with call() as rig:
        data = b'{"event": "user.text",  "text":"hi", "extra": {"language": "de"}, "new": 1}'
        rig.worker.socket.raw(data)
        record = rig.records("evt")[-1]
        assert record.data == data
        assert record.envelope.index == 4


async def test_a_piece_of_speech_is_on_the_socket_in_the_turn_in_which_it_arrives() -> None:
    async with call() as rig:
        socket, subjects = rig.worker.socket, SUBJECTS.call("agent-1", "session-1")
        for n, text in ((1, "a"), (2, "b"), (3, "c")):
            rig.line._on_live(Message(subjects.delta, json.dumps([rig.epoch, 1, 0, n, 0, text]).encode()))
            assert socket.sent[1:] == [{"event": "agent.text.delta", "text": "a"}]
        await rig.settle()
        assert socket.sent[2:] == [{"event": "agent.text.delta", "text": "bc"}]


async def test_a_whole_turn() -> None:
    async with call() as rig:
        socket = rig.worker.socket
        socket.say("user.text", text="hi")
        await rig.delta(1, 1, "a")
        await rig.settle()
        await rig.delta(1, 2, "b")
        await rig.delta(1, 3, "c")
        await rig.settle()
        await rig.end_reply(1, 3, 3)
        assert socket.events == ["hello", *["agent.text.delta"] * 2, "agent.text.end"]
        assert "".join(str(frame.get("text", "")) for frame in socket.sent) == "abc"
        assert rig.bodies(ev.ReplySpoken) == [ev.ReplySpoken(turn=1, deltas=3, chars=3, ended=True)]


async def test_a_piece_that_cannot_be_read_harms_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with call() as rig:
        subjects = SUBJECTS.call("agent-1", "session-1")
        for data in (b"", b"{}", b"[1]", b"\xff", b"[" * 100_000):
            await rig.owner_log.publish(subjects.delta, data)
        await rig.delta(1, 1, "a")
        await rig.settle()
        assert rig.worker.socket.sent[-1]["text"] == "a"
        assert "cannot be read" in caplog.text


async def test_missing_pieces_are_asked_for() -> None:
    async with call() as rig:
        subjects = SUBJECTS.call("agent-1", "session-1")
        asked: list[Again] = []
        await rig.owner_log.subscribe(subjects.again, lambda message: asked.append(AGAIN.decode(message.data)))
        await rig.delta(1, 2, "b")
        await rig.settle()
        assert asked == [Again(rig.epoch, 1, 0, 1)]


async def test_commands_that_the_tail_missed_are_read_from_the_log() -> None:
    async with call() as rig:
        rig.broker.drop(SUBJECTS.call("agent-1", "session-1").cmd, 2)
        await rig.command(cmd.Say(text="1"))
        await rig.command(cmd.Merge(source_session_id="x"))
        assert rig.worker.socket.events == ["hello"]
        await rig.command(cmd.Say(text="3"))
        await rig.clock.advance(0.1)
        await rig.settle()
        assert rig.worker.socket.events == ["hello", "agent.say", "agent.merge", "agent.say"]


async def test_a_command_of_an_unknown_kind_is_refused() -> None:
    async with call() as rig:
        subjects = SUBJECTS.call("agent-1", "session-1")
        await rig.command(cmd.Say(text="a"))
        newest = next(m for m in reversed(rig.broker.records) if m.subject == subjects.cmd)
        headers = {
            **newest.headers,
            "ce-type": "io.unpod.cmd.fly.v1",
            "ce-id": "x",
            "Unpod-Index": "2",
            "Nats-Msg-Id": "x",
        }
        await rig.owner_log.append(subjects.cmd, b'{"verb":"fly"}', headers)
        await rig.settle()
        assert rig.bodies(ev.CommandAcknowledged)[-1].outcome == "refused"  # type: ignore[attr-defined]
        rig.index = 2
        await rig.command(cmd.Say(text="b"))
        assert rig.worker.socket.sent[-1]["text"] == "b"


async def test_the_agent_ends_the_call() -> None:
    async with call() as rig:
        await rig.command(cmd.EndCall(reason="completed"))
        assert rig.outcomes() == [("call.end", "claimed"), ("call.end", "delivered")]
        await rig.clock.advance(5.0)
        rig.worker.socket.lose(1000)
        assert await rig.result() == LineResult("completed", 5.0, connected=True)
        assert rig.bodies(ev.CallEnded) == [ev.CallEnded(reason="completed", close_code=1000, by="agent")]


async def test_a_claim_is_in_the_log_before_its_verb_is_on_the_socket() -> None:
    async with call() as rig:
        rig.broker.skip_acks = 1_000
        rig.line._on_record(await rig.message(cmd.EndCall()))
        await rig.settle()
        assert rig.outcomes() == [("call.end", "claimed")]
        assert rig.worker.socket.events == ["hello"]
        rig.broker.skip_acks = 0
        await rig.until(lambda: rig.worker.socket.events == ["hello", "agent.end_call"])


async def test_a_worker_that_never_reads_is_given_up_and_what_it_was_told_is_unknown() -> None:
    async with call() as rig:
        rig.worker.socket.auto_pong = False
        await rig.command(cmd.Merge(source_session_id="x"))
        assert rig.outcomes() == [("merge", "claimed")]
        rig.worker.socket.lose(None)
        await rig.settle()
        assert rig.outcomes() == [("merge", "claimed"), ("merge", "unknown")]
        assert rig.worker.socket.events == ["hello"]


async def test_a_hangup() -> None:
    async with call() as rig:
        rig.worker.socket.lose(1000)
        assert (await rig.result()).reason == "hangup"
        assert rig.bodies(ev.CallEnded) == [ev.CallEnded(reason="hangup", close_code=1000, by="caller")]
        assert not rig.place.released


async def test_a_drop_is_redialled_and_told() -> None:
    async with call() as rig:
        rig.worker.socket.lose(None)
        await rig.settle()
        assert rig.worker.dials == 2
        assert rig.types("evt")[-2:] == ["hello.ack", "call.reattached"]
        rig.worker.socket.say("user.text", text="still here")
        assert rig.types("evt")[-1] == "user.text"


async def test_frames_of_a_socket_that_was_left_are_not_heard() -> None:
    async with call() as rig:
        first = rig.worker.socket
        receiver = first.receiver
        first.lose(None)
        await rig.settle()
        assert receiver is not None
        count = len(rig.records())
        receiver.on_frame(b'{"event":"user.text","text":"ghost"}', binary=False)
        receiver.on_lost(1000, "")
        receiver.on_pong(b"c1")
        assert len(rig.records()) == count
        assert rig.task is not None
        assert not rig.task.done()


async def test_cancel_in_call() -> None:
    async with call() as rig:
        rig.line.cancel()
        assert await rig.result() == LineResult("cancelled", 0.0, connected=True)
        assert rig.worker.socket.closed == 1000
        assert rig.bodies(ev.CallEnded) == [ev.CallEnded(reason="cancelled")]


async def test_cancel_while_dialling() -> None:
    worker = FakeWorker()
    worker.script.append(lambda _: None)
    async with call(worker=worker, up=False) as rig:
        rig.line.cancel()
        assert await rig.result() == LineResult("cancelled", 0.0, connected=False)
        assert worker.socket.closed == 1000
        assert rig.place.released == ["cancelled"]
        assert not rig.records()


async def test_two_refusals_and_then_success_is_one_call() -> None:
    worker = FakeWorker()
    worker.script += [lambda socket: socket.lose(4003)] * 2
    async with call(worker=worker, up=False) as rig:
        await rig.clock.advance(0.25)
        await rig.clock.advance(0.45)
        await rig.settle()
        assert worker.dials == 3
        assert len(rig.bodies(ev.CallStarted)) == 1
        assert rig.place.started


async def test_a_call_that_never_comes_up_gives_its_place_back() -> None:
    worker = FakeWorker()
    worker.script += [DialError("no", status=503), DialError("no"), DialError("no")]
    async with call(worker=worker, up=False) as rig:
        await rig.clock.advance(1.0)
        assert await rig.result() == LineResult("lost", 0.0, connected=False)
        assert rig.place.released == ["no call after 3 dials"]
        assert not rig.records()


async def test_a_stalled_handshake_is_closed_and_dialled_again() -> None:
    worker = FakeWorker()
    worker.script.append(worker.ack)
    async with call(worker=worker, up=False) as rig:
        await rig.clock.advance(9.9)
        assert worker.dials == 1
        await rig.clock.advance(0.4)
        await rig.settle()
        assert worker.sockets[0].closed == 1002
        assert rig.place.started


async def test_a_call_without_a_session_id_is_refused_with_a_clear_line(caplog: pytest.LogCaptureFixture) -> None:
    async with call(worker=FakeWorker(session_id=""), up=False) as rig:
        assert not (await rig.result()).connected
        assert "without a session id" in caplog.text
        assert not rig.records()


@pytest.mark.parametrize("session", ["a.b.*.>", "with space\r\n\x00", "🦜" * 1_000, "x" * 4_000, "=~"])
async def test_hostile_session_ids_are_safe_and_apart(session: str) -> None:
    async with call(worker=FakeWorker(session_id=session)) as rig:
        assert rig.place.started[0][0] == session
        rig.worker.socket.say("user.text", text="hi")
        await rig.settle()
        assert {record.envelope.session for record in rig.records()} == {session}
        await rig.command(cmd.Say(text="a"))
        assert rig.worker.socket.sent[-1]["text"] == "a"


# --- bad input --------------------------------------------------------------------------------------------------------


async def test_hostile_frames_are_recorded_and_the_call_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    async with call() as rig:
        socket = rig.worker.socket
        socket.raw(b"\xff\xfe")
        socket.raw(b"[" * 1_000_000)
        socket.raw(b'{"event":"user.text","text":"' + b"x" * 1_100_000 + b'"}')
        socket.raw(b'{"event":"wave","deep":{"a":1}}')
        socket.raw(b"binary", binary=True)
        socket.say("user.text", text="hello")
        await rig.settle()
        assert rig.types("evt")[2:] == ["rejected", "rejected", "rejected", "unknown", "rejected", "user.text"]
        assert caplog.text.count("was rejected") == 4


async def test_frames_with_flaws_count_for_the_rest_and_are_recorded_as_they_came(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with call() as rig:
        sent = rb'{"event":"user.text","text":"well \ud83d"}'
        rig.worker.socket.raw(sent)
        rig.worker.socket.raw(b'{"event":"turn.metrics","turn_id":1,"asr_ms":1.7e12,"ttfa_ms":300}')
        await rig.settle()
        [said] = [body for body in rig.bodies(ev.UserText) if isinstance(body, ev.UserText)]
        [measured] = [body for body in rig.bodies(ev.TurnMetrics) if isinstance(body, ev.TurnMetrics)]
        assert (said.text, said.as_sent, said.flaws) == ("well \ufffd", sent.decode(), ("half a character",))
        assert (measured.asr_ms, measured.ttfa_ms, measured.flaws) == (None, 300, ("asr_ms cannot be",))
        assert caplog.text.count("could be read in part") == 2
        assert "well" not in caplog.text


async def test_a_frame_that_the_log_cannot_hold_is_recorded_as_rejected() -> None:
    async with call() as rig:
        rig.broker.max_payload = 10_000
        rig.worker.socket.say("user.text", text="x" * 20_000)
        rig.worker.socket.say("user.text", text="short")
        await rig.settle()
        (rejected,) = rig.bodies(ev.FrameRejected)
        assert rejected.reason == "too large for the log"  # type: ignore[attr-defined]
        assert [record.envelope.index for record in rig.records("evt")[-2:]] == [4, 5]


async def test_a_worker_that_floods_has_to_wait() -> None:
    async with call(settings=LineSettings(busy=50)) as rig:
        socket = rig.worker.socket
        rig.log.available = False
        for number in range(100):
            socket.say("user.text", text=str(number))
        assert socket.pauses == [True]
        rig.log.available = True
        await rig.until(lambda: socket.pauses == [True, False], step_s=0.1)
        assert len(rig.bodies(ev.UserText)) == 100


# --- the recording ----------------------------------------------------------------------------------------------------


async def test_what_is_withheld_is_live_and_not_in_the_log() -> None:
    async with call() as rig:
        heard: list[Message] = []
        await rig.owner_log.subscribe(SUBJECTS.call("agent-1", "session-1").live, heard.append)
        await rig.owner_log.subscribe(SUBJECTS.call("agent-1", "session-1").all, heard.append)
        await rig.command(cmd.PauseRecording())
        heard.clear()
        socket = rig.worker.socket
        socket.raw(b'{"event":"user.text","text":"4111 1111","secret":"4111 1111"}')
        socket.raw(b'{"event":"wave","x":"4111 1111"}')
        socket.raw(b'{"event":"user.text","text":["4111 1111"]}')
        await rig.settle()
        await rig.command(cmd.ResumeRecording())
        socket.say("user.text", text="thanks")
        await rig.settle()
        assert all(b"4111" not in message.data for message in rig.broker.records)
        texts = [m for m in heard if b"4111" in m.data]
        assert len(texts) == 3
        assert texts[0].data == b'{"event":"user.text","text":"4111 1111","secret":"4111 1111"}'
        assert texts[0].headers[LIVE_SUBJECT] == SUBJECTS.call("agent-1", "session-1").evt("user.text")
        order = [m.headers["Unpod-Index"] for m in heard if ".evt." in m.headers.get(LIVE_SUBJECT, m.subject)]
        assert list(dict.fromkeys(order)) == ["5", "6", "7", "9"]
        assert [m.headers["Unpod-Index"] for m in texts] == ["5", "6", "7"]
        assert [record.envelope.index for record in rig.records("evt")] == [1, 2, 5, 6, 7, 9]


async def test_a_withheld_say_is_spoken_from_the_live_subject() -> None:
    async with call() as rig:
        await rig.command(cmd.PauseRecording())
        await rig.command(cmd.Say(text="your PIN is 1234"), withheld=True)
        assert rig.worker.socket.sent[-1] == {"event": "agent.say", "text": "your PIN is 1234"}
        assert all(b"1234" not in message.data for message in rig.broker.records)


async def test_a_pause_survives_a_drop() -> None:
    async with call() as rig:
        await rig.command(cmd.PauseRecording(reason="pci"))
        rig.worker.socket.lose(None)
        await rig.settle()
        assert rig.worker.socket.sent[1:] == [{"event": "recording.pause", "reason": "pci"}]


async def test_a_filler_that_the_worker_cannot_do_is_the_bridge_s_work() -> None:
    async with call(worker=FakeWorker(verbs=VERBS)) as rig:
        await rig.command(cmd.SetFiller(text="one moment"))
        rig.worker.socket.say("user.text", text="hi")
        await rig.clock.advance(0.75)
        assert rig.worker.socket.sent[-1] == {"event": "agent.say", "text": "one moment"}


# --- the log ----------------------------------------------------------------------------------------------------------


async def test_a_log_that_is_away_for_a_while_delays_and_loses_nothing() -> None:
    async with call() as rig:
        rig.log.available = False
        rig.worker.socket.say("user.text", text="one")
        await rig.clock.advance(10)
        rig.worker.socket.say("user.text", text="two")
        assert rig.worker.socket.closed is None
        rig.log.available = True
        for _ in range(5):
            await rig.clock.advance(1)
            await rig.settle()
        assert [record.body.text for record in rig.records("evt") if isinstance(record.body, ev.UserText)] == [
            "one",
            "two",
        ]
        await rig.clock.advance(60)
        assert rig.worker.socket.closed is None


async def test_a_log_that_stays_away_ends_the_call_and_has_its_end_when_it_is_back() -> None:
    async with call(settings=FAST) as rig:
        rig.log.available = False
        rig.worker.socket.say("user.text", text="one")
        for _ in range(8):
            await rig.clock.advance(1)
        assert rig.worker.socket.closed == 1000
        assert rig.task is not None
        assert not rig.task.done()
        rig.log.available = True
        await rig.settle()
        result = await rig.result()
        assert result.reason == "error"
        (ended,) = rig.bodies(ev.CallEnded)
        assert ended.detail == "the event log did not answer for 3 s"  # type: ignore[attr-defined]
        indexes = [record.envelope.index for record in rig.records() if record.channel in ("evt", "ack")]
        assert indexes == list(range(1, len(indexes) + 1))


async def test_a_full_log_ends_the_call_and_the_end_is_stored_when_there_is_room() -> None:
    async with call() as rig:
        rig.broker.full = True
        rig.worker.socket.say("user.text", text="one")
        await rig.until(lambda: rig.worker.socket.closed is not None)
        assert rig.worker.socket.closed == 1000
        rig.broker.full = False
        await rig.until(lambda: rig.task is not None and rig.task.done(), step_s=1.0)
        assert (await rig.result()).reason == "error"
        assert rig.types("evt")[2:] == ["call.ended"]
        assert rig.records("evt")[-1].envelope.index == 4


async def test_a_call_that_takes_more_than_its_share_of_the_log_is_ended_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with call() as rig:
        shares = rig.services.shares
        before = rig.line.volume
        await rig.command(cmd.Say(text="x" * 10_000))
        rig.worker.socket.say("user.text", text="y" * 10_000)
        await rig.settle()
        stored = sum(len(m.data) for m in rig.broker.records)
        assert 20_000 < rig.line.volume - before < 24_000
        assert stored < rig.line.volume < stored + 600 * len(rig.broker.records)
        shares.look(rig.line.volume * 8.0, 0.0, agents=1, bridges=1)
        shares.look(rig.line.volume * 7.9, 1.0, agents=1, bridges=1)
        assert not rig.bodies(ev.CallEnded), "it is silent"
        rig.worker.socket.say("user.text", text="and more")
        await rig.settle()
        shares.look(rig.line.volume * 7.9, 2.0, agents=1, bridges=1)
        assert (await rig.result()).reason == "error"
        assert rig.worker.socket.closed == 1000
        (ended,) = rig.bodies(ev.CallEnded)
        assert "more than one call may" in ended.detail  # type: ignore[attr-defined]
        assert "more than one call may" in caplog.text
        assert shares.room() == {"agent-1": 1.0}


async def test_another_bridge_takes_the_line() -> None:
    async with call() as rig:
        subjects = SUBJECTS.call("agent-1", "session-1")
        line = rig.records("line")[0]
        newest = next(m for m in rig.broker.records if m.subject == subjects.line)
        await rig.owner_log.append(subjects.line, line.data, {**newest.headers, "Nats-Msg-Id": "other"})
        rig.worker.socket.say("user.text", text="one")
        result = await rig.result()
        assert (result.reason, result.connected) == ("moved", True)
        assert rig.worker.socket.closed == 1012
        assert not rig.bodies(ev.CallEnded)


async def test_a_log_that_is_full_when_the_call_comes_up(caplog: pytest.LogCaptureFixture) -> None:
    worker = FakeWorker()
    worker.script.append(lambda _: None)
    async with call(worker=worker, up=False) as rig:
        rig.broker.full = True
        worker.greet(worker.socket)
        assert not (await rig.result()).connected
        assert worker.socket.closed == 1000
        assert rig.place.released == ["the call could not be placed"]
        assert not rig.records()
        assert "cannot be placed: the log is full" in caplog.text


@pytest.mark.parametrize("is_cut_off", [True, False])
async def test_a_call_that_comes_up_while_the_log_is_away_waits_for_it_as_long_as_any(*, is_cut_off: bool) -> None:
    async with waiting_call(buffer_s=0.3) as rig:
        rig.log.available, rig.broker.skip_acks = not is_cut_off, 1_000_000
        rig.worker.greet(rig.worker.socket)
        await rig.until(lambda: rig.task is not None and rig.task.done(), step_s=0.02)
        assert not (await rig.result()).connected
        assert rig.worker.socket.closed == 1000

    async with waiting_call(buffer_s=30.0) as rig:
        rig.log.available, rig.broker.skip_acks = not is_cut_off, 2
        rig.worker.greet(rig.worker.socket)
        await rig.clock.advance(7.0)  # as long as an election takes
        assert not rig.place.started
        rig.log.available = True
        await rig.until(lambda: bool(rig.place.started), step_s=0.1)
        assert rig.types()[:3] == ["line.taken", "hello.ack", "call.started"]


@asynccontextmanager
async def waiting_call(buffer_s: float) -> AsyncIterator[Rig]:
    """A call whose worker has not said anything yet."""
    worker = FakeWorker()
    worker.script.append(lambda _: None)
    settings = LineSettings(protocol=replace(ProtocolSettings(), buffer_s=buffer_s))
    async with call(worker=worker, settings=settings, up=False) as rig:
        yield rig


async def test_a_line_that_was_left_behind_and_is_not_shown_yet_is_looked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with call() as former:
        [left] = [message for message in former.broker.records if message.subject.endswith(".line")]
    async with waiting_call(buffer_s=30.0) as rig:
        rig.line._inherited = True
        subjects = SUBJECTS.call("agent-1", "session-1")
        await rig.owner_log.append(subjects.line, left.data, left.headers)
        last, asked = rig.log.last, list[str]()

        async def lagging(subject: str) -> Message | None:
            asked.append(subject)
            return await last(subject) if len(asked) > 1 else None

        monkeypatch.setattr(rig.log, "last", lagging)
        rig.worker.greet(rig.worker.socket)
        await rig.until(lambda: bool(rig.place.started), step_s=0.1)
        assert rig.types("line") == ["line.taken", "line.taken"]


async def test_a_session_that_is_in_the_log_already_is_not_taken() -> None:
    async with call() as rig:
        rig.worker.socket.lose(1000)
        await rig.result()
        before = len(rig.broker.records)
        again = rig.another()
        await rig.settle()
        assert not (await again).connected
        assert len(rig.broker.records) == before
        assert rig.worker.socket.closed == 1012


async def test_a_runner_that_does_not_want_the_call_is_a_clear_end() -> None:
    worker = FakeWorker()
    worker.script.append(lambda _: None)
    async with call(worker=worker, up=False) as rig:
        rig.place.willing = False
        worker.greet(worker.socket)
        assert (await rig.result()).reason == "error"
        (ended,) = rig.bodies(ev.CallEnded)
        assert ended.detail == "no runner has taken the call"  # type: ignore[attr-defined]
        assert rig.place.released
        assert worker.socket.closed == 1000


async def test_a_call_whose_line_is_taken_while_it_is_placed_goes_on_at_the_other_bridge() -> None:
    worker, subjects = FakeWorker(), SUBJECTS.call("agent-1", "session-1")
    worker.script.append(lambda _: None)
    async with call(worker=worker, up=False) as rig:
        services = replace(rig.services, log=MemoryLog(rig.broker), bridge_id="bridge-2")
        job = Job("job-1", "call-1", "agent-1", "ws://w/c", TOKEN)
        tasks: list[asyncio.Task[object]] = []

        def take(_: Message) -> None:
            """Another bridge takes the line while we place the call."""
            if not tasks:
                taking = take_line(services, subjects, job, "session-1", after=1)
                tasks.append(asyncio.get_running_loop().create_task(taking))

        await rig.owner_log.subscribe(subjects.evt("hello.ack"), take)
        worker.greet(worker.socket)
        assert (await rig.result()).reason == MOVED
        await asyncio.gather(*tasks)
        assert len(rig.records("line")) == 2
        assert not rig.bodies(ev.CallEnded)
        assert worker.socket.closed == 1012  # not with 1000, which would end it for the other one, too
        assert len(rig.place.released) == 1


async def test_a_line_that_is_given_up_closes_with_1012() -> None:
    async with call() as rig:
        assert rig.task is not None
        rig.task.cancel()
        await rig.settle()
        assert rig.worker.socket.closed == 1012
        assert not rig.bodies(ev.CallEnded)


async def test_a_line_that_is_given_up_while_dialling_gives_its_place_back() -> None:
    worker = FakeWorker()
    worker.script.append(lambda _: None)
    async with call(worker=worker, up=False) as rig:
        assert rig.task is not None
        rig.task.cancel()
        await rig.settle()
        assert worker.socket.closed == 1012
        assert rig.place.released == ["the bridge has let the call go"]


async def test_cancel_before_the_first_step() -> None:
    worker = FakeWorker()
    async with call(worker=worker) as rig:
        line = rig.make()
        line.cancel()
        assert await line.run() == LineResult("cancelled", 0.0, connected=False)
        assert worker.dials == 1


async def test_a_hangup_while_the_call_is_placed_is_stored_after_its_start() -> None:
    worker = FakeWorker()

    def hasty(socket: FakeSocket) -> None:
        worker.greet(socket)
        socket.say("user.text", text="hello?")
        socket.lose(1000)

    worker.script.append(hasty)
    async with call(worker=worker, up=False) as rig:
        assert (await rig.result()).reason == "hangup"
        assert rig.types("evt") == ["hello.ack", "call.started", "user.text", "call.ended"]


async def test_what_is_said_first_is_stored_though_the_runner_is_slow_to_answer() -> None:
    """A bridge that dies meanwhile takes nothing of it with it; the runner is still told before the call is let go."""
    worker = FakeWorker()
    worker.script.append(lambda _: None)
    async with call(worker=worker, up=False) as rig:
        rig.place.answers = asyncio.Event()
        worker.greet(worker.socket)
        await rig.settle()
        worker.socket.say("user.text", text="hello?")
        await rig.settle()
        assert rig.types("evt") == ["hello.ack", "call.started", "user.text"]
        worker.socket.lose(1000)
        await rig.settle()
        assert rig.types("evt")[-1] == "call.ended"
        assert rig.task is not None
        assert not rig.task.done()
        rig.place.answers.set()
        assert (await rig.result()).reason == "hangup"


async def test_a_failure_of_ours_is_logged_without_what_was_said(caplog: pytest.LogCaptureFixture) -> None:
    worker = FakeWorker()
    worker.script.append(lambda _: None)
    async with call(worker=worker, up=False) as rig:

        async def broken(session_id: str, epoch: int, until_seq: int, *, positions: bytes = b"") -> bool:
            raise ValueError("the caller said: 4111 1111")

        rig.place.start = broken  # type: ignore[method-assign]
        worker.greet(worker.socket)
        assert (await rig.result()).reason == "error"
        assert "ValueError at" in caplog.text
        assert "4111" not in caplog.text
        assert worker.socket.closed == 1000
        assert rig.types("evt") == ["hello.ack", "call.started", "call.ended"]


async def test_a_defect_of_ours_in_a_call_ends_it_in_the_log_too(caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> None:
        raise KeyError("what the caller said")

    async with call() as rig:
        rig.line._spawn(broken())
        assert (await rig.result()).reason == "error"
        [ended] = rig.bodies(ev.CallEnded)
        assert ended == ev.CallEnded(reason="error", detail="a defect in the bridge")
        assert rig.worker.socket.closed == 1000
    assert "what the caller said" not in caplog.text


async def test_what_the_worker_has_said_first_is_not_kept() -> None:
    async with call() as rig:
        assert rig.line._protocol._hello is None
        rig.worker.socket.lose(None)
        await rig.clock.advance(0.3)
        assert rig.bodies(ev.CallReattached)
        assert rig.line._protocol._hello is None


async def test_a_call_that_is_over_holds_nothing_of_what_it_was_made_of() -> None:
    """All of that refers to each other; thousands of calls would wait for the collector."""
    async with call() as rig:
        rig.worker.socket.say("user.text", text="hi")
        rig.worker.socket.lose(1000)
        await rig.result()
        assert vars(rig.line).keys() == {"_session_id", "_done"}
        assert rig.line.session_id == "session-1"
        assert not await rig.line.let_go()
        rig.line.cancel()
        rig.line._on_log_failure(Fenced("its writer says so in the next tick"))
