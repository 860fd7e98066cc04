"""How a session ends for this runner: the call is over, nothing more can be written, or another runner owns it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from unpod.core.events import FAILED_REASONS
from unpod.core.state import SessionState
from unpod.errors import Fenced, LogError
from unpod.session.ownership import Ownership

logger = logging.getLogger("unpod.session")


class Ending:
    """Whether one session goes on here; `wake` lets its loop look around when it does not.

    `on_lost` is told when nothing more can be written.
    """

    def __init__(
        self, ownership: Ownership, wake: Callable[[], None], on_lost: Callable[[], None] = lambda: None
    ) -> None:
        self._ownership = ownership
        self._wake = wake
        self._on_lost = on_lost
        self.reason: str | None = None
        """What `run()` returns, None while the call goes on."""
        self.lost: LogError | None = None
        """Why nothing more can be written."""
        self.abandoned = False
        """Whether nothing more is to be written, though it could be."""
        self.on_fenced: Callable[[], object] | None = None

    @property
    def fenced(self) -> bool:
        """Whether another runner owns the session now."""
        return isinstance(self.lost, Fenced)

    def has_told(self, error: BaseException) -> bool:
        """Whether `error` only tells user code that this runner has lost its call, which is logged already."""
        return isinstance(error, Fenced) or error is self.lost

    def has_failed(self, state: SessionState) -> bool:
        """Whether the call counts as failed: its entrypoint raised, or it ended with `error` or `lost`."""
        reason = state.ended.reason if state.ended is not None else state.ending
        return state.failed or self.lost is not None or reason in FAILED_REASONS

    def reason_of(self, state: SessionState) -> str:
        """Return the reason of the call's end, as far as it is known."""
        if self.reason is not None:
            return self.reason
        return state.ended.reason if state.ended is not None else state.ending or "lost"

    def finish(self, reason: str) -> None:
        """Let `run()` return; the first reason counts."""
        if self.reason is None:
            self.reason = reason
        self._wake()

    def abandon(self) -> None:
        """Let go of the call at once, and write nothing more."""
        self.abandoned = True
        self.finish("cancelled")

    def fence(self) -> None:
        """Take note that there is a newer owner: what we would write from here on is void."""
        self.lose(Fenced("a newer owner has been appointed"))

    def begin_again(self) -> None:
        """Let go of a session that has acted on records which the log does not have: its next owner folds it anew."""
        if self.lost is None:
            logger.warning(
                "session %s: it has acted on records that the log does not have; its next owner folds it again",
                self._ownership.session_id,
            )
            self._let_go(Fenced("the log lacks what it has acted on"))

    def _let_go(self, error: Fenced) -> None:
        self.lost = error
        self._on_lost()
        self.abandon()
        if self.on_fenced is not None:
            self.on_fenced()

    def lose(self, error: LogError) -> None:
        """Take note that nothing more can be written."""
        if self.lost is not None:
            return
        if isinstance(error, Fenced):
            logger.warning("session %s: another runner owns it now", self._ownership.session_id)
            self._let_go(error)
            return
        self.lost = error
        self._on_lost()
        logger.error("session %s: nothing more can be written: %s", self._ownership.session_id, error)
        self.finish("error")

    async def check_owner(self) -> None:
        """Look in the log for a newer owner; where it does not answer, nothing is known."""
        ownership = self._ownership
        try:
            newest = await ownership.log.last(ownership.subjects.call(ownership.agent_id, ownership.session_id).own)
        except LogError:
            return
        if newest is not None and newest.seq > ownership.epoch:
            self.fence()
