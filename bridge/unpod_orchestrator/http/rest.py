"""REST, by which calls are listed, shown, ended, transferred and merged from outside, as the wire has it."""

import datetime as dt
from collections.abc import Awaitable, Callable
from typing import Annotated, Final, Literal, TypeAlias, TypeVar

import msgspec
from aiohttp import web

from unpod_orchestrator.auth import KeyRing
from unpod_orchestrator.calls.call import LocalCall
from unpod_orchestrator.calls.call_index import CallIndex
from unpod_orchestrator.wire.call_frames import RawFrame
from unpod_orchestrator.worker.happenings import Role
from unpod_orchestrator.worker.transfers import TransferRecord, number_refusal

Wrapping: TypeAlias = Literal["none", "data", "envelope"]
"""How answers are wrapped: not, as `{"data": ...}`, or with `status_code` and `message` beside `data`."""

_Handler: TypeAlias = Callable[[web.Request], Awaitable[web.Response]]
_Body = TypeVar("_Body", bound=msgspec.Struct)

_BASES: Final = ("", "/platform", "/orchestrator", "/api/v2/platform/speech", "/platform/api/v2/platform/speech")
_ROLES: Final[dict[Role, str]] = {"caller": "user", "agent": "agent", "worker": "agent"}
_MAX_BODY: Final = 1 << 20


class TransferTarget(msgspec.Struct, frozen=True):
    """Whom to connect the caller to."""

    type: Literal["sip", "agent", "webrtc", "livekit"]
    config: RawFrame = {}


class TransferBody(msgspec.Struct, frozen=True):
    """The body of a transfer."""

    to: TransferTarget
    mode: Literal["cold", "warm"] = "cold"
    warm_handoff_ms: Annotated[int, msgspec.Meta(ge=0)] = 0
    drop_participant_id: str | None = None


class DroppedParticipant(msgspec.Struct, frozen=True):
    """Somebody who leaves the primary session, as the Unpod SDK's clients name them."""

    participant_id: str


class MergeBody(msgspec.Struct, frozen=True):
    """The body of a merge."""

    primary_session_id: str
    secondary_session_ids: Annotated[list[str], msgspec.Meta(min_length=1)]
    drop_participants: list[str | DroppedParticipant] | bool | None = None


class RestError(Exception):
    """An answer that is an error: `code` and text go into the body."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def error_response(error: RestError) -> web.Response:
    """The error as an answer."""
    return json_response(error.status, {"error": {"code": error.code, "message": str(error)}})


def guarded(keys: KeyRing, handler: _Handler) -> _Handler:
    """The handler behind its key: 401 without one, errors as JSON, the request's id given back."""

    async def answer(request: web.Request) -> web.Response:
        try:
            if not keys.admits_rest(request):
                raise RestError(401, "unauthorized", "the key is missing or unknown")
            response = await handler(request)
        except RestError as error:
            response = error_response(error)
        request_id = request.headers.get("X-Request-Id")
        if request_id is not None:
            response.headers["X-Request-Id"] = request_id
        return response

    return answer


async def read_body(request: web.Request, kind: type[_Body]) -> _Body:
    """The request's body; `RestError` 422 where it is not what it should be."""
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise RestError(422, "invalid", f"the body: {error}") from None
    except web.HTTPRequestEntityTooLarge:
        raise RestError(413, "too_large", "the body is too large") from None


