"""The call socket's frames: bytes to facts, commands to bytes. Pure, and no input raises.

A frame of the speech worker that we know becomes the `CallerEvent` that it says, and is stored byte for byte as it
came. Of one with flaws (half a character, a field of a wrong type, a figure that cannot be) the rest counts, and it is
stored with what was wrong and as it came. One of another type becomes a `FrameUnknown` that carries it, and one that
cannot be taken a `FrameRejected` that says why, without what it said.
"""

from __future__ import annotations

import json
import math
import re
from array import array
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate
from typing import Final, TypeGuard, get_args

import msgspec
from msgspec import Raw, Struct

from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core import turn_ids
from unpod.core.codec import MALFORMED, describe

PROTOCOL_VERSION: Final = 2
MAX_FRAME: Final = 1024 * 1024
"""The longest frame that is taken, in bytes."""
MAX_DEPTH: Final = 100
"""How deeply a frame may be nested: decoders give up at what Python's stack has left, which differs between readers."""
MAX_MENDED: Final = 64 * 1024
"""The longest frame of which a part is taken, in bytes: it is stored twice, and read by hand."""
MAX_HEAD: Final = 200
MAX_TYPE: Final = 100

WorkerEvent = (
    ev.HelloAcked
    | ev.CallStarted
    | ev.UserText
    | ev.UserInterrupted
    | ev.WorkerError
    | ev.CallMetric
    | ev.TurnMetrics
    | ev.StateChanged
)
"""What a speech worker can say. Facts of the bridge's own (`call.ended`) are none of it: as frames they are unknown."""

EVENTS: Final = ("user.text", "user.interrupted", "error", "metric", "turn.metrics", "state", "call.started")
SPEECH_VERBS: Final = ("agent.text.delta", "agent.text.end", "agent.say", "agent.end_call")
"""What every worker can do: without it there is no call."""
VERBS: Final = (
    *SPEECH_VERBS,
    "agent.transfer",
    "agent.dispatch",
    "agent.add_participant",
    "agent.remove_participant",
    "agent.merge",
)
OWN_VERBS: Final = ("agent.interrupt", "agent.filler", "recording.pause", "recording.resume")
"""Sent only where `hello.ack` negotiates them."""
_KNOWN_VERBS: Final = frozenset(VERBS + OWN_VERBS)
_PLAIN: Final = frozenset(VERBS)


class Frame(Struct, frozen=True):
    """One frame of the worker: its type on the wire, what it says, and the payload of its record."""

    type: str
    body: ev.CallerEvent
    data: bytes


class _Tagged(Struct):
    event: str


_TAGS: Final = frozenset(str(member.__struct_config__.tag) for member in get_args(WorkerEvent))
_read_event = msgspec.json.Decoder(WorkerEvent).decode
_read_tag = msgspec.json.Decoder(_Tagged).decode
_encode = msgspec.json.Encoder().encode


def read_frame(data: bytes | str, *, binary: bool = False) -> Frame:  # noqa: PLR0911 - one for each thing that is wrong
    """Return what a frame says; a text frame is given as its bytes, as its text, and a binary one with `binary`."""
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogatepass")
    if binary:
        return rejected(data, "a binary frame")
    if len(data) > MAX_FRAME:
        return rejected(data, f"over {MAX_FRAME} bytes")
    try:
        if not data.isascii():
            data.decode()  # msgspec does not look into fields that it skips
        body = _read_event(data)
    except MALFORMED as error:
        return _unreadable(data, error)
    event_type = str(body.__struct_config__.tag)
    if too_deep(data):
        return rejected(data, TOO_DEEP, event_type)
    if isinstance(body, ev.UserText) and not body.text and b'"text"' not in data:
        return rejected(data, _NO_TEXT, event_type)
    if body.flaws or body.as_sent or turn_ids.impossible(body):
        return _mended(data) or rejected(data, f"{event_type}: what it says cannot be", event_type)
    return Frame(event_type, body, data)


