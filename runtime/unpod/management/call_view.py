"""What a session's log amounts to, for people and programs outside. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.codec import Record
from unpod.core.controls import SaySomething
from unpod.core.replay.ordering import merge
from unpod.core.state import SessionState, fold
from unpod.management.models import SessionRecord, TranscriptLine


def view(session_id: str, agent: str, records: Sequence[Record], now: float) -> SessionRecord:
    """Return what a session's records (in any order) say of it; `agent` is its agent where they name none."""
    merged = merge(records)
    state = fold(merged)
    lines = [record.body for record in merged if isinstance(record.body, ev.LineTaken)]
    return SessionRecord(
        session_id=session_id,
        status="active" if state.ended is None else "ended",
        started_at=state.started_at or None,
        ended_at=state.ended_at or None,
        duration_s=state.duration_s(now),
        end_reason=None if state.ended is None else state.ended.reason,
        transcript=tuple(transcript(merged)),
        agent_id=_agent(state, merged) or agent,
        owner=state.runner_id or None,
        bridge=lines[-1].bridge if lines else None,
        turns=state.turn_count,
        takeovers=state.takeovers,
        paused=state.supervision.paused,
        supervisor=_supervisor(state),
        recording_paused=state.paused,
    )


def transcript(merged: Sequence[Record]) -> Iterator[TranscriptLine]:
    """Yield what was said, in order; `content` is None where it was not recorded."""
    for record in merged:
        at = record.envelope.time
        match record.body:
            case ev.UserText(is_final=True) as body:
                yield _line("user", None if body.withheld else body.text, at)
            case cmd.Say() as body:
                yield _line("agent", body.text, at)
            case ev.ControlAnswered(outcome="admitted", body=SaySomething() as said):
                yield _line("supervisor", said.text, at)
            case ev.TurnCompleted() as body if body.withheld or body.agent_text:
                heard = body.agent_text if body.heard_text is None else body.heard_text
                yield _line("agent", None if body.withheld else heard, at)
            case _:
                continue


def _line(role: str, content: str | None, at: float) -> TranscriptLine:
    return TranscriptLine(role=role, content=content, timestamp=at)


def _agent(state: SessionState, merged: Sequence[Record]) -> str | None:
    summaries = [record.body.agent_id for record in merged if isinstance(record.body, ev.CallCompleted)]
    named = None if state.started is None else state.started.agent_id
    return named or (summaries[-1] if summaries else None)


def _supervisor(state: SessionState) -> str | None:
    return None if state.supervision.supervisor is None else state.supervision.supervisor or "somebody"
