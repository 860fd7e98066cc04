"""What becomes of controls from outside: each is answered once, and an admitted one counts from that answer. Pure.

An admission is in the log before anything is done for it, so whoever comes after a crash finds it there: with no
receipt, it is done; with a claim alone, or said in the moment of the crash, it is `failed` as unknown, and not done
again. A control that nobody has answered yet is answered by the next bridge, if it is not too late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from msgspec import Struct

from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.controls import (
    AnyControl,
    MergeSession,
    SaySomething,
    TransferSession,
    Whisper,
    command_of,
    ends_session,
    problem_with,
)
from unpod_bridge.protocol.commands import OwnerCommands
from unpod_bridge.protocol.effects import ENDING, is_pausable
from unpod_bridge.protocol.outputs import Output, Store
from unpod_bridge.protocol.state import CallState
from unpod_bridge.wire import call_frames
from unpod_bridge.wire.call_frames import Unsupported

REMEMBERED: Final = 4_096
"""How many controls are known to be answered: JetStream itself tells repeats within its window."""
_NOTIFY: Final = "ctl:"
LATE: Final = "it came too late: its deadline had passed"
TOO_MANY: Final = "too many controls at once for this session; try again in a second"
PRIVATE: Final = "the recording is paused, and a control's text would be kept"
NO_PAUSE: Final = "the worker of this call does not support recording.pause"


class Asked(Struct, frozen=True):
    """A stored control; None is one that cannot be read. `at` is when it was stored, in the log's time."""

    id: str
    control: AnyControl | None
    at: float


class ControlAdmission:
    """Admits or refuses the controls of one call. What returns outputs wants them carried out, in order."""

    __slots__ = ("_call", "_known", "_owner_commands", "_room", "_room_at", "_settle", "_waiting")

    def __init__(
        self,
        call: CallState,
        owner_commands: OwnerCommands,
        settle: Callable[[float], list[Output]],
    ) -> None:
        self._call = call
        self._owner_commands = owner_commands
        self._settle = settle
        self._known: dict[str, None] = {}
        self._waiting: dict[str, tuple[cmd.AnyCommand, float]] = {}
        self._room = float(call.settings.control_burst)
        self._room_at = 0.0

    def knows(self, control_id: str) -> bool:
        """Whether a control has been answered."""
        return control_id in self._known

    def tell_time(self, offset_s: float) -> None:
        """Take the log's time less ours."""
        self._call.offset_s = offset_s

    def go_on(self, known: Iterable[str]) -> None:
        """Take what other bridges have answered."""
        for control_id in known:
            self._remember(control_id)

    def ask(self, asked: Asked, now: float) -> list[Output]:
        """Answer a control; a repeat changes nothing."""
        if self._call.over or asked.id in self._known:
            return self._settle(now)
        self._remember(asked.id)
        control, latest = asked.control, now
        refusal = "it cannot be read"
        if control is not None:
            latest = asked.at + control.deadline_s - self._call.offset_s
            refusal = LATE if now > latest else self._refusal(control, now)
        if control is None or refusal:
            self._answer(asked.id, "refused", refusal)
            return self._settle(now)
        command = command_of(control)
        if isinstance(command, cmd.Command):
            self._waiting[asked.id] = command, latest
            self._answer(asked.id, "admitted", control=control, notify=_NOTIFY + asked.id)
        else:
            self._answer(asked.id, "admitted", control=control)
        return self._settle(now)

    def stored(self, notify: str) -> None:
        """The log has an admission: what it asks for is done."""
        waiting = self._waiting.pop(notify.removeprefix(_NOTIFY), None) if notify.startswith(_NOTIFY) else None
        if waiting is not None:
            command, latest = waiting
            self._owner_commands.control(notify.removeprefix(_NOTIFY), command, latest)

    def _answer(
        self, control_id: str, outcome: str, reason: str = "", *, control: AnyControl | None = None, notify: str = ""
    ) -> None:
        admitted = outcome == "admitted"
        fact = ev.ControlAnswered(
            control=control_id, outcome="admitted" if admitted else "refused", reason=reason, body=control
        )
        self._call.out.append(Store("ack", fact, notify=notify, cause=control_id))

    def _refusal(self, control: AnyControl, now: float) -> str:
        call = self._call
        if self._is_too_late_for(control):
            return ENDING
        problem = problem_with(control)
        if problem:
            return problem
        if call.paused and isinstance(control, (SaySomething, Whisper)):
            return PRIVATE
        command = command_of(control)
        if isinstance(command, (cmd.PauseRecording, cmd.ResumeRecording)):
            if not is_pausable(self._call):
                return NO_PAUSE
        elif isinstance(command, cmd.Command):
            frame = call_frames.to_wire(command, call.verbs)
            if isinstance(frame, Unsupported):
                return frame.reason
        return "" if self._has_room(now) else TOO_MANY

    def _is_too_late_for(self, control: AnyControl) -> bool:
        """Whether the call is ending; a warm transfer and a merge the worker can still take then."""
        if self._owner_commands.wanted_end is None and self._call.leaving is None:
            return False
        return ends_session(control) or not isinstance(control, (TransferSession, MergeSession))

    def _has_room(self, now: float) -> bool:
        settings = self._call.settings
        self._room = min(settings.control_burst, self._room + (now - self._room_at) * settings.controls_per_s)
        self._room_at = now
        if self._room < 1:
            return False
        self._room -= 1
        return True

    def _remember(self, control_id: str) -> None:
        self._known[control_id] = None
        if len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]
