"""What stands in an answer of the REST API: the payload without its wrapper, or why there is none. Pure."""

from __future__ import annotations

from http import HTTPStatus
from typing import TypeVar

import msgspec

_ENVELOPE = frozenset({"status_code", "message"})
_REASON_KEYS = ("detail", "message", "error", "reason", "msg", "title", "errors")
_MAX_REASON = 300

T = TypeVar("T")


class Unreadable(Exception):  # noqa: N818 - what the body is
    """A successful answer is not what the protocol says; the text has nothing of its content."""


def payload(body: bytes) -> object:
    """Return what an answer's body says, unwrapped; None for an empty one.

    Raises:
        Unreadable: it is no JSON.
    """
    if not body.strip():
        return None
    try:
        return _unwrap(msgspec.json.decode(body))
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise Unreadable("the answer is not JSON") from None


def read(value: object, into: type[T]) -> T:
    """Return a payload as the type that is expected; unknown fields are ignored.

    Raises:
        Unreadable: it does not fit.
    """
    try:
        return msgspec.convert(value, into, strict=False)
    except (msgspec.ValidationError, RecursionError) as error:
        raise Unreadable(f"the answer is not as expected: {error}") from None


def reason_of(status: int, content_type: str, body: bytes) -> str:
    """Return why a request failed, as the body says it, else as the status does."""
    try:
        said = _reason(msgspec.json.decode(body))
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        said = body.decode("utf-8", "replace") if content_type.startswith("text/plain") else ""
    said = " ".join(said.split())
    return said[:_MAX_REASON] or _phrase(status)


def _unwrap(body: object) -> object:
    if isinstance(body, dict) and "data" in body:
        others = body.keys() - {"data"}
        if others <= _ENVELOPE or others >= _ENVELOPE:
            return body["data"]
    return body


def _reason(body: object) -> str:
    match body:
        case str():
            return body
        case dict():
            return next((said for said in (_reason(body.get(key)) for key in _REASON_KEYS) if said), "")
        case list():
            return "; ".join(said for said in map(_reason, body) if said)
        case _:
            return ""


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "no reason given"
