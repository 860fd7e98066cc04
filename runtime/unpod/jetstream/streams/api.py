"""Requests to JetStream's own API, and what its answers mean."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from unpod.errors import Fenced, LogError, LogFull, LogUnavailable, NoResponders
from unpod.ports import Stored

if TYPE_CHECKING:
    from unpod.jetstream.connection.connection import Nats

NOT_FOUND: Final = 10059
"""No such stream."""
IN_USE: Final = 10058
"""The stream exists already, with other settings."""

_WRONG_LAST: Final = 10071  # the fence does not hold
_NONE_THERE: Final = "wrong last sequence: 0"
_BEING_DECIDED: Final = frozenset({10164, 10158})  # one with this fence, or this id, is on its way through the replicas
_FULL: Final = frozenset({10077, 10047, 10023, 10002, 10028})  # stream, server's storage, server, account, memory


class ApiError(LogError):
    """JetStream refused a request; `code` is its error code."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"JetStream refuses: {description} ({code})")
        self.code = code


class Undecided(LogUnavailable):
    """Another record under the same fence, or the first try of this one, is being decided: try again at once."""


class _Error(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _PubAck(msgspec.Struct):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: _Error | None = None


_decode_ack = msgspec.json.Decoder(_PubAck).decode


def read_ack(data: bytes) -> Stored | LogError:
    """Return what a publish acknowledgement says."""
    try:
        ack = _decode_ack(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return LogUnavailable("the acknowledgement cannot be read: is this subject a stream's?")
    if ack.error is None:
        return Stored(ack.seq, ack.duplicate) if ack.stream else LogUnavailable("the answer came from no stream")
    return _meaning(ack.error)


def _meaning(error: _Error) -> LogError:
    code = error.err_code
    if code == _WRONG_LAST:
        return Fenced(f"the fence does not hold: {error.description}", absent=error.description == _NONE_THERE)
    if code in _BEING_DECIDED:
        return Undecided(error.description)
    if code in _FULL:
        return LogFull(f"the log is full: {error.description} ({code})")
    if error.code == 503:  # noqa: PLR2004 - HTTP's "unavailable": no leader, shutting down
        return LogUnavailable(f"{error.description} ({code})")
    return ApiError(code, error.description)


async def call(
    nats: Nats, name: str, request: dict[str, Any] | None = None, *, timeout_s: float = 5.0
) -> dict[str, Any]:
    """Ask `$JS.API.<name>` and return its answer.

    Raises:
        ApiError: JetStream says no.
        LogUnavailable: no answer, or no JetStream.
    """
    body = json.dumps(request).encode() if request is not None else b""
    try:
        _, data = await nats.ask(f"$JS.API.{name}", body, timeout_s=timeout_s)
    except NoResponders:
        raise LogUnavailable("the server has no JetStream, or it is not ready") from None
    answer = cast("dict[str, Any]", json.loads(data))
    if "error" in answer:
        error = answer["error"]
        raise ApiError(int(error.get("err_code", 0)), str(error.get("description", "")))
    return answer
