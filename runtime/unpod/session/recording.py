"""Recording control, and what it means here: not recorded means not recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unpod.core.commands import PauseRecording, ResumeRecording
from unpod.errors import SessionClosed, UnsupportedControl
from unpod.session.outcomes import CommandHandle

if TYPE_CHECKING:
    from unpod.session.driver import Driver


class Recording:
    """The recording of one call."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    @property
    def paused(self) -> bool:
        """Whether the recording is paused, as far as this session has asked for it."""
        return self._driver.kernel.state.paused

    async def pause(self, reason: str = "") -> CommandHandle:
        """Stop recording; until `resume`, no text of the call is kept anywhere, the event log included.

        Calls that are not recorded at all (`recording: false` in their metadata) have nothing to pause; their texts are
        kept out of the log all the same.

        Raises:
            UnsupportedControl: the other side would go on recording.
            SessionClosed: the call is over.
        """
        await self._driver.issuing.room()
        self._check("recording.pause")
        return self._driver.perform(PauseRecording(reason=reason))

    async def resume(self) -> CommandHandle:
        """Record again.

        Raises:
            UnsupportedControl: the other side cannot.
            SessionClosed: the call is over.
        """
        await self._driver.issuing.room()
        self._check("recording.resume")
        return self._driver.perform(ResumeRecording())

    def _check(self, verb: str) -> None:
        state = self._driver.kernel.state
        if state.over:
            msg = f"{verb}: the call is over"
            raise SessionClosed(msg)
        unrecorded = state.started is not None and state.started.metadata.get("recording") is False
        if verb not in state.negotiated and not unrecorded:
            reason = (
                "the speech worker of this call cannot pause or resume its recording, so it goes on; "
                "use an orchestrator that negotiates it, or place the call with recording=False"
            )
            raise UnsupportedControl(verb, reason)
