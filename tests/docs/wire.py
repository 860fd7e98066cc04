"""Writes docs/reference/wire.md and docs/reference/asyncapi.json from the types: every subject, event and command.

::

    .venv/bin/python tests/docs/wire.py
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

import msgspec
from msgspec import NODEFAULT, Struct
from msgspec.structs import FieldInfo, fields

from unpod.core import commands as cmd
from unpod.core import dispatch_messages, live
from unpod.core import events as ev
from unpod.core.controls import AnyControl
from unpod.core.envelope import TYPE_PREFIX, VERSION

REFERENCE: Final = Path(__file__).resolve().parents[2] / "docs" / "reference"
PAGE: Final = REFERENCE / "wire.md"
SPEC: Final = REFERENCE / "asyncapi.json"

CALL: Final = "unpod.call.{agent}.{session}"
LIVE: Final = "unpod.live.{agent}.{session}"

_HEADERS: Final = {
    "ce-specversion": "`1.0`",
    "ce-id": "the record's id, derived: whoever derives it again arrives at the same",
    "ce-type": f"`{TYPE_PREFIX}<channel>.<type>.v{VERSION}`",
    "ce-source": "who wrote it: `/unpod/bridge/ID`, `/unpod/runner/ID` or `/unpod/client/ACTOR`",
    "ce-subject": "the session's id, percent-encoded",
    "ce-time": "the log's time",
    "Nats-Msg-Id": "`<ce-id>@<epoch>`: a record that is published twice stands in the log once",
    "Unpod-Epoch": "the stream sequence of the placement under which it was written; 0 for placements and controls",
    "Unpod-Index": "its place among its writer's records of the session, from 1, without gaps; 0 for other writers'",
    "Unpod-Seen": "for an owner's record: the bridge's index that the owner had consumed",
    "Unpod-Settled": "the bridge's index up to which all the owner's handlers had returned",
    "Unpod-Settled-Own": "the owner's own index up to which the hooks on what it wrote itself had returned",
    "Unpod-Cause": "the id of the record that it answers",
    "Unpod-Handler": "the hook that wrote it",
    "traceparent": "W3C trace context, where the record has one",
}
_REQUIRED: Final = (
    "ce-specversion",
    "ce-id",
    "ce-type",
    "ce-source",
    "ce-subject",
    "ce-time",
    "Unpod-Epoch",
    "Unpod-Index",
)


@dataclass(frozen=True)
class Channel:
    """One kind of subject: who sends on it, who listens, and what travels there."""

    name: str
    address: str
    sender: str
    receiver: str
    about: str
    messages: Sequence[type[Struct]]
    stored: bool = False
    answers: Sequence[type[Struct]] = ()


def union(kind: object) -> list[type[Struct]]:
    """Return the members of a union, in their order."""
    return [member for member in get_args(kind) if isinstance(member, type)]


CHANNELS: Final = (
    Channel(
        "line",
        f"{CALL}.line",
        "bridge",
        "everyone",
        "Which bridge holds the call's sockets.",
        [ev.LineTaken],
        stored=True,
    ),
    Channel(
        "own", f"{CALL}.own", "bridge", "everyone", "Which runner owns the session.", [ev.OwnerAppointed], stored=True
    ),
    Channel(
        "evt",
        f"{CALL}.evt.{{type}}",
        "bridge",
        "owner, consumers",
        "What the caller's side did: the worker's frames as they came, and what the bridge knows beside them.",
        union(ev.CallerEvent),
        stored=True,
    ),
    Channel(
        "ack",
        f"{CALL}.ack",
        "bridge",
        "owner, consumers",
        "What became of commands and speech.",
        union(ev.Receipt),
        stored=True,
    ),
    Channel(
        "run",
        f"{CALL}.run.{{type}}",
        "owner",
        "bridge, consumers",
        "What the session did.",
        union(ev.SessionEvent),
        stored=True,
    ),
    Channel(
        "cmd", f"{CALL}.cmd", "owner", "bridge, consumers", "What shall be done.", union(cmd.AnyCommand), stored=True
    ),
    Channel(
        "ctl",
        f"{CALL}.ctl",
        "client",
        "bridge",
        "What somebody outside wants done. It counts once the bridge has admitted it (`control.answered` on `ack`).",
        union(AnyControl),
        stored=True,
    ),
    Channel(
        "delta", f"{LIVE}.delta", "owner", "bridge", "Pieces of a reply on their way, as JSON arrays.", [live.Delta]
    ),
    Channel("again", f"{LIVE}.again", "bridge", "owner", "Pieces that were missed are asked for again.", [live.Again]),
    Channel(
        "spoken",
        f"{LIVE}.spoken",
        "bridge",
        "bridge",
        "A bridge that has lost its line tells the one that has it now how far it has come with speech.",
        [live.Spoken],
    ),
    Channel(
        "seen",
        f"{LIVE}.seen",
        "bridge",
        "owner",
        "A bridge that takes a call over asks for the former one's newest records, which the log may have refused.",
        [live.SeenAsked],
        answers=[live.SeenAnswer],
    ),
    Channel(
        "runners",
        "unpod.runners",
        "runner",
        "bridge, tools",
        "Runners say that they are there, each second and at each change.",
        [dispatch_messages.RunnerAnnounced],
    ),
    Channel(
        "bridges",
        "unpod.bridges",
        "bridge",
        "runner, bridge, tools",
        "Bridges say that they are there, each second and at each change.",
        [dispatch_messages.BridgeAnnounced],
    ),
    Channel(
        "alive",
        "unpod.bridges.alive",
        "bridge",
        "bridge",
        "Bridges tell each other that they are there, each quarter of a second.",
        [dispatch_messages.BridgeAlive],
    ),
    Channel(
        "probations",
        "unpod.bridges.probations",
        "bridge",
        "bridge",
        "Of which sessions a runner may die now: bridges tell each other.",
        [dispatch_messages.ProbationAnnounced],
    ),
    Channel(
        "dispatch",
        "unpod.dispatch.{agent}",
        "bridge",
        "runner",
        "A new call looks for a runner (queue group: one answers).",
        [dispatch_messages.Offer],
        answers=[dispatch_messages.OfferAnswered],
    ),
    Channel(
        "resume",
        "unpod.dispatch.{agent}.resume",
        "bridge",
        "runner",
        "The same, for a call whose runner is gone.",
        [dispatch_messages.Offer],
        answers=[dispatch_messages.OfferAnswered],
    ),
    Channel(
        "queued",
        "unpod.dispatch.{agent}.queued",
        "bridge",
        "runner, tools",
        "How many calls wait for a runner.",
        [dispatch_messages.QueuedAnnounced],
    ),
    Channel(
        "runner",
        "unpod.runner.{runner}",
        "bridge",
        "runner",
        "What one runner is told in person.",
        union(dispatch_messages.ToRunner),
        answers=[dispatch_messages.Told],
    ),
    Channel(
        "ping",
        "unpod.runner.{runner}.ping",
        "bridge",
        "runner",
        "Is it there, does its event loop turn, and has it all records?",
        [dispatch_messages.Ping],
        answers=[dispatch_messages.Pulse],
    ),
    Channel(
        "bridge",
        "unpod.bridge.{bridge}",
        "runner",
        "bridge",
        "A runner lets go of sessions, or says how far one is that was held.",
        [dispatch_messages.HandOver, dispatch_messages.ProbationTold],
        answers=[dispatch_messages.Told],
    ),
)


# ------------------------------------------------------------------------------------------------------------- the page


def render_page() -> str:
    """Return docs/reference/wire.md."""
    return "\n".join(_page())


def _page() -> Iterator[str]:
    yield "# Subjects, events and commands\n"
    yield (
        "Written from the types by `tests/docs/wire.py`; the same as [AsyncAPI 3](asyncapi.json). What it is for\n"
        "stands in [what stands in the log](../explanation/log.md). Payloads are JSON objects unless said otherwise;\n"
        "fields that hold their default are left out, and unknown ones must be ignored. `unpod` is the prefix\n"
        "(`UNPOD_SUBJECT_PREFIX`); ids are escaped to be safe as tokens of a subject (`unpod.core.subjects`).\n"
    )
    yield "## Subjects\n\n| subject | from | to | stored | |\n| --- | --- | --- | --- | --- |"
    for channel in CHANNELS:
        stored = "yes" if channel.stored else ""
        yield f"| `{_angled(channel.address)}` | {channel.sender} | {channel.receiver} | {stored} | {channel.about} |"
    yield "\n## Headers of stored records\n\n| header | |\n| --- | --- |"
    for name, about in _HEADERS.items():
        yield f"| `{name}` | {about} |"
    for channel in CHANNELS:
        yield f"\n## `{_angled(channel.address)}`\n\n{channel.about}"
        for message in (*channel.messages, *channel.answers):
            yield from _message(message, answer=message in channel.answers)
    yield ""


def _message(kind: type[Struct], *, answer: bool) -> Iterator[str]:
    config = kind.__struct_config__
    tag = f" (`{config.tag_field}`: `{config.tag}`)" if config.tag is not None else ""
    yield f"\n### {kind.__name__}{tag}\n"
    yield ("The answer. " if answer else "") + _doc(kind)
    known = fields(kind)
    if known:
        yield "\n| field | type | default |\n| --- | --- | --- |"
    for field in known:
        yield f"| `{field.encode_name}` | `{_type(field)}` | {_default(field)} |"


def _doc(kind: type[Struct]) -> str:
    return inspect.cleandoc(kind.__doc__ or "")


def _type(field: FieldInfo) -> str:
    shown = field.type.__name__ if isinstance(field.type, type) and not get_args(field.type) else str(field.type)
    return re.sub(r"(?:\w+\.)+(?=\w)", "", shown).replace("|", "\\|")


def _default(field: FieldInfo) -> str:
    if field.default is not NODEFAULT:
        return f"`{field.default!r}`"
    if field.default_factory is not NODEFAULT:
        return f"`{field.default_factory()!r}`"
    return "required"


def _angled(address: str) -> str:
    return address.replace("{", "<").replace("}", ">")


# ------------------------------------------------------------------------------------------------------------ AsyncAPI


def render_spec() -> str:
    """Return docs/reference/asyncapi.json."""
    return msgspec.json.format(msgspec.json.encode(_spec()), indent=1).decode() + "\n"


def _spec() -> dict[str, object]:
    kinds = dict.fromkeys(kind for channel in CHANNELS for kind in (*channel.messages, *channel.answers))
    _, schemas = msgspec.json.schema_components(
        kinds, ref_template="#/components/schemas/{name}", schema_hook=lambda _: {"description": "anything"}
    )
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "unpod",
            "version": f"{VERSION}.0.0",
            "description": "The event log of calls over NATS JetStream, and what its processes say to each other.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"nats": {"host": "localhost:4222", "protocol": "nats", "description": "UNPOD_NATS_URL"}},
        "channels": {channel.name: _channel(channel) for channel in CHANNELS}
        | {f"{channel.name}.reply": _reply(channel) for channel in CHANNELS if channel.answers},
        "operations": dict(_operations()),
        "components": {
            "schemas": {name: schemas[name] for name in sorted(schemas)},
            "messages": {kind.__name__: _described(kind) for kind in sorted(kinds, key=lambda kind: kind.__name__)},
            "messageTraits": {"record": {"headers": _headers()}},
        },
    }


def _channel(channel: Channel) -> dict[str, object]:
    names = re.findall(r"{(\w+)}", channel.address)
    described: dict[str, object] = {
        "address": channel.address,
        "description": f"{channel.about} From {channel.sender} to {channel.receiver}.",
        "messages": _refs(channel.messages),
    }
    if names:
        described["parameters"] = {name: _PARAMETERS[name] for name in names}
    return described


_PARAMETERS: Final[Mapping[str, Mapping[str, str]]] = {
    "agent": {"description": "The agent's id, escaped."},
    "session": {"description": "The session's id, escaped."},
    "type": {"description": "The event's type, which may have dots in it."},
    "runner": {"description": "The runner's id."},
    "bridge": {"description": "The bridge's id."},
}


def _reply(channel: Channel) -> dict[str, object]:
    return {"address": None, "description": "The request's reply subject.", "messages": _refs(channel.answers)}


def _refs(kinds: Iterable[type[Struct]]) -> dict[str, object]:
    return {kind.__name__: {"$ref": f"#/components/messages/{kind.__name__}"} for kind in kinds}


def _described(kind: type[Struct]) -> dict[str, object]:
    described: dict[str, object] = {
        "name": str(kind.__struct_config__.tag or kind.__name__),
        "title": kind.__name__,
        "summary": _doc(kind).partition("\n")[0],
        "payload": {"$ref": f"#/components/schemas/{kind.__name__}"},
    }
    if any(channel.stored and kind in channel.messages for channel in CHANNELS):
        described["traits"] = [{"$ref": "#/components/messageTraits/record"}]
    return described


def _headers() -> dict[str, object]:
    return {
        "type": "object",
        "properties": {
            name: {"type": "string", "description": about.replace("`", "")} for name, about in _HEADERS.items()
        },
        "required": list(_REQUIRED),
    }


def _operations() -> Iterator[tuple[str, dict[str, object]]]:
    """Yield what each role sends and receives; a channel's first receiver stands for all who listen."""
    for channel in CHANNELS:
        for action, role in (("send", channel.sender), ("receive", channel.receiver.partition(",")[0])):
            operation: dict[str, object] = {
                "action": action,
                "title": f"{role} {action}s {channel.name}",
                "channel": {"$ref": f"#/channels/{channel.name}"},
            }
            if channel.answers:
                operation["reply"] = {
                    "address": {"location": "$message.header#/reply"},
                    "channel": {"$ref": f"#/channels/{channel.name}.reply"},
                }
            yield f"{action}.{channel.name}", operation


if __name__ == "__main__":
    PAGE.write_text(render_page())
    SPEC.write_text(render_spec())
    sys.stdout.write(f"{PAGE.name} and {SPEC.name} are written\n")
