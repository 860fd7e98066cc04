"""Calls as their logs have them, as many records as wanted."""

from __future__ import annotations

from tests.unit.core.call_log import CallLog

from unpod.core import codec
from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.codec import Record
from unpod.core.envelope import to_headers
from unpod.core.subjects import Subjects
from unpod.jetstream.connection.wire import encode_headers, fenced
from unpod.ports import Fence

PER_TURN = 5
"""Records of one turn; a call has two more."""


def record_call(session: str, turns: int) -> list[Record]:
    """Return the records of a call of so many turns."""
    call = CallLog(session)
    for turn in range(1, turns + 1):
        call.now += 5.0
        call.bridge(ev.UserText(text="What is it?"))
        call.owner(cmd.EndReply(turn=turn, deltas=2, chars=140))
        call.bridge(ev.ReplySpoken(turn=turn, deltas=2, chars=140, ended=True))
        call.bridge(ev.TurnMetrics(turn_id=turn, asr_ms=1.0, tts_ttfb_ms=1.0))
        call.owner(ev.TurnCompleted(turn_id=turn, user_text="What is it?", agent_text="It is so. " * 14))
    return call.records


def published(session: str, record: Record) -> tuple[str, bytes, bytes]:
    """Return a record as it is published: subject, header block with the fence, payload."""
    subjects = Subjects().call("agent", session)
    head = subjects.all.removesuffix(">")
    subject = head + (record.envelope.type if record.channel in {"evt", "run"} else record.channel)
    placed = subjects.line if record.channel in codec.BRIDGE_CHANNELS else subjects.own
    block = fenced(encode_headers(to_headers(record.envelope)), subject, Fence(placed, record.envelope.epoch))
    return subject, block, codec.encode(record.body)
