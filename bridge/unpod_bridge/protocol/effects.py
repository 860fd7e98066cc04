"""What each command does on a call that is up: the frames that it becomes, its receipt, what changes by it. Pure.

In which order, and that each is done once, is for `commands`; so is the claim of what cannot be taken back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from unpod.core import commands as cmd
from unpod_bridge.protocol.outputs import Owned
from unpod_bridge.protocol.state import CallState
from unpod_bridge.wire import call_frames
from unpod_bridge.wire.call_frames import Ignored, Unsupported

ENDING: Final = "the call is ending"
_NOT_CONNECTED: Final = "the worker did not connect the caller: the call goes on"
_WITHHELD: Final = "its text was not kept, and did not arrive"


def end_reply(call: CallState, owned: Owned, _: Sequence[Owned]) -> bool:
    """End a reply; return False where something of it is missing, or its end may have been sent already.

    Another bridge that has sent the end had handed over the whole reply before, so not if pieces of it were left to us.
    """
    command, replies = owned.command, call.replies
    if isinstance(command, cmd.EndReply):
        if replies.lacks(command):
            return False
        turn = command.turn
        if turn <= call.doubtful and not replies.began(turn):
            return False
        key, had_it = (turn, command.part), turn <= call.had_end and not replies.began(turn)
        call.write(replies.had_end(key) if had_it else replies.end(key))
    return True


def send(call: CallState, owned: Owned, _: Sequence[Owned] = ()) -> bool:
    """Send the command's frame, after the speech that waits to be joined."""
    command = owned.command
    if isinstance(command, cmd.Say) and command.text is None:
        call.acknowledge(owned, "refused", _WITHHELD)
        return True
    if command is None:
        return True
    if owned.control and call.leaving is not None and isinstance(command, cmd.Say):  # nobody would hear it after that
        call.acknowledge(owned, "refused", ENDING)
        return True
    data = call_frames.to_wire(command, call.verbs)
    if isinstance(data, Ignored):
        call.acknowledge(owned, "ignored", data.reason)
    elif isinstance(data, Unsupported):
        call.acknowledge(owned, "refused", data.reason)
    else:
        call.write([*call.replies.flush(), data])
        call.acknowledge(owned, "written")
        call.said = call.said or isinstance(command, cmd.Say)
    return True


def interrupt(call: CallState, owned: Owned, _: Sequence[Owned]) -> bool:
    """Stop what is playing; for a control the bridge ends the reply itself, since the owner may be gone."""
    done = send(call, owned)
    if owned.control:
        close_reply(call)
    return done


def set_filler(call: CallState, owned: Owned, _: Sequence[Owned]) -> bool:
    """Say this from now on where the caller waits."""
    command = owned.command
    if isinstance(command, cmd.SetFiller):
        if command.text is None and command.withheld:
            call.acknowledge(owned, "refused", _WITHHELD)
            return True
        call.filler = command.text or ""
    return send(call, owned)


def set_recording(call: CallState, owned: Owned, waiting: Sequence[Owned]) -> bool:
    """Pause the recording, or resume it; a pause that waits behind a resume counts since it arrived."""
    if not call.recorded and "recording.pause" not in call.verbs:
        call.acknowledge(owned, "ignored", "this call is not recorded")
    else:
        send(call, owned)
    call.muted = isinstance(owned.command, cmd.PauseRecording) and (call.muted or is_pausable(call))
    keep_or_not(call, waiting)
    return True


def keep_or_not(call: CallState, waiting: Sequence[Owned]) -> None:
    """Keep what is said from here on, unless the worker was told to pause the recording, or will be by what waits."""
    pauses = is_pausable(call) and any(isinstance(later.command, cmd.PauseRecording) for later in waiting)
    call.paused = call.muted or pauses
    call.replies.private = call.paused


def close_reply(call: CallState) -> None:
    """End the reply that is open."""
    replies = call.replies
    if replies.open is not None:
        replies.cut()
        call.write(replies.end(replies.open.key))


def is_pausable(call: CallState) -> bool:
    """Whether a pause of the recording can be honoured."""
    return "recording.pause" in call.verbs or not call.recorded


def leaves(command: object) -> bool:
    """Whether a command is the last that this session does."""
    return isinstance(command, cmd.EndCall) or (isinstance(command, cmd.Transfer) and command.mode == "cold")


def expect_close(call: CallState, owned: Owned, now: float) -> None:
    """Expect the worker to close, where a command that it was sent asks for that."""
    if not leaves(owned.command) or call.leaving is not None:
        return
    call.leaving, call.read_at = owned, math.inf
    call.timers["ending"] = now + (call.settings.transfer_grace_s if call.transferring else call.settings.end_grace_s)


def read_transfer(call: CallState, now: float) -> None:
    """The worker has read a cold transfer, or may have: from here on it shows whether it is carried out."""
    if call.transferring:
        call.read_at = min(call.read_at, now)
        call.timers["ending"] = now + call.settings.transfer_grace_s


def refuse_transfer(call: CallState) -> None:
    """The worker has refused a cold transfer: the call goes on as if it had not been asked for."""
    if call.leaving is not None:
        call.acknowledge(call.leaving, "refused", _NOT_CONNECTED)
    call.leaving, call.read_at = None, math.inf
    call.timers.pop("ending", None)


Effect = Callable[[CallState, Owned, Sequence[Owned]], bool]
EFFECTS: Final[dict[type[object], Effect]] = {
    cmd.EndReply: end_reply,
    cmd.Say: send,
    cmd.Interrupt: interrupt,
    cmd.SetFiller: set_filler,
    cmd.PauseRecording: set_recording,
    cmd.ResumeRecording: set_recording,
}
"""By the command's type; each is given what waits, too, and returns whether it is done. The others need a claim."""
