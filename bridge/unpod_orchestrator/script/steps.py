"""The steps of a scripted call: what the caller does, and what is expected of the agent.

Each step is data (a script can come as JSON: `{"step": "says", "text": "hi"}`) with one method that plays it.
`within_s` is a step's time-out in real time; `Waits` and the pace of speech follow the orchestrator's speed.
"""

import asyncio
import re
from typing import Final, TypeAlias

import msgspec

from unpod_orchestrator.calls.call import PATIENCE_S, LocalCall
from unpod_orchestrator.wire.call_frames import RawFrame
from unpod_orchestrator.worker.happenings import EndReason, Role
from unpod_orchestrator.worker.room import RecordingState
from unpod_orchestrator.worker.transfers import TransferMode

_WORDS_PER_S: Final = 3.0


class ExpectationFailed(Exception):  # noqa: N818 -- the verdict on a call, not a fault of the program
    """The call did not go as the step says."""


class Step(msgspec.Struct, frozen=True, tag_field="step"):
    """One step of a script."""

    async def play(self, call: LocalCall) -> None:
        """Plays the step; `ExpectationFailed`, `TimeoutError` or `CallOverError` where the call goes another way."""
        raise NotImplementedError


class Says(Step, frozen=True, tag="says"):
    """The caller says something; with `partials` it comes word by word first."""

    text: str
    language: str | None = None
    partials: bool = False
    within_s: float = PATIENCE_S

    async def play(self, call: LocalCall) -> None:
        """Says it."""
        words = self.text.split() if self.partials else []
        for count in range(1, len(words)):
            await call.partial(" ".join(words[:count]), language=self.language, timeout_s=self.within_s)
            await asyncio.sleep(1 / _WORDS_PER_S / call.options.speed)
        await call.user(self.text, language=self.language, timeout_s=self.within_s)


class HearsReply(Step, frozen=True, tag="hears_reply"):
    """The next complete reply, which contains this text, or matches this pattern, where they are given."""

    contains: str | None = None
    matches: str | None = None
    within_s: float = PATIENCE_S

    async def play(self, call: LocalCall) -> None:
        """Waits for the reply and looks at its text."""
        reply = await call.reply(self.within_s)
        if self.contains is not None and self.contains not in reply:
            raise ExpectationFailed(f"the reply does not contain {self.contains!r}: {reply!r}")
        if self.matches is not None and not re.search(self.matches, reply):
            raise ExpectationFailed(f"the reply does not match {self.matches!r}: {reply!r}")


class HearsSpeech(Step, frozen=True, tag="hears_speech"):
    """Somebody on the other side has said this, heard to its end: a greeting, a filler, a reply."""

    contains: str
    role: Role = "agent"
    within_s: float = PATIENCE_S

    async def play(self, call: LocalCall) -> None:
        """Waits until it is in the transcript."""
        await call.heard(self.contains, role=self.role, timeout_s=self.within_s)


class HearsAll(Step, frozen=True, tag="hears_all"):
    """Everything that the agent has to say has been said."""

    within_s: float = PATIENCE_S

    async def play(self, call: LocalCall) -> None:
        """Waits for silence."""
        await call.silence(self.within_s)


class BargesIn(Step, frozen=True, tag="barges_in"):
    """The caller cuts in when so many characters of this turn have been spoken, and says something or nothing."""

    after_chars: int = 0
    says: str | None = None
    language: str | None = None
    within_s: float = PATIENCE_S

    async def play(self, call: LocalCall) -> None:
        """Cuts in."""
        if self.after_chars:
            await call.spoken(self.after_chars, self.within_s)
        await call.barge_in(self.says, language=self.language, timeout_s=self.within_s)


class Waits(Step, frozen=True, tag="waits"):
    """The caller does nothing for a while; at `speed` 10 it takes a tenth of that."""

    seconds: float

    async def play(self, call: LocalCall) -> None:
        """Waits."""
        await asyncio.sleep(self.seconds / call.options.speed)


class HangsUp(Step, frozen=True, tag="hangs_up"):
    """The caller hangs up."""

    async def play(self, call: LocalCall) -> None:
        """Hangs up."""
        await call.hang_up()


class Drops(Step, frozen=True, tag="drops"):
    """The socket is cut without a close frame, and dialled again; `redial` false: no redial is let in."""

    redial: bool = True
    within_s: float = PATIENCE_S

    async def play(self, call: LocalCall) -> None:
        """Cuts the socket and, where a redial is expected, waits for it."""
        await call.connected(self.within_s)
        call.drop(for_good=not self.redial)
        if self.redial:
            await call.connected(self.within_s)


class Sends(Step, frozen=True, tag="sends"):
    """The worker sends this frame, as it stands."""

    frame: RawFrame

    async def play(self, call: LocalCall) -> None:
        """Sends it."""
        await call.connected()
        call.send_frame(self.frame)


class ExpectsEnd(Step, frozen=True, tag="expects_end"):
    """The call ends in this way; `reason` is the agent's own word for it."""

    how: EndReason
    reason: str | None = None
    within_s: float = PATIENCE_S

    async def play(self, call: LocalCall) -> None:
        """Waits for the end."""
        outcome = await call.ended(self.within_s)
        if outcome.reason != self.how or self.reason not in {None, outcome.detail}:
            raise ExpectationFailed(
                f"expected {self.how}{f': {self.reason}' if self.reason else ''}, but the call {outcome}"
            )


class ExpectsTransfer(Step, frozen=True, tag="expects_transfer"):
    """The caller is connected to this target, or, with `refused`, is not."""

    target: str
    mode: TransferMode | None = None
    refused: bool = False
    within_s: float = PATIENCE_S

    async def play(self, call: LocalCall) -> None:
        """Waits for the transfer."""
        await call.observed(self._done, f"a transfer to {self.target}", timeout_s=self.within_s)

    def _done(self, call: LocalCall) -> bool:
        return any(
            transfer.target == self.target
            and self.mode in {None, transfer.mode}
            and (transfer.refused is not None) == self.refused
            for transfer in call.transfers
        )


class ExpectsRecording(Step, frozen=True, tag="expects_recording"):
    """Recording is on, paused, or off."""

    state: RecordingState
    within_s: float = PATIENCE_S

    async def play(self, call: LocalCall) -> None:
        """Waits for it."""
        await call.observed(
            lambda seen: seen.recording == self.state, f"recording is {self.state}", timeout_s=self.within_s
        )


AnyStep: TypeAlias = (
    Says
    | HearsReply
    | HearsSpeech
    | HearsAll
    | BargesIn
    | Waits
    | HangsUp
    | Drops
    | Sends
    | ExpectsEnd
    | ExpectsTransfer
    | ExpectsRecording
)


def ExpectsRecordingPaused() -> ExpectsRecording:  # noqa: N802 -- reads as a step
    """The agent pauses the recording."""
    return ExpectsRecording("paused")


def ExpectsRecordingResumed() -> ExpectsRecording:  # noqa: N802 -- reads as a step
    """The agent lets the recording go on."""
    return ExpectsRecording("on")
