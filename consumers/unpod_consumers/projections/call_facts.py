"""A call's records, sorted by what the spans are made of."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec import Struct

from unpod.core import events as ev
from unpod.core.codec import OWNER_CHANNELS, Record
from unpod.core.commands import EndReply
from unpod.core.replay import merge


class Tool(Struct):
    """One use of a tool; times in seconds since 1970, `ended` None where it never returned."""

    name: str
    call_id: str
    record: str
    started: float
    ended: float | None = None
    arguments: object = None
    result: object = None


class TurnFacts(Struct):
    """What the log has of one turn; times in seconds since 1970. `spoken` is when the first and the last of it left."""

    number: int
    completed: Record | None = None
    models: list[Record] = msgspec.field(default_factory=list)
    tools: list[Tool] = msgspec.field(default_factory=list)
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


class Control(Struct):
    """A command from outside, from its admission (or refusal) to its end."""

    control: str
    verb: str
    began: float
    ended: float
    outcome: str
    traceparent: str = ""


class CallFacts:
    """One call: its start, its end, and all that lies between. Without a `call.started` there is no call."""

    def __init__(self, records: Iterable[Record]) -> None:
        records = list(records)
        self.started: Record | None = None
        self.ended: Record | None = None
        self.turns: dict[int, TurnFacts] = {}
        self.takeovers: list[Takeover] = []
        self.controls: dict[str, Control] = {}
        self.errors: list[tuple[float, str, str]] = []
        """Time, name and kind of what went wrong on the call."""
        self.reattached: list[float] = []
        self._outside = {one.envelope.id: one.envelope.traceparent for one in records if one.channel == "ctl"}
        merged = merge(records)
        self.last = max((record.envelope.time for record in merged), default=0.0)
        self.kept = frozenset((record.envelope.id, record.envelope.epoch) for record in merged)
        """The id and epoch of each record that counts: a takeover makes some void."""
        for record in merged:
            self._resume(record)
            if not (self._call(record) or self._turn(record)):
                self._trouble(record)

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
        control = self.controls.setdefault(
            body.control,
            Control(body.control, "", time, time, body.outcome, self._outside.get(body.control, "")),
        )
        control.verb = control.verb or verb
        control.ended, control.outcome = time, body.outcome

    def _turn(self, record: Record) -> bool:
        time, body = record.envelope.time, record.body
        match body:
            case ev.TurnCompleted(turn_id=number):
                self.turn(number, time).completed = record
            case ev.LLMCalled(turn_id=number):
                self.turn(number, time).models.append(record)
            case ev.ToolCalled(turn_id=number):
                tool = Tool(body.name, body.call_id, record.envelope.id, time, arguments=body.arguments)
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