def rejected(data: bytes, reason: str, event_type: str = "") -> Frame:
    """Return the frame as one that could not be taken, for a reason that quotes nothing of it."""
    fact = ev.FrameRejected(reason=reason, size=len(data), head=head_of(data))
    return Frame(event_type, fact, _encode(fact))


def is_beyond_bounds(body: object) -> TypeGuard[ev.FrameRejected]:
    """Whether a frame could not be taken for its size or its depth, which it would have each time."""
    return isinstance(body, ev.FrameRejected) and (body.size > MAX_FRAME or body.reason == TOO_DEEP)


def problem_of(body: ev.FrameRejected | ev.WorkerFact) -> str:
    """Say for people what was wrong with a frame, without what it said."""
    if isinstance(body, ev.FrameRejected):
        return f"a frame of {body.size} bytes was rejected: {body.reason}"
    return f"a frame could be read in part: {ev.tag_of(body)}: {'; '.join(body.flaws)}"


def out_of_order(frame: Frame) -> Frame:
    """Return a frame that came at the wrong time as one that could not be taken."""
    if isinstance(frame.body, ev.FrameRejected):
        return frame
    return rejected(frame.data, f"{frame.type} out of order", frame.type)


def _unreadable(data: bytes, error: Exception) -> Frame:
    """Return what can be taken all the same of a frame that is no JSON, ill-typed, or of a type that we do not know."""
    if not isinstance(error, msgspec.ValidationError):
        reason = "not JSON" if isinstance(error, msgspec.DecodeError) else describe(error)
        return _mended(data) or rejected(data, reason)
    try:
        event_type = _read_tag(data).event
    except MALFORMED as worse:
        return _mended(data) or rejected(data, describe(worse))
    if event_type in _TAGS:
        return _mended(data) or rejected(data, f"{event_type}: {describe(error)}", event_type)
    if too_deep(data):
        return rejected(data, TOO_DEEP, event_type)
    return _unknown(event_type, Raw(data))


def _unknown(event_type: str, frame: object, flaws: tuple[str, ...] = (), as_sent: str = "") -> Frame:
    fact = ev.FrameUnknown(type=event_type[:MAX_TYPE], frame=frame, flaws=flaws, as_sent=as_sent)
    return Frame(event_type, fact, _encode(fact))


# --- frames with flaws ------------------------------------------------------------------------------------------------

_NO_TEXT: Final = "user.text: Object missing required field `text`"
_FIELD: Final = re.compile(r" - at `\$\.(\w+)")
_HALF: Final = re.compile("[\ud800-\udfff]")
_MOST_DIGITS: Final = 100


def _mended(data: bytes) -> Frame | None:
    """Return what can be read of a frame with flaws, with what was wrong and the frame as it came; None for nothing."""
    if len(data) > MAX_MENDED or too_deep(data):
        return None
    as_sent, flaws = data.decode("utf-8", "backslashreplace"), dict[str, None]()
    found = _loosely(data.decode("utf-8", "replace"), flaws)
    if not data.isascii() and as_sent.encode() != data:
        flaws["not UTF-8"] = None
    event_type = found.get("event") if isinstance(found, dict) else None
    if not isinstance(found, dict) or not isinstance(event_type, str):
        return None
    if event_type not in _TAGS:
        return _unknown(event_type, found, tuple(flaws), as_sent)
    for ours in ("flaws", "as_sent"):  # they are told in logs, and quote nothing
        if found.pop(ours, None):
            flaws[f"{ours} is not a worker's field"] = None
    while wrong := _wrong(found):
        field, flaw = wrong
        # Of a text or a call without its own field nothing is left; what a worker can do is not to be guessed.
        if field not in found or event_type == "hello.ack":
            return None
        del found[field]
        flaws[flaw] = None
    whole = _encode({**found, "flaws": tuple(flaws), "as_sent": as_sent})
    return Frame(event_type, _read_event(whole), whole)


