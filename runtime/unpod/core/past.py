"""The past of a session, for the runner that takes it over: what has been done already and need not be done again.

A takeover runs the developer's code again from its first line, against the log. Whether a thing that the code asks for
was done before is answered by its derived id; whether a hook must run again, by how far the former owner had *settled*:
it said, with each record, up to which input of the bridge all its handlers had returned.
"""

from __future__ import annotations

from collections.abc import Sequence

from unpod.core.codec import BRIDGE_CHANNELS, OWNER_CHANNELS, Record
from unpod.core.commands import Command
from unpod.core.events import OwnerChanged, StepCompleted

REPLAYED_EVENTS = frozenset({"call_start", "user_turn", "user_partial", "interruption", "silence"})
"""Hooks on what the caller did: they rebuild state, so they run again. All others do not, once they are settled."""


class Past:
    """The records of a session up to the moment at which its owner begins.

    `prefix` is what stood in the log before any owner could act, `records` what has happened since, both in merged
    order; `later` is what came in after this owner's starting point and is not past but present.
    """

    def __init__(self, merged: Sequence[Record], epoch: int) -> None:
        started = _first_owner(merged)
        begun = _own_start(merged, epoch)
        self.takeover = begun.body if begun is not None and isinstance(begun.body, OwnerChanged) else None
        limit = begun.envelope.index if begun is not None else _last(merged)
        self.prefix = [record for record in merged if _is_prefix(record, started)]
        rest = [record for record in merged if not _is_prefix(record, started)]
        self.records = [record for record in rest if not _is_later(record, limit)]
        self.later = [record for record in rest if _is_later(record, limit)]
        owned = [record for record in self.records if record.channel in OWNER_CHANNELS]
        self.bridge_index = limit
        self.owner_index = owned[-1].envelope.index if owned else 0
        if self.takeover is not None:
            self.owner_index = max(self.owner_index, self.takeover.last_owner_index)
        self.settled = max((record.envelope.settled for record in owned), default=0)
        self.commands = self._performed(owned)
        self.steps = {record.body.step: record.body for record in owned if isinstance(record.body, StepCompleted)}
        self._started = started
        self._indexes = {
            record.envelope.id: record.envelope.index for record in merged if record.channel in BRIDGE_CHANNELS
        }

    def _performed(self, owned: Sequence[Record]) -> frozenset[str]:
        known = {record.envelope.id for record in owned if isinstance(record.body, Command)}
        if self.takeover is not None:
            for unsettled in self.takeover.unsettled:
                if unsettled.outcome == "none":
                    known.discard(unsettled.command)
                else:
                    known.add(unsettled.command)
        return frozenset(known)

    @property
    def skip(self) -> str:
        """The id of the input whose handlers must not run again, or ""."""
        return "" if self.takeover is None else self.takeover.skip

    def is_settled(self, cause: str) -> bool:
        """Whether the handlers of an input had returned; of none (""), whether `run()` had been called."""
        return self.settled >= self._indexes.get(cause, self._started if not cause else self.bridge_index + 1)

    def index_of(self, record_id: str) -> int:
        """Return the index of a record of the bridge, 0 of none that is known."""
        return self._indexes.get(record_id, 0)

    def reruns(self, event: str, position: int, *, replay: bool | None) -> bool:
        """Whether a hook runs (again), `position` being the bridge's index at which it was due.

        `replay` is what the developer said at its registration; what is not settled runs in any case.
        """
        return position > self.settled or (event in REPLAYED_EVENTS if replay is None else replay)


def _is_prefix(record: Record, started: int) -> bool:
    return record.channel not in OWNER_CHANNELS and record.envelope.index <= started


def _is_later(record: Record, limit: int) -> bool:
    return record.channel in BRIDGE_CHANNELS and record.envelope.index > limit


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
