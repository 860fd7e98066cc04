"""A brain behind HTTP: one POST per turn, its answer streamed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import msgspec

from unpod.adapters.memory import Memory
from unpod.adapters.pieces import ChatMessage, LLMCall, Piece, ToolCall, ToolResult
from unpod.adapters.shared import shared
from unpod.adapters.sse import EventReader, ServerEvent
from unpod.adapters.vendors import broken_off, http_error, transport_error
from unpod.errors import AdapterError, ConfigurationError

PROVIDER: Final = "the HTTP brain"
CONTEXT_FIELDS: Final = ("call_id", "session_id", "turn_number", "direction", "user_number", "data")
DONE: Final = "[DONE]"
_CONNECT_S: Final = 5.0
_PAUSE_S: Final = 0.1
_TRY_AGAIN: Final = frozenset({429, 502, 503, 504})
_MAX_BYTES: Final = 1024 * 1024  # of an answer that is no stream
_REPORTS: Final[dict[str, type[ToolCall | ToolResult | LLMCall]]] = {
    "tool_call": ToolCall,
    "tool_result": ToolResult,
    "llm_call": LLMCall,
}


class HTTPAdapter:
    """Posts each text of the caller to `url` as `{"text", "context"}`, and streams what comes back.

    The answer is server-sent events (`data:` is text, or JSON with a `text`; the events `tool_call`, `tool_result` and
    `llm_call` are reports, `error` is a failure), plain text, streamed as its chunks come, or JSON with a `text`. With
    `history`, the body has the conversation so far, for a server that keeps none. A request that nothing has been
    answered to is tried again, `attempts` times in all, under the same `Idempotency-Key`. `timeout_s` bounds the wait
    for the first piece and between two. `name` stands for the model in metrics (default: the URL's host).

    Raises:
        ConfigurationError: `url` is none.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        history: bool = False,
        attempts: int = 3,
        timeout_s: float = 20.0,
        name: str | None = None,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError("HTTPAdapter: the url must begin with http:// or https:// and name a host")
        self._url = url
        self._headers = dict(headers or {})
        self._with_history = history
        self._attempts = max(1, attempts)
        self._name = name or parts.hostname
        self._client = client or _shared_client(timeout_s)
        self._memory = Memory()
        self._more: dict[str, Any] = {}
        self._report: Callable[..., object] | None = None

    def __repr__(self) -> str:
        return f"<HTTPAdapter {self._name}>"

    @property
    def history(self) -> list[ChatMessage]:
        """The conversation, with of each reply what the caller heard."""
        return self._memory.messages

    async def stream(
        self, text: str, *, context: Mapping[str, object] | None = None, language: str | None = None
    ) -> AsyncGenerator[Piece, None]:
        """Yield the answer as it comes; closing the iterator closes the connection.

        Raises:
            AdapterError: with `code` rate_limited, auth, timeout, connection or provider_error.
        """
        async with aclosing(self._answer(self._body(text, context or {}, language))) as pieces:
            async for piece in pieces:
                yield piece

    async def continue_reply(
        self, text: str, said: str, *, context: Mapping[str, object] | None = None, language: str | None = None
    ) -> AsyncGenerator[Piece, None]:
        """Ask for the rest of a reply that was cut off: the body has it as `said`, and the answer is what follows."""
        body = {**self._body(text, context or {}, language), "said": said}
        self._memory.say(said)
        async with aclosing(self._answer(body)) as pieces:
            async for piece in pieces:
                yield piece

    async def turn(self, text: str, *, context: Mapping[str, object] | None = None) -> str:
        """Return the answer as a whole."""
        return "".join([piece async for piece in self.stream(text, context=context) if isinstance(piece, str)])

    def assist(self, text: str) -> None:
        """Send a note with the next text, in `notes`."""
        self._more.setdefault("notes", []).append(text)

    def mark_interrupted(self, heard: str | None) -> None:
        """Send with the next text, in `interrupted`, what the caller heard of the last reply (null: nobody knows)."""
        self._more["interrupted"] = {"heard": heard}
        if heard is not None:
            self._memory.cut(heard)

    def restore(self, history: Sequence[ChatMessage]) -> None:
        """Take up a conversation that another process had; the server is sent it with the next text."""
        self._memory.restore(history)
        self._more["history"] = self._memory.messages

    def register_llm_callback(self, fn: Callable[..., object]) -> None:
        """Call `fn` with the times of each request, unless the server has reported its model calls itself."""
        self._report = fn

    # --- the request --------------------------------------------------------------------------------------------------

    def _body(self, text: str, context: Mapping[str, object], language: str | None) -> dict[str, Any]:
        body: dict[str, Any] = {
            "text": text,
            "context": {name: context.get(name) for name in CONTEXT_FIELDS},
            **self._more,
        }
        self._more = {}
        if language:
            body["language"] = language
        if self._with_history:
            body["history"] = self._memory.messages
        self._memory.add("user", text)
        return body

    async def _answer(self, body: Mapping[str, Any]) -> AsyncGenerator[Piece, None]:
        started = time.perf_counter()
        first: float | None = None
        reported = False
        try:
            async with self._open(body) as response, aclosing(_read(response)) as pieces:
                async for piece in pieces:
                    reported = reported or isinstance(piece, LLMCall)
                    if isinstance(piece, str):
                        first = first or time.perf_counter()
                        self._memory.say(piece)
                    yield piece
        except httpx.HTTPError as error:
            raise transport_error(error, PROVIDER) or broken_off(PROVIDER) from None
        finally:
            if self._report is not None and not reported:
                self._report(
                    provider="http",
                    model=self._name,
                    call_type="http",
                    latency_ms=_ms(time.perf_counter() - started),
                    ttft_ms=None if first is None else _ms(first - started),
                    estimated=True,
                )

    @asynccontextmanager
    async def _open(self, body: Mapping[str, Any]) -> AsyncIterator[httpx.Response]:
        """Send the request until it is answered, and yield a response that has begun well."""
        content = msgspec.json.encode(body, enc_hook=str)
        context = body["context"]
        headers = {
            "Accept": "text/event-stream, text/plain, application/json",
            "Content-Type": "application/json",
            "Idempotency-Key": f"{context['session_id']}-{context['turn_number']}",
            **self._headers,
        }
        for left in range(self._attempts - 1, -1, -1):
            request = self._client.build_request("POST", self._url, content=content, headers=headers)
            try:
                response = await self._client.send(request, stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.RemoteProtocolError, httpx.ReadError):
                if not left:
                    raise
            else:
                try:
                    if response.is_success:
                        yield response
                        return
                    if response.status_code not in _TRY_AGAIN or not left:
                        raise http_error(PROVIDER, response.status_code)
                finally:
                    await response.aclose()
            await asyncio.sleep(_PAUSE_S * 2 ** (self._attempts - 1 - left))


def _shared_client(timeout_s: float) -> httpx.AsyncClient:
    def make() -> httpx.AsyncClient:
        return httpx.AsyncClient(timeout=httpx.Timeout(timeout_s, connect=min(_CONNECT_S, timeout_s)))

    return shared(httpx.AsyncClient, timeout_s, make)


# --- the answer -------------------------------------------------------------------------------------------------------


async def _read(response: httpx.Response) -> AsyncGenerator[Piece, None]:
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind == "text/event-stream":
        async with aclosing(_events(response)) as events:
            async for event in events:
                if event.data == DONE:
                    return
                yield _piece(event)
    elif kind == "application/json":
        yield _text_of(await _whole(response))
    else:
        async for text in response.aiter_text():
            yield text


async def _events(response: httpx.Response) -> AsyncGenerator[ServerEvent, None]:
    reader = EventReader()
    async for line in response.aiter_lines():
        event = reader.line(line)
        if event is not None:
            yield event


async def _whole(response: httpx.Response) -> bytes:
    data = b""
    async for chunk in response.aiter_bytes():
        data += chunk
        if len(data) > _MAX_BYTES:
            raise AdapterError(f"{PROVIDER} answered with more than {_MAX_BYTES} bytes of JSON", code="provider_error")
    return data


def _piece(event: ServerEvent) -> Piece:
    if event.name == "error":
        found = _decoded(event.data)
        raise broken_off(PROVIDER, found.get("code") if isinstance(found, dict) else None)
    kind = _REPORTS.get(event.name)
    if kind is not None:
        try:
            return msgspec.json.decode(event.data, type=kind)
        except msgspec.DecodeError:
            raise AdapterError(f"{PROVIDER} sent a {event.name} that is none", code="provider_error") from None
    found = _decoded(event.data)
    if isinstance(found, dict):
        text = found.get("text")
        return text if isinstance(text, str) else ""
    return event.data


def _decoded(data: str) -> object:
    if not data.startswith("{"):
        return None
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError:
        return None


def _text_of(data: bytes) -> str:
    try:
        found: object = msgspec.json.decode(data)
    except msgspec.DecodeError:
        found = None
    text = found.get("text") if isinstance(found, dict) else None
    if not isinstance(text, str):
        raise AdapterError(f'{PROVIDER} answered with JSON that is no object with a "text"', code="provider_error")
    return text


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
