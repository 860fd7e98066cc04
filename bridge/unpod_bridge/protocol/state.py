"""What the parts of a call's state machine share, and what can be set for it. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final, Literal

from msgspec.structs import replace

from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.live import Again, Doubt
from unpod_bridge.protocol.outputs import AskAgain, Output, Owned, Ping, Store, Write
from unpod_bridge.protocol.replies import Replies

_UNKNOWN: Final = "it may have been done, and nobody knows: the link, or the bridge, was lost at that moment"
OUTCOMES: Final = 1_024
"""How many commands' outcomes are remembered: those that a takeover may ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolSettings:
    """Times in seconds, sizes in bytes; `tries` are those of the first dial, `retry_s` the pauses between them.

    A bridge that is gone may have handed over what was sent within `unsure_s` after all that its last receipt tells of:
    an interval between receipts, and what a piece and a timer take. Where it is known when it has gone, it spoke until
    then, and its receipts may have been on their way for as long as `gone_unsure_s` allows.
    Back at a worker that may have had the end of a reply, its word is waited for as long as `doubt_s`.
    A caller who waits while nobody owns the session hears `vacant_phrase`, once; the call ends after `vacant_s` of it.
    A worker closes within `end_grace_s` of an end. A cold transfer was refused if it has not closed after
    `transfer_grace_s`, or if the caller says something more than `transferred_s` after it has read it.
    """

    handshake_s: float = 10.0
    tries: int = 3
    retry_s: tuple[float, ...] = (0.2, 0.4)
    redial_s: tuple[float, ...] = (0.0, 0.2, 0.4, 0.8, 1.0)
    busy_retry_s: float = 0.5
    busy_for_s: float = 15.0
    stable_s: float = 5.0
    buffer_s: float = 30.0
    buffer_bytes: int = 2 * 1024 * 1024
    max_waiting: int = 2_000
    filler_after_s: float = 0.7
    vacant_phrase_after_s: float = 5.0
    vacant_phrase: str = "One moment please."
    vacant_s: float = 120.0
    first_receipt_s: float = 0.05
    receipt_s: float = 0.25
    unsure_s: float = 0.3
    gone_unsure_s: float = 0.5
    again_s: float = 0.5
    give_up_s: float = 2.0
    rejoin_s: float = 10.0
    fetch_s: float = 0.2
    doubt_s: float = 0.25
    end_grace_s: float = 30.0
    transfer_grace_s: float = 30.0
    transferred_s: float = 1.0
    max_rejected: int = 1_000
    max_unknown: int = 10_000
    control_burst: int = 100
    controls_per_s: float = 20.0


