"""A call's records, as they stand in the log, sorted by what the spans are made of.

What is kept of a call does not grow with it: of a turn that is over nothing is left but its number.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

from unpod.core import events as ev
from unpod.core.codec import BRIDGE_CHANNELS, OWNER_CHANNELS, Record
from unpod.core.commands import EndReply
from unpod_consumers.projections import intervals
from unpod_consumers.projections.intervals import Intervals

_MOST: Final = 1_000
"""How many errors, and how many controls, of a call are kept."""


class ToolFacts(Struct):
    """One use of a tool; times in seconds since 1970, `ended` None where it never returned."""

    name: str
    call_id: str
    record: Record
    started: float
    ended: float | None = None
    arguments: object = None
    result: object = None


class TurnFacts(Struct):
    """What the log has of one turn; times in seconds since 1970. `spoken` is when the first and the last of it left."""

    number: int
    completed: Record | None = None
    models: list[Record] = msgspec.field(default_factory=list)
    tools: list[ToolFacts] = msgspec.field(default_factory=list)
    spoken: tuple[float, float] | None = None
    reply_ended: float | None = None
    interruptions: list[float] = msgspec.field(default_factory=list)
    failures: list[tuple[float, str]] = msgspec.field(default_factory=list)
    seen: tuple[float, float] = (0.0, 0.0)


class Takeover(Struct):
    """A change of runner: when the new one was appointed, and when it first said something (None: it never did)."""

    record: str
    number: int
    runner: str
    epoch: int
    began: float
    resumed: float | None = None


class ControlFacts(Struct):
    """A command from outside, from its admission (or refusal) to its end."""

    control: str
    verb: str
    began: float
    ended: float
    outcome: str


class CallFacts:
    """One call: its start, its end, and all that lies between. Without a `call.started` there is no call.

    A repeat does not count, nor does what the merged order leaves out: records under an epoch that no placement has
    given, and what a former owner wrote beyond the point where the next one began.
    """

    def __init__(self) -> None:
        self.started: Record | None = None
        self.ended: Record | None = None
        self.turns: dict[int, TurnFacts] = {}
        """Those that are not over."""
        self.takeovers: list[Takeover] = []
        self.controls: dict[str, ControlFacts] = {}
        self.traceparents: dict[str, str] = {}
        """The traceparent of each control's sender, by the control's id."""
        self.errors: list[tuple[float, str, str]] = []
        """Time, name and kind of what went wrong on the call."""
        self.reattached: list[float] = []
        self.last = 0.0
        self._over: Intervals = []
        self._told: Intervals = []
        self._written: dict[int, Intervals] = {}
        self._lines: set[int] = set()
        self._owners: set[int] = set()
        self._placements: set[str] = set()
        self._begins: list[tuple[int, int]] = []

    def take(self, record: Record) -> bool:
        """Take the next record in stream order; return whether it counts."""
        if not self._counts(record):
            return False
        if record.channel != "ctl":
            self.last = max(self.last, record.envelope.time)
        self._resume(record)
        if not (self._call(record) or self._turn(record)):
            self._trouble(record)
        return True

    @property
    def turn_count(self) -> int:
        """How many turns there are by now, over or not."""
        over = sum(last - first + 1 for first, last in zip(self._over[::2], self._over[1::2], strict=True))
        return over + len(self.turns)

    def close(self, number: int) -> None:
        """Forget a turn, which is over."""
        self.turns.pop(number, None)
        intervals.add(self._over, number)

    def _counts(self, record: Record) -> bool:
        envelope = record.envelope
        if record.channel in BRIDGE_CHANNELS:
            genuine = not self._lines or envelope.epoch in self._lines
            return genuine and intervals.add(self._told, envelope.index)
        if record.channel in OWNER_CHANNELS:
            genuine = not self._owners or envelope.epoch in self._owners
            if not genuine or self._is_void(record):
                return False
            return intervals.add(self._written.setdefault(envelope.epoch, []), envelope.index)
        if record.channel == "ctl":
            self.traceparents.setdefault(envelope.id, envelope.traceparent)
            return True
        if envelope.id in self._placements:
            return False
        self._placements.add(envelope.id)
        (self._lines if record.channel == "line" else self._owners).add(record.seq)
        return True

    def _is_void(self, record: Record) -> bool:
        envelope = record.envelope
        return any(envelope.epoch < epoch and envelope.index > last for epoch, last in self._begins)

    def _begin(self, epoch: int, last: int) -> None:
        """Take note of where a new owner begins, and forget what a former one wrote after that."""
        self._begins.append((epoch, last))
        for turn in self.turns.values():
            turn.models = [record for record in turn.models if not self._is_void(record)]
            turn.tools = [tool for tool in turn.tools if not self._is_void(tool.record)]

    def turn(self, number: int, time: float) -> TurnFacts:
        """Return a turn, about which something was written at `time`."""
        turn = self.turns.setdefault(number, TurnFacts(number, seen=(time, time)))
        turn.seen = (min(turn.seen[0], time), max(turn.seen[1], time))
        return turn

    def _resume(self, record: Record) -> None:
        if record.channel in OWNER_CHANNELS:
            for takeover in self.takeovers:
                if takeover.epoch == record.envelope.epoch and takeover.resumed is None:
                    takeover.resumed = record.envelope.time

    def _call(self, record: Record) -> bool:
        envelope, body = record.envelope, record.body
        match body:
            case ev.CallStarted():
                self.started = self.started or record
            case ev.CallEnded():
                self.ended = self.ended or record
            case ev.OwnerChanged(epoch=epoch, last_owner_index=last):
                self._begin(epoch, last)
            case ev.CallReattached():
                self.reattached.append(envelope.time)
            case ev.OwnerAppointed(takeover=number) if number:
                began = Takeover(envelope.id, number, body.runner, record.seq, envelope.time)
                self.takeovers.append(began)
            case ev.ControlAnswered():
                self._control(record, body)
            case _:
                return False
        return True

    def _control(self, record: Record, body: ev.ControlAnswered) -> None:
        verb = ev.tag_of(body.body) if body.body is not None else ""
        time = record.envelope.time
        if len(self.controls) >= _MOST and body.control not in self.controls:
            return
        control = self.controls.setdefault(body.control, ControlFacts(body.control, "", time, time, body.outcome))
        control.verb = control.verb or verb
        control.ended, control.outcome = time, body.outcome

    def _turn(self, record: Record) -> bool:
        time, body = record.envelope.time, record.body
        number = _turn_of(body)
        if number is not None and intervals.has(self._over, number):
            return not isinstance(body, ev.AdapterFailed)
        match body:
            case ev.TurnCompleted(turn_id=number):
                self.turn(number, time).completed = record
            case ev.LLMCalled(turn_id=number):
                self.turn(number, time).models.append(record)
            case ev.ToolCalled(turn_id=number):
                tool = ToolFacts(body.name, body.call_id, record, time, arguments=body.arguments)
                self.turn(number, time).tools.append(tool)
            case ev.ToolReturned(turn_id=number):
                _returned(self.turn(number, time), body, time)
            case ev.ReplySpoken(turn=number) if body.deltas:
                turn = self.turn(number, time)
                turn.spoken = (turn.spoken[0] if turn.spoken else time, time)
            case EndReply(turn=number):
                self.turn(number, time).reply_ended = time
            case ev.UserInterrupted(turn_id=number) if number:
                self.turn(number, time).interruptions.append(time)
            case ev.AdapterFailed(turn_id=number):
                self.turn(number, time).failures.append((time, body.code))
            case _:
                return False
        return True

    def _trouble(self, record: Record) -> None:
        time = record.envelope.time
        if len(self.errors) >= _MOST:
            return
        match record.body:
            case ev.WorkerError(code=code, severity=severity, source=source):
                self.errors.append((time, f"error.{severity}", code or source))
            case ev.HookFailed(timed_out=late):
                self.errors.append((time, "hook.failed", "timeout" if late else "exception"))
            case ev.HookPoisoned():
                self.errors.append((time, "hook.poisoned", "poisoned"))
            case ev.EntrypointFailed():
                self.errors.append((time, "entrypoint.failed", "exception"))
            case _:
                pass


def _returned(turn: TurnFacts, body: ev.ToolReturned, time: float) -> None:
    for tool in turn.tools:
        if tool.ended is None and (tool.call_id, tool.name) == (body.call_id, body.name):
            tool.ended, tool.result = time, body.result
            return


def _turn_of(body: object) -> int | None:
    """Return the turn that a record is about, None of none."""
    match body:
        case ev.LLMCalled(turn_id=number) | ev.ToolCalled(turn_id=number) | ev.ToolReturned(turn_id=number):
            return number
        case ev.ReplySpoken(turn=number) | EndReply(turn=number):
            return number
        case ev.UserInterrupted(turn_id=number) | ev.AdapterFailed(turn_id=number):
            return number
        case ev.TurnCompleted(turn_id=number):
            return number
        case _:
            return None
