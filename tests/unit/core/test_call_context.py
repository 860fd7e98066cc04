"""Cases 15: what a call's context says."""

from __future__ import annotations

from copy import deepcopy

import msgspec
import pytest

from unpod.core.call_context import CallFields, context_fields
from unpod.core.events import CallStarted


def fields(
    metadata: dict[str, object] | None = None,
    *,
    agent_id: str | None = None,
    voice_profile_id: str | None = None,
    room_id: str = "",
) -> CallFields:
    started = CallStarted(
        session_id="s-1",
        room_id=room_id,
        metadata=metadata or {},
        agent_id=agent_id,
        voice_profile_id=voice_profile_id,
    )
    return context_fields(started, "runner-agent")


def test_both_ids_are_the_frames_session_id() -> None:
    context = fields()
    assert (context.call_id, context.session_id) == ("s-1", "s-1")


@pytest.mark.parametrize(
    ("in_frame", "answering"), [("called", "called"), (None, "runner-agent"), ("", "runner-agent")]
)
def test_the_agent_is_the_frames_else_the_runners_own(in_frame: str | None, answering: str) -> None:
    context = fields(agent_id=in_frame)
    assert (context.agent_id, context.runner_id) == (answering, "runner-agent")


@pytest.mark.parametrize(
    ("metadata", "direction"),
    [
        ({"direction": "outbound"}, "outbound"),
        ({}, "inbound"),
        ({"direction": None}, "inbound"),
        ({"direction": ""}, "inbound"),
    ],
)
def test_direction(metadata: dict[str, object], direction: str) -> None:
    assert fields(metadata).direction == direction


@pytest.mark.parametrize(
    ("metadata", "number"),
    [
        ({"user_number": "+1", "caller_number": "+2", "to_number": "+3", "from_number": "+4"}, "+1"),
        ({"user_number": "", "caller_number": "+2", "to_number": "+3", "from_number": "+4"}, "+2"),
        ({"caller_number": None, "to_number": "+3", "from_number": "+4"}, "+3"),
        ({"from_number": "+4"}, "+4"),
        ({"user_number": 15551230000}, "15551230000"),
        ({"user_number": True, "from_number": ["+1"]}, ""),
        ({"user_number": "  "}, ""),
        ({}, ""),
    ],
)
def test_the_first_number_that_is_not_empty(metadata: dict[str, object], number: str) -> None:
    assert fields(metadata).user_number == number


@pytest.mark.parametrize(
    ("metadata", "instructions"), [({"instructions": "Be brief"}, "Be brief"), ({}, None), ({"instructions": 7}, None)]
)
def test_instructions(metadata: dict[str, object], instructions: str | None) -> None:
    assert fields(metadata).instructions == instructions


def test_data_is_a_copy_of_the_metadatas_object_alone() -> None:
    assert fields({"data": {"order": 7}, "campaign": "may", "user_number": "+1"}).data == {"order": 7}


def test_without_data_it_is_the_metadata_without_the_contexts_own_keys() -> None:
    own = dict.fromkeys(("user_number", "caller_number", "to_number", "from_number", "direction", "instructions"), "x")
    assert fields({**own, "campaign": "may", "room": {"url": "u"}}).data == {"campaign": "may", "room": {"url": "u"}}


@pytest.mark.parametrize("data", ["text", 7, None, ["a"]])
def test_data_that_is_no_object_counts_as_absent(data: object) -> None:
    assert fields({"data": data, "campaign": "may"}).data == {"data": data, "campaign": "may"}


def test_routing_ids_stand_beside_an_empty_data() -> None:
    ids: dict[str, object] = {"agent_id": "a", "playbook_id": "p", "project_id": "j", "org_id": "o"}
    assert fields({"data": {}, **ids, "campaign": "may"}).data == ids


def test_the_servers_routing_ids_overwrite_the_callers() -> None:
    assert fields({"data": {"org_id": "forged", "x": 1}, "org_id": "o"}).data == {"org_id": "o", "x": 1}


@pytest.mark.parametrize("empty", ["", None])
def test_empty_routing_ids_overwrite_nothing(empty: object) -> None:
    assert fields({"data": {"org_id": "kept"}, "org_id": empty}).data == {"org_id": "kept"}


def test_data_cannot_rename_the_answering_agent() -> None:
    assert fields({"data": {"agent_id": "forged"}}, agent_id="called").agent_id == "called"
    assert fields({"data": {"agent_id": "forged"}, "agent_id": "forged too"}).agent_id == "runner-agent"


@pytest.mark.parametrize(
    ("data", "in_frame", "expected"),
    [
        ({}, "v", {"voice_profile_id": "v"}),
        ({"voice_profile_id": "callers"}, "v", {"voice_profile_id": "callers"}),
        ({}, None, {}),
        ({}, "", {}),
    ],
)
def test_the_voice_profile(data: dict[str, object], in_frame: str | None, expected: dict[str, object]) -> None:
    assert fields({"data": data}, voice_profile_id=in_frame).data == expected


def test_the_room() -> None:
    assert fields(room_id="r").room == {"name": "r"}
    assert fields({"room": {"url": "u", "name": "n"}}, room_id="r").room == {"name": "n", "url": "u"}
    assert fields({"room": "lobby"}, room_id="r").room == {"name": "r"}


def test_the_frame_is_not_mutated_whatever_is_done_with_the_context() -> None:
    metadata: dict[str, object] = {"data": {"cart": ["a"]}, "room": {"tags": ["x"]}, "org_id": "o"}
    before = deepcopy(metadata)
    context = fields(metadata, voice_profile_id="v")
    for inner in (context.data["cart"], context.room["tags"]):
        assert isinstance(inner, list)
        inner.append("changed")
    context.data["new"] = 1
    assert metadata == before


def test_metadata_kept_whole_is_a_copy_too() -> None:
    metadata: dict[str, object] = {"cart": ["a"]}
    cart = fields(metadata).data["cart"]
    assert isinstance(cart, list)
    cart.append("b")
    assert metadata == {"cart": ["a"]}


def test_from_a_frame_as_it_stands_on_the_wire() -> None:
    frame = (
        b'{"event":"call.started","session_id":"s","job_id":"j","room_id":"r","voice_profile_id":null,"agent_id":null,'
        b'"metadata":{"direction":"outbound","to_number":"+15551230000","data":{"name":"Ada"},"org_id":"o"},"new":1}'
    )
    context = context_fields(msgspec.json.decode(frame, type=CallStarted), "me")
    assert context == CallFields(
        call_id="s",
        session_id="s",
        agent_id="me",
        runner_id="me",
        direction="outbound",
        user_number="+15551230000",
        instructions=None,
        data={"name": "Ada", "org_id": "o"},
        room={"name": "r"},
    )


def test_a_frame_that_is_nested_as_deeply_as_it_can_be_read() -> None:
    deep = b'[{"a":' * 400 + b"1" + b"}]" * 400
    frame = b'{"event":"call.started","session_id":"s","metadata":{"data":{"deep":' + deep + b"}}}"
    started = msgspec.json.decode(frame, type=CallStarted)
    context = context_fields(started, "me")
    assert msgspec.json.encode(context.data) == msgspec.json.encode(started.metadata["data"])
