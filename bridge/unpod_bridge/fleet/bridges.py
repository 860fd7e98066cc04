"""Which other bridges there are, and which are gone. Pure: `now` is an argument, in seconds.

A bridge says four times a second that it is alive. One that was not heard in time, or whose connection has ended, as
the server says, is asked on a subject of its own. It is gone once it has said so, once nobody listened there twice in a
row, or once it has been silent for 3 s. The second look is for a bridge whose own connection was lost a moment ago: it
is back within a fraction of the time between the two. Being wrong costs a redial and never a call, since the log lets
only one bridge write.

Silence that we could not have heard is no evidence. While our own connection is away, or the server does not answer us,
nobody is judged; after that each has the whole time again to be heard.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from unpod.core.dispatch_messages import BridgeAnnounced

SILENT_S: Final = 3.0
"""How long a bridge may be silent."""
MISSED_S: Final = 0.4
"""How long after a bridge was heard it is asked: it says each 0.25 s that it is alive."""
ASK_S: Final = 0.25
"""How often a bridge that is not heard is asked."""
LOOK_AGAIN_S: Final = 0.15
"""After how many seconds a bridge on whose subject nobody listened is asked again."""
NEW_S: Final = 1.0
"""How long after our own connection was lost nobody is asked: the others come back as we did."""
DEAF_S: Final = 2.0
"""Silence of others is evidence only if the server has answered us within so many seconds; it is asked each second."""
_REMEMBERED: Final = 1_000

How = Literal["said", "nobody", "silent"]


@dataclass(frozen=True, slots=True)
class Gone:
    """A bridge that is gone, and how we know; `since`: when it was asked first what it has not answered, if it was."""

    bridge: str
    how: How
    since: float | None = None


@dataclass(slots=True)
class _Peer:
    heard_at: float
    ask_at: float
    asked_at: float | None = None
    """When the first of the questions was sent that it has not answered."""
    missed_at: float | None = None
    said: How | None = None
    draining: bool = False
    excused_until: float = float("-inf")
    """Until then it may be missing on its subject: its connection was lost when ours was."""


class Bridges:
    """The other bridges, beside `itself`.

    One that has never been heard is given the benefit of the doubt while we are new ourselves.
    """

    def __init__(
        self,
        now: float,
        itself: str = "",
        *,
        silent_s: float = SILENT_S,
        missed_s: float = MISSED_S,
    ) -> None:
        self._itself = itself
        self._silent_s = silent_s
        self._missed_s = missed_s
        self._began = now
        self._up = True
        self._heard_at: float | None = None
        self._other_bridges: dict[str, _Peer] = {}
        self._gone: dict[str, None] = {}

    def hear(self, said: BridgeAnnounced, now: float) -> bool:
        """Take an announcement; return whether the bridge is new to us."""
        is_new = said.bridge not in self._other_bridges and not said.gone
        if said.gone:
            if said.bridge in self._other_bridges or said.bridge not in self._gone:
                self._know(said.bridge, now).said = "said"
            return is_new
        self._gone.pop(said.bridge, None)
        self._know(said.bridge, now).draining = said.draining
        self.answered(said.bridge, now)
        return is_new

    def server_answered(self, now: float) -> None:
        """The server has answered: what others had said before that would have come to us, too."""
        if not self._hears(now):
            self.reconnected(now)
        self._heard_at = now

    def doubt(self, bridge: str, now: float) -> None:
        """A bridge's name has come up; it may never have been heard, or have been taken for gone."""
        if bridge not in self._other_bridges:
            self._gone.pop(bridge, None)
            self._know(bridge, now)

    def suspect(self, bridge: str, now: float) -> None:
        """Its connection has ended, says the server: ask at once."""
        if bridge not in self._gone:
            self._know(bridge, now).ask_at = now

    def answered(self, bridge: str, now: float) -> None:
        """It is there: it has said so, or has answered."""
        peer = self._other_bridges.get(bridge)
        if peer is not None:
            peer.heard_at, peer.asked_at, peer.missed_at, peer.said = now, None, None, None
            peer.ask_at = now + self._missed_s
            peer.excused_until = float("-inf")

    def nobody(self, bridge: str, now: float) -> None:
        """Nobody listens on its subject."""
        peer = self._other_bridges.get(bridge)
        if peer is None or now < peer.excused_until or not self._up:
            return
        if peer.missed_at is None:
            peer.missed_at, peer.ask_at = now, now + LOOK_AGAIN_S
        elif now >= peer.missed_at + LOOK_AGAIN_S:
            peer.said = "nobody"

    def cut_off(self) -> None:
        """Our own connection is lost: from here on nobody can be heard."""
        self._up = False

    def reconnected(self, now: float) -> None:
        """Our own connection is new: who was silent meanwhile could not be heard, and has to come back first."""
        self._up = True
        if self._heard_at is not None:
            self._heard_at = now
        for peer in self._other_bridges.values():
            peer.heard_at, peer.missed_at, peer.said, peer.ask_at = now, None, None, now + NEW_S
            peer.asked_at = None
            peer.excused_until = now + self._silent_s

    def due(self, now: float) -> list[str]:
        """Return whom to ask now."""
        if not self._up:
            return []
        due = [bridge for bridge, peer in self._other_bridges.items() if peer.ask_at <= now]
        for peer in map(self._other_bridges.__getitem__, due):
            peer.ask_at = now + ASK_S
            peer.asked_at = now if peer.asked_at is None else peer.asked_at
        return due

    def next_at(self) -> float | None:
        """When somebody is to be asked next, or None."""
        if not self._up:
            return None
        return min((peer.ask_at for peer in self._other_bridges.values()), default=None)

    def gone(self, now: float) -> list[Gone]:
        """Return who is gone, once each."""
        found = [
            Gone(bridge, how, peer.asked_at)
            for bridge, peer in self._other_bridges.items()
            if (how := self._how(peer, now)) is not None
        ]
        for each in found:
            del self._other_bridges[each.bridge]
            self._gone[each.bridge] = None
            if len(self._gone) > _REMEMBERED:
                del self._gone[next(iter(self._gone))]
        return found

    def alive(self, bridge: str, now: float) -> bool:
        """Return whether a bridge is there, as far as we know; we are."""
        if bridge == self._itself:
            return True
        if bridge in self._gone:
            return False
        peer = self._other_bridges.get(bridge)
        return now - self._began < self._silent_s if peer is None else self._how(peer, now) is None

    def is_gone(self, bridge: str) -> bool:
        """Return whether a bridge was there, and is not any more."""
        return bridge in self._gone

    def takers(self, now: float) -> list[str]:
        """Return who is there and takes calls."""
        return [
            bridge for bridge, peer in self._other_bridges.items() if not peer.draining and self._how(peer, now) is None
        ]

    def draining(self) -> Iterable[str]:
        """Return who wants to be rid of its calls."""
        return [bridge for bridge, peer in self._other_bridges.items() if peer.draining]

    def _know(self, bridge: str, now: float) -> _Peer:
        return self._other_bridges.setdefault(bridge, _Peer(heard_at=now, ask_at=now))

    def _how(self, peer: _Peer, now: float) -> How | None:
        return peer.said or ("silent" if now - peer.heard_at >= self._silent_s and self._hears(now) else None)

    def _hears(self, now: float) -> bool:
        return self._up and (self._heard_at is None or now - self._heard_at < DEAF_S)
