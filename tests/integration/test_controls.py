"""Controls from outside, at calls of real processes: each is done once, and answered, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.faults.process import eventually
from tests.integration.seed_stage import BOTH, LONG, first, page_name, snippet
from tests.integration.talk import SLOW_WORDS, Talk, a_call

from unpod import AsyncClient, ControlRefused, SessionClosed, SessionUnknown
from unpod.core import events as ev
from unpod.core.controls import TakeOver
from unpod.failpoints import VARIABLE
from unpod.management import SessionRecord

pytestmark = pytest.mark.faults


@asynccontextmanager
async def client(talk: Talk, actor: str = "ann") -> AsyncIterator[AsyncClient]:
    async with AsyncClient(nats_url=talk.stack.server.url, actor=actor) as opened:
        yield opened


async def in_the_log(talk: Talk, session: str) -> None:
    """Return once the log tells of a session, which it does a moment after the worker does."""

    async def known() -> bool:
        return await talk.stack.owner(session) is not None

    await eventually(known, "the session in the log")


async def test_what_is_said_from_outside_is_said_once(tmp_path: Path) -> None:
    async with a_call(tmp_path) as talk, client(talk) as outside:
        for _ in range(2):
            applied = await outside.sessions.say(talk.session, "a word from outside", command_id="one")
            assert applied.verb == "say"
        await talk.call.heard("a word from outside")
        assert talk.said.count("a word from outside") == 1
        await talk.turns()
        bodies = await talk.over()
        answers = [body.outcome for body in bodies if isinstance(body, ev.ControlAnswered)]
        assert answers == ["admitted", "applied"]


async def test_a_session_that_is_over_or_never_was(tmp_path: Path) -> None:
    async with a_call(tmp_path) as talk, client(talk) as outside:
        with pytest.raises(SessionUnknown, match="no session 'nobody'"):
            await outside.sessions.end("nobody")
        ended = await outside.sessions.end(talk.session, reason="enough", command_id="end")
        assert ended.session_id == talk.session
        assert (await talk.call.ended()).reason == "ended_by_agent"
        await talk.stack.closed([talk.session])
        with pytest.raises(SessionClosed, match="its call is over; say was not done"):
            await outside.sessions.say(talk.session, "hello?")
        assert (await outside.sessions.end(talk.session, reason="enough", command_id="end")).state == "ending"
        record = await outside.sessions.get(talk.session)
        assert (record.status, record.end_reason, record.turns) == ("ended", "enough", 1)
        bodies = [record.body for record in await talk.stack.records(talk.session)]
        assert [body.by for body in bodies if isinstance(body, ev.CallEnded)] == ["operator"]


async def test_an_end_in_mid_reply_ends_the_reply_once(tmp_path: Path) -> None:
    async with a_call(tmp_path, runner_env=SLOW_WORDS) as talk, client(talk) as outside:
        await talk.ask("say")
        await talk.speaking()
        await outside.sessions.end(talk.session)
        await talk.call.ended()
        await talk.stack.closed([talk.session])
        assert talk.ends == 2
        assert not talk.call.violations


async def test_an_interruption_from_outside(tmp_path: Path) -> None:
    async with a_call(tmp_path, runner_env=SLOW_WORDS) as talk, client(talk) as outside:
        question = await talk.ask()
        await talk.speaking()
        await outside.sessions.interrupt(talk.session)
        reply = await talk.call.reply()
        assert reply != question.answer()
        assert question.answer().startswith(reply)
        await talk.turns()
        await talk.over()


async def test_a_supervisor_has_the_call_whoever_runs_it(tmp_path: Path) -> None:
    async with a_call(tmp_path) as talk, client(talk) as outside, client(talk, "bob") as other:
        await outside.sessions.takeover(talk.session, "angry caller")
        with pytest.raises(ControlRefused, match="another supervisor has the call"):
            await other.sessions.takeover(talk.session)
        heard: list[str] = []

        async def listen() -> None:
            events = outside.sessions.tail(talk.session)
            heard.extend([event.body.text async for event in events if isinstance(event.body, ev.UserText)])

        listening = asyncio.create_task(listen())
        question = await talk.ask()
        assert await talk.call.reply() == ""
        await outside.sessions.say(talk.session, "this is Ann")
        await talk.call.heard("this is Ann")
        await talk.moved(await talk.kill())
        silent = await talk.ask()
        assert await talk.call.reply() == ""
        assert (await outside.sessions.get(talk.session)).supervisor == "ann"
        await outside.sessions.handback(talk.session)
        await talk.turns()
        bodies = await talk.over()
        await asyncio.wait_for(listening, 20)
        assert heard[1:3] == [question.text, silent.text]
        outcomes = [body.outcome for body in bodies if isinstance(body, ev.TurnCompleted)]
        assert outcomes == ["done", "unanswered", "unanswered", "done"]


async def test_a_control_while_nobody_owns_the_session(tmp_path: Path) -> None:
    async with a_call(tmp_path, runners=1) as talk, client(talk) as outside:
        await talk.kill()
        await outside.sessions.say(talk.session, "one moment, said Ann")
        paused = asyncio.create_task(outside.sessions.takeover(talk.session))

        async def is_admitted() -> bool:
            bodies = [record.body for record in await talk.stack.records(talk.session)]
            return any(isinstance(body, ev.ControlAnswered) and isinstance(body.body, TakeOver) for body in bodies)

        await eventually(is_admitted, "the takeover is admitted")
        await talk.stack.start_runner()
        assert (await paused).verb == "takeover"
        await talk.ask()
        assert await talk.call.reply() == ""
        await outside.sessions.handback(talk.session)
        await talk.turns()
        await talk.over()


async def test_a_transfer_and_a_merge(tmp_path: Path) -> None:
    async with a_call(tmp_path) as talk, client(talk) as outside:
        other = await talk.stack.orchestrator.place_call("agent")
        await other.connected()
        await in_the_log(talk, other.session_id)
        with pytest.raises(ControlRefused, match="webrtc and livekit go through"):
            await outside.sessions.transfer(talk.session, to_type="webrtc", to_config={})
        merged = await outside.sessions.merge(talk.session, secondary_session_ids=[other.session_id, "nobody"])
        assert [outcome.status for outcome in merged.outcomes] == ["merged", "failed"]
        moved = await outside.sessions.transfer(
            talk.session, to_type="sip", to_config={"number": "+15551230000"}, mode="warm", warm_handoff_ms=4000
        )
        assert (moved.mode, moved.added_participant_id) == ("warm", None)
        sent = [(frame.event, frame.raw) for frame in talk.call.frames]
        assert ("agent.merge", other.session_id) in [(event, raw.get("source_session_id")) for event, raw in sent]
        assert [raw["target"] for event, raw in sent if event == "agent.transfer"] == ["+15551230000"]


@pytest.mark.parametrize("page", BOTH, ids=page_name)
async def test_the_example_of_a_seed_page(tmp_path: Path, page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_call(tmp_path) as talk, client(talk) as outside:
        monkeypatch.setenv("UNPOD_NATS_URL", talk.stack.server.url)
        primary, other = [await talk.stack.orchestrator.place_call("agent") for _ in range(2)]
        for call in (primary, other):
            await call.connected()
            await in_the_log(talk, call.session_id)
        await outside.sessions.say(talk.session, LONG[:3000])  # what ends a call waits until it is said
        await talk.call.observed(lambda call: call.state == "speaking", "it speaks")
        await snippet(
            page,
            "From outside",
            session_id=talk.session,
            primary_session_id=primary.session_id,
            other_session_id=other.session_id,
        )
        assert first(talk.call.transfers) == ("number", "+15551230000", "warm")
        assert primary.merged == [other.session_id]


async def test_the_recording_is_paused_from_outside(tmp_path: Path) -> None:
    async with a_call(tmp_path) as talk, client(talk) as outside:
        await outside.sessions.pause_recording(talk.session, "card number")
        await talk.turns()
        assert (await outside.sessions.get(talk.session)).recording_paused
        with pytest.raises(ControlRefused, match="the recording is paused"):
            await outside.sessions.say(talk.session, "not kept, not said")
        await outside.sessions.resume_recording(talk.session)
        await talk.turns()
        record = await outside.sessions.get(talk.session)
        assert not record.recording_paused
        lines = [line.content for line in record.transcript or () if line.role == "user"]
        assert lines[1] is None
        assert lines[2] is not None
        await talk.over()


async def test_a_bridge_dies_and_what_was_asked_before_counts(tmp_path: Path) -> None:
    async with a_call(tmp_path) as talk, client(talk) as outside:
        await outside.sessions.pause(talk.session)
        await talk.stack.start_bridge()
        await talk.stack.ready()
        victim = talk.stack.bridges[0]
        await victim.kill()
        talk.dead.append(victim)
        await outside.sessions.say(talk.session, "still here")
        await talk.call.heard("still here")
        await talk.ask()
        assert await talk.call.reply() == ""
        await outside.sessions.resume(talk.session)
        await talk.turns()


@pytest.mark.parametrize(("verb", "died_at"), [("say", 1), ("end", 1), ("end", 2)])
async def test_a_bridge_dies_between_admission_claim_and_deed(tmp_path: Path, verb: str, died_at: int) -> None:
    async with a_call(tmp_path, bridge_env={VARIABLE: f"line.claim_stored=kill@{died_at}"}) as talk:
        await talk.stack.start_bridge()
        await talk.stack.ready()
        talk.dead.append(talk.stack.bridges[0])
        async with client(talk) as outside:
            if verb == "say":
                with pytest.raises(ControlRefused, match="it may have been done, and nobody knows"):
                    await outside.sessions.say(talk.session, "lost?")
                await talk.turns()
                assert "lost?" not in talk.said
            elif died_at == 1:  # nothing was claimed: the next bridge does it
                await outside.sessions.end(talk.session, "enough")
                assert (await talk.call.ended()).reason == "ended_by_agent"
            else:  # it was, so it is not repeated, and the next bridge ends the call when the worker has had its time
                with pytest.raises(ControlRefused) as refusal:
                    await outside.sessions.end(talk.session)
                assert refusal.value.outcome == "failed"
                assert "agent.end_call" not in [frame.event for frame in talk.call.frames]


async def test_live_sessions_are_listed(tmp_path: Path) -> None:
    async with a_call(tmp_path) as talk, client(talk) as outside:
        (found,) = await outside.sessions.list(status="active", agent_id="agent")
        owner = await talk.owner()
        assert isinstance(found, SessionRecord)
        assert (found.session_id, found.owner, found.turns) == (talk.session, owner.id, 1)
        assert await outside.sessions.list(status="ended") == []
        await talk.over()
        assert [one.session_id for one in await outside.sessions.list(status="ended")] == [talk.session]


async def test_a_thousand_controls_at_one_session(tmp_path: Path) -> None:
    async with a_call(tmp_path) as talk, client(talk) as outside:

        async def one(number: int) -> str:
            try:
                await outside.sessions.whisper(talk.session, f"note {number}")
            except ControlRefused as refusal:
                return refusal.reason
            return "applied"

        found = await asyncio.gather(*(one(number) for number in range(1000)))
        assert found.count("applied") >= 100
        assert set(found) <= {"applied", "too many controls at once for this session; try again in a second"}
        await talk.turns()
        await talk.over()
