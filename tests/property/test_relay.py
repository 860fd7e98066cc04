from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.bridge.wires import Wire

from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod_bridge.protocol import outputs as do
from unpod_bridge.wire.call_frames import MAX_HEAD, OWN_VERBS, TEXT_END, VERBS, head_of, read_frame

# What the owner does, in its own order: turns of several pieces, each with its end, and commands in between.
COMMANDS: list[Callable[[int], cmd.AnyCommand]] = [
    lambda n: cmd.Say(text=f"say-{n}"),
    lambda n: cmd.Merge(source_session_id=f"merge-{n}"),
    lambda n: cmd.DispatchAgent(agent_id=f"agent-{n}"),
    lambda _: cmd.Interrupt(),
    lambda _: cmd.PauseRecording(),
    lambda _: cmd.ResumeRecording(),
]
chosen = st.lists(st.integers(0, len(COMMANDS) - 1), max_size=3)
reasons = st.sampled_from(["done", "interrupted"])
turns = st.lists(st.tuples(st.integers(0, 6), chosen, reasons), min_size=1, max_size=5)
disturbances = st.sampled_from(
    ["nothing"] * 8
    + ["drop", "cut", "back", "barge-in", "stored", "pong", "time", "swap", "twice", "lose", "text", "junk"]
)

Plan = list[tuple[int, list[int], cmd.ReplyEndReason]]


class Command(NamedTuple):
    place: int
    command: cmd.AnyCommand


class Piece(NamedTuple):
    turn: int
    n: int
    text: str
    after: int


Step = Command | Piece


def script(plan: Plan) -> list[Step]:
    """The owner's messages in the order in which it sent them; texts tell which reply and piece they are."""
    steps: list[Step] = []
    index = 0
    for number, (pieces, commands, reason) in enumerate(plan, 1):
        for choice in commands:
            index += 1
            steps.append(Command(index, COMMANDS[choice](index)))
        steps += [Piece(number, n, f"<{number}.{n}>", index) for n in range(1, pieces + 1)]
        index += 1
        steps.append(Command(index, cmd.EndReply(turn=number, deltas=pieces, reason=reason)))
    return steps


class Play:
    """One owner's script against a call protocol, disturbed."""

    def __init__(self, plan: Plan, verbs: tuple[str, ...]) -> None:
        self.verbs = verbs
        self.wire = Wire().up(*verbs)
        self.steps = script(plan)
        self.commands = {step.place: step.command for step in self.steps if isinstance(step, Command)}
        self.pieces = [step for step in self.steps if isinstance(step, Piece)]
        self.read = 0
        """How much of what was put out the worker has read for certain: a pong has said so."""
        self.unread: set[int] = set()

    def step(self, step: Step) -> None:
        if isinstance(step, Command):
            self.wire.does(step.command, index=step.place)
        else:
            self.wire.speaks(step.turn, step.n, step.text, after=step.after)

    def run(self, disturbed: list[str]) -> None:
        waiting = list(self.steps)
        while waiting:
            what_else = disturbed.pop() if disturbed else "nothing"
            if what_else == "swap" and len(waiting) > 1:
                waiting[0], waiting[1] = waiting[1], waiting[0]
            step = waiting.pop(0)
            if what_else != "lose":
                self.step(step)
            if what_else == "twice":
                self.step(step)
            self.disturb(what_else)
            self.answer()
        self.disturb("back")
        # The owner's next record tells of what was lost last; without one, its pings do.
        self.wire.does(None, index=len(self.commands) + 1)
        for _ in range(40):
            self.wire.passes(0.5)
            self.answer()
            self.disturb("stored")
            self.pong()
        self.wire.flush()

    def pong(self) -> None:
        """The worker reads everything, and says so."""
        if self.wire.protocol.phase == "open" and any(
            isinstance(output, do.Ping) for output in self.wire.out[self.read :]
        ):
            until = len(self.wire.out)
            self.wire.pong()
            self.read = until

    def disturb(self, what: str) -> None:
        wire = self.wire
        if what in ("drop", "cut") and wire.protocol.phase == "open":
            if what == "cut":  # it has read nothing of what no pong has answered, but for all ends before the last one
                ends = [place for place in range(self.read, len(wire.out)) if self.is_end(place)]
                self.unread |= set(range(ends[-1] if ends else self.read, len(wire.out)))
            wire.lost(None)
        elif what == "back" and wire.protocol.phase == "dialling":
            wire.passes(0.0)
            wire.back(*self.verbs)
            wire.says("state", state="thinking" if self.owes_an_end() else "listening", turn_id=0)
        elif what == "barge-in":
            wire.says("user.interrupted", turn_id=0)
        elif what == "stored":
            wire.stored()
        elif what == "pong":
            self.pong()
        elif what == "time":
            wire.passes(0.3)
        elif what == "text":
            wire.says("user.text", text="hi")
        elif what == "junk":
            wire.raw(b"{")
        wire.flush()

    def answer(self) -> None:
        """The log and the owner answer what the bridge asks for."""
        for output in list(self.wire.out):
            if isinstance(output, do.Fetch):
                for index in range(output.first, output.last + 1):
                    self.wire.does(self.commands[index], index=index)
            elif isinstance(output, do.AskAgain):
                again = output.again
                for piece in self.pieces:
                    if piece.turn == again.turn and piece.n >= again.first:
                        self.step(piece)

    def owes_an_end(self) -> bool:
        """Whether the end that was written last was not read."""
        ends = [place for place in range(len(self.wire.out)) if self.is_end(place)]
        return bool(ends) and ends[-1] in self.unread

    def is_end(self, place: int) -> bool:
        output = self.wire.out[place]
        return isinstance(output, do.Write) and output.data == TEXT_END

    @property
    def frames(self) -> list[dict[str, object]]:
        """What the worker has read."""
        return [
            json.loads(output.data)
            for place, output in enumerate(self.wire.out)
            if isinstance(output, do.Write) and place not in self.unread
        ]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(turns, st.lists(disturbances, max_size=40), st.sampled_from([VERBS, VERBS + OWN_VERBS]))
