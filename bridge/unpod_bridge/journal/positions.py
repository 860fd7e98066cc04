"""Where the records of one session stand in the stream, as far as its bridge knows. Pure.

It knows its own from their acknowledgements, and those of an adopted call from its fold. Where the owner's stand the
owner says, at the pings of each second. A new owner is handed all of it, and has nothing to search for.

Nothing may be missing between those that are known, so the owner's are counted as whole

- up to the newest of them: an owner's records stand in the order of their indexes;
- and where the owner has sent no other yet, up to whatever was in the stream when it was asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import lt
from typing import Final

from unpod.core.codec import BRIDGE_CHANNELS, OWNER_CHANNELS
from unpod.core.positions import Positions, Trail, pack, unpack
from unpod.core.subjects import CallSubjects
from unpod.ports import Message
from unpod_bridge.fleet.horizon import Horizon

_PLACEMENT: Final = frozenset({"line", "own"})
_TOO_LARGE: Final = 2**63


class StreamPositions:
    """One session's records; the owners' count as one writer's, whose indexes go on at a takeover."""

    __slots__ = (
        "_bridge",
        "_horizon",
        "_is_sound",
        "_others",
        "_owner",
        "_owner_seq",
        "_through",
        "owner_index",
        "was_told",
    )

    def __init__(self, horizon: Horizon | None = None) -> None:
        self._horizon = Horizon() if horizon is None else horizon
        self._bridge = Trail()
        self._owner = Trail()
        self._others: tuple[int, ...] = ()
        self._owner_seq = 0
        self._through = 0
        self._is_sound = True
        self.owner_index = 0
        """The newest record of an owner of which it is known where it stands."""
        self.was_told = False
        """Whether the present owner says where its records stand, which one of an older release does not."""

    @property
    def horizon(self) -> int:
        """The newest sequence of the stream that its bridge has heard of."""
        return self._horizon.seq

    # ------------------------------------------------------------------------------------------------- the bridge's own

    def wrote(self, seq: int) -> None:
        """A record of this bridge's stands here, and all that it has put before are known."""
        self._bridge.add(seq)
        if seq > self._horizon.seq:  # noqa: PLR1730 - `max` is a call for each record of each call
            self._horizon.seq = seq

    def placed(self, seq: int) -> None:
        """This bridge has taken the line, or appointed an owner."""
        self._others = (*self._others, seq)
        self._horizon.seq = max(self._horizon.seq, seq)

    def spoil(self) -> None:
        """There are records whose positions nobody tells: from now on nothing is added to what is known."""
        self._is_sound = False

    # ----------------------------------------------------------------------------------------------- what was read back

    def take(self, call: CallSubjects, message: Message) -> None:
        """Take the next message of a read from the log's beginning."""
        channel = call.channel_of(message.subject)
        if channel in BRIDGE_CHANNELS:
            self._bridge.add(message.seq)
        elif channel in OWNER_CHANNELS:
            self._found(message.seq)
        elif channel in _PLACEMENT:
            self._others = (*self._others, message.seq)

    def searched(self, seqs: Sequence[int], index: int, through: int) -> None:
        """Take all records of owners up to `through` that a search has found anew; the newest has `index`."""
        if self._is_sound:
            for seq in seqs:
                self._found(seq)
            self.owner_index = max(self.owner_index, index)
            self._through = max(self._through, through)

    # ---------------------------------------------------------------------------------------------- what the owner says

    def lacks(self, index: int) -> bool:
        """Whether the owner is to be asked where its records up to an index stand."""
        return self._is_sound and index > self.owner_index

    def has_all(self, index: int) -> bool:
        """Whether it is known where all of the owners' records stand, of which the newest has this index."""
        return self._is_sound and self.owner_index == index

    def told(self, after: int, seqs: Sequence[int]) -> None:
        """The owner says where its records behind an index stand."""
        if not self._is_sound or after < self.owner_index:
            return  # an answer to an older question
        if after > self.owner_index or not self._may_follow(seqs):
            self.spoil()
            return
        self.was_told = True
        for seq in seqs:
            self._found(seq)
        self.owner_index += len(seqs)
        self._through = max(self._through, self._owner_seq)

    def _may_follow(self, seqs: Sequence[int]) -> bool:
        """Whether these can be the places of records behind those that are known: another process says so."""
        if not seqs:
            return True
        return self._owner_seq < seqs[0] and seqs[-1] < _TOO_LARGE and all(map(lt, seqs, seqs[1:]))

    def sent(self, index: int, horizon: int) -> None:
        """The owner has sent none behind an index, as of a moment when the stream had come to `horizon` at least."""
        if self._is_sound and index == self.owner_index:
            self.was_told = True
            self._through = max(self._through, horizon)

    # ------------------------------------------------------------------------------------------------ what is known now

    def owners(self, index: int) -> Positions | None:
        """Return where the owners' records stand: all that is known if some stand behind an index, else the newest.

        None where there may be others, of an owner that does not say where they stand.
        """
        if not self._is_sound or (self.lacks(index) and not self.was_told):
            return None
        through = max(self._through, self._owner_seq)
        if self.owner_index > index + 1:
            return unpack(pack(through, (self._owner,)))
        return Positions((self._owner_seq,) if self._owner_seq else (), through)

    def pack(self, epoch: int, until_seq: int) -> bytes:
        """Return what the owner of this epoch is handed, b"" for nothing; all of ours up to `until_seq` is known.

        The positions are whole up to there if all records of the owners before it were found.
        """
        through = until_seq if self._is_sound and self._through >= epoch else max(self._through, self._owner_seq)
        return pack(through, (self._bridge, self._owner), self._others) if through else b""

    def _found(self, seq: int) -> None:
        if seq > self._owner_seq:
            self._owner.add(seq)
            self._owner_seq = seq
