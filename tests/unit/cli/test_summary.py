from __future__ import annotations

from typing import get_args

import pytest
from msgspec import Struct

from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.withhold import withhold
from unpod_cli.summary import WITHHELD, is_withheld, summary

ALL: tuple[type[Struct], ...] = (
    *get_args(ev.CallerEvent),
    *get_args(ev.Receipt),
    *get_args(ev.SessionEvent),
    *get_args(ev.Placement),
    *get_args(cmd.AnyCommand),
)

SECRET = "secret words"
_TEXTS = {
    "text": SECRET,
    "frame": {"text": SECRET},
    "head": SECRET,
    "user_text": SECRET,
    "agent_text": SECRET,
    "heard_text": SECRET,
    "heard_prefix": SECRET,
    "prompt_messages": [SECRET],
    "response_json": SECRET,
    "arguments": {"a": SECRET},
    "result": SECRET,
    "value": SECRET,
}


def example(kind: type[Struct]) -> Struct:
    """Return one with all its texts, and numbers where it needs some."""
    fields: dict[str, object] = {name: value for name, value in _TEXTS.items() if name in kind.__struct_fields__}
    required = kind.__struct_fields__[: len(kind.__struct_fields__) - len(kind.__struct_defaults__)]
    for name in (*required, *_required(kind)):
        fields.setdefault(name, 3 if name in _NUMBERS else f"a-{name}")
    return kind(**fields)


_NUMBERS = {"owner_index", "turn", "turn_id", "epoch", "size", "seconds", "deltas", "chars"}


def _required(kind: type[Struct]) -> list[str]:
    import msgspec  # noqa: PLC0415 - only here

    return [field.name for field in msgspec.structs.fields(kind) if field.required]


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_kind_of_record_has_a_line(kind: type[Struct]) -> None:
    text = summary(example(kind))
    assert "\n" not in text
    assert "Struct" not in text


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_what_is_withheld_shows_as_such(kind: type[Struct]) -> None:
    kept = withhold(example(kind))
    text = summary(kept)
    assert SECRET not in text
    if kind in {ev.UserText, ev.UserInterrupted, ev.TurnCompleted, ev.ToolCalled, ev.ToolReturned, cmd.Say}:
        assert is_withheld(kept)
        assert WITHHELD in text


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (ev.UserText(text="hi", language="de"), "“hi” · de"),
        (ev.UserText(text="h", is_final=False), "“h” · not final"),
        (ev.UserInterrupted(turn_id=1), "cuts in"),
        (ev.UserInterrupted(turn_id=1, heard_prefix="We"), "cuts in after hearing “We”"),
        (ev.CallMetric(turns=1, cost_usd_so_far=0.0125), "1 turn · $0.0125 so far"),
        (ev.TurnMetrics(turn_id=2, ttfa_ms=274.4, asr_ms=120.0), "turn 2 · first audio 274, stt 120 ms"),
        (ev.TurnMetrics(turn_id=2), "turn 2"),
        (ev.CallEnded(reason="hangup", by="caller"), "hangup, by caller"),
        (ev.ReplySpoken(turn=1, deltas=1, chars=5, ended=True), "reply 1: 1 piece, 5 characters · to its end"),
        (
            ev.TurnCompleted(turn_id=1, outcome="interrupted", interrupted=True, heard_text="We"),
            "turn 1 interrupted · heard “We”",
        ),
        (
            ev.CallCompleted(call_id="c", agent_id="a", runner_id="r", reason="hangup", turns=2),
            "hangup · 2 turns · 0.0 s",
        ),
        (ev.Diverged(expected="a", found="b"), "expected a, found b"),
        (cmd.Transfer(transfer_type="human", target="sales"), "cold, to human sales"),
        (
            cmd.EndReply(turn=1, deltas=2, chars=9, reason="interrupted"),
            "reply 1: 2 pieces, 9 characters · interrupted",
        ),
        (ev.Unknown(type="new.thing", data=b"{}"), ""),
    ],
)
def test_lines(body: Struct, text: str) -> None:
    assert summary(body).startswith(text)