class Rest:
    """The endpoints of the wire, for clients of the management and of the orchestrator API alike."""

    def __init__(self, calls: CallIndex, keys: KeyRing, wrapping: Wrapping) -> None:
        self._calls = calls
        self._keys = keys
        self._wrapping: Wrapping = wrapping

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Adds the endpoints under every base that a client may be configured with."""
        for base in _BASES:
            router.add_get(f"{base}/v1/sessions", guarded(self._keys, self._list))
            router.add_post(f"{base}/v1/sessions/merge", guarded(self._keys, self._merge))
            router.add_get(f"{base}/v1/sessions/{{id:[^/]+}}", guarded(self._keys, self._show))
            router.add_post(f"{base}/v1/sessions/{{id:[^/]+}}/end", guarded(self._keys, self._end))
            router.add_post(f"{base}/v1/sessions/{{id:[^/]+}}/transfer", guarded(self._keys, self._transfer))

    async def _list(self, _request: web.Request) -> web.Response:
        return self._wrap([_summary(call) for call in self._calls])

    async def _show(self, request: web.Request) -> web.Response:
        return self._wrap(_summary(self._known(request.match_info["id"])))

    async def _end(self, request: web.Request) -> web.Response:
        call = self._living(request.match_info["id"])
        call.end_when_spoken("ended over REST")
        return self._wrap({"session_id": call.session_id, "state": "ended" if call.over else "ending"})

    async def _transfer(self, request: web.Request) -> web.Response:
        call = self._living(request.match_info["id"])
        body = await read_body(request, TransferBody)
        target = _target(body.to, call)
        if body.drop_participant_id is not None and not call.remove_participant(body.drop_participant_id):
            raise RestError(404, "participant_not_found", "nobody of this drop_participant_id takes part")
        transfer = TransferRecord(transfer_type=body.to.type, target=target, mode=body.mode)
        added = call.transfer(transfer, body.warm_handoff_ms / 1000)
        return self._wrap(
            {
                "session_id": call.session_id,
                "added_participant_id": added,
                "removed_participant_id": body.drop_participant_id,
                "mode": body.mode,
            }
        )

    async def _merge(self, request: web.Request) -> web.Response:
        body = await read_body(request, MergeBody)
        primary = self._living(body.primary_session_id)
        outcomes = [self._merge_one(primary, session_id) for session_id in body.secondary_session_ids]
        dropped = body.drop_participants if isinstance(body.drop_participants, list) else []
        for participant in dropped:
            primary.remove_participant(participant if isinstance(participant, str) else participant.participant_id)
        return self._wrap({"primary_session_id": primary.session_id, "outcomes": outcomes})

    def _merge_one(self, primary: LocalCall, session_id: str) -> RawFrame:
        try:
            secondary = self._living(session_id)
            if secondary is primary:
                raise RestError(409, "same_session", "a session cannot be merged into itself")
        except RestError as error:
            return {"session_id": session_id, "status": "failed", "moved_participant_ids": [], "error": str(error)}
        moved = secondary.merge_into(primary)
        return {"session_id": session_id, "status": "merged", "moved_participant_ids": moved, "error": None}

    def _known(self, session_id: str) -> LocalCall:
        call = self._calls.session(session_id)
        if call is None:
            raise RestError(404, "session_not_found", "there is no such session")
        return call

    def _living(self, session_id: str) -> LocalCall:
        call = self._known(session_id)
        if call.over:
            raise RestError(409, "session_ended", "the session is over")
        return call

    def _wrap(self, answer: object) -> web.Response:
        if self._wrapping == "none":
            return json_response(200, answer)
        if self._wrapping == "data":
            return json_response(200, {"data": answer})
        return json_response(200, {"status_code": 200, "message": "ok", "data": answer})


def _target(to: TransferTarget, call: LocalCall) -> str:
    name = {"sip": "number", "agent": "agent_id"}.get(to.type, "room")
    value = to.config.get(name, "")
    if not isinstance(value, str):
        raise RestError(422, "invalid", f"the body: to.config.{name} is not a string")
    refused = number_refusal(value, call.options.allowed_numbers) if to.type == "sip" else None
    if refused is not None:
        raise RestError(422, "number_refused", f"the number is refused: {refused}")
    return value


def _summary(call: LocalCall) -> RawFrame:
    ended_at = call.ended_at
    until = ended_at or dt.datetime.now(dt.UTC)
    return {
        "session_id": call.session_id,
        "agent_id": call.agent_id,
        "status": "ended" if call.over else "active" if call.live else "connecting",
        "started_at": call.placed_at.isoformat(),
        "ended_at": None if ended_at is None else ended_at.isoformat(),
        "duration_s": round((until - call.placed_at).total_seconds()),
        "end_reason": None if call.outcome is None else call.outcome.reason,
        "transcript": [
            {
                "role": _ROLES[line.role],
                "content": line.text,
                "timestamp": (call.placed_at + dt.timedelta(seconds=line.t_s)).isoformat(),
            }
            for line in call.transcript
        ],
    }


def json_response(status: int, body: object) -> web.Response:
    """An answer with a JSON body."""
    return web.Response(status=status, body=msgspec.json.encode(body), content_type="application/json")
