"""Records as the bridge and an owner write them, for the tests of the consumers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unpod.core import codec
from unpod.core.commands import Say
from unpod.core.envelope import Envelope, to_headers
from unpod.core.events import (
    CallEnded,
    CallStarted,
    CommandAcknowledged,
    LLMCalled,
    OwnerAppointed,
    TurnCompleted,
    TurnMetrics,
    tag_of,
)
from unpod.core.ids import record_id
from unpod.core.subjects import Subjects
from unpod.ports import Message

if TYPE_CHECKING:
    from msgspec import Struct

    from unpod.core.ids import WriterName
    from unpod.core.subjects import Channel

AGENT = "support"
START = 1_700_000_000.0
SUBJECTS = Subjects()


def message(
    session: str, channel: Channel, body: Struct, index: int, at_s: float, *, identifier: str = "", epoch: int = 1
) -> Message:
    """Return one record, `at_s` after the start."""
    writer: WriterName = "owner" if channel in {"run", "cmd"} else "bridge"
    envelope = Envelope(
        id=identifier or record_id(session, writer, index),
        type=f"{channel}.{tag_of(body)}",
        source=f"/{writer}",
        session=session,
        time=START + at_s,
        epoch=epoch,
        index=index,
    )
    call = SUBJECTS.call(AGENT, session)
    subject = {"evt": call.evt, "run": call.run}[channel](tag_of(body)) if channel in {"evt", "run"} else ""
    plain = {"ack": call.ack, "cmd": call.cmd, "own": call.own}
    return Message(subject or plain[channel], codec.encode(body), to_headers(envelope))


def call_of(session: str, *, turns: int = 2) -> tuple[list[Message], list[Message]]:
    """Return what the bridge and what the owner write of a call with one takeover, each in its order."""
    bridge = [
        message(session, "evt", CallStarted(session_id=session), 1, 0.0),
        message(
            session,
            "ack",
            CommandAcknowledged(command=f"{session}-hi", verb="say", outcome="written", owner_index=1),
            2,
            0.25,
        ),
        *(
            message(session, "evt", TurnMetrics(turn_id=turn, ttfa_ms=450.0 + turn, asr_ms=100.0), 2 + turn, turn + 0.4)
            for turn in range(1, turns + 1)
        ),
        message(session, "own", OwnerAppointed(runner="r2", takeover=1), 3, 5.0, epoch=9),
        message(session, "evt", CallEnded(reason="hangup"), 3 + turns, 20.0),
    ]
    owner = [message(session, "cmd", Say(text="hi"), 1, 0.125, identifier=f"{session}-hi")]
    for turn in range(1, turns + 1):
        model = LLMCalled(turn_id=turn, model="m", provider="p", latency_ms=700.0, tokens_in=10, tokens_out=5)
        done = TurnCompleted(turn_id=turn, ttfa_ms=450.0 + turn, asr_ms=100.0, llm_ttft_ms=200.0, interrupted=turn == 1)
        owner += [
            message(session, "run", model, 2 * turn, turn),
            message(session, "run", done, 2 * turn + 1, turn + 0.5),
        ]
    return bridge, owner