@dataclass(slots=True, kw_only=True)
class CallState:
    """What the parts of a call protocol share.

    `timers` are names with the times at which they are due. `said`: something beside a reply was spoken since the flag
    was cleared. `recorded`: the call is recorded at all; `paused`: what is said now is not to be kept, since the worker
    was told so (`muted`), or will be. `shadowed`: another bridge may still act on the call, until our own link is up.
    `doubtful`: the last turn of whose reply another bridge may have sent the end; `had_end`: the last one of whose
    reply the worker has had it from there. `leaving` is what the worker was sent, or may have been, that takes the call
    from us: an end, or a cold transfer, which it has read by `read_at`. `offset_s` is the log's time less ours.
    """

    settings: ProtocolSettings
    replies: Replies
    out: list[Output] = field(default_factory=list)
    timers: dict[str, float] = field(default_factory=dict)
    verbs: frozenset[str] = frozenset()
    up: bool = False
    over: bool = False
    shadowed: bool = False
    unmet: bool = False
    """Whether our own link has not been up since another bridge had the call: that may tell of itself."""
    doubtful: int = 0
    had_end: int = 0
    paused: bool = False
    muted: bool = False
    pause_reason: str = ""
    recorded: bool = True
    filler: str = ""
    said: bool = False
    leaving: Owned | None = None
    read_at: float = math.inf
    offset_s: float = 0.0
    epoch: int = 0
    unread_end: int = 0
    """The turn whose end was written last, as long as the worker may not have read it; 0 for none."""
    pings: list[bytes] = field(default_factory=list)
    """The tokens of pings that no pong has answered, in order."""
    rejoined_by: float = 0.0
    """Until when the owner may be at a NATS node that has not joined ours again."""
    doubt: Doubt | None = None
    """What the bridge that had the call before may have handed over without having said so."""
    still_since: float | None = None
    """Since when that has done nothing, where it is known."""
    outcomes: dict[str, ev.CommandOutcome] = field(default_factory=dict)
    """What became of the newest commands, by their ids."""

    @property
    def transferring(self) -> bool:
        """Whether the worker was sent a cold transfer, and may have refused it."""
        return self.leaving is not None and isinstance(self.leaving.command, cmd.Transfer)

    def write(self, data: bytes | list[bytes]) -> None:
        """Send frames, and store the receipts of the replies that end with them; a pong says that an end was read."""
        for part in [data] if isinstance(data, bytes) else data:
            self.out.append(Write(part))
        if self.replies.finished:
            self.unread_end = self.replies.closed
            self.ping(end_token(self.unread_end))
            self.out.extend(Store("ack", fact) for fact in self.replies.finished)
            self.replies.finished.clear()

    def ask(self, again: Again, now: float) -> None:
        """Ask the owner for pieces, without the texts that are in doubt."""
        doubt = self.doubt
        if doubt is not None and self.still_since is not None:
            doubt = replace(doubt, still_s=now - self.still_since)
        self.out.append(AskAgain(again if doubt is None else replace(again, doubt=doubt)))

    def ping(self, token: bytes) -> None:
        """Ask for a pong that says that everything written before has been read."""
        self.pings.append(token)
        self.out.append(Ping(token))

    def ponged(self, token: bytes) -> list[bytes]:
        """Return the tokens of all pings that a pong answers: its own, and those before it."""
        if token not in self.pings:
            return []
        until = self.pings.index(token) + 1
        answered, self.pings = self.pings[:until], self.pings[until:]
        return answered

    def acknowledge(self, owned: Owned, outcome: ev.CommandOutcome, reason: str = "", *, notify: str = "") -> None:
        """Store a command's receipt."""
        self.outcomes[owned.id] = outcome
        if len(self.outcomes) > OUTCOMES:
            del self.outcomes[next(iter(self.outcomes))]
        fact = ev.CommandAcknowledged(
            command=owned.id, verb=ev.tag_of(owned.command) if owned.command is not None else "", outcome=outcome,
            owner_index=owned.index, reason=reason,
        )  # fmt: skip
        self.out.append(Store("ack", fact, notify=notify, cause=owned.id))
        if owned.control and outcome != "claimed":
            self.out.append(Store("ack", _answer(owned, outcome, reason), cause=owned.id))


def reason_of(owned: Owned) -> str:
    """Return the reason of a call's end that an end, or a cold transfer, has asked for."""
    return owned.command.reason if isinstance(owned.command, cmd.EndCall) else "transferred"


def by_of(owned: Owned) -> Literal["agent", "operator"]:
    """Return who has asked."""
    return "operator" if owned.control else "agent"


def _answer(owned: Owned, outcome: ev.CommandOutcome, reason: str) -> ev.ControlAnswered:
    """Return what became of a control, as its receipt says."""
    if outcome in ("written", "delivered", "ignored"):
        return ev.ControlAnswered(control=owned.id, outcome="applied", reason=reason)
    return ev.ControlAnswered(control=owned.id, outcome="failed", reason=reason or _UNKNOWN)


def end_token(turn: int) -> bytes:
    """Return what is in the ping after the end of a turn's reply."""
    return b"e%d" % turn


def command_token(number: int) -> bytes:
    """Return what is in the ping after a command that cannot be taken back."""
    return b"c%d" % number


def is_command_token(token: bytes) -> bool:
    """Whether a pong answers the ping after a command."""
    return token.startswith(b"c")
