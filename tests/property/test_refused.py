"""What is refused, or comes to nothing, is as if it had not been asked: whoever has asked, and in whatever order.

A call protocol, the session's rules and the log between them, without a shell: a text, a piece of a reply, an end, a
transfer or a control from outside, a drop, a redial, an expiry, a takeover, a hand-over or the death of the bridge, one
after the other. The worker never closes by itself, so that every transfer is refused.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.unit.bridge.jobs.books import SUBJECTS, Book
from tests.unit.bridge.wires import EPOCH, Wire

from unpod.core import codec
from unpod.core import commands as cmd
from unpod.core import decision as d
from unpod.core import events as ev
from unpod.core.codec import Record
from unpod.core.controls import (
    AnyControl,
    EndSession,
    InterruptAgent,
    PauseSessionRecording,
    SaySomething,
    TransferSession,
)
from unpod.core.decide import decide, follow_up
from unpod.core.ephemeral_events import AdapterAsked, DeltaSent, TurnOpened, TurnResumed
from unpod.core.replay.history import History
from unpod.core.replay.ordering import merge
from unpod.core.replay.resume import Present, Trace, resume
from unpod.core.state import SessionState, evolve, evolve_local, fold
from unpod_bridge.protocol import outputs as do
from unpod_bridge.protocol.controls import Asked
from unpod_bridge.protocol.owners import Owner, owner_changed

SETTINGS = d.Settings(silence_timeout_s=None, reply_timeout_s=None)
LEAVING = ("agent.end_call", "agent.transfer")


class TimedBook(Book):
    """A book that knows when each record was stored."""

    now = 1_000.0

    def put(self, *args: object) -> None:
        super().put(*args)  # type: ignore[arg-type]
        self.messages[-1] = replace(self.messages[-1], time_ns=int(self.now * 1e9))


class Play:
    """One call: `wire` is its bridge, `state` its session, and `book` the log; `heard` is what the worker was sent."""

    def __init__(self) -> None:
        self.book, self.wire, self.epoch = TimedBook(), Wire().up(), EPOCH
        self.state = fold(self.records())
        self.heard: list[str] = []
        self.texts = 0
        self.asked: list[str] = []
        self.answered: list[ev.CommandAcknowledged] = []
        self.notices: list[str] = []
        self.pings: list[bytes] = []

    def records(self, first: int = 0) -> list[Record]:
        return [codec.read(SUBJECTS, m.subject, m.headers, m.data, m.seq) for m in self.book.messages[first:]]

    @property
    def over(self) -> bool:
        return self.wire.protocol.phase == "over"

    @property
    def linked(self) -> bool:
        return self.wire.protocol.phase == "open"

    # --- the log and the session

    def take(self) -> None:
        """Store what the bridge has put, let the session see it, and note what was written."""
        while self.wire.out:
            out, self.wire.out = self.wire.out, []
            for output in out:
                if isinstance(output, do.Store):
                    self._stored(output)
                elif isinstance(output, do.Write):
                    self._heard(output)
                elif isinstance(output, do.Ping):
                    self.pings.append(output.token)

    def _stored(self, output: do.Store) -> None:
        self.book.now = self.wire.now
        self.book.bridge(output.body)
        if output.notify:
            self.notices.append(output.notify)
        [record] = self.records(-1)
        self.state = evolve(self.state, record)
        if isinstance(output.body, ev.CommandAcknowledged):
            claimed = any(ack.command == output.body.command for ack in self.answered)
            self.answered.append(output.body)
            if output.body.outcome == "refused" and output.body.verb == "transfer" and claimed:
                self.heard.append("refused")
        self.carry_out(decide(self.state, record, self.wire.now, SETTINGS).steps)

    def _heard(self, output: do.Write) -> None:
        frame = json.loads(output.data)
        if frame["event"] != "hello":
            self.heard.append(frame["event"])

    def give(self, given: d.Given) -> None:
        self.carry_out(decide(self.state, given, self.wire.now, SETTINGS).steps)

    def carry_out(self, steps: Sequence[d.Step]) -> None:
        for step in steps:
            if isinstance(step, d.Append):
                self._append(step.body)
            elif isinstance(step, (TurnOpened, TurnResumed, AdapterAsked, DeltaSent)):
                self.state = evolve_local(self.state, step)
            elif isinstance(step, d.SendDelta):
                self.wire.speaks(step.turn, step.n, step.text, part=step.part, epoch=self.epoch)
            elif isinstance(step, d.FireHooks) and step.event == "user_turn":
                self.give(d.TurnHooksReturned(step.turn, has_adapter=True))
        due = follow_up(self.state, self.wire.now, SETTINGS).steps
        if due:
            self.carry_out(due)

    def _append(self, body: ev.SessionEvent | cmd.AnyCommand) -> None:
        self.book.now = self.wire.now
        self.book.owner(body, epoch=self.epoch)
        [record] = self.records(-1)
        self.state = evolve(self.state, record)
        command = body if isinstance(body, cmd.Command) else None
        self.wire.does(command, index=self.book.owner_index, epoch=self.epoch, name=record.envelope.id)

    # --- what happens

    def text(self) -> None:
        if self.linked:
            self.texts += 1
            self.wire.says("user.text", text="hi")

    def speak(self) -> None:
        if self.state.turn is not None:
            self.give(d.AdapterSpoke(self.state.turn.number, "a"))

    def finish(self) -> None:
        if self.state.turn is not None:
            self.give(d.AdapterFinished(self.state.turn.number))

    def control(self, control: AnyControl) -> None:
        name = f"c{len(self.asked)}"
        self.asked.append(name)
        self.wire.feed(self.wire.protocol.admission.ask(Asked(name, control, self.wire.now), self.wire.now))

    def drop(self) -> None:
        if self.linked:
            self.pings.clear()
            self.wire.lost(None)

    def back(self) -> None:
        if self.wire.protocol.phase == "dialling":
            self.wire.passes(0.0)
            self.wire.back()
            self.wire.says("state", state="listening", turn_id=0)

    def stored(self) -> None:
        notices, self.notices = self.notices, []
        for notice in notices:
            self.wire.feed(self.wire.protocol.stored(notice, self.wire.now))

    def pong(self) -> None:
        pings, self.pings = self.pings, []
        for token in pings:
            if self.linked:
                self.wire.feed(self.wire.protocol.on_pong(token, self.wire.now))

    def takeover(self) -> None:
        """Another runner goes on, as its bridge says."""
        self.wire.feed(self.wire.protocol.owner.inherit([], self.book.owner_index, self.wire.now))
        self.take()
        self.epoch += 1
        owner = Owner("runner-2", self.epoch, self.epoch - EPOCH)
        self.book.bridge(owner_changed(owner, self.book.owner_index, self.wire.protocol.owner.progress))
        past = History(merge(self.records()), self.epoch)
        state = fold(past.prefix)
        trace = Trace(state, past.records, SETTINGS)
        self.state = trace.state
        self.wire.feed(self.wire.protocol.owner.appoint(self.epoch, self.wire.now))
        present = Present(now=self.wire.now, settings=SETTINGS, has_adapter=True, can_continue=True)
        self.carry_out(resume(self.state, trace, past, present).steps)

    def hand_over(self, *, clean: bool) -> None:
        """Another bridge goes on: the former one has let go, or has died."""
        if clean:
            self.wire.feed(self.wire.protocol.leave(self.wire.now))
            self.take()
            if self.wire.protocol.phase == "leaving":
                self.wire.lost(1000)
        self.take()
        now, self.notices, self.pings = self.wire.now, [], []
        self.wire = Wire()
        self.wire.now, self.wire.index = now, self.book.owner_index
        self.wire.feed(self.wire.protocol.adopt(self.book.adopted(deaf_from=self.book.seq + 1, clean=clean), now))
        self.wire.feed(self.wire.protocol.owner.appoint(self.epoch, self.wire.now))

    def run(self, script: list[str]) -> None:
        for name in script:
            if not self.over:
                STEPS[name](self)
                self.take()

    def settle(self) -> None:
        """Everything answers again, and time passes until nothing is open any more."""
        self.run(["back", *["stored", "pong", "finish"] * 6])
        for _ in range(5):
            self.run(["half a minute", *["stored", "pong", "finish"] * 3])


NUMBER = TransferSession(to_type="sip", to_config={"number": "+15550100"})
STEPS: dict[str, Callable[[Play], object]] = {
    "text": Play.text,
    "speak": Play.speak,
    "finish": Play.finish,
    "end": lambda play: play.give(d.Verb(cmd.EndCall(reason="asked"))),
    "transfer": lambda play: play.give(d.Verb(cmd.Transfer(transfer_type="human", target="q"))),
    "end from outside": lambda play: play.control(EndSession(reason="asked")),
    "transfer from outside": lambda play: play.control(NUMBER),
    "say from outside": lambda play: play.control(SaySomething(text="hello")),
    "interrupt from outside": lambda play: play.control(InterruptAgent()),
    "pause from outside": lambda play: play.control(PauseSessionRecording()),
    "drop": Play.drop,
    "back": Play.back,
    "stored": Play.stored,
    "pong": Play.pong,
    "second": lambda play: play.wire.passes(1.1),
    "late": lambda play: play.wire.passes(10.5),
    "half a minute": lambda play: play.wire.passes(30.1),
    "takeover": Play.takeover,
    "hand-over": lambda play: play.hand_over(clean=True),
    "death": lambda play: play.hand_over(clean=False),
}
scripts = st.lists(st.sampled_from([name for name in STEPS if name != "half a minute"]), max_size=25)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scripts)
@example(["drop", "end from outside", "stored", "late", "back"])
@example(["drop", "transfer from outside", "stored", "hand-over", "late", "back"])
@example(["text", "speak", "end from outside", "stored", "drop", "stored", "late", "takeover", "back"])
@example(["transfer", "stored", "pong", "second", "text"])
@example(["pause from outside", "end from outside", "pause from outside", "stored", "late"])
@example(["end from outside", "transfer", "hand-over"])
@example(["end", "transfer from outside", "transfer from outside"])
@example(["drop", "transfer", "transfer from outside", "end from outside", "stored", "back"])
def test_whatever_was_asked_the_call_ends_as_somebody_wanted_or_is_answered(script: list[str]) -> None:
    play = Play()
    play.run(script)
    play.settle()
    sent = [event for event in play.heard if event in LEAVING or event == "refused"]

    # One thing at a time that takes the call from the agent.
    assert Counter(sent)["agent.end_call"] <= 1
    for former, later in pairwise(sent):
        assert (former, later) in {("agent.transfer", "refused"), ("refused", later)}

    # Whatever was asked from outside was answered.
    final = {
        record.body.control: record.body.outcome
        for record in play.records()
        if isinstance(record.body, ev.ControlAnswered) and record.body.outcome != "admitted"
    }
    if not play.over:
        assert set(play.asked) == set(final)

    state = play.state
    if "agent.end_call" not in sent and not any(ack.outcome == "unknown" for ack in play.answered):
        if not play.over:
            assert_it_goes_on(play)
        assert state.ended is None or state.ended.reason in ("lost", "asked")
        wanted = "end" in script or "transfer" in script or any(ack.outcome == "claimed" for ack in play.answered)
        cut = [end for end in state.reply_ends.values() if end.reason == "ended"]
        assert wanted or not cut
    elif not play.over:
        assert_it_goes_on(play)


def assert_it_goes_on(play: Play) -> None:
    """The agent answers, and can be told what to do."""
    assert play.state.ending is None
    assert not play.state.over
    assert not play.wire.protocol._call.timers.get("ending")
    turn = play.texts + 1
    play.run(["text", "speak", "finish"])
    assert play.heard[-2:] == ["agent.text.delta", "agent.text.end"]
    assert turn in play.state.reply_ends
    if not play.state.paused:
        play.run(["say from outside", "stored"])
        assert play.heard[-1] == "agent.say"
    play.run(["end", "stored"])
    assert play.heard[-1] == "agent.end_call"
    assert isinstance(play.state, SessionState)
    assert play.state.over