def _wrong(found: dict[str, object]) -> tuple[str, str] | None:
    """Return the first field of a frame that cannot be read, "" where one is missing, and what is wrong with it."""
    try:
        body = _read_event(_encode(found))
    except msgspec.ValidationError as error:
        at = _FIELD.search(str(error))
        return at[1] if at else "", describe(error)
    if isinstance(body, ev.UserText) and "text" not in found:
        return "", _NO_TEXT
    return next(((name, f"{name} cannot be") for name in turn_ids.impossible(body)), None)


def _loosely(text: str, flaws: dict[str, None]) -> object:
    """Read JSON with numbers that are none or beyond all bounds (None), and halves of characters (U+FFFD)."""

    def no_number(_: str) -> None:
        flaws["a number that is none"] = None

    def integer(digits: str) -> int | None:
        if len(digits) <= _MOST_DIGITS:
            return int(digits)
        no_number(digits)
        return None

    def real(digits: str) -> float | None:
        if math.isfinite(number := float(digits)):
            return number
        no_number(digits)
        return None

    try:
        found = json.loads(text, parse_constant=no_number, parse_int=integer, parse_float=real)
    except (ValueError, RecursionError):
        return None
    written = json.dumps(found, ensure_ascii=False)
    mended = _HALF.sub("\ufffd", written)
    if mended != written:
        flaws["half a character"] = None
    return json.loads(mended)


# --- what people may see ----------------------------------------------------------------------------------------------

JSON_STRING: Final = rb'"(?:[^"\\]++|\\.)*+"'
_STRING: Final = re.compile(JSON_STRING, re.DOTALL)
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_STEPS: Final = bytes.maketrans(b"[]{}", b"\x01\xff\x01\xff")
TOO_DEEP: Final = "nested too deeply"


def too_deep(data: bytes) -> bool:
    """Whether JSON that is well-formed is nested more deeply than `MAX_DEPTH`."""
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return False
    steps = array("b", _STRING.sub(b"", data).translate(_STEPS, _NO_BRACKETS))
    return max(accumulate(steps), default=0) > MAX_DEPTH


_SECRET: Final = re.compile(
    r"""((?:token|key|secret|signature|password|authorization|credential)[\w.-]*["']?\s*[:=]\s*["']?)"""
    r"""(?:(?:bearer|token|basic)\s+)?[^\s"'&,;}\]]+""",
    re.IGNORECASE,
)
_BEARER: Final = re.compile(r"\b(bearer\s+|sk-|eyJ)[\w.~+/=-]+", re.IGNORECASE)


def head_of(data: bytes) -> str:
    """Return the beginning of a frame for people: printable, without anything that looks like a secret."""
    text = data[: 4 * MAX_HEAD].decode("utf-8", "replace")
    text = "".join(char if char.isprintable() else "." for char in text)
    text = _BEARER.sub(r"\1[redacted]", _SECRET.sub(r"\1[redacted]", text))
    return text[:MAX_HEAD]


# --- us to the worker -------------------------------------------------------------------------------------------------


class _Verb(Struct, frozen=True, tag_field="event"):
    """The root of what we say."""


class _Hello(_Verb, frozen=True, tag="hello"):
    protocol_version: int = PROTOCOL_VERSION
    supported_events: tuple[str, ...] = EVENTS
    supported_verbs: tuple[str, ...] = VERBS + OWN_VERBS


class _TextDelta(_Verb, frozen=True, tag="agent.text.delta"):
    text: str


class _TextEnd(_Verb, frozen=True, tag="agent.text.end"):
    pass


class _Say(_Verb, frozen=True, tag="agent.say"):
    text: str


class _Transfer(_Verb, frozen=True, tag="agent.transfer"):
    transfer_type: cmd.TransferType
    target: str
    mode: cmd.TransferMode
    announcement: str


class _EndCall(_Verb, frozen=True, tag="agent.end_call"):
    reason: str


class _Dispatch(_Verb, frozen=True, tag="agent.dispatch"):
    agent_id: str
    metadata: dict[str, object]


