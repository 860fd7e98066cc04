"""Decisions: none ever fails, whatever happens in whatever order, and the promises of a turn hold all the same."""

from __future__ import annotations

from collections import Counter
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct
from tests.property.strategies import of_struct
from tests.unit.core.call_log import CallLog

from unpod.core import commands as cmd
from unpod.core import controls
from unpod.core import decision as d
from unpod.core import events as ev
from unpod.core.decide import decide, follow_up
from unpod.core.ephemeral_events import AdapterAsked, DeltaSent, TurnOpened, TurnResumed
from unpod.core.state import evolve_local
from unpod.core.timers import due

FROM_BRIDGE: tuple[type[Struct], ...] = tuple(
    kind for kind in (*get_args(ev.CallerEvent), *get_args(ev.Receipt)) if kind is not ev.OwnerChanged
)
"""A session that hears of another owner decides nothing more."""

numbers = st.integers(0, 4)
short = st.text(max_size=3)
choices = st.builds(
    d.Settings,
    silence_timeout_s=st.none() | st.floats(0.1, 20),
    max_duration_s=st.none() | st.floats(0.1, 50),
    reply_timeout_s=st.none() | st.floats(0.1, 50),
    metrics_wait_s=st.floats(0, 5),
    max_reply_chars=st.integers(0, 20),
    on_adapter_error=st.sampled_from([None, "end", "Sorry."]),
)
outside = st.sampled_from(["", "c"])
"""So few ids that the outcomes of controls meet what was asked for."""
ends = st.sampled_from([controls.EndSession(), controls.TransferSession(to_type="sip", to_config={"number": "+1"})])
outcomes = st.sampled_from(["claimed", "refused", "delivered"])
frames = (
    st.builds(ev.UserText, text=short, is_final=st.booleans(), withheld=st.booleans())
    | st.builds(ev.UserInterrupted, heard_prefix=st.none() | short)
    | st.builds(ev.StateChanged, state=st.sampled_from(["speaking", "listening"]))
    | st.builds(ev.WorkerError, severity=st.sampled_from(["warn", "error", "fatal"]))
    | st.builds(ev.ControlAnswered, control=outside, outcome=st.just("admitted"), body=ends)
    | st.builds(ev.CommandAcknowledged, command=outside, verb=st.just("transfer"), outcome=outcomes)
    | st.one_of([of_struct(kind) for kind in FROM_BRIDGE])
)
reports = st.one_of([of_struct(kind) for kind in (ev.LLMCalled, ev.ToolCalled, ev.ToolReturned)])
inputs = (
    st.builds(d.TurnHooksReturned, turn=numbers, has_adapter=st.booleans())
    | st.builds(d.AdapterSpoke, turn=numbers, text=short)
    | st.builds(d.AdapterFinished, turn=numbers, complete=st.booleans())
    | st.builds(d.AdapterRaised, turn=numbers, code=short, error=short)
    | st.builds(d.AdapterReported, fact=reports)
    | st.just(d.TimeReached())
    | st.builds(d.Verb, command=st.one_of([of_struct(kind) for kind in get_args(cmd.AnyCommand)]))
    | st.builds(d.EntrypointReturned, error=st.none() | short)
)
of_the_open_turn = st.sampled_from(["its hooks return", "the brain speaks", "the brain finishes", "the brain fails"])
happenings = st.lists(
    st.tuples(st.sampled_from([0.0, 0.4, 1.0, 11.0]), frames | inputs | of_the_open_turn), max_size=25
)


