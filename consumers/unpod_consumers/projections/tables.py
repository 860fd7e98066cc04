"""The analysts' tables, as data: their columns, in order, with kind, unit and meaning. Others rely on the names."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

Kind = Literal["text", "whole", "number", "flag", "time"]
"""`time` is in seconds since 1970 here, and a timestamp in UTC with microseconds in Parquet."""
Value = str | int | float | bool | None
Row = dict[str, Value]
Table = Literal["calls", "turns", "tools"]


class Column(NamedTuple):
    """One column; only those of the key are never null."""

    name: str
    kind: Kind
    meaning: str


_SESSION: Final = (
    Column("session_id", "text", "The session, as in every other place."),
    Column("agent_id", "text", "The agent, as its token in the subjects of the log."),
)
_SPEECH: Final = (
    Column("stt_ms", "number", "Speech recognition, milliseconds."),
    Column("llm_ms", "number", "The adapter's whole answer, milliseconds."),
    Column("tts_ms", "number", "Text to the first audio, milliseconds."),
)

CALLS: Final = (
    *_SESSION,
    Column("call_id", "text", "The orchestrator's id of the call."),
    Column("runner_id", "text", "The runner that owned the session at its end."),
    Column("direction", "text", "`inbound` or `outbound`."),
    Column("started_at", "time", "When the call was up."),
    Column("ended_at", "time", "When it was over; null where its end is in no log."),
    Column("duration_s", "number", "Seconds from the one to the other."),
    Column("end_reason", "text", "Why it ended, as in `call.ended`."),
    Column("ended_by", "text", "`agent`, `caller`, `operator` or `system`."),
    Column("turns", "whole", "Turns of the dialog."),
    Column("interruptions", "whole", "Turns in which the caller cut in."),
    Column("takeovers", "whole", "How often another runner went on with it."),
    Column("avg_stt_ms", "number", "Speech recognition, mean of the turns, milliseconds."),
    Column("avg_llm_ms", "number", "The adapter's whole answer, mean of the turns, milliseconds."),
    Column("avg_tts_ms", "number", "Text to the first audio, mean of the turns, milliseconds."),
    Column("model", "text", "The model that answered last."),
    Column("tokens_in", "whole", "Tokens that the models read."),
    Column("tokens_out", "whole", "Tokens that they wrote."),
    Column("cost_voice_usd", "number", "What the worker says that speech has cost, US dollars."),
    Column("cost_llm_usd", "number", "What the model calls have cost, US dollars."),
    Column("cost_usd", "number", "Both."),
    Column("is_complete", "flag", "Whether the runner has written its summary; if not, figures are sums of the turns."),
)

TURNS: Final = (
    *_SESSION,
    Column("turn", "whole", "The turn's number in its call, from 1."),
    Column("started_at", "time", "When the caller's text came."),
    Column("ended_at", "time", "When the turn was over."),
    Column("duration_s", "number", "Seconds from the one to the other."),
    Column("outcome", "text", "What became of it, as in `turn.completed`."),
    Column("is_interrupted", "flag", "Whether the caller cut in."),
    Column("language", "text", "The caller's language, where it is known."),
    Column("ttfa_ms", "number", "From the caller's text to the first audio, milliseconds."),
    *_SPEECH,
    Column("llm_ttft_ms", "number", "To the model's first token, milliseconds."),
    Column("llm_calls", "whole", "Model calls."),
    Column("model", "text", "The model."),
    Column("provider", "text", "Whose it is."),
    Column("tokens_in", "whole", "Tokens that it read."),
    Column("tokens_out", "whole", "Tokens that it wrote."),
    Column("cost_usd", "number", "What its calls have cost, US dollars."),
    Column("from_node", "text", "Where in the dialog's graph the turn began, where the adapter has one."),
    Column("to_node", "text", "Where it ended."),
    Column("user_chars", "whole", "Length of what the caller said; null where it was withheld."),
    Column("agent_chars", "whole", "Length of the whole reply."),
    Column("heard_chars", "whole", "Length of what the caller heard of it; null where nobody knows."),
    Column("user_text", "text", "What the caller said; null unless texts are asked for."),
    Column("agent_text", "text", "The whole reply; the same."),
    Column("heard_text", "text", "What the caller heard of it; the same."),
)

TOOLS: Final = (
    *_SESSION,
    Column("number", "whole", "The call's number among those of the session, from 1."),
    Column("turn", "whole", "The turn in which the adapter called it."),
    Column("name", "text", "The tool."),
    Column("call_id", "text", "The model's id of the call, where it gives one."),
    Column("called_at", "time", "When it was called."),
    Column("returned_at", "time", "When it returned; null where it never did."),
    Column("duration_ms", "number", "Milliseconds from the one to the other."),
)

TABLES: Final[dict[Table, tuple[Column, ...]]] = {"calls": CALLS, "turns": TURNS, "tools": TOOLS}
