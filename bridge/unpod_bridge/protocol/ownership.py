"""Whom a call hears as its owner, and what it has to tell the next one. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from unpod.core import events as ev
from unpod_bridge.protocol.commands import OwnerCommands
from unpod_bridge.protocol.outputs import Fetch, Output, Owned
from unpod_bridge.protocol.replies import Open
from unpod_bridge.protocol.state import CallState
from unpod_bridge.protocol.waiting import WaitingCaller


class ReplyProgress(Struct, frozen=True, kw_only=True):
    """How far a call has come, for a new owner: the reply that was spoken last, and what became of commands.

    `unlogged` are those that are performed and in no log. A `text` of None, with `chars`, was not to be kept, or was
    handed over by another bridge. Of the replies up to `unsure_until` that bridge may have handed over more than is
    known. From the turn `unended` on, ends of replies that are stored are not carried out. `earlier` are the replies
    before that one.
    """

    turn: int = 0
    part: int = 0
    deltas: int = 0
    chars: int = 0
    text: str | None = None
    unsure_until: int = 0
    private: bool = False
    unended: int = 0
    earlier: tuple[ev.EarlierReply, ...] = ()
    unlogged: tuple[str, ...] = ()
    outcomes: dict[str, ev.CommandOutcome] = {}


class CallOwnership:
    """The owner of one call, as the call protocol sees it. What returns outputs wants them carried out, in order."""

    __slots__ = ("_call", "_owner_commands", "_settle", "_unlogged", "_waiting")

    def __init__(
        self,
        call: CallState,
        owner_commands: OwnerCommands,
        waiting: WaitingCaller,
        settle: Callable[[float], list[Output]],
    ) -> None:
        self._call = call
        self._owner_commands = owner_commands
        self._waiting = waiting
        self._settle = settle
        self._unlogged: list[str] = []

    @property
    def epoch(self) -> int:
        """Its epoch, 0 while nobody is heard."""
        return self._call.epoch

    @property
    def index(self) -> int:
        """How far its records are here, without a gap."""
        return self._owner_commands.index

    @property
    def busy(self) -> bool:
        """Whether a text of the caller has no whole reply yet."""
        return self._waiting.owed

    @property
    def unsure(self) -> bool:
        """Whether it will be known in a moment what has become of a command."""
        return self._owner_commands.unsure

    @property
    def heard_at(self) -> float:
        """When the caller has said something."""
        return self._waiting.heard_at

    def appoint(self, epoch: int, now: float) -> list[Output]:
        """Hear the owner that has this epoch from here on."""
        self._call.epoch, self._call.doubt = epoch, None  # no other bridge has handed over speech of this owner
        self._waiting.over()
        return self._settle(now)

    def leaves(self, now: float) -> list[Output]:
        """The owner is gone. Should it not be, it is heard until another is about to be appointed."""
        if not self._call.over:
            self._waiting.begin(now)
        return self._settle(now)

    def stays(self, now: float) -> list[Output]:
        """The owner is there after all."""
        self._waiting.over()
        return self._settle(now)

    def dismiss(self) -> None:
        """Hear nothing more of the owner; what it has stored is in the log."""
        self._call.epoch = 0

    def catch_up(self, last: int, now: float) -> list[Output]:
        """Look for what of the owner's records up to `last` has not come."""
        if not self._call.over and last > self._owner_commands.index:
            self._call.out.append(Fetch(self._owner_commands.index + 1, last))
        return self._settle(now)

    def inherit(self, records: Sequence[Owned], last: int, now: float) -> list[Output]:
        """Perform what the former owner has stored, up to `last`; what else it has sent is void."""
        if not self._call.over:
            self._unlogged += self._owner_commands.inherit(records, last)
        return self._settle(now)

    @property
    def progress(self) -> ReplyProgress:
        """What a new owner has to know."""
        replies, unsure = self._call.replies, self._call.replies.unsure_until
        earlier = list(replies.replies)
        last = earlier.pop() if earlier and not (unsure and earlier[-1].key[0] <= replies.closed) else None
        told = ReplyProgress(
            turn=replies.closed + 1 if unsure else 0,
            unsure_until=unsure,
            unended=self._owner_commands.unended,
            earlier=tuple(map(self._told, earlier)),
            unlogged=tuple(self._unlogged),
            outcomes=self._call.outcomes,
        )
        if last is None:
            return told
        spoken, private = self._told(last), last.private or self._call.paused
        return replace(
            told,
            turn=spoken.turn,
            part=spoken.part,
            deltas=last.deltas,
            chars=spoken.chars,
            text=None if private else spoken.text,
            private=private,
        )

    def _told(self, reply: Open) -> ev.EarlierReply:
        """Return what was spoken of a reply; of one that is over, the end of the text is better than nothing."""
        known = None if reply.private or (reply.untold and reply.key[0] > self._call.replies.closed) else reply.known
        turn, part = reply.key
        return ev.EarlierReply(turn=turn, part=part, chars=reply.chars, text=known or None if reply.untold else known)
