"""NATS is away in mid-call: what a session says meanwhile arrives afterwards, in order and once, or the call ends."""

from __future__ import annotations

import asyncio
import logging

import pytest

from unpod import CallContext, EchoAdapter
from unpod.core import codec
from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.live import DELTA, Again, Delta, Doubt
from unpod.session.resend_buffer import MAX_CHARS, ResendBuffer
from unpod.testing import MemoryLog, SimulatedCall, simulate_call
from unpod.testing.clock import settle


def connection(call: SimulatedCall) -> MemoryLog:
    """The runner's connection."""
    return call._runner._log


async def pieces_of(call: SimulatedCall) -> list[Delta]:
    """What passes the live subject from now on."""
    found: list[Delta] = []
    ear = MemoryLog(call.line.log.broker)
    await ear.subscribe(call.line.call.delta, lambda message: found.append(DELTA.decode(message.data)))
    return found


async def ask_again(call: SimulatedCall, turn: int, *, first: int = 1, epoch: int = 0) -> None:
    asked = Again(epoch or call.line.epoch, turn, 0, first)
    call.line.log.send(call.line.call.again, codec.encode(asked))
    await settle()


async def test_replies_that_were_made_while_nats_was_away_arrive_whole_and_in_order() -> None:
    spoken = asyncio.Event()

    class Waits(EchoAdapter):
        async def stream(self, text: str):  # type: ignore[no-untyped-def]  # noqa: ANN202
            await spoken.wait()
            async for piece in super().stream(text):
                yield piece

    async def handle(ctx: CallContext) -> None:
        ctx.session.dialog_machine = Waits()

        @ctx.session.on("turn_complete")
        async def hook(**fields: object) -> None:
            await ctx.session.say(f"that was {fields['turn_id']}")

        await ctx.session.run()

    async with simulate_call(handle) as call:
        heard = await pieces_of(call)
        for text in ("one", "two"):
            await call.user(text, wait=False)
        await settle()
        connection(call).available = False
        spoken.set()
        await settle(100)
        assert heard == []
        assert len(call.commands) == 0
        connection(call).available = True
        await settle(100)
        assert [type(command) for command in call.commands] == [cmd.EndReply, cmd.Say, cmd.EndReply]
        assert [command.turn for command in call.commands if isinstance(command, cmd.EndReply)] == [1, 2]
        # The bridge sees that it has not a piece of either, and asks.
        await ask_again(call, 1)
        await ask_again(call, 2, first=2)
        await ask_again(call, 1, epoch=1)
        assert [(piece.turn, piece.n) for piece in heard] == [(1, 1), (1, 2), (2, 2)]
        assert "".join(piece.text for piece in heard if piece.turn == 1) == "You said: one"
        owned = [record.envelope.index for record in await call.records() if record.channel in ("run", "cmd")]
        assert owned == list(range(1, len(owned) + 1))
        assert len(set(call.line.command_ids)) == len(call.line.command_ids)


async def test_what_the_bridge_has_handed_on_is_not_kept() -> None:
    async def handle(ctx: CallContext) -> None:
        ctx.session.dialog_machine = EchoAdapter()
        await ctx.session.run()

    async with simulate_call(handle) as call:
        heard = await pieces_of(call)
        await call.user("one")
        await call.user("two")
        del heard[:]
        await call.line.acknowledge(ev.ReplySpoken(turn=1, deltas=2, chars=13, ended=True))
        await settle()
        await ask_again(call, 1)
        assert heard == []
        await ask_again(call, 2)
        assert len(heard) == 2


