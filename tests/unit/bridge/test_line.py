from __future__ import annotations

from tests.unit.bridge.call_rig import call

from unpod.core import commands as cmd
from unpod.core import events as ev


async def test_a_call_comes_up_with_its_first_records_in_order() -> None:
    async with call() as rig:
        assert rig.types() == ["line.taken", "hello.ack", "call.started", "owner.appointed", "owner.changed"]
        assert rig.place.started == [("session-1", 4, 5)]


async def test_a_text_is_in_the_log_as_it_came() -> None:
    async with call() as rig:
        rig.worker.socket.raw(b'{"event": "user.text",  "text":"hi", "extra": {"language": "de"}, "new": 1}')
        await rig.settle()
        record = rig.records("evt")[-1]
        assert record.data == b'{"event": "user.text",  "text":"hi", "extra": {"language": "de"}, "new": 1}'


async def test_a_reply() -> None:
    async with call() as rig:
        socket = rig.worker.socket
        socket.say("user.text", text="hi")
        await rig.delta(1, 1, "a")
        await rig.settle()
        assert socket.sent[-1] == {"event": "agent.text.delta", "text": "a"}
        await rig.delta(1, 2, "b")
        await rig.delta(1, 3, "c")
        await rig.settle()
        await rig.end_reply(1, 3, 3)
        assert socket.sent[1:] == [
            {"event": "agent.text.delta", "text": "a"},
            {"event": "agent.text.delta", "text": "bc"},
            {"event": "agent.text.end"},
        ]
        assert rig.bodies(ev.ReplySpoken) == [ev.ReplySpoken(turn=1, deltas=3, chars=3, ended=True)]


async def test_the_agent_ends_the_call() -> None:
    async with call() as rig:
        await rig.command(cmd.EndCall(reason="completed"))
        assert rig.outcomes() == [("call.end", "claimed"), ("call.end", "delivered")]
        rig.worker.socket.lose(1000)
        result = await rig.result()
        assert (result.reason, result.connected) == ("completed", True)
        assert rig.bodies(ev.CallEnded) == [ev.CallEnded(reason="completed", close_code=1000, by="agent")]


async def test_a_hangup() -> None:
    async with call() as rig:
        rig.worker.socket.lose(1000)
        assert (await rig.result()).reason == "hangup"


async def test_a_drop_is_redialled() -> None:
    async with call() as rig:
        rig.worker.socket.lose(None)
        await rig.settle()
        assert rig.worker.dials == 2
        assert rig.types("evt")[-2:] == ["hello.ack", "call.reattached"]
