"""What a client sends on a call socket, each field typed as the wire says; anything else is refused with a reason.

Pure. A field that the wire does not know is ignored here and kept in the raw frame.
"""

from typing import ClassVar, Final, Literal, TypeAlias, get_args

import msgspec

from unpod_orchestrator.wire.constants import EVENTS, MAX_FRAME_BYTES, PROTOCOL_VERSION

RawFrame: TypeAlias = dict[str, object]
"""A frame as it came: every field, known or not."""

_LONGEST_NAME: Final = 64


class FrameError(Exception):
    """A frame that breaks the protocol; its text is the reason and quotes no field's value."""


class ClientFrame(msgspec.Struct, frozen=True):
    """What all frames of a client have in common: the verb that it is sent under."""

    verb: ClassVar[str]


class HelloFrame(ClientFrame, frozen=True):
    """The client's first frame on every socket."""

    verb: ClassVar[str] = "hello"
    protocol_version: int
    supported_events: list[str]
    supported_verbs: list[str]


class TextDeltaFrame(ClientFrame, frozen=True):
    """A piece of the reply."""

    verb: ClassVar[str] = "agent.text.delta"
    text: str


class TextEndFrame(ClientFrame, frozen=True):
    """The end of a reply: exactly one per turn."""

    verb: ClassVar[str] = "agent.text.end"


class SayFrame(ClientFrame, frozen=True):
    """Text to be spoken verbatim."""

    verb: ClassVar[str] = "agent.say"
    text: str


class TransferFrame(ClientFrame, frozen=True):
    """The caller is to be connected to somebody else."""

    verb: ClassVar[str] = "agent.transfer"
    transfer_type: Literal["number", "agent", "human"]
    target: str
    mode: Literal["cold", "warm"]
    announcement: str | None = None


class EndCallFrame(ClientFrame, frozen=True):
    """The call is to end when what is being said is said."""

    verb: ClassVar[str] = "agent.end_call"
    reason: str


class DispatchFrame(ClientFrame, frozen=True):
    """Another agent is to join."""

    verb: ClassVar[str] = "agent.dispatch"
    agent_id: str
    metadata: dict[str, object]


class AddParticipantFrame(ClientFrame, frozen=True):
    """Somebody is to join."""

    verb: ClassVar[str] = "agent.add_participant"
    participant_type: str
    config: dict[str, object]


class RemoveParticipantFrame(ClientFrame, frozen=True):
    """Somebody is to leave."""

    verb: ClassVar[str] = "agent.remove_participant"
    participant_id: str


class MergeFrame(ClientFrame, frozen=True):
    """Another session's participants are to be moved here."""

    verb: ClassVar[str] = "agent.merge"
    source_session_id: str


class InterruptFrame(ClientFrame, frozen=True):
    """What is being spoken is to stop at once."""

    verb: ClassVar[str] = "agent.interrupt"


class FillerFrame(ClientFrame, frozen=True):
    """Text to be spoken if nothing else is."""

    verb: ClassVar[str] = "agent.filler"
    text: str


class RecordingPauseFrame(ClientFrame, frozen=True):
    """Recording is to stop for a while."""

    verb: ClassVar[str] = "recording.pause"
    reason: str


class RecordingResumeFrame(ClientFrame, frozen=True):
    """Recording is to go on."""

    verb: ClassVar[str] = "recording.resume"


VerbFrame: TypeAlias = (
    TextDeltaFrame
    | TextEndFrame
    | SayFrame
    | TransferFrame
    | EndCallFrame
    | DispatchFrame
    | AddParticipantFrame
    | RemoveParticipantFrame
    | MergeFrame
    | InterruptFrame
    | FillerFrame
    | RecordingPauseFrame
    | RecordingResumeFrame
)

_TYPES: Final[dict[str, type[ClientFrame]]] = {kind.verb: kind for kind in (HelloFrame, *get_args(VerbFrame))}


def decode_object(data: str, name_field: str) -> tuple[str, RawFrame]:
    """The frame's name and its fields; `FrameError` where `data` is no JSON object with a name."""
    if len(data) > MAX_FRAME_BYTES // 4 and len(data.encode("utf-8", "surrogatepass")) > MAX_FRAME_BYTES:
        raise FrameError("a frame of more than 1 MiB")
    try:
        raw = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise FrameError(f"not JSON ({type(error).__name__})") from None
    if not isinstance(raw, dict):
        raise FrameError("a frame that is not a JSON object")
    name = raw.get(name_field)
    if not isinstance(name, str):
        raise FrameError(f"a frame without `{name_field}`")
    return name, raw


def parse_call_frame(data: str) -> tuple[HelloFrame | VerbFrame, RawFrame]:
    """The typed frame and its raw fields; `FrameError` says what breaks the protocol."""
    name, raw = decode_object(data, "event")
    return check_call_frame(name, raw), raw


def check_call_frame(name: str, raw: RawFrame) -> HelloFrame | VerbFrame:
    """The typed form of a decoded frame; `FrameError` for an unknown verb or an ill-typed field."""
    kind = _TYPES.get(name)
    if kind is None:
        raise FrameError(f"unknown verb {name[:_LONGEST_NAME]!r}")
    try:
        frame = msgspec.convert(raw, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise FrameError(f"{name}: {error}") from None
    if isinstance(frame, TextDeltaFrame) and not frame.text:
        raise FrameError("agent.text.delta: an empty delta")
    return frame  # type: ignore[return-value]  # every type in _TYPES is one of the union


def check_hello(hello: HelloFrame, *, all_events: bool) -> None:
    """Raises `FrameError` where the client speaks another protocol; `all_events` asks for each of the seven."""
    if hello.protocol_version != PROTOCOL_VERSION:
        raise FrameError(f"hello: protocol_version {hello.protocol_version}, not {PROTOCOL_VERSION}")
    missing = [event for event in EVENTS if event not in hello.supported_events]
    if all_events and missing:
        raise FrameError(f"hello: supported_events lacks {', '.join(missing)}")