def test_pieces_are_kept_within_a_bound() -> None:
    text = "x" * (MAX_CHARS // 5)
    kept = ResendBuffer()
    for turn in range(1, 6):
        for n in range(1, 4):
            kept.keep(Delta(1, turn, 0, n, 0, text))
    assert kept.chars <= MAX_CHARS
    assert [delta.n for delta in kept.again(Again(1, 5, 0, 2))] == [2, 3]
    assert list(kept.again(Again(1, 1, 0, 1))) == []
    for n in range(4, 10):
        kept.keep(Delta(1, 5, 0, n, 0, text))
    assert len(list(kept.again(Again(1, 5, 0, 1)))) == 9  # never the one that is being spoken
    kept.spoken(ev.ReplySpoken(turn=5, ended=False))
    assert kept.chars > 0
    kept.spoken(ev.ReplySpoken(turn=5, ended=True))
    assert kept.chars == 0


@pytest.mark.slow
async def test_a_flood_of_commands_waits_for_the_log_and_the_call_goes_on() -> None:
    said = 0

    async def handle(ctx: CallContext) -> None:
        ctx.session.dialog_machine = EchoAdapter()

        @ctx.session.on("user_turn")
        async def flood(text: str) -> None:
            nonlocal said
            if text == "flood":
                for _ in range(2_500):
                    await ctx.session.say("x")
                    said += 1

        await ctx.session.run()

    async with simulate_call(handle, timeout_s=30) as call:  # the turn waits for its hook
        await call.user("flood")
        assert await call.user("still there?") == "You said: still there?"
        async with asyncio.timeout(30):
            while len(call.said) < 2_500:
                await settle(100)
    assert call.reason == "hangup"
    assert said == 2_500


async def test_beyond_its_bound_the_call_ends_with_a_clear_line(caplog: pytest.LogCaptureFixture) -> None:
    reasons: list[str] = []

    async def handle(ctx: CallContext) -> None:
        reasons.append(await ctx.session.run())

    async with simulate_call(handle) as call:
        connection(call).available = False
        driver = call.context.session._driver
        for _ in range(2_100):
            driver.kernel.record(ev.Settled(), "")
        await settle(100)
        assert reasons == ["error"]
        result = await call._task
        assert (result.reason, result.failed) == ("error", True)
        assert driver.kernel.outbox.backlog <= 2_000
        call._kill()  # another runner finds the call as it is in the log
        await call.hang_up()
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert any("nothing more can be written" in text and "wait for the log" in text for text in errors)


async def test_what_is_too_long_for_a_record_costs_its_texts_alone() -> None:
    async def handle(ctx: CallContext) -> None:
        ctx.session.dialog_machine = EchoAdapter()

        @ctx.session.on("user_turn")
        async def hook(text: str) -> None:
            if text == "step":
                with pytest.raises(Exception, match="over the limit"):
                    await ctx.session.step("big", lambda: "x" * 2_000_000)
                ctx.session.data["small"] = await ctx.session.step("small", lambda: "y")

        await ctx.session.run()

    async with simulate_call(handle) as call:
        await call.user("step")
        driver = call.context.session._driver
        driver.kernel.record(ev.ToolReturned(name="look", result="x" * 2_000_000), "")
        assert await call.user("two") == "You said: two"
        stored = [record.body for record in await call.records() if isinstance(record.body, ev.ToolReturned)]
        assert stored == [ev.ToolReturned(name="look", withheld=True)]
        owned = [record.envelope.index for record in await call.records() if record.channel in ("run", "cmd")]
        assert owned == list(range(1, len(owned) + 1))
        assert call.context is not None
        assert call.context.session.data == {"small": "y"}


def kept_at(*times: float) -> ResendBuffer:
    """One reply after the other, of two pieces each, sent at these times."""
    kept = ResendBuffer()
    for number, at in enumerate(times):
        kept.keep(Delta(1, 1 + number // 2, 0, 1 + number % 2, 0, f"<{number}>"), at)
    return kept


@pytest.mark.parametrize(
    ("still_s", "texts"),
    [
        (0.0, ["", "", "<3>", "<4>"]),  # all that it may have handed over before its next receipt was due
        (8.7, ["", "", "<3>", "<4>"]),
        (8.9, ["", "<2>", "<3>", "<4>"]),  # it is known to have done nothing since 1.1
        (10.0, ["<1>", "<2>", "<3>", "<4>"]),
    ],
)
def test_what_a_bridge_that_is_gone_may_have_handed_over_comes_without_its_text(
    still_s: float, texts: list[str]
) -> None:
    kept = kept_at(0.5, 1.0, 1.2, 1.4, 5.0)
    doubt = Doubt(line=7, turn=1, part=0, first=2, within_s=0.3, still_s=still_s)
    sent = list(kept.again(Again(1, 1, 0, 2, doubt), 10.0))
    assert [(delta.turn, delta.n) for delta in sent] == [(1, 2), (2, 1), (2, 2), (3, 1)]
    assert [delta.text for delta in sent] == texts
    assert kept.chars == 3 + 3 * sum(bool(text) for text in texts)
    # It is decided once: whoever asks for some of it again gets the same, and what was sent since is not in doubt.
    kept.keep(Delta(1, 3, 0, 2, 0, "<5>"), 10.1)
    assert [delta.text for delta in kept.again(Again(1, 2, 0, 1, doubt), 10.2)] == texts[1:3]
    assert [delta.text for delta in kept.again(Again(1, 3, 0, 2, doubt), 10.2)] == ["<5>"]
