"""What a call's context says, built from its `call.started`."""

from __future__ import annotations

from msgspec import Struct

from unpod.core.events import CallStarted

_NUMBERS = ("user_number", "caller_number", "to_number", "from_number")
_FIELDS = frozenset({"direction", "instructions", *_NUMBERS})
_ROUTING = ("agent_id", "playbook_id", "project_id", "org_id")


class CallFields(Struct, frozen=True, kw_only=True):
    """The fields of a `CallContext`.

    `agent_id` is the agent that was called, `runner_id` the agent that this runner runs; they differ where one runner
    answers for several.
    """

    call_id: str
    session_id: str
    agent_id: str
    runner_id: str
    direction: str
    user_number: str
    instructions: str | None
    data: dict[str, object]
    room: dict[str, object]


def context_fields(started: CallStarted, runner_agent_id: str) -> CallFields:
    """Return the context of the call that `started` begins; nothing in it is shared with the frame."""
    metadata = started.metadata
    direction = metadata.get("direction")
    instructions = metadata.get("instructions")
    return CallFields(
        call_id=started.session_id,
        session_id=started.session_id,
        agent_id=started.agent_id or runner_agent_id,
        runner_id=runner_agent_id,
        direction=direction if isinstance(direction, str) and direction else "inbound",
        user_number=_user_number(metadata),
        instructions=instructions if isinstance(instructions, str) else None,
        data=_data(started),
        room=_room(started),
    )


def _user_number(metadata: dict[str, object]) -> str:
    for key in _NUMBERS:
        number = metadata.get(key)
        if isinstance(number, int) and not isinstance(number, bool):
            return str(number)
        if isinstance(number, str) and number.strip():
            return number
    return ""


def _data(started: CallStarted) -> dict[str, object]:
    metadata = started.metadata
    given = metadata.get("data")
    kept = given if isinstance(given, dict) else {k: v for k, v in metadata.items() if k not in _FIELDS}
    # The server's identity wins over what the dispatcher's caller wrote under the same names.
    data = _copied({**kept, **{key: metadata[key] for key in _ROUTING if metadata.get(key)}})
    if started.voice_profile_id and not data.get("voice_profile_id"):
        data["voice_profile_id"] = started.voice_profile_id
    return data


def _room(started: CallStarted) -> dict[str, object]:
    given = started.metadata.get("room")
    return _copied({"name": started.room_id, **(given if isinstance(given, dict) else {})})


def _copied(data: dict[str, object]) -> dict[str, object]:
    """Return a copy that shares no object or array; not recursive: a frame may be nested deeply."""
    copy = dict(data)
    unvisited: list[dict[str, object] | list[object]] = [copy]
    while unvisited:
        container = unvisited.pop()
        if isinstance(container, dict):
            container.update({key: value.copy() for key, value in container.items() if isinstance(value, dict | list)})
        else:
            container[:] = [value.copy() if isinstance(value, dict | list) else value for value in container]
        inner = container.values() if isinstance(container, dict) else container
        unvisited.extend(value for value in inner if isinstance(value, dict | list))
    return copy
