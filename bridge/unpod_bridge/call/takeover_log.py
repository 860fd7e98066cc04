"""What a takeover asks of the log: to appoint the new owner, and how far the old one has come.

A log that is away is waited for.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from unpod.core import codec
from unpod.core import events as ev
from unpod.core.positions import Positions
from unpod.core.subjects import CallSubjects
from unpod.errors import Fenced, LogUnavailable
from unpod.ports import Fence, Message
from unpod_bridge.journal.placements import LineServices, Place, placement_headers, waited_ms
from unpod_bridge.journal.positions import StreamPositions
from unpod_bridge.journal.until_answered import until_answered
from unpod_bridge.protocol.owner_records import OwnerRecords
from unpod_bridge.protocol.owners import EVERY, Inputs, Owner, Tip

logger = logging.getLogger("unpod.bridge.takeover")

T = TypeVar("T")


class TakeoverLog:
    """One session's log, as far as its owners are concerned."""

    def __init__(
        self, session_id: str, services: LineServices, subjects: CallSubjects, stream_positions: StreamPositions
    ) -> None:
        self._session = session_id
        self._services = services
        self._subjects = subjects
        self._stream_positions = stream_positions
        self._reader = OwnerRecords(subjects)
        self._inputs = Inputs(session_id, subjects)
        self._since = 1
        self._last = 0

    def begin(self, since: int) -> None:
        """Nothing of an owner stands before this sequence."""
        self._since = self._inputs.next_seq = since

    async def appoint(self, former: Owner, place: Place) -> Owner:
        """Append to `own`, which makes a runner the owner; tried again under one id, it is there once.

        A bridge that was stopped while it did this may have done it since, though the line is ours. Nobody was told to
        start then, and the former owner is refused: ours comes after that.

        Raises:
            Fenced: another bridge holds the line.
            LogError: the log refuses it.
        """
        while True:
            try:
                return await self._append(former, place)
            except Fenced as fenced:
                newest = await self.newest_of_others(former, refused=not fenced.absent)
                if newest is None:
                    raise
                logger.warning("session %s: a bridge that has lost its line has appointed an owner", self._session)
                former = newest

    async def _append(self, former: Owner, place: Place) -> Owner:
        body = ev.OwnerAppointed(runner=place.runner_id, takeover=former.takeover + 1, waited_ms=waited_ms(place))
        headers = placement_headers(self._services, "own", body, self._session)
        fence = Fence(self._subjects.own, former.epoch)
        stored = await self._persist(
            lambda: self._services.log.append(self._subjects.own, codec.encode(body), headers, fence=fence)
        )
        self._stream_positions.placed(stored.seq)
        return Owner(place.runner_id, stored.seq, body.takeover)

    async def newest_of_others(self, known: Owner, *, refused: bool = False) -> Owner | None:
        """Return the newest appointment, where it is not the one that we know, and the line is still ours.

        Where it has `refused` ours there is a newer one, which a replica that lags does not show: it is asked again.
        """
        line, own = await self._persist(lambda: self._placements(known.epoch if refused else 0))
        if line is None or own is None or own.seq == known.epoch:
            return None
        holder = codec.decode("line", "line.taken", 1, line.data)
        owner = codec.decode("own", "owner.appointed", 1, own.data)
        if not (isinstance(holder, ev.LineTaken) and holder.bridge == self._services.bridge_id):
            return None
        return Owner(owner.runner, own.seq, owner.takeover) if isinstance(owner, ev.OwnerAppointed) else None

    async def _placements(self, after: int) -> tuple[Message | None, Message | None]:
        """Return whose the line and the session are, from one replica, which has come past the owner `after`."""
        line, own = self._subjects.line, self._subjects.own
        newest = {message.subject: message for message in await self._services.log.newest((line, own)) or ()}
        if after and (own not in newest or newest[own].seq <= after):
            raise LogUnavailable("the log does not show yet what it goes by")
        return newest.get(line), newest.get(own)

    async def tip(self, epoch: int, known: int) -> Tip:
        """Return what the owners before an epoch have stored last, with all of it after the index `known`.

        Mostly the newest record of each kind shows that all of them, and their positions, are known already. Else the
        log is read. An owner writes in order, so reading begins at the newest record whose position is known, or at the
        newest command; what stands before that is read only if some of it is unknown.
        """
        tip = await self._persist(lambda: self._newest(epoch))
        if tip is not None and self._stream_positions.has_all(tip.last) and known in (tip.last, EVERY):
            self._stream_positions.searched((), tip.last, epoch)
            self._stream_positions.was_told = False
        else:
            tip = await self._search(epoch, known)
        self._last = max(self._last, tip.last)
        return tip

    async def _newest(self, epoch: int) -> Tip | None:
        tip, subjects = Tip(self._reader), self._subjects
        kinds = (subjects.own, subjects.cmd, subjects.runs)  # there is an `own`, so never nothing
        newest = await self._services.log.newest(kinds, until_seq=epoch)
        if newest is None:
            return None
        for message in reversed(newest):
            if message.seq >= self._since:
                tip.take(message)  # only the first: it has the highest index
        return tip

    async def _search(self, epoch: int, known: int) -> Tip:
        stream_positions, found = self._stream_positions, self._stream_positions.owners(known)
        stream_positions.was_told = False
        if found is None:
            tip = await self._read_from_command(epoch)
        else:
            start = max(self._since, found.seqs[0] if found.seqs else 0)
            tip = await self._persist(lambda: self._read(start, epoch, found))
            stream_positions.searched(tip.seqs, tip.last, epoch)
            if tip.last < known < EVERY:  # the log has refused what was heard, or the positions leave something out
                stream_positions.spoil()
                tip = await self._read_from_command(epoch)
        if tip.first > known + 1 or not tip.is_whole:
            stream_positions.spoil()
            tip = await self._persist(lambda: self._read(self._since, epoch))
        return tip

    async def _read_from_command(self, epoch: int) -> Tip:
        newest = await self._persist(lambda: self._services.log.last(self._subjects.cmd))
        return await self._persist(lambda: self._read(max(self._since, newest.seq if newest else 0), epoch))

    async def suspect(self, epoch: int) -> str:
        """Return the id of the input of which the owners before an epoch may have died."""
        await self._persist(lambda: self._read_inputs(epoch))
        return self._inputs.suspect

    async def _read(self, start: int, epoch: int, positions: Positions | None = None) -> Tip:
        tip, log = Tip(self._reader), self._services.log
        pattern = self._subjects.all
        async for message in log.read(pattern, start_seq=start, until_seq=epoch, positions=positions):
            tip.take(message)
        return tip

    async def _read_inputs(self, epoch: int) -> None:
        inputs = self._inputs
        log = self._services.log
        async for message in log.read(self._subjects.all, start_seq=inputs.next_seq, until_seq=epoch):
            inputs.take(message)

    @property
    def last(self) -> int:
        """The owners' last index."""
        return self._last

    async def _persist(self, ask: Callable[[], Awaitable[T]]) -> T:
        return await until_answered(self._services.clock, ask)
