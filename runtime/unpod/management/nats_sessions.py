"""Sessions over NATS: controls are published, and everything else is read from the log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

from unpod.core import events as ev
from unpod.core.controls import (
    AnyControl,
    EndSession,
    HandBack,
    InterruptAgent,
    MergeSession,
    PauseAgent,
    PauseSessionRecording,
    ResumeAgent,
    ResumeSessionRecording,
    SaySomething,
    TakeOver,
    TransferSession,
    Whisper,
)
from unpod.core.ids import derive
from unpod.core.subjects import identifier
from unpod.errors import ControlRefused, ControlUnanswered, SessionUnknown, UnsupportedControl
from unpod.management.answers import Answers
from unpod.management.call_view import view
from unpod.management.control_request import ControlRequest
from unpod.management.fleet import ManagementConnection
from unpod.management.models import (
    ControlApplied,
    MergeOutcome,
    SessionEnded,
    SessionEvent,
    SessionRecord,
    SessionsMerged,
    SessionTransferred,
)
from unpod.management.sessions import SessionRecords, Sessions, Since, TransferMode, ids
from unpod.management.tail import SessionTail
from unpod.ports import Message

_LIMIT: Final = 100
_AT_ONCE: Final = 8
_ONLY_REST: Final = "a call's own socket cannot; use the orchestrator's REST API: AsyncClient(nats_url=False)"


class FleetSessions(Sessions):
    """`client.sessions` over NATS."""

    def __init__(self, fleet: ManagementConnection) -> None:
        self._fleet = fleet
        self._hearings = Answers(fleet)

    async def end(self, session_id: str, reason: str | None = None, *, command_id: str | None = None) -> SessionEnded:
        """Hang up, once what is being said is said; `reason` is the call's end reason, `completed` where it is None."""
        await self._send(session_id, EndSession(actor=self._fleet.actor, reason=reason or ""), command_id)
        return SessionEnded(session_id=session_id, state="ending")

    async def transfer(
        self,
        session_id: str,
        to_type: str,
        to_config: Mapping[str, object] | None = None,
        mode: TransferMode = "cold",
        *,
        warm_handoff_ms: int = 0,
        drop_participant_id: str | None = None,
        command_id: str | None = None,
    ) -> SessionTransferred:
        """Connect the caller to somebody else, through the call's own socket, which tells no participants' ids.

        `warm_handoff_ms` is recorded; how long a warm handoff takes is the worker's.
        """
        if drop_participant_id is not None:
            raise UnsupportedControl("drop_participant_id", _ONLY_REST)
        control = TransferSession(
            actor=self._fleet.actor,
            to_type=to_type,
            to_config=dict(to_config or {}),
            mode=mode,
            warm_handoff_ms=warm_handoff_ms,
        )
        await self._send(session_id, control, command_id)
        return SessionTransferred(session_id=session_id, mode=mode)

    async def merge(
        self,
        primary_session_id: str,
        secondary_session_ids: Sequence[str],
        drop_participants: Sequence[object] | None = None,
        *,
        command_id: str | None = None,
    ) -> SessionsMerged:
        """Join other sessions' calls into a primary one, each with an outcome of its own."""
        if drop_participants is not None:
            raise UnsupportedControl("drop_participants", _ONLY_REST)
        outcomes = [
            await self._merge(primary_session_id, secondary, command_id) for secondary in ids(secondary_session_ids)
        ]
        return SessionsMerged(primary_session_id=primary_session_id, outcomes=tuple(outcomes))

    async def _merge(self, primary: str, secondary: str, command_id: str | None) -> MergeOutcome:
        """Join one session's call; only what is wrong with the primary session raises."""
        own_id = None if command_id is None else derive(command_id, secondary)
        try:
            _, ended = await self._fleet.find(secondary)
        except SessionUnknown as error:
            return MergeOutcome(session_id=secondary, status="failed", error=str(error))
        if ended:
            return MergeOutcome(session_id=secondary, status="failed", error="its call is over")
        try:
            await self._send(primary, MergeSession(actor=self._fleet.actor, source_session_id=secondary), own_id)
        except ControlRefused as error:
            return MergeOutcome(session_id=secondary, status="failed", error=error.reason)
        except ControlUnanswered as error:
            return MergeOutcome(session_id=secondary, status="unknown", error=str(error))
        return MergeOutcome(session_id=secondary, status="merged")

    async def say(self, session_id: str, text: str, *, command_id: str | None = None) -> ControlApplied:
        """Speak a text to the caller, verbatim (`Sessions.say`)."""
        return await self._send(session_id, SaySomething(actor=self._fleet.actor, text=text), command_id)

    async def interrupt(self, session_id: str, *, command_id: str | None = None) -> ControlApplied:
        """Stop the reply that is being spoken."""
        return await self._send(session_id, InterruptAgent(actor=self._fleet.actor), command_id)

    async def whisper(self, session_id: str, text: str, *, command_id: str | None = None) -> ControlApplied:
        """Tell the agent's adapter something that the caller does not hear."""
        return await self._send(session_id, Whisper(actor=self._fleet.actor, text=text), command_id)

    async def pause(self, session_id: str, *, command_id: str | None = None) -> ControlApplied:
        """Let the agent answer nothing (`Sessions.pause`)."""
        return await self._send(session_id, PauseAgent(actor=self._fleet.actor), command_id)

    async def resume(self, session_id: str, *, command_id: str | None = None) -> ControlApplied:
        """Let the agent answer again (`Sessions.resume`)."""
        return await self._send(session_id, ResumeAgent(actor=self._fleet.actor), command_id)

    async def takeover(
        self, session_id: str, reason: str | None = None, *, command_id: str | None = None
    ) -> ControlApplied:
        """Take the agent's place (`Sessions.takeover`)."""
        return await self._send(session_id, TakeOver(actor=self._fleet.actor, reason=reason or ""), command_id)

    async def handback(self, session_id: str, *, command_id: str | None = None) -> ControlApplied:
        """Give the call back to the agent (`Sessions.handback`)."""
        return await self._send(session_id, HandBack(actor=self._fleet.actor), command_id)

    async def pause_recording(
        self, session_id: str, reason: str | None = None, *, command_id: str | None = None
    ) -> ControlApplied:
        """Stop recording, and keep no text until it is resumed."""
        control = PauseSessionRecording(actor=self._fleet.actor, reason=reason or "")
        return await self._send(session_id, control, command_id)

    async def resume_recording(self, session_id: str, *, command_id: str | None = None) -> ControlApplied:
        """Record again."""
        return await self._send(session_id, ResumeSessionRecording(actor=self._fleet.actor), command_id)

    # ------------------------------------------------------------------------------------------------------- look up

    async def get(self, session_id: str) -> SessionRecord:
        """Return one session, as its log says."""
        subjects, _ = await self._fleet.find(session_id)
        records = await self._fleet.records(subjects.all)
        return view(session_id, identifier(subjects.agent), records, time.time())

    async def list(self, **query: str | int) -> SessionRecords:
        """Return sessions, newest first; each is folded from its log, so `limit` bounds what is read."""
        unknown = query.keys() - {"status", "agent_id", "limit"}
        if unknown:
            raise TypeError(f"list() over NATS knows status, agent_id and limit, not {', '.join(sorted(unknown))}")
        status, agent, limit = query.get("status"), str(query.get("agent_id", "")), int(query.get("limit", _LIMIT))
        ended = {message.subject for message in await self._of_type("call.ended", agent)}
        found = []
        for message in reversed(await self._of_type("call.started", agent)):
            subjects = self._fleet.subjects.at(self._fleet.address(message))
            over = subjects.evt("call.ended") in ended
            record = self._fleet.decode(message)
            if record is None or not isinstance(record.body, ev.CallStarted):
                continue
            if status is None or (status == "ended") is over:
                found.append(record.body.session_id)
            if len(found) == limit:
                break
        room = asyncio.Semaphore(_AT_ONCE)

        async def one(session_id: str) -> SessionRecord:
            async with room:
                return await self.get(session_id)

        return [*await asyncio.gather(*map(one, found))]

    async def tail(self, session_id: str, *, since: Since = "start") -> AsyncIterator[SessionEvent]:
        """Yield a session's events (`Sessions.tail`)."""
        subjects, _ = await self._fleet.find(session_id)
        async for event in SessionTail(self._fleet, subjects).follow(since):
            yield event

    # ------------------------------------------------------------------------------------------------------- private

    async def _of_type(self, event_type: str, agent: str) -> Sequence[Message]:
        return await self._fleet.messages(self._fleet.subjects.of_type("evt", event_type, agent_id=agent))

    async def _send(self, session_id: str, control: AnyControl, command_id: str | None) -> ControlApplied:
        return await ControlRequest(self._hearings, session_id, control, command_id).send()