class _AddParticipant(_Verb, frozen=True, tag="agent.add_participant"):
    participant_type: str
    config: dict[str, object]


class _RemoveParticipant(_Verb, frozen=True, tag="agent.remove_participant"):
    participant_id: str


class _Merge(_Verb, frozen=True, tag="agent.merge"):
    source_session_id: str


class _Interrupt(_Verb, frozen=True, tag="agent.interrupt"):
    pass


class _Filler(_Verb, frozen=True, tag="agent.filler"):
    text: str


class _Pause(_Verb, frozen=True, tag="recording.pause"):
    reason: str


class _Resume(_Verb, frozen=True, tag="recording.resume"):
    pass


class Ignored(Struct, frozen=True):
    """Nothing has to be sent for a command."""

    reason: str = ""


class Unsupported(Struct, frozen=True):
    """The worker has not negotiated `verb`: nothing can be sent for a command."""

    verb: str

    @property
    def reason(self) -> str:
        """Say it for people."""
        return f"the worker of this call does not support {self.verb}"


HELLO: Final = _encode(_Hello())
TEXT_END: Final = _encode(_TextEnd())


def hello() -> bytes:
    """Return our side of the handshake."""
    return HELLO


def text_delta(text: str) -> bytes:
    """Return a piece of a reply."""
    return _encode(_TextDelta(text))


def say(text: str) -> bytes:
    """Return what shall be spoken verbatim."""
    return _encode(_Say(text))


def recording_pause(reason: str) -> bytes:
    """Return the verb that stops the recording."""
    return _encode(_Pause(reason))


def negotiated(ack: ev.HelloAcked) -> frozenset[str]:
    """Return the verbs that may be sent after a `hello.ack`; a worker that names none has the nine of the protocol."""
    return _negotiated(frozenset(_KNOWN_VERBS.intersection(ack.negotiated_verbs))) if ack.negotiated_verbs else _PLAIN


@lru_cache(maxsize=64)  # calls of one worker have the same ones
def _negotiated(known: frozenset[str]) -> frozenset[str]:
    return known.union(SPEECH_VERBS)


_BUILD: Final[dict[type[object], tuple[str, Callable[..., _Verb]]]] = {
    cmd.Say: ("agent.say", lambda c: _Say(c.text)),
    cmd.EndReply: ("agent.text.end", lambda _: _TextEnd()),
    cmd.Interrupt: ("agent.interrupt", lambda _: _Interrupt()),
    cmd.SetFiller: ("agent.filler", lambda c: _Filler(c.text or "")),
    cmd.Transfer: (
        "agent.transfer",
        lambda c: _Transfer(c.transfer_type, c.target, c.mode, c.announcement or ""),
    ),
    cmd.EndCall: ("agent.end_call", lambda c: _EndCall(c.reason)),
    cmd.PauseRecording: ("recording.pause", lambda c: _Pause(c.reason)),
    cmd.ResumeRecording: ("recording.resume", lambda _: _Resume()),
    cmd.DispatchAgent: ("agent.dispatch", lambda c: _Dispatch(c.agent_id, c.metadata)),
    cmd.AddParticipant: ("agent.add_participant", lambda c: _AddParticipant(c.participant_type, c.config)),
    cmd.RemoveParticipant: ("agent.remove_participant", lambda c: _RemoveParticipant(c.participant_id)),
    cmd.Merge: ("agent.merge", lambda c: _Merge(c.source_session_id)),
}

_NOTHING_TO_SAY: Final = "there is no text to say"


def to_wire(command: cmd.AnyCommand, verbs: frozenset[str]) -> bytes | Ignored | Unsupported:
    """Return the frame of a command, given the verbs that were negotiated."""
    if isinstance(command, cmd.Say) and not command.text:
        return Ignored(_NOTHING_TO_SAY)
    verb, build = _BUILD[type(command)]
    if verb not in verbs:
        return Ignored() if isinstance(command, (cmd.Interrupt, cmd.SetFiller)) else Unsupported(verb)
    return _encode(build(command))
