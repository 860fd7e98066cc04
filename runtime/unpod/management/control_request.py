"""One control on its way: published, admitted or refused by the bridge, applied or failed.

The answers come on the live tail; as that is fast but not safe, the log is asked as well, now and then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Final
from uuid import uuid4

from unpod.core import events as ev
from unpod.core.codec import Record, encode
from unpod.core.controls import AnyControl, EndSession, ends_session, has_text, problem_with
from unpod.core.envelope import Envelope, source, to_headers
from unpod.core.events import tag_of
from unpod.core.ids import derive
from unpod.core.subjects import CallSubjects
from unpod.errors import ControlRefused, ControlUnanswered, LogError, SessionClosed
from unpod.management.answers import Answers
from unpod.management.models import ControlApplied
from unpod.management.tracing import current_traceparent

_LOOK_S: Final = 1.0
_MARGIN_S: Final = 1.0
"""How long after its deadline an answer may come."""
_PRIVATE: Final = "the recording is paused, and a control's text would be kept"


class ControlRequest:
    """One control of one session."""

    def __init__(self, hearings: Answers, session_id: str, control: AnyControl, command_id: str | None) -> None:
        self._hearings = hearings
        self._session_id = session_id
        self._control = control
        self.verb = tag_of(control)
        self.command_id = command_id or uuid4().hex
        self.id = derive("control", session_id, self.command_id)
        self._news = asyncio.Event()
        self._admitted = False
        self._ended = False
        self._answer: ev.ControlAnswered | ev.ControlPerformed | None = None

    async def send(self) -> ControlApplied:
        """Publish it and return once it is applied.

        Raises:
            SessionUnknown: there is no such session; nothing was sent.
            SessionClosed: its call is over.
            ControlRefused: it was not done, and why.
            ControlUnanswered: nobody has said in time what became of it.
            LogError: the log does not answer; it may be sent again with the same `command_id`.
        """
        subjects, ended = await self._hearings.find(self._session_id)
        if ended:
            async with self._hearings.listen(subjects, self.id, self._take):
                await self._hearings.look(subjects)  # what was done before the end is told again
            return self._result()
        await self._check(subjects)
        _, log = await self._hearings.fleet.open()
        async with self._hearings.listen(subjects, self.id, self._take):
            await log.append(subjects.ctl, encode(self._control), self._headers(), timeout_s=self._control.deadline_s)
            await self._until_answered(subjects)
        return self._result()

    async def _check(self, subjects: CallSubjects) -> None:
        problem = problem_with(self._control)
        if not problem and has_text(self._control):
            state = await self._hearings.state(self._session_id, subjects)
            problem = _PRIVATE if state.paused else ""
        if problem:
            raise ControlRefused(self.verb, problem)

    def _headers(self) -> Mapping[str, str]:
        actor = self._control.actor
        envelope = Envelope(
            id=self.id,
            type=f"ctl.{self.verb}",
            source=source("client", actor),
            session=self._session_id,
            time=time.time(),
            epoch=0,
            index=0,
            traceparent=current_traceparent(),
        )
        return to_headers(envelope)

    # ---------------------------------------------------------------------------------------------------- the answer

    async def _until_answered(self, subjects: CallSubjects) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._control.deadline_s + _MARGIN_S
        while not self._settled():
            left = until - loop.time()
            if left <= 0:
                return
            self._news.clear()
            try:
                async with asyncio.timeout(min(_LOOK_S, left)):
                    await self._news.wait()
            except TimeoutError:
                await self._try_to_look(subjects)
        if self._answer is None and self._ended:  # the last answers of a call come together with its end
            await self._try_to_look(subjects)

    def _settled(self) -> bool:
        return self._answer is not None or self._ended

    async def _try_to_look(self, subjects: CallSubjects) -> None:
        try:
            await self._hearings.look(subjects)
        except LogError:  # the next look, or the tail, may tell
            return

    def _take(self, record: Record) -> None:
        body = record.body
        if isinstance(body, ev.CallEnded):
            self._ended = True
        elif not isinstance(body, (ev.ControlAnswered, ev.ControlPerformed)) or body.control != self.id:
            return
        elif body.outcome == "admitted":
            self._admitted = True
        else:
            self._answer = body
        self._news.set()

    def _result(self) -> ControlApplied:
        answer = self._answer
        ends = self._admitted and self._ended and ends_session(self._control)
        if answer is None and ends:
            return self._applied("the call has ended")
        if answer is None:
            raise self._closed() if self._ended else self._unanswered()
        if answer.outcome == "applied" or (ends and isinstance(self._control, EndSession)):
            return self._applied(answer.reason if answer.outcome == "applied" else "the call has ended")
        raise ControlRefused(self.verb, answer.reason, outcome="refused" if answer.outcome == "refused" else "failed")

    def _applied(self, reason: str) -> ControlApplied:
        return ControlApplied(session_id=self._session_id, command_id=self.command_id, verb=self.verb, reason=reason)

    def _closed(self) -> SessionClosed:
        return SessionClosed(f"session {self._session_id[:200]!r}: its call is over; {self.verb} was not done")

    def _unanswered(self) -> ControlUnanswered:
        return ControlUnanswered(self.verb, self.command_id, accepted=self._admitted)