def test_whatever_happens_each_reply_is_whole_ended_once_and_nothing_is_done_twice(
    plan: Plan, disturbed: list[str], verbs: tuple[str, ...]
) -> None:
    play = Play(plan, verbs)
    barged, cut = "barge-in" in disturbed, "cut" in disturbed
    play.run(list(disturbed))
    frames = [frame for frame in play.frames if str(frame["event"]).startswith("agent.text.")]

    # One end for each turn, in order, and nothing of a reply after its end.
    replies: list[str] = [""]
    for frame in frames:
        if frame["event"] == "agent.text.end":
            replies.append("")
        else:
            replies[-1] += str(frame["text"])
    assert replies.pop() == ""
    assert len(replies) == len(plan)
    for number, (text, (pieces, _, reason)) in enumerate(zip(replies, plan, strict=True), 1):
        whole = "".join(f"<{number}.{n}>" for n in range(1, pieces + 1))
        if cut:  # what was on its way is not repeated
            assert set(re.findall("<[^>]*>", text)) <= set(re.findall("<[^>]*>", whole))
        elif barged or reason == "interrupted":
            assert whole.startswith(text)
        else:
            assert text == whole

    # Every reply has its last receipt, with what was handed over.
    receipts = [fact for fact in stored(play.wire) if isinstance(fact, ev.ReplySpoken) and fact.ended]
    assert [receipt.turn for receipt in receipts] == list(range(1, len(plan) + 1))
    assert cut or [receipt.chars for receipt in receipts] == [len(text) for text in replies]

    # Commands once, and a last word on each.
    said = Counter(
        json.dumps(frame) for frame in play.frames if frame["event"] in ("agent.say", "agent.merge", "agent.dispatch")
    )
    assert all(count == 1 for count in said.values())
    finals = Counter(
        fact.command
        for fact in stored(play.wire)
        if isinstance(fact, ev.CommandAcknowledged) and fact.outcome != "claimed"
    )
    commands = [index for index, command in play.commands.items() if not isinstance(command, cmd.EndReply)]
    assert finals == {f"id-{index}": 1 for index in commands}


def stored(wire: Wire) -> list[object]:
    return [output.body for output in wire.out if isinstance(output, do.Store)]


@settings(max_examples=100, deadline=None)
@given(turns, st.lists(disturbances, max_size=30))
def test_a_claim_is_stored_before_its_verb_is_written(plan: Plan, disturbed: list[str]) -> None:
    play = Play(plan, VERBS)
    play.run(list(disturbed))
    claimed: set[int] = set()
    for output in play.wire.out:
        if isinstance(output, do.Store) and isinstance(output.body, ev.CommandAcknowledged):
            if output.body.outcome == "claimed":
                claimed.add(output.body.owner_index)
        elif isinstance(output, do.Write):
            frame = json.loads(output.data)
            if frame["event"] == "agent.merge":
                assert int(frame["source_session_id"].removeprefix("merge-")) in claimed


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_no_input_makes_the_reader_raise(data: bytes) -> None:
    for frame in (read_frame(data), read_frame(data, binary=True)):
        assert isinstance(frame.body, (ev.FrameRejected, ev.FrameUnknown))
        assert json.loads(frame.data)["event"] in ("rejected", "unknown")
    assert len(head_of(data)) <= MAX_HEAD
    assert head_of(data).isprintable()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
TYPES = ["hello.ack", "call.started", "user.text", "user.interrupted", "error", "metric", "turn.metrics", "state", "x"]
NAMES = ["text", "is_final", "session_id", "metadata", "turn_id", "heard_prefix", "severity", "turns", "state", "extra"]


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.sampled_from(TYPES), st.dictionaries(st.sampled_from(NAMES), json_values, max_size=5), st.integers(0, 3))
def test_no_frame_ends_a_call(event: str, fields: dict[str, object], lacking: int) -> None:
    data = json.dumps({"event": event, **fields}).encode()
    wire = Wire().up()
    out = wire.raw(data[: len(data) - lacking])
    assert all(isinstance(output, do.Store) for output in out)
    assert len(out) == 1
    assert wire.protocol.phase == "open"
