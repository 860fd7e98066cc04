"""What becomes of the owner's commands: in the order of their indexes, each once, and a receipt for each. Pure.

A command that cannot be taken back is claimed first: the claim is in the log before the frame is on the socket, so that
whoever comes after a crash knows that it may have been done. That the worker has it is known from a pong to a later
ping; a socket that dies before leaves it `unknown`, and it is not repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod_bridge.protocol.effects import (
    EFFECTS,
    ENDING,
    close_reply,
    expect_close,
    is_pausable,
    keep_or_not,
    leaves,
    read_transfer,
    refuse_transfer,
)
from unpod_bridge.protocol.outputs import Fetch, Owned, Store, Write
from unpod_bridge.protocol.replies import Key
from unpod_bridge.protocol.state import CallState, command_token, end_token
from unpod_bridge.wire import call_frames
from unpod_bridge.wire.call_frames import Ignored

_REMEMBERED: Final = 4_096
_TOO_MUCH: Final = "too much waits for the worker"
_TOO_LATE: Final = "it came too late: the worker could not be reached before its deadline"
_ENDED: Final = "the call ended before it could be done"
_QUIET: Final = frozenset({"idle", "listening"})
DOUBT: Final = "doubt"
LATE: Final = "late"


class OwnerCommands:
    """Performs the owner's commands on a call; `queue` are those that wait for something, in order.

    `last` is an end of the owner's that waits for the open reply to come to its end, or for what comes of a transfer:
    what else the owner asks for passes it meanwhile.
    """

    __slots__ = (
        "_call", "_claim", "_claim_stored", "_early", "_pending", "_pings", "_queued_size", "_seen", "_uncertain",
        "index", "last", "performed", "queue", "unended",
    )  # fmt: skip

    def __init__(self, call: CallState, *, index: int = 0) -> None:
        self._call = call
        self.index = index
        self.performed = index
        self._early: dict[int, Owned] = {}
        self.queue: list[Owned] = []  # mostly empty, and an empty deque is 600 bytes for each call
        self._queued_size = 0
        self._seen: dict[str, int] = {}
        self.last: Owned | None = None
        self._claim = ""
        self._claim_stored = False
        self._pending: dict[bytes, Owned] = {}
        self._uncertain: list[Owned] = []
        self._pings = 0
        self.unended = 0
        """From which turn on ends that the last owner has stored are not carried out, 0 for none."""

    # ------------------------------------------------------------------------------------------------------- the order

    def push(self, owned: Owned, now: float) -> None:
        """Take a record of the owner, in whatever order it comes."""
        if owned.epoch != self._call.epoch or owned.index <= self.index:
            return
        if owned.index > self.index + 1:
            if len(self._early) < self._call.settings.max_waiting:
                self._early.setdefault(owned.index, owned)
            self._call.timers.setdefault("fetch", now)
            return
        following: Owned | None = owned
        while following is not None:
            self.index = following.index
            self._arrived(following)
            following = self._early.pop(self.index + 1, None)
        if not self._early:
            self._call.timers.pop("fetch", None)

    def fetch(self, now: float) -> None:
        """Ask the log for what is missing, and again until it is here."""
        if self._early:
            self._call.out.append(Fetch(self.index + 1, min(self._early) - 1))
            self._call.timers["fetch"] = now + self._call.settings.fetch_s

    def control(self, identifier: str, command: cmd.AnyCommand, latest: float) -> None:
        """Take what was asked for from outside, to be done after all that the owner has asked for so far."""
        self._arrived(Owned(self._call.epoch, self.index, identifier, command, control=True, latest=latest))

    def inherit(self, records: Sequence[Owned], last: int) -> list[str]:
        """The owner is gone: take what it has stored, up to `last`, and forget what else it has sent.

        Returns the ids of the commands that are performed, or will be, and that no log has.
        """
        self._early.clear()
        self._call.timers.pop("fetch", None)
        for owned in records:
            if owned.index > self.index:
                self.index = owned.index
                self._arrived(owned)
        unlogged = [identifier for identifier, index in self._seen.items() if index > last]
        unlogged += self._forget_after(last)
        self._had_ends()
        self._void_ends()
        self._call.replies.leave(frozenset(end.turn for end in self._ends_that_wait()))
        self.index = last
        self.performed = next((owned.index - 1 for owned in self.queue if not owned.control), last)
        return unlogged

    def _had_ends(self) -> None:
        """Account for the ends that the worker has had from another bridge: the owner that could say more is gone."""
        replies = self._call.replies
        for position, owned in enumerate(self.queue):
            end = owned.command
            if isinstance(end, cmd.EndReply) and end.turn <= self._call.had_end and not replies.began(end.turn):
                self._call.write(replies.had_end((end.turn, end.part)))
                self.queue[position] = Owned(owned.epoch, owned.index)

    def _void_ends(self) -> None:
        """Forget the ends of replies of which something is missing, and of later ones: the next owner goes on there."""
        replies = self._call.replies
        self.unended = next((end.turn for end in self._ends_that_wait() if not replies.can_end(end)), 0)
        for position, owned in enumerate(self.queue):
            if self.unended and isinstance(owned.command, cmd.EndReply) and owned.command.turn >= self.unended:
                self.queue[position] = Owned(owned.epoch, owned.index)

    def go_on(self, records: Sequence[Owned], last: int) -> None:
        """Go on where another bridge has stopped: of what the owners have stored up to `last`, these are to be done."""
        self._seen.update(dict.fromkeys(self._call.outcomes, 0))
        for owned in records:
            self._arrived(replace(owned, index=min(owned.index, last)) if owned.control else owned)
        self.index = last
        self.performed = next((owned.index - 1 for owned in self.queue if not owned.control), last)

    def _disown(self) -> None:
        """Another bridge may have said what waits here: it is not said again."""
        for position, owned in enumerate(self.queue):
            if isinstance(owned.command, cmd.Say):
                self._call.acknowledge(owned, "unknown")
                self._seen[owned.id] = owned.index
                self.queue[position] = Owned(owned.epoch, owned.index)
        self._queued_size = 0

    @property
    def unsure(self) -> bool:
        """Whether a claim is not stored yet, or the worker has not confirmed a verb."""
        return bool(self._claim or self._pending)

    def _forget_after(self, last: int) -> list[str]:
        """Forget the commands that wait and are not stored, except one whose claim is; a pause counts all the same."""
        kept, unlogged = list[Owned](), list[str]()
        if self.last is not None and self.last.index > last:
            self.last = None
        for owned in self.queue:
            command = owned.command
            if owned.index <= last:
                kept.append(owned)
            elif owned.control or owned.id == self._claim or isinstance(command, cmd.PauseRecording):
                kept.append(replace(owned, index=last))
                unlogged += [] if owned.control else [owned.id]
            elif isinstance(command, cmd.Say):
                self._queued_size -= len(command.text or "")
        self.queue = kept
        return unlogged

    def _ends_that_wait(self) -> list[cmd.EndReply]:
        return [owned.command for owned in self.queue if isinstance(owned.command, cmd.EndReply)]

    def _arrived(self, owned: Owned) -> None:
        command, call = owned.command, self._call
        if isinstance(command, cmd.PauseRecording) and is_pausable(call):
            call.paused, call.pause_reason = True, command.reason  # from here on nothing is kept, sent or not
            call.replies.private = True
        size = len(command.text or "") if isinstance(command, cmd.Say) else 0
        full = self._queued_size + size > call.settings.buffer_bytes or len(self.queue) >= call.settings.max_waiting
        if command is not None and full and not isinstance(command, (cmd.EndReply, *cmd.IRREVERSIBLE)):
            call.acknowledge(owned, "refused", _TOO_MUCH)
            owned, size = Owned(owned.epoch, owned.index), 0
        self.queue.append(owned)
        self._queued_size += size
        if owned.control:
            call.timers[LATE] = min(owned.latest, call.timers.get(LATE, owned.latest))

    @property
    def wanted_end(self) -> Owned | None:
        """The end that waits to be sent, if one does."""
        if self.last is not None:
            return self.last
        return next((owned for owned in self.queue if isinstance(owned.command, cmd.EndCall)), None)

    def expire(self, now: float) -> None:
        """Refuse what was asked for from outside and could not be done before its deadline, wherever it waits."""
        for position, owned in enumerate(self.queue):
            if owned.control and now >= owned.latest:
                self._drop(position)
        waiting = [owned.latest for owned in self.queue if owned.control]
        if waiting:
            self._call.timers[LATE] = min(waiting)
        else:
            self._call.timers.pop(LATE, None)

    def _drop(self, position: int) -> None:
        """Refuse what waits, as if it had not been asked for; only its index is left."""
        call, owned = self._call, self.queue[position]
        self.queue[position] = Owned(owned.epoch, owned.index)
        call.acknowledge(owned, "refused", _TOO_LATE)
        if self._claim == owned.id:
            self._claim = ""
        if isinstance(owned.command, cmd.Say):
            self._queued_size -= len(owned.command.text or "")
        elif isinstance(owned.command, cmd.PauseRecording):
            keep_or_not(call, self.queue)

    def pump(self, now: float) -> None:
        """Perform what can be performed now, and hand over the speech that waited for it."""
        call, replies = self._call, self._call.replies
        if LATE in call.timers:
            self.expire(now)
        while True:
            if call.up and replies.held and (written := replies.advance(self.performed)):  # nothing where it is joined
                call.write(written)
            if self.last is not None:
                self._resume_end()
            if not self.queue or not self._perform(self.queue[0], now):
                break
            done = self.queue.pop(0)
            if isinstance(done.command, cmd.Say):
                self._queued_size -= len(done.command.text or "")
            # An end that had to wait is performed after commands with higher indexes, so this must not go back. It may
            # skip: commands that another bridge has settled are not queued.
            self.performed = max(self.performed, self.queue[0].index - 1 if self.queue else self.index)
        if self.queue or replies.held or "give_up" in call.timers:
            self.chase(now)

    def _resume_end(self) -> None:
        """Take up the end that has waited, if it does not have to wait any more."""
        last = self.last
        if last is not None and not self._has_to_wait(last):
            self.last = None
            self.queue.insert(0, last)

    def _has_to_wait(self, owned: Owned) -> bool:
        """Whether an end is the owner's, and something else comes before it."""
        command = owned.command
        if owned.control or not isinstance(command, cmd.EndCall):
            return False
        return self._call.transferring or command.turn > self._call.replies.closed

    def _perform(self, owned: Owned, now: float) -> bool:
        command = owned.command
        if owned.refusal:
            self._call.acknowledge(owned, "refused", owned.refusal)
        if command is None or owned.id in self._seen:
            return True
        if not self._call.up:
            return False
        if isinstance(command, cmd.EndCall) and self.last is None and self._has_to_wait(owned):
            self.last = owned
            return True
        effect = EFFECTS.get(type(command))
        if not (self._claim_first(owned, now) if effect is None else effect(self._call, owned, self.queue)):
            return False
        self._seen[owned.id] = 0 if owned.control else owned.index
        if len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]
        return True

    # ------------------------------------------------------------------------------------------------- missing speech

    def chase(self, now: float) -> None:
        """Ask for the pieces of a reply that should be here, for a while."""
        call = self._call
        lost = call.replies.missing(call.epoch, self.performed, self._end_that_waits()) if call.up else None
        if lost is None:
            call.timers.pop("again", None)
            call.timers.pop("give_up", None)
        elif "give_up" not in call.timers:
            call.timers["give_up"] = now + call.settings.give_up_s
            self.ask_again(now)

    def ask_again(self, now: float) -> None:
        """Ask the owner for what is missing."""
        call = self._call
        lost = call.replies.missing(call.epoch, self.performed, self._end_that_waits())
        if lost is not None:
            call.ask(lost, now)
            call.timers["again"] = now + call.settings.again_s

    def lose_patience(self, now: float) -> None:
        """Give up what is missing, unless nobody could be asked: NATS may be back, and its nodes not yet joined."""
        if "log" in self._call.timers or now < self._call.rejoined_by:
            self._call.timers["give_up"] = now + self._call.settings.give_up_s
        else:
            self.give_up()

    def log_back(self, now: float) -> None:
        """The log answers again: from now on an owner that is asked can answer."""
        timers = self._call.timers
        if timers.pop("log", None) is None:
            return
        self._call.rejoined_by = now + self._call.settings.rejoin_s
        if "give_up" in timers:
            timers["give_up"] = now + self._call.settings.give_up_s
            self.ask_again(now)

    def give_up(self) -> None:
        """What is missing will not come: the reply goes on, or ends, without it."""
        call, ending = self._call, self._end_that_waits()
        lost = call.replies.missing(call.epoch, self.performed, ending)
        call.timers.pop("again", None)
        if lost is None:
            return
        key: Key = (lost.turn, lost.part)
        call.replies.skip(key)
        call.write(call.replies.advance(self.performed))
        if ending is not None and call.replies.lacks(ending):
            call.write(call.replies.end(key))

    def _end_that_waits(self) -> cmd.EndReply | None:
        head = self.queue[0].command if self.queue else None
        return head if isinstance(head, cmd.EndReply) else None

    # ---------------------------------------------------------------------------------------------- claims, deliveries

    def _claim_first(self, owned: Owned, now: float) -> bool:
        """Do what cannot be taken back, once the log has the claim; return whether it is done."""
        call, command = self._call, owned.command
        data = Ignored() if command is None else call_frames.to_wire(command, call.verbs)
        if not isinstance(data, bytes):
            call.acknowledge(owned, "refused", data.reason)
            return True
        if call.leaving is not None and leaves(command):
            call.acknowledge(owned, "refused", ENDING)
            return True
        if self._claim != owned.id:
            self._claim, self._claim_stored = owned.id, False
            call.acknowledge(owned, "claimed", notify=owned.id)
        if not self._claim_stored:
            return False
        self._claim = ""
        if owned.control and leaves(command):
            close_reply(call)
        self._pings += 1
        token = command_token(self._pings)
        self._pending[token] = owned
        call.write([*call.replies.flush(), data])
        call.ping(token)
        expect_close(call, owned, now)
        return True

    def stored(self, command: str) -> None:
        """The log has a claim."""
        if command == self._claim:
            self._claim_stored = True

    def pong(self, token: bytes, now: float) -> None:
        """The worker has read everything up to a ping."""
        for answered in self._call.ponged(token):
            if self._call.unread_end and answered == end_token(self._call.unread_end):
                self._call.unread_end = 0
            owned = self._pending.pop(answered, None)
            if owned is not None:
                self._call.acknowledge(owned, "delivered")
                if owned is self._call.leaving:
                    read_transfer(self._call, now)

    def heard(self, body: ev.CallerEvent, now: float) -> None:
        """If the caller speaks to the worker, the worker still has the call: a cold transfer was refused."""
        said = isinstance(body, ev.UserText) and body.is_final
        if said and now > self._call.read_at + self._call.settings.transferred_s:
            self.not_transferred()

    def not_transferred(self) -> None:
        """A cold transfer has come to nothing."""
        refuse_transfer(self._call)

    def link_lost(self) -> None:
        """The socket is gone, and with it every pong."""
        self._call.timers.pop(DOUBT, None)
        if self._call.unread_end:  # another bridge may be the next that dials
            self._call.out.append(Store("ack", ev.ReplySpoken(turn=self._call.unread_end, unread=True)))
        self._call.pings.clear()
        self._uncertain += self._pending.values()
        self._pending.clear()

    def link_back(self, now: float) -> None:
        """There is a link again; what became of the frames written last to the old one will never be known."""
        if self._call.doubtful or self._call.unread_end:
            self._call.timers[DOUBT] = now + self._call.settings.doubt_s
        for owned in self._uncertain:
            self._call.acknowledge(owned, "unknown")
        self._uncertain.clear()
        read_transfer(self._call, now)
        self._call.unmet = False
        if self._call.shadowed:
            self._call.shadowed = False
            self._disown()

    def told(self, state: str) -> None:
        """The worker says what it is doing ("": it says nothing); that decides whether it has had a doubtful end.

        One that listens owes the caller nothing. One that thinks or speaks may still wait for the end: it is sent. An
        end of our own that its former socket may have lost holds up all that comes after it, until that is known.
        """
        call = self._call
        call.timers.pop(DOUBT, None)
        if call.unread_end and not call.up:
            if state in _QUIET:
                call.unread_end = 0
            else:
                call.out.append(Write(call_frames.TEXT_END))
                call.ping(end_token(call.unread_end))
            call.up = True
        elif call.doubtful and call.up:
            call.had_end, call.doubtful = call.doubtful if state in _QUIET else 0, 0

    def over(self, now: float, *, clean: bool) -> None:
        """Settle what is left at the end of the call; `clean`: the worker closed the socket, having read it all."""
        for owned in self._pending.values():
            self._call.acknowledge(owned, "delivered" if clean else "unknown")
        self._pending.clear()
        self._call.unread_end = 0
        self.link_back(now)
        for owned in [*self.queue, *filter(None, [self.last])]:
            if owned.command is not None and not isinstance(owned.command, cmd.EndReply) and owned.id not in self._seen:
                ends = isinstance(owned.command, cmd.EndCall) and not owned.control
                self._call.acknowledge(owned, "ignored" if ends else "refused", _ENDED)
        self.queue.clear()
        self.last = None
