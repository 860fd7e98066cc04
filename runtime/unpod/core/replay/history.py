"""The past of a session, for the runner that takes it over: what has been done already and need not be done again.

A takeover runs the developer's code again from its first line, against the log. Whether a thing that the code asks for
was done before is answered by its derived id; whether a hook must run again, by how far the former owner had *settled*:
it said, with each record, up to which of the bridge's records, and of its own, all hooks had returned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from unpod.core.codec import BRIDGE_CHANNELS, OWNER_CHANNELS, Record
from unpod.core.commands import Command
from unpod.core.events import (
    EarlierReply,
    HookFailed,
    HookPoisoned,
    OwnerChanged,
    ReplySpoken,
    StepCompleted,
    ToolCalled,
    ToolReturned,
    tag_of,
)

ADAPTER_STATE = "brain.state"
"""The name of the step that holds what an adapter has saved of itself."""

REPLAYED_EVENTS = frozenset({"call_start", "user_turn", "user_partial", "interruption", "silence"})
"""Hooks on what the caller did: they rebuild state, so they run again. All others do not, once they are settled."""


class Point(Struct, frozen=True):
    """Where in a call hooks were due: at the bridge's record of this index, or at the owner's `own`."""

    index: int
    own: bool = False


class History:
    """The records of a session up to the moment at which its owner begins.

    `prefix` is what stood in the log before any owner could act, `records` what has happened since, both in merged
    order; `later` is what came in after this owner's starting point and is not past but present.
    """

    def __init__(self, merged: Sequence[Record], epoch: int) -> None:
        started = _first_owner(merged)
        begun = _own_start(merged, epoch)
        self.takeover = begun.body if begun is not None and isinstance(begun.body, OwnerChanged) else None
        limit = begun.envelope.index if begun is not None else _last(merged)
        self.superseded = False
        """Whether another runner owns the session already."""
        self.settled = self.settled_own = 0
        self.prefix, self.records, self.later = list[Record](), list[Record](), list[Record]()
        owned = list[Record]()
        for record in merged:
            envelope = record.envelope
            if record.channel in OWNER_CHANNELS:
                owned.append(record)
                self.records.append(record)
                self.settled = max(self.settled, envelope.settled)
                self.settled_own = max(self.settled_own, envelope.settled_own)
            elif envelope.index <= started:
                self.prefix.append(record)
                self.superseded |= record.channel == "own" and record.seq > epoch
            elif envelope.index > limit:
                self.later.append(record)
            else:
                self.records.append(record)
        self.receipts = [record.body for record in self.records if isinstance(record.body, ReplySpoken)]
        """How much of each reply was spoken."""
        self.told = [
            reply
            for record in self.records
            if isinstance(record.body, OwnerChanged)
            for reply in (*record.body.earlier, _newest_reply(record.body))
        ]
        """What owners' starting points, this one's the last, tell of replies."""
        self.bridge_index = limit
        self.owner_index = owned[-1].envelope.index if owned else 0
        if self.takeover is not None:
            self.owner_index = max(self.owner_index, self.takeover.last_owner_index)
        self.commands = self._performed(owned)
        self.steps = {record.body.step: record.body for record in owned if isinstance(record.body, StepCompleted)}
        self.tools = _tools(owned)
        """The tools that adapters have begun to use, by the cause of the turn; those not kept are left out."""
        self.used = _used(owned)
        """The tools that adapters have used, by turn, each with what it returned; None where it had not."""
        self.adapter_states = [
            (record.envelope.cause, record.body.value)
            for record in owned
            if isinstance(record.body, StepCompleted) and record.body.name == ADAPTER_STATE and not record.body.withheld
        ][-2:]
        """What the adapter has saved of itself last, with the cause of the turn; the last may be of the open turn."""
        self.tools_done = frozenset(
            (record.envelope.cause, record.body.call_id) for record in owned if isinstance(record.body, ToolReturned)
        )
        """Which of them have returned, by cause and call id."""
        self.poisoned = frozenset(self._poisoned(owned))
        """The ids of the inputs whose handlers must not run again."""
        self._failures = {
            _failure(record.body, record.envelope.cause) for record in owned if isinstance(record.body, HookFailed)
        }
        self._started = started
        self._points = {
            record.envelope.id: Point(record.envelope.index, own=record.channel in OWNER_CHANNELS)
            for record in reversed(merged)  # the first of an id counts
            if record.channel in BRIDGE_CHANNELS or record.channel in OWNER_CHANNELS
        }
        self._asked: dict[tuple[str, str], list[tuple[str, str]]] = {}
        for record in owned:
            if isinstance(record.body, Command):
                where = record.envelope.cause, record.envelope.handler
                self._asked.setdefault(where, []).append((record.envelope.id, tag_of(record.body)))

    def _performed(self, owned: Sequence[Record]) -> frozenset[str]:
        known = {record.envelope.id for record in owned if isinstance(record.body, Command)}
        if self.takeover is not None:
            for unsettled in self.takeover.unsettled:
                if unsettled.outcome == "none":
                    known.discard(unsettled.command)
                else:
                    known.add(unsettled.command)
        return frozenset(known)

    def _poisoned(self, owned: Sequence[Record]) -> Iterator[str]:
        if self.takeover is not None and self.takeover.skip:
            yield self.takeover.skip
        for record in owned:
            if isinstance(record.body, HookPoisoned):
                yield record.body.input

    @property
    def skip(self) -> str:
        """The id of the input that this takeover passes over, or ""."""
        return "" if self.takeover is None else self.takeover.skip

    def point(self, record_id: str) -> Point | None:
        """Return where a record stands, None of none that is known."""
        return self._points.get(record_id)

    def is_settled(self, cause: str) -> bool:
        """Whether the hooks on a record had returned; of none (""), whether `run()` had been called."""
        if not cause:
            return self.settled >= self._started
        point = self._points.get(cause)
        return point is not None and self._is_past(point)

    def reruns(self, event: str, point: Point, *, replay: bool | None) -> bool:
        """Whether a hook runs (again) that was due at `point`.

        `replay` is what the developer said at its registration; what is not settled runs in any case.
        """
        return not self._is_past(point) or (event in REPLAYED_EVENTS if replay is None else replay)

    def has_failed(self, fact: HookFailed, cause: str) -> bool:
        """Whether the log knows of this failure of a hook."""
        return _failure(fact, cause) in self._failures

    def asked(self, cause: str, handler: str) -> Sequence[tuple[str, str]]:
        """Return the commands that a handler asked for on a cause, each with its id and its verb."""
        return self._asked.get((cause, handler), ())

    def forget(self) -> None:
        """Let go of the records, once they were gone through; what was done is still known."""
        self.prefix, self.records, self.later = [], [], []
        self.used.clear()
        self._points.clear()
        self._asked.clear()

    def _is_past(self, point: Point) -> bool:
        return point.index <= (self.settled_own if point.own else self.settled)


def _tools(owned: Sequence[Record]) -> dict[str, list[ToolCalled]]:
    found: dict[str, list[ToolCalled]] = {}
    for record in owned:
        if isinstance(record.body, ToolCalled) and not record.body.withheld:
            found.setdefault(record.envelope.cause, []).append(record.body)
    return found


def _used(owned: Sequence[Record]) -> dict[int, list[tuple[ToolCalled, ToolReturned | None]]]:
    results = {
        (record.envelope.cause, record.body.call_id): record.body
        for record in owned
        if isinstance(record.body, ToolReturned) and not record.body.withheld
    }
    found: dict[int, list[tuple[ToolCalled, ToolReturned | None]]] = {}
    for record in owned:
        if isinstance(record.body, ToolCalled) and not record.body.withheld:
            result = results.get((record.envelope.cause, record.body.call_id))
            found.setdefault(record.body.turn_id, []).append((record.body, result))
    return found


def _failure(fact: HookFailed, cause: str) -> tuple[str, str, str, bool]:
    return cause, fact.hook, fact.function, fact.timed_out


def _newest_reply(start: OwnerChanged) -> EarlierReply:
    return EarlierReply(turn=start.turn, part=start.part, chars=start.chars, text=start.text)


def _first_owner(merged: Sequence[Record]) -> int:
    """The bridge's index of the first owner's starting point; nothing was handled before it."""
    for record in merged:
        if isinstance(record.body, OwnerChanged):
            return record.envelope.index
    return _last(merged)


def _own_start(merged: Sequence[Record], epoch: int) -> Record | None:
    for record in reversed(merged):
        if isinstance(record.body, OwnerChanged) and record.body.epoch == epoch:
            return record
    return None


def _last(merged: Sequence[Record]) -> int:
    return max((record.envelope.index for record in merged if record.channel in BRIDGE_CHANNELS), default=0)