class Pure:
    """A driver without a loop: it folds what is decided, and keeps what was done."""

    def __init__(self, chosen: d.Settings) -> None:
        self.log = CallLog(negotiated=("agent.say", "agent.interrupt"))
        self.settings = chosen
        self.done: list[d.Step] = []

    def happen(self, what: object, *, later: float = 0.0) -> None:
        self.log.now += later
        if isinstance(what, str):
            what = self._of_the_open_turn(what)
        given_ = self.log.bridge(what) if isinstance(what, FROM_BRIDGE) else what
        self._carry_out(decide(self.log.state, given_, self.log.now, self.settings))  # type: ignore[arg-type]
        for _ in range(100):
            following = follow_up(self.log.state, self.log.now, self.settings)
            if not following.steps:
                break
            self._carry_out(following)
        else:
            raise AssertionError("the follow-ups have no end")
        due(self.log.state, self.settings)

    def _of_the_open_turn(self, what: str) -> object:
        turn = self.log.state.turn
        number = 1 if turn is None else turn.number
        return {
            "its hooks return": d.TurnHooksReturned(number, has_adapter=True),
            "the brain speaks": d.AdapterSpoke(number, "ok"),
            "the brain finishes": d.AdapterFinished(number),
            "the brain fails": d.AdapterRaised(number, "adapter_error", "ValueError"),
        }[what]

    def _carry_out(self, decision: d.Decision) -> None:
        for step in decision.steps:
            self.done.append(step)
            if isinstance(step, d.Append):
                self.log.owner(step.body)
            elif isinstance(step, TurnOpened | TurnResumed | AdapterAsked | DeltaSent):
                self.log.state = evolve_local(self.log.state, step)

    def appended(self, kind: type[object]) -> list[object]:
        return [step.body for step in self.done if isinstance(step, d.Append) and isinstance(step.body, kind)]


def verb_of_reply(what: object) -> bool:
    """Whether this is a command that no developer can ask for."""
    return isinstance(what, d.Verb) and isinstance(what.command, cmd.EndReply)


@given(choices, happenings)
def test_no_sequence_of_happenings_makes_a_decision_fail(
    chosen: d.Settings, sequence: list[tuple[float, object]]
) -> None:
    pure = Pure(chosen)
    for later, what in sequence:
        pure.happen(what, later=later)


@given(choices, happenings)
def test_replies_end_once_and_in_order_and_the_end_is_the_end(
    chosen: d.Settings, sequence: list[tuple[float, object]]
) -> None:
    pure = Pure(chosen)
    for later, what in sequence:
        if not verb_of_reply(what):
            pure.happen(what, later=later)
    was_up = pure.log.state.ended is None
    pure.happen(ev.CallEnded(reason="hangup"))
    state = pure.log.state

    # One end per turn, in order, and no piece after it.
    ends = [body.turn for body in pure.appended(cmd.EndReply) if isinstance(body, cmd.EndReply)]
    assert ends == sorted(set(ends))
    over: set[int] = set()
    for step in pure.done:
        if isinstance(step, d.SendDelta):
            assert step.turn not in over
        elif isinstance(step, d.Append) and isinstance(step.body, cmd.EndReply):
            over.add(step.body.turn)

    # The end says how much of the reply there was.
    pieces = Counter(step.turn for step in pure.done if isinstance(step, d.SendDelta))
    for body in pure.appended(cmd.EndReply):
        assert isinstance(body, cmd.EndReply)
        assert body.deltas == pieces[body.turn]

    # Each text is one completed turn, told once, in order; the call is told to have ended once.
    completed = [body.turn_id for body in pure.appended(ev.TurnCompleted) if isinstance(body, ev.TurnCompleted)]
    assert completed == list(range(1, state.turn_count + 1))
    assert [exchange.turn for exchange in state.history] == completed
    told = [step for step in pure.done if isinstance(step, d.FireHooks)]
    assert [step.turn for step in told if step.event == "turn_complete"] == completed
    assert len([step for step in told if step.event == "call_end"]) == 1
    assert len(pure.appended(ev.CallCompleted)) == 1
    assert len([step for step in pure.done if isinstance(step, d.Finish)]) == 1
    assert (state.turn, state.queue, state.completed) == (None, (), True)
    assert due(state, chosen) is None
    assert was_up or state.ended is not None

    # At most one command ends the call.
    ending = [body for body in (*pure.appended(cmd.EndCall), *pure.appended(cmd.Transfer)) if _drops(body)]
    assert len(ending) <= 1


def _drops(body: object) -> bool:
    return not isinstance(body, cmd.Transfer) or body.mode == "cold"


@given(choices, happenings)
def test_what_is_due_is_due_later_or_now_and_is_over_once_it_was_done(
    chosen: d.Settings, sequence: list[tuple[float, object]]
) -> None:
    pure = Pure(chosen)
    for later, what in sequence:
        if not verb_of_reply(what):
            pure.happen(what, later=later)
    for _ in range(20):
        at = due(pure.log.state, chosen)
        if at is None:
            break
        pure.log.now = max(pure.log.now, at)
        pure.happen(d.TimeReached())
        after = due(pure.log.state, chosen)
        assert after is None or after > at or after > pure.log.now
