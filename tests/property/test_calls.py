"""Whole calls, in any order of events: what is promised of every call holds, and its log says it all."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.unit.session.rig import Brain, Ear, agent

from unpod import LLMCall, Session, ToolCall
from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.codec import OWNER_CHANNELS, Record
from unpod.core.live import DELTA, Delta
from unpod.core.state import SessionState, fold
from unpod.errors import SessionClosed
from unpod.ports import Message
from unpod.testing import ALL_VERBS, MemoryLog, SimulatedCall, simulate_call
from unpod.testing.clock import settle

SECRET = "4111-1111"
PLAIN = "words"

actions = st.sampled_from(
    [
        *["text", "piece", "finish"] * 3,
        "partial",
        "barge in",
        "barge in, heard",
        "metric",
        "turn.metrics",
        "speaking",
        "listening",
        "warning",
        "fatal",
        "fail",
        "report",
        "0.3 s",
        "1 s",
        "11 s",
        "31 s",
        "say",
        "interrupt",
        "filler",
        "pause",
        "resume",
        "end",
        "transfer",
        "warm transfer",
        "hang up",
    ]
)
verbs = st.sampled_from([ALL_VERBS, tuple(verb for verb in ALL_VERBS if verb != "agent.interrupt")])


class Scene:
    """A call, what it sent, and somebody who makes things happen on it."""

    def __init__(self, call: SimulatedCall, brain: Brain, ear: Ear) -> None:
        assert call.context is not None
        self.call = call
        self.brain = brain
        self.ear = ear
        self.session: Session = call.context.session
        self.deltas: list[Delta] = []

    async def watch(self) -> None:
        await MemoryLog(self.call.line.log.broker).subscribe(self.call.line.call.delta, self._on_delta)

    def _on_delta(self, message: Message) -> None:
        self.deltas.append(DELTA.decode(message.data))

    @property
    def state(self) -> SessionState:
        return self.session._driver.kernel.state

    @property
    def words(self) -> str:
        """What is said now: a secret while nothing may be kept."""
        return SECRET if self.state.private and self.call.line._paused else PLAIN

    async def happen(self, what: str) -> None:
        if what.endswith(" s"):
            await self.call.advance(float(what[:-2]))
        elif what in _BY_BRAIN:
            await self._by_brain(what)
        elif what in _BY_AGENT and not self.state.over:
            await self._by_agent(what)
        else:
            await self._by_caller(what)
        await settle()

    async def _by_brain(self, what: str) -> None:
        turn = self.state.turn
        if turn is None or not turn.replying:
            return
        words = SECRET if turn.withheld else PLAIN
        if what == "piece":
            await self.brain.say(words)
        elif what == "finish":
            await self.brain.finish()
        elif what == "fail":
            await self.brain.say(ValueError(words))
        else:
            spent = LLMCall(model="m", tokens_in=2, cost=0.5, prompt_messages=words)
            await self.brain.say(ToolCall("tool", words), spent)

    async def _by_agent(self, what: str) -> None:
        session = self.session
        if what == "say":
            await session.say(self.words)
        elif what == "interrupt":
            await session.interrupt()
        elif what == "filler":
            await session.set_filler(self.words)
        elif what == "pause":
            await session.recording.pause()
        elif what == "resume":
            await session.recording.resume()
        elif what == "end":
            await session.end("completed")
        elif self.state.ending in (None, "transferred"):
            await session.transfer("+1", mode="warm" if what.startswith("warm") else "cold")
        else:  # the session has asked for its end, and the reply that is open may come to its own
            with pytest.raises(SessionClosed):
                await session.transfer("+1")

    async def _by_caller(self, what: str) -> None:
        call = self.call
        if call.line.ended is not None:
            return
        if what == "text":
            await call.user(self.words, wait=False)
        elif what == "partial":
            await call.partial(self.words)
        elif what.startswith("barge in"):
            await call.barge_in(self.words if what.endswith("heard") else None)
        elif what == "metric":
            await call.frame("metric", cost_usd_so_far=0.25)
        elif what == "turn.metrics":
            await call.frame("turn.metrics", turn_id=1, asr_ms=80.0, llm_total_ms=300.0, tts_ttfb_ms=40.0)
        elif what in ("speaking", "listening"):
            await call.frame("state", state=what)
        elif what in ("warning", "fatal"):
            await call.frame("error", severity="warn" if what == "warning" else what, code="c", message=self.words)
        elif what == "hang up":
            await call.line.end("hangup")


_BY_BRAIN = ("piece", "finish", "fail", "report")
_BY_AGENT = ("say", "interrupt", "filler", "pause", "resume", "end", "transfer", "warm transfer")


async def played(script: list[str], negotiated: tuple[str, ...]) -> tuple[Scene, list[Record]]:
    brain, ear = Brain(), Ear()
    async with simulate_call(agent(ear, brain), verbs=negotiated) as call:
        scene = Scene(call, brain, ear)
        await scene.watch()
        for what in script:
            await scene.happen(what)
        await call.line.end("hangup")
        await call.ended()
        return scene, await call.records()


@pytest.mark.slow
@settings(max_examples=100)
@given(st.lists(actions, max_size=25), verbs)
@example(["text", "piece", "pause", "text", "resume", "finish", "finish", "report", "hang up"], ALL_VERBS)
@example(["pause", "text", "piece", "resume", "barge in, heard", "1 s", "text", "report", "finish"], ALL_VERBS)
@example(
    ["text", "piece", "speaking", "finish", "turn.metrics", "barge in, heard", "1 s", "barge in, heard"], ALL_VERBS
)
@example(["text", "end", "transfer"], ALL_VERBS)
def test_what_is_promised_of_every_call_holds(script: list[str], negotiated: tuple[str, ...]) -> None:
    scene, records = asyncio.run(played(script, negotiated))
    replies_end_once_and_in_order(scene, records)
    turns_are_completed_once_and_in_order(scene, records)
    the_owner_writes_in_order(records)
    the_log_says_what_the_session_knew(scene, records)
    nothing_secret_is_stored(scene)
    hooks_are_told_once(scene, records)


def replies_end_once_and_in_order(scene: Scene, records: list[Record]) -> None:
    ends = [record.body for record in records if isinstance(record.body, cmd.EndReply)]
    assert [end.turn for end in ends] == list(range(1, len(ends) + 1))
    sent: dict[int, list[Delta]] = defaultdict(list)
    for delta in scene.deltas:
        sent[delta.turn].append(delta)
    for end in ends:
        pieces = sent.pop(end.turn, [])
        assert [piece.n for piece in pieces] == list(range(1, end.deltas + 1))
        assert sum(len(piece.text) for piece in pieces) == end.chars
        assert scene.call.line.replies[end.turn].ended
    # Only the turn that the end of the call cut can have pieces and no end.
    assert list(sent) in ([], [len(ends) + 1])


def turns_are_completed_once_and_in_order(scene: Scene, records: list[Record]) -> None:
    said = [record.body for record in records if isinstance(record.body, ev.UserText) and record.body.is_final]
    completed = [record.body for record in records if isinstance(record.body, ev.TurnCompleted)]
    assert [turn.turn_id for turn in completed] == list(range(1, len(said) + 1))
    ends = {record.body.turn: record.body for record in records if isinstance(record.body, cmd.EndReply)}
    for turn in completed:
        end = ends.get(turn.turn_id)
        assert turn.outcome in (("unanswered", "ended") if end is None else (end.reason,))
        if turn.agent_text is not None and turn.turn_id in scene.call.line.replies:
            assert turn.agent_text == scene.call.line.replies[turn.turn_id].text


def the_owner_writes_in_order(records: list[Record]) -> None:
    own = [record.envelope for record in records if record.channel in OWNER_CHANNELS]
    assert [envelope.index for envelope in own] == list(range(1, len(own) + 1))
    assert len({envelope.id for envelope in own}) == len(own)
    for before, after in pairwise(own):
        assert before.seen <= after.seen
        assert before.settled <= after.settled
    assert all(envelope.settled <= envelope.seen for envelope in own)
    assert isinstance(records[-1].body, ev.SessionFinished)
    assert own[-1].settled == own[-1].seen


def the_log_says_what_the_session_knew(scene: Scene, records: list[Record]) -> None:
    live, folded = scene.state, fold(records)
    assert folded.metrics == live.metrics
    assert folded.duration_s(0.0) == live.duration_s(0.0)
    for known in ("turn_count", "ended", "ending", "paused", "interruptions", "completed", "finished"):
        assert getattr(folded, known) == getattr(live, known), known
    for index in ("bridge_index", "owner_index", "epoch", "takeovers", "failed", "negotiated", "started"):
        assert getattr(folded, index) == getattr(live, index), index
    assert (folded.turn, folded.queue, live.turn, live.queue) == (None, (), None, ())
    # The session that talks knows what was withheld; its log does not.
    assert [_kept(exchange.withheld, exchange) for exchange in live.history] == list(folded.history)


def _kept(withheld: bool, exchange: object) -> object:  # noqa: FBT001
    return replace(exchange, user=None, agent=None, heard=None) if withheld else exchange  # type: ignore[type-var]


def nothing_secret_is_stored(scene: Scene) -> None:
    for message in scene.call.line.log.broker.records:
        assert SECRET.encode() not in message.data, message.subject
        assert SECRET not in repr(message.headers)


def hooks_are_told_once(scene: Scene, records: list[Record]) -> None:
    ear = scene.ear
    completed = [record.body.turn_id for record in records if isinstance(record.body, ev.TurnCompleted)]
    assert [fields["turn_id"] for fields in ear.fields("turn_complete")] == completed
    assert len(ear.args("call_end")) == 1
    assert ear.args("call_end") == [(ear.returned,)]
    assert len(ear.args("call_start")) == 1
    assert len(ear.args("interruption")) == sum(isinstance(record.body, ev.UserInterrupted) for record in records)
