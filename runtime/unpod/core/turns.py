"""A turn: one final text of the caller and the reply to it.

The phases are a table. A turn is `opened` while the hooks of its text run, `asked` once the adapter has the text,
`speaking` from the first delta that left, and `ended` once the end of the reply was sent. That end is sent exactly once
per turn, whatever happens: every path to `ended` is a row with the trigger `end`, and `ended` has no row with it. A
turn that is ended waits for its figures and for the speech to be over; then it is completed, and gone.

Replies are spoken in order: at most one turn is between `opened` and `speaking`.
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from unpod.core.commands import ReplyEndReason
from unpod.core.events import ToolCalled, ToolReturned, TurnCompleted, TurnMetrics, TurnOutcome
from unpod.errors import ProtocolViolation

Phase = Literal["opened", "asked", "speaking", "ended"]
Trigger = Literal["ask", "delta", "end"]

TOOL_TIMEOUT_S: Final = 60.0
"""How long a tool may take of which nothing is known but that it was called."""

TRANSITIONS: dict[tuple[Phase, Trigger], Phase] = {
    ("opened", "ask"): "asked",
    ("opened", "end"): "ended",
    ("asked", "delta"): "speaking",
    ("asked", "end"): "ended",
    ("speaking", "delta"): "speaking",
    ("speaking", "end"): "ended",
}


class PendingTurn(Struct, frozen=True):
    """A final text that waits for its turn; `cause` is the id of its record."""

    number: int
    cause: str
    text: str | None
    language: str | None
    at: float
    withheld: bool = False


class Usage(Struct, frozen=True):
    """What the model calls of one turn have cost."""

    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    latency_ms: float = 0.0
    ttft_ms: float | None = None
    model: str | None = None
    provider: str | None = None


class Turn(Struct, frozen=True, kw_only=True):
    """An open turn. Times are seconds since 1970; `sent` is the reply's text so far.

    `part` counts the attempts at a reply that a takeover had to begin anew, and `deltas` the pieces of this part; the
    first `said` characters of `sent` belong to former parts. `untold`: more than `sent` was spoken, or may have been,
    and nobody knows what. `voiced`: the worker was speaking since something of the reply left.

    `bounded_tools` is how many tools run that end by their own time-outs. `tools` are those that were reported and have
    not returned, by call id, each with the time until which it is waited for. `tool_at` is when one was over last.
    `nodes` are where in its dialog the adapter was before and after, where it says so.
    """

    number: int
    cause: str
    user_text: str | None
    language: str | None
    opened_at: float
    phase: Phase = "opened"
    part: int = 0
    withheld: bool = False
    asked_at: float = 0.0
    first_delta_at: float = 0.0
    last_delta_at: float = 0.0
    bounded_tools: int = 0
    tools: dict[str, float] = {}
    tool_at: float = 0.0
    ended_at: float = 0.0
    deltas: int = 0
    sent: str = ""
    said: int = 0
    untold: bool = False
    voiced: bool = False
    end_reason: ReplyEndReason | None = None
    interrupted: bool = False
    heard: str | None = None
    nodes: tuple[str | None, str | None] = (None, None)
    metrics: TurnMetrics | None = None
    usage: Usage = Usage()

    @property
    def replying(self) -> bool:
        """Whether a reply is open: the adapter has been asked and its end has not been sent."""
        return self.phase in ("asked", "speaking")

    @property
    def owes_end(self) -> bool:
        """Whether the end of the reply is still to be sent."""
        return self.phase != "ended"

    @property
    def is_blank(self) -> bool:
        """Whether the caller has said nothing that an adapter could be asked; what was withheld is not nothing."""
        return self.user_text is not None and not self.user_text.strip()


def opened(pending: PendingTurn, now: float, *, withheld: bool) -> Turn:
    """Return the turn of a text whose turn has come."""
    return Turn(
        number=pending.number,
        cause=pending.cause,
        user_text=pending.text,
        language=pending.language,
        opened_at=now,
        withheld=withheld or pending.withheld,
    )


def step(turn: Turn, trigger: Trigger) -> Phase:
    """Return the phase after a trigger.

    Raises:
        ProtocolViolation: the table has no such row; the fault is ours.
    """
    phase = TRANSITIONS.get((turn.phase, trigger))
    if phase is None:
        msg = f"turn {turn.number}: {trigger} in phase {turn.phase}"
        raise ProtocolViolation(msg, whose="local")
    return phase


def tool_called(turn: Turn, fact: ToolCalled, at: float) -> Turn:
    """Return the turn with one more tool that runs."""
    return replace(turn, tools={**turn.tools, fact.call_id: at + TOOL_TIMEOUT_S})


def tool_returned(turn: Turn, fact: ToolReturned, at: float) -> Turn:
    """Return the turn with one tool less that runs."""
    running = {call_id: until for call_id, until in turn.tools.items() if call_id != fact.call_id}
    return replace(turn, tools=running, tool_at=at)


def interrupted(turn: Turn, heard: str | None) -> Turn:
    """Return the turn after the caller, or the agent itself, has cut its reply off."""
    return replace(turn, interrupted=True, heard=heard)


def outcome(turn: Turn) -> TurnOutcome:
    """Return how a turn went, from how its reply was ended; where the call's end came first, from what was said."""
    if turn.end_reason is None:
        return "ended" if turn.sent else "unanswered"
    return turn.end_reason


def completed(turn: Turn, now: float) -> TurnCompleted:
    """Return all that the turn's row needs."""
    figures, usage = turn.metrics or TurnMetrics(), turn.usage
    measured = _measured(turn)
    return TurnCompleted(
        turn_id=turn.number,
        user_text=turn.user_text,
        agent_text=None if turn.untold and not turn.sent else turn.sent,
        heard_text=turn.heard if turn.interrupted or turn.untold else turn.sent,
        interrupted=turn.interrupted,
        outcome=outcome(turn),
        language=turn.language,
        started_at=turn.opened_at,
        ended_at=turn.ended_at or now,
        ttfa_ms=figures.ttfa_ms,
        asr_ms=figures.asr_ms,
        llm_ttft_ms=_first(figures.llm_ttft_ms, measured[0]),
        llm_total_ms=_first(figures.llm_total_ms, measured[1]),
        llm_call_count=_calls(figures, usage, asked=turn.asked_at > 0),
        tts_ttfb_ms=figures.tts_ttfb_ms,
        from_node=figures.from_node or turn.nodes[0],
        to_node=figures.to_node or turn.nodes[1],
        tokens_in=usage.tokens_in,
        tokens_out=usage.tokens_out,
        cost=usage.cost,
        model=usage.model,
        provider=usage.provider,
        worker_metrics=turn.metrics is not None,
        withheld=turn.withheld,
    )


def _measured(turn: Turn) -> tuple[float | None, float | None]:
    """Time to the first piece and to the end of the reply, in ms, as the session saw them."""
    if not turn.asked_at or not turn.first_delta_at:
        return None, None
    first = (turn.first_delta_at - turn.asked_at) * 1000
    total = (max(turn.ended_at, turn.last_delta_at) - turn.asked_at) * 1000
    return round(first, 3), round(total, 3)


def _first(figure: float | None, fallback: float | None) -> float | None:
    return fallback if figure is None else figure


def _calls(figures: TurnMetrics, usage: Usage, *, asked: bool) -> int:
    if usage.calls:
        return usage.calls
    return int(asked) if figures.llm_call_count is None else figures.llm_call_count
