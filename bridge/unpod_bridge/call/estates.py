"""A call as the care for its owner sees it: while it lives, and when only its cleanup is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from unpod.core import events as ev
from unpod.core.subjects import CallSubjects
from unpod.errors import LogError
from unpod.ports import Stored
from unpod_bridge.journal.journal import Journal, Writing
from unpod_bridge.journal.placements import LineServices
from unpod_bridge.journal.positions import StreamPositions
from unpod_bridge.protocol.call_protocol import CallProtocol
from unpod_bridge.protocol.outputs import Output, Owned
from unpod_bridge.protocol.owners import EVERY
from unpod_bridge.protocol.ownership import ReplyProgress


class Estate(Protocol):
    """A call, as the care for its owner sees it. What does not wait must not raise."""

    @property
    def ended(self) -> bool:
        """Whether the call is over, and only its cleanup is left."""
        ...

    @property
    def index(self) -> int:
        """The bridge's last index."""
        ...

    @property
    def owner_index(self) -> int:
        """How far the owner's records are here."""
        ...

    @property
    def stream_positions(self) -> StreamPositions:
        """Where its records stand."""
        ...

    @property
    def busy(self) -> bool:
        """Whether a text of the caller has no whole reply yet."""
        ...

    @property
    def heard_at(self) -> float:
        """When the caller has said something."""
        ...

    def catch_up(self, last: int) -> None:
        """Look for what of the owner's records has not come."""
        ...

    def leaves(self) -> None:
        """The owner is gone: the caller waits."""
        ...

    def stays(self) -> None:
        """The owner is there after all."""
        ...

    def dismiss(self) -> None:
        """Hear nothing more of the owner."""
        ...

    def inherit(self, records: list[Owned], last: int) -> ReplyProgress:
        """Perform what the former owner has stored, and return how far it all has come."""
        ...

    def appoint(self, epoch: int) -> None:
        """Hear a new owner."""
        ...

    async def append(self, body: ev.OwnerChanged) -> Stored:
        """Store its starting point; raises LogError."""
        ...

    def give_up(self, why: str) -> None:
        """End the call with `error`."""
        ...

    def failed(self, error: LogError) -> None:
        """The log does not let us go on."""
        ...


class LiveCall:
    """A call whose line is ours (`Estate`); `feed` carries out what its protocol wants."""

    ended = False

    def __init__(
        self,
        protocol: CallProtocol,
        journal: Journal,
        services: LineServices,
        feed: Callable[[list[Output]], None],
        failed: Callable[[LogError], None],
    ) -> None:
        self._protocol = protocol
        self._journal = journal
        self._now = services.clock.now
        self._feed = feed
        self.failed = failed

    @property
    def index(self) -> int:
        """The bridge's last index."""
        return self._journal.index

    @property
    def owner_index(self) -> int:
        """How far the owner's records are here."""
        return self._protocol.owner.index

    @property
    def stream_positions(self) -> StreamPositions:
        """Where its records stand."""
        return self._journal.stream_positions

    @property
    def busy(self) -> bool:
        """Whether a text of the caller has no whole reply yet."""
        return self._protocol.owner.busy

    @property
    def heard_at(self) -> float:
        """When the caller has said something."""
        return self._protocol.owner.heard_at

    def catch_up(self, last: int) -> None:
        """Look for what of the owner's records has not come."""
        self._feed(self._protocol.owner.catch_up(last, self._now()))

    def leaves(self) -> None:
        """The caller waits."""
        self._feed(self._protocol.owner.leaves(self._now()))

    def stays(self) -> None:
        """The caller has waited for long enough."""
        self._feed(self._protocol.owner.stays(self._now()))

    def dismiss(self) -> None:
        """Hear nothing more of the owner."""
        self._protocol.owner.dismiss()

    def inherit(self, records: list[Owned], last: int) -> ReplyProgress:
        """Perform what the former owner has stored, and return how far it all has come."""
        self._feed(self._protocol.owner.inherit(records, last, self._now()))
        return self._protocol.owner.progress

    def appoint(self, epoch: int) -> None:
        """Hear a new owner."""
        self._feed(self._protocol.owner.appoint(epoch, self._now()))

    async def append(self, body: ev.OwnerChanged) -> Stored:
        """Store its starting point; raises LogError."""
        return await self._journal.append(body)

    def give_up(self, why: str) -> None:
        """End the call with `error`."""
        self._feed(self._protocol.end("error", why, self._now()))


class EndedCall:
    """A call that is over (`Estate`): there is nothing to perform, and nobody waits."""

    ended = True
    owner_index = EVERY
    busy = False
    heard_at = 0.0

    def __init__(
        self,
        services: LineServices,
        subjects: CallSubjects,
        writing: Writing,
        stream_positions: StreamPositions,
        progress: ReplyProgress,
    ) -> None:
        self._services = services
        self._subjects = subjects
        self._writing = writing
        self._progress = progress
        self.stream_positions = stream_positions

    @property
    def index(self) -> int:
        """The bridge's last index."""
        return self._writing.index

    def catch_up(self, last: int) -> None:
        """Nothing of the owner is performed any more."""

    def leaves(self) -> None:
        """Nobody waits."""

    def stays(self) -> None:
        """Nobody has waited."""

    def dismiss(self) -> None:
        """Nobody is heard."""

    def inherit(self, _records: list[Owned], _last: int) -> ReplyProgress:
        """Return how far it all had come."""
        return self._progress

    def appoint(self, epoch: int) -> None:
        """Nobody is heard."""

    async def append(self, body: ev.OwnerChanged) -> Stored:
        """Store the new owner's starting point; raises LogError."""
        services = self._services
        journal = Journal(
            services.log,
            services.bus,
            services.clock,
            self._subjects,
            self._writing,
            on_failure=lambda _: None,
            on_state=lambda _: None,
            stream_positions=self.stream_positions,
        )
        try:
            return await journal.append(body)
        finally:
            self._writing = journal.writing
            await journal.close()

    def give_up(self, why: str) -> None:
        """It has ended already."""

    def failed(self, error: LogError) -> None:
        """There is nothing to end."""
