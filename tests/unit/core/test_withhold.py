"""Not recorded means not recorded: every field that can hold text is decided on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args, get_type_hints

import pytest
from msgspec import Struct

from unpod.core import codec
from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.events import tag_of
from unpod.core.subjects import Channel
from unpod.core.withhold import withhold

SECRET = "4111 1111 1111 1111"

FAMILIES: dict[Channel, object] = {
    "evt": ev.CallerEvent,
    "ack": ev.Receipt,
    "run": ev.SessionEvent,
    "cmd": cmd.AnyCommand,
    "line": ev.Placement,
    "own": ev.Placement,
}

IDS = {
    "session_id",
    "call_id",
    "job_id",
    "room_id",
    "agent_id",
    "runner_id",
    "voice_profile_id",
    "participant_id",
    "source_session_id",
    "node_id",
    "edge_id",
    "turn_id",
    "from_node",
    "to_node",
    "command",
    "control",
    "step",
    "input",
    "skip",
    "runner",
    "bridge",
}
NAMES = {
    "negotiated_events",
    "negotiated_verbs",
    "severity",
    "source",
    "code",
    "state",
    "type",
    "verb",
    "outcome",
    "by",
    "direction",
    "language",
    "model",
    "provider",
    "call_type",
    "name",
    "hook",
    "function",
    "error_type",
    "expected",
    "found",
    "transfer_type",
    "mode",
    "participant_type",
}
REASONS = {"reason", "detail"}
"""Chosen by code, of an end, a refusal or a pause; the bridge's never quote a frame."""

DEVELOPERS = {
    (ev.CallStarted, "metadata"),
    (cmd.DispatchAgent, "metadata"),
    (cmd.AddParticipant, "config"),
    (cmd.Transfer, "target"),
    (ev.ControlAnswered, "body"),
}
"""What code and operators set up; nobody says it on the call."""


def _holds_text(hint: object) -> bool:
    return hint is object or hint is str or any(_holds_text(arg) for arg in get_args(hint) if isinstance(arg, type))


def _members(channel: Channel) -> tuple[type[Struct], ...]:
    return get_args(FAMILIES[channel])


def _text_fields() -> Iterator[tuple[Channel, type[Struct], str]]:
    for channel in FAMILIES:
        for member in _members(channel):
            for name, hint in get_type_hints(member).items():
                if _holds_text(hint):
                    yield channel, member, name


def _is_kept(member: type[Struct], name: str) -> bool:
    return name in IDS | NAMES | REASONS or (member, name) in DEVELOPERS


TEXTS = [(channel, member, name) for channel, member, name in _text_fields() if not _is_kept(member, name)]
BODIES: dict[type[Struct], dict[str, object]] = {
    ev.CallStarted: {"session_id": "s"},
    ev.FrameRejected: {"reason": "r", "size": 1},
    ev.CallEnded: {"reason": "hangup"},
    ev.OwnerChanged: {"epoch": 1},
    ev.TurnCompleted: {"turn_id": 1},
    ev.ToolCalled: {"name": "t"},
    ev.ToolReturned: {"name": "t"},
    ev.StepCompleted: {"step": "x", "name": "t"},
    ev.HookFailed: {"hook": "state", "function": "f"},
    ev.AdapterFailed: {"turn_id": 1, "code": "c"},
    cmd.Say: {"text": SECRET},
    cmd.SetFiller: {"text": SECRET},
    cmd.Transfer: {"transfer_type": "number", "target": "+1"},
}


@pytest.mark.parametrize(("channel", "member", "name"), TEXTS, ids=[f"{m.__name__}.{n}" for _, m, n in TEXTS])
def test_no_text_of_the_call_is_stored(channel: Channel, member: type[Struct], name: str) -> None:
    body = member(**{**BODIES.get(member, {}), name: SECRET})
    stored = codec.encode(withhold(body))
    assert SECRET.encode() in codec.encode(body)
    assert SECRET.encode() not in stored
    assert codec.decode(channel, tag_of(body), 1, stored) == withhold(body)


def test_the_list_of_texts_is_not_empty_and_has_what_matters() -> None:
    found = {(member, name) for _, member, name in TEXTS}
    assert {
        (ev.UserText, "text"),
        (ev.UserText, "extra"),
        (ev.UserInterrupted, "heard_prefix"),
        (ev.TurnCompleted, "agent_text"),
        (ev.LLMCalled, "prompt_messages"),
        (ev.FrameUnknown, "frame"),
        (ev.HookFailed, "error"),
        (cmd.Say, "text"),
        (cmd.Transfer, "announcement"),
    } <= found


@pytest.mark.parametrize("channel", FAMILIES)
def test_what_can_say_that_it_was_withheld_says_so(channel: Channel) -> None:
    for member in _members(channel):
        if "withheld" in get_type_hints(member):
            body = withhold(member(**BODIES.get(member, {})))
            assert getattr(body, "withheld") is True, member  # noqa: B009 - a Struct has no such attribute for mypy


def test_what_has_no_text_is_stored_as_it_is() -> None:
    for body in (ev.CallMetric(turns=3), ev.CallEnded(reason="hangup"), cmd.EndReply(turn=1), cmd.EndCall()):
        assert withhold(body) is body


def test_what_is_not_text_stays() -> None:
    body = withhold(ev.LLMCalled(turn_id=2, model="m", tokens_in=3, cost=0.5, prompt_messages=[SECRET]))
    assert body == ev.LLMCalled(turn_id=2, model="m", tokens_in=3, cost=0.5, withheld=True)


@pytest.mark.parametrize(
    ("language", "kept"), [("pt-BR", "pt-BR"), ("zh_Hant_TW", "zh_Hant_TW"), (SECRET, None), ({"said": SECRET}, None)]
)
def test_the_language_of_a_text_stays_where_it_is_a_tag(language: object, kept: str | None) -> None:
    for body in (ev.UserText(text=SECRET, language=language), ev.UserText(extra={"language": language, "x": SECRET})):
        assert withhold(body) == ev.UserText(language=kept, withheld=True)
