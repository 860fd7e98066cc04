"""How far a call has come that another bridge had, and how the protocol goes on from there. Pure."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.live import Again, Doubt
from unpod_bridge.protocol.commands import OwnerCommands
from unpod_bridge.protocol.effects import expect_close
from unpod_bridge.protocol.outputs import Owned
from unpod_bridge.protocol.state import CallState
from unpod_bridge.protocol.waiting import WaitingCaller


class Appointment(Struct, frozen=True):
    """An owner as it was appointed; the record's sequence is its epoch."""

    epoch: int
    runner_id: str
    takeover: int = 0


class Recovery(Struct, frozen=True, kw_only=True):
    """How far a call has come.

    `index` is the bridges' last, `owner_index` the owners'. `own` are the appointments, the first and the newest;
    `owner` is the starting point of the newest owner that has one, which stands at `owner_seq`. `reply` is the last
    receipt of the reply that is open, `cut` whether the caller has cut in since; `closed` the last turn whose reply was
    ended, `unread_end` one whose end a socket may have lost, `doubtful` the last one of whose reply the end is stored
    and may have been sent. `owned` are the commands that are to be performed, `unknown` those that may have been;
    `controls` are those from outside that were answered. `ending` is an end, or a cold transfer, that was, or may have
    been, sent. `finished`: the owner's cleanup is over. `clean`: the former bridge has handed the call over, with
    everything stored; `shadowed`: it may live, and act until its socket is gone. `line` is the epoch of our line; for
    the last `still_s` the former bridge has done nothing, if that is known.
    """

    session_id: str
    index: int = 0
    owner_index: int = 0
    started: bool = False
    ended: ev.CallEnded | None = None
    finished: bool = False
    recorded: bool = True
    verbs: frozenset[str] = frozenset()
    attempts: int = 0
    turns: int = 0
    closed: int = 0
    doubtful: int = 0
    unread_end: int = 0
    reply: ev.ReplySpoken | None = None
    cut: bool = False
    own: tuple[Appointment, Appointment] | None = None
    owner: ev.OwnerChanged | None = None
    owner_seq: int = 0
    outcomes: dict[str, ev.CommandOutcome] = {}
    controls: tuple[str, ...] = ()
    owned: tuple[Owned, ...] = ()
    unknown: tuple[Owned, ...] = ()
    paused: bool = False
    pause_reason: str = ""
    filler: str = ""
    ending: Owned | None = None
    clean: bool = False
    shadowed: bool = False
    line: int = 0
    still_s: float | None = None


def restore(past: Recovery, call: CallState, owner_commands: OwnerCommands, waiting: WaitingCaller, now: float) -> None:
    """Put the parts of the protocol where the former bridge's were, and say what nobody will ever know."""
    call.epoch = 0 if past.owner is None else past.owner.epoch
    call.recorded, call.verbs = past.recorded, past.verbs
    call.paused, call.pause_reason = past.paused, past.pause_reason
    call.muted = past.paused and not any(isinstance(owned.command, cmd.PauseRecording) for owned in past.owned)
    call.filler, call.shadowed = past.filler, past.shadowed
    call.doubtful, call.unread_end = past.doubtful, past.unread_end
    call.outcomes.update(past.outcomes)
    call.replies.private = past.paused
    strange = 0 if past.clean else past.turns
    call.replies.go_on(past.reply, closed=past.closed, cut=past.cut, strange=strange)
    waiting.go_on(past.turns)
    for owned in past.unknown:
        call.acknowledge(owned, "unknown")
    offset_s = call.offset_s
    asked = [replace(one, latest=one.latest - offset_s) if one.control else one for one in past.owned]
    owner_commands.go_on(asked, past.owner_index)
    if past.ending is not None:
        expect_close(call, past.ending, now)
    if not past.clean:
        _doubt(past, call, now)


def _doubt(past: Recovery, call: CallState, now: float) -> None:
    """Ask the owner for all speech that the former bridge has not confirmed, without what it may have handed over."""
    call.unmet = True
    turn, part, first = call.replies.due
    within_s = call.settings.unsure_s if past.shadowed else call.settings.gone_unsure_s
    call.doubt = Doubt(past.line, turn, part, first, within_s=within_s)
    call.still_since = None if past.still_s is None else now - past.still_s
    if call.epoch and past.ended is None:
        call.ask(Again(call.epoch, turn, part, first), now)
