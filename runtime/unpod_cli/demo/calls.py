"""The demo's calls: what each caller does, and what must be true of the call afterwards."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from unpod.core.codec import Record
from unpod.core.events import TurnCompleted
from unpod.core.state import SessionState, fold
from unpod_orchestrator import (
    AnyStep,
    BargesIn,
    ExpectsEnd,
    ExpectsRecordingPaused,
    ExpectsRecordingResumed,
    ExpectsTransfer,
    HangsUp,
    HearsAll,
    HearsReply,
    HearsSpeech,
    Says,
    Scenario,
    Waits,
)

PATIENCE_S: Final = 10.0
_LONGEST_SPEECH_S: Final = 25.0

CARD_NUMBER: Final = "4929 1234 5678 9012"
# Half of it is too much already; a single group of digits is not looked for, since ids and times have such by chance.
_CARD: Final = re.compile(r"4929\D?1234|1234\D?5678|5678\D?9012")

Check = Callable[[SessionState, Sequence[Record]], str | None]
"""Returns what is wrong with a call's log, or None."""


@dataclass(frozen=True, slots=True)
class DemoCall:
    """One caller: `ends` is the reason of the call's end in the log."""

    caller: str
    colour: str
    title: str
    steps: tuple[AnyStep, ...]
    ends: str
    check: Check = lambda _state, _records: None

    def scenario(self, speed: float) -> Scenario:
        """Return what the caller does, as a script; where people speak slowly, they are also patient."""
        within_s = max(PATIENCE_S, _LONGEST_SPEECH_S / speed)
        patient = [replace(step, within_s=within_s) if hasattr(step, "within_s") else step for step in self.steps]
        return Scenario(self.title, patient)

    def problems(self, records: Sequence[Record]) -> list[str]:
        """Return what is wrong with the call's log, which is in merged order."""
        state = fold(records)
        found: list[str] = []
        if state.ended is None:
            found.append("the log has no end of the call")
        elif state.ended.reason != self.ends:
            found.append(f"the log says that the call ended with {state.ended.reason}, not {self.ends}")
        if not state.finished:
            found.append("the log does not say that the entrypoint has returned")
        problem = self.check(state, records)
        return found if problem is None else [*found, problem]


def _was_cut(state: SessionState, _records: Sequence[Record]) -> str | None:
    first = state.history[0] if state.history else None
    if state.interruptions == 1 and first is not None and first.heard and first.agent and first.heard != first.agent:
        return None
    return "the log does not say that the first reply was cut off, and how much of it was heard"


def _was_withheld(_state: SessionState, records: Sequence[Record]) -> str | None:
    if any(_CARD.search(record.data.decode("utf-8", "replace")) for record in records):
        return "the number of the card stands in the log"
    if not any(getattr(record.body, "withheld", False) for record in records):
        return "the log does not say that something was withheld"
    return None


def _turns(count: int) -> Check:
    def check(_state: SessionState, records: Sequence[Record]) -> str | None:
        done = sum(isinstance(record.body, TurnCompleted) and record.body.outcome == "done" for record in records)
        return None if done == count else f"the log has {done} answered turns, not {count}"

    return check


_GREETED: Final = HearsSpeech("good evening")

RECORDED: Final = "Dora"
"""Whose log is shown: the one with something withheld."""

CALLS: Final = (
    DemoCall(
        "Ada",
        "cyan",
        "plain turns",
        (
            _GREETED,
            Says("When are you open?"),
            HearsReply(contains="until eleven"),
            HearsAll(),
            Says("And do you deliver?", partials=True),
            HearsReply(contains="thirty minutes"),
            HearsAll(),
            HangsUp(),
        ),
        ends="hangup",
        check=_turns(2),
    ),
    DemoCall(
        "Ben",
        "yellow",
        "a barge-in",
        (
            _GREETED,
            Says("What is on the menu?"),
            BargesIn(after_chars=48, says="Just a margherita, please."),
            HearsReply(contains="One margherita"),
            HearsAll(),
            HangsUp(),
        ),
        ends="hangup",
        check=_was_cut,
    ),
    DemoCall(
        "Carl",
        "green",
        "a transfer to a human",
        (
            _GREETED,
            Says("My pizza was cold. I want to speak to the manager!"),
            HearsReply(contains="connect you"),
            ExpectsTransfer("managers", mode="cold"),
            ExpectsEnd("transferred"),
        ),
        ends="transferred",
    ),
    DemoCall(
        RECORDED,
        "magenta",
        "a recording pause",
        (
            _GREETED,
            Says("I would like to pay by card."),
            HearsReply(contains="The recording is paused"),
            ExpectsRecordingPaused(),
            HearsAll(),
            Says(f"It is {CARD_NUMBER}."),
            HearsReply(contains="paid"),
            ExpectsRecordingResumed(),
            HearsAll(),
            Says("Thanks, bye!"),
            HearsReply(contains="goodbye"),
            HearsAll(),
            HangsUp(),
        ),
        ends="hangup",
        check=_was_withheld,
    ),
    DemoCall(
        "Emma",
        "blue",
        "a caller who hangs up in mid-reply",
        (_GREETED, Says("Read me the menu, please."), Waits(3.5), HangsUp()),
        ends="hangup",
    ),
    DemoCall(
        "Finn",
        "red",
        "a call that the agent ends",
        (
            _GREETED,
            Says("A funghi, please."),
            HearsReply(contains="twenty minutes"),
            HearsAll(),
            Says("No, that's all."),
            HearsReply(contains="goodbye"),
            ExpectsEnd("ended_by_agent", "completed"),
        ),
        ends="completed",
        check=_turns(2),
    ),
)
