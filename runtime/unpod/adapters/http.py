"""Answers by HTTP from a server of your own: one POST per turn, its answer streamed."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final
from urllib.parse import quote, urlsplit

import httpx2
import msgspec

from unpod.adapters.memory import Memory
from unpod.adapters.pieces import ChatMessage, LLMCall, Piece, ToolCall, ToolResult
from unpod.adapters.shared import shared
from unpod.adapters.vendors import MAX_WAIT_S, broken_off, http_error, may_wait, transport_error
from unpod.errors import AdapterError, ConfigurationError

CONTEXT_FIELDS: Final = ("call_id", "session_id", "turn_number", "direction", "user_number", "data")
NOT_SENT: Final = frozenset({"instructions"})
"""What stays here of the call's context: the server has a system prompt of its own."""
DONE: Final = "[DONE]"
_CONNECT_S: Final = 5.0
_PAUSE_S: Final = 0.1
_TRY_AGAIN: Final = frozenset({429, 502, 503, 504})
_MAX_BYTES: Final = 1024 * 1024  # of an answer that is no stream, or of one event
_MALFORMED: Final = (msgspec.MsgspecError, UnicodeError, RecursionError)
_REPORTS: Final[dict[str, type[ToolCall | ToolResult | LLMCall]]] = {
    "tool_call": ToolCall,
    "tool_result": ToolResult,
    "llm_call": LLMCall,
}


class HTTPAdapter:
    """Posts each text of the caller to `url` as `{"text", "context"}`, and streams what comes back.

    The answer is server-sent events (`data:` is text, or JSON with a `text`; the events `tool_call`, `tool_result` and
    `llm_call` are reports, `error` is a failure), plain text, streamed as its chunks come, or JSON with a `text`. What
    begins like JSON and is none is an error: it is never spoken. With `history`, the body has the conversation so far,
    for a server that keeps none. A request that nothing has been answered to is tried again, `attempts` times in all,
    under the same `Idempotency-Key`. `timeout_s` bounds the wait for the first piece and between two. Redirects are not
    followed. `name` stands for the model in metrics (default: the URL's host). Errors name the server, not the path.

    Raises:
        ConfigurationError: `url` is none.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 20.0,
        *,
        history: bool = False,
        attempts: int = 3,
        name: str | None = None,
        client: httpx2.AsyncClient | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError("HTTPAdapter: the url must begin with http:// or https:// and name a host")
        self._url = url
        self._provider = f"the HTTP brain at {parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self._headers = dict(headers or {})
        self._with_history = history
        self._attempts = max(1, attempts)
        self._name = name or parts.hostname
        self._client = client or _shared_client(self, timeout_s)
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
        self, text: str, context: Mapping[str, object] | None = None, language: str | None = None
    ) -> AsyncGenerator[Piece, None]:
        """Yield the answer as it comes; closing the iterator closes the connection.

        Raises:
            AdapterError: with `code` rate_limited, overloaded, auth, timeout, connection or provider_error.
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

    async def turn(self, text: str, context: Mapping[str, object] | None = None) -> str:
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
        self._more["history"] = list(history)

    def register_llm_callback(self, fn: Callable[..., object]) -> None:
        """Call `fn` with the times of each request, unless the server has reported its model calls itself."""
        self._report = fn

    # --- the request --------------------------------------------------------------------------------------------------

    def _body(self, text: str, context: Mapping[str, object], language: str | None) -> dict[str, Any]:
        asked = {**dict.fromkeys(CONTEXT_FIELDS), **{k: v for k, v in context.items() if k not in NOT_SENT}}
        more, self._more = self._more, {}
        body: dict[str, Any] = {"text": text, "context": asked, **more}
        if language:
            body["language"] = language
        if self._with_history:
            body["history"] = self._memory.messages
        self._memory.add("user", text)
        return body

    async def _answer(self, body: Mapping[str, Any]) -> AsyncGenerator[Piece, None]:
        started = time.perf_counter()
        first: float | None = None
        reported = answered = False
        try:
            async with self._open(body) as response, aclosing(self._read(response)) as pieces:
                answered = True
                async for piece in pieces:
                    reported = reported or isinstance(piece, LLMCall)
                    if isinstance(piece, str):
                        first = first or time.perf_counter()
                        self._memory.say(piece)
                    yield piece
        except httpx2.SSEError as error:
            raise self._no_answer(f"an event of more than {_MAX_BYTES} bytes") from error
        except httpx2.HTTPError as error:
            raise transport_error(error, self._provider) or broken_off(self._provider) from None
        finally:
            if not answered:
                self._keep(body)
            if self._report is not None and not reported:
                self._report(
                    provider="http",
                    model=self._name,
                    call_type="http",
                    latency_ms=_ms(time.perf_counter() - started),
                    ttft_ms=None if first is None else _ms(first - started),
                    estimated=True,
                )

    def _keep(self, body: Mapping[str, Any]) -> None:
        """Let the next request say what this one was to say besides its text: nobody has heard it."""
        notes = [*body.get("notes", ()), *self._more.get("notes", ())]
        unsaid = {name: body[name] for name in ("interrupted", "history") if name in body}
        self._more = {**unsaid, **self._more, **({"notes": notes} if notes else {})}

    @asynccontextmanager
    async def _open(self, body: Mapping[str, Any]) -> AsyncIterator[httpx2.Response]:
        """Send the request until it is answered, and yield a response that has begun well."""
        content = msgspec.json.encode(body, enc_hook=str)
        headers = {
            "Accept": "text/event-stream, text/plain, application/json",
            "Content-Type": "application/json",
            "Idempotency-Key": _key_of(body),
            **self._headers,
        }
        for left in range(self._attempts - 1, -1, -1):
            pause = _PAUSE_S * 2 ** (self._attempts - 1 - left)
            request = self._client.build_request("POST", self._url, content=content, headers=headers)
            try:
                response = await self._client.send(request, stream=True, follow_redirects=False)
            except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.RemoteProtocolError, httpx2.ReadError):
                if not left:
                    raise
            else:
                try:
                    if response.is_success:
                        yield response
                        return
                    refused = http_error(self._provider, response.status_code, headers=response.headers)
                    pause = max(pause, refused.retry_after_s or 0.0)
                    if response.status_code not in _TRY_AGAIN or not left or pause > MAX_WAIT_S or not may_wait.get():
                        raise refused
                finally:
                    await response.aclose()
            await asyncio.sleep(pause)

    # --- the answer ---------------------------------------------------------------------------------------------------

    async def _read(self, response: httpx2.Response) -> AsyncGenerator[Piece, None]:
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind == "text/event-stream":
            async with aclosing(self._events(response)) as pieces:
                async for piece in pieces:
                    yield piece
            return
        texts = response.aiter_text()
        async for text in texts:
            if text.strip():
                if kind == "application/json" or text.lstrip().startswith("{"):
                    yield self._text_of(await self._whole(text, texts))
                    return
                yield text
                break
        else:
            if kind == "application/json":
                raise self._no_answer("no JSON")
        async for text in texts:
            yield text

    async def _events(self, response: httpx2.Response) -> AsyncGenerator[Piece, None]:
        response.encoding = "utf-8-sig"  # events are UTF-8 whatever the server says, and may begin with a mark of it
        nth = 0
        async for event in httpx2.EventSource(response, max_event_size=_MAX_BYTES):
            if event.data == DONE:
                return
            nth += 1
            yield self._piece(event)
        if not nth:
            raise self._no_answer("no events")

    async def _whole(self, text: str, more: AsyncIterator[str]) -> str:
        texts, size = [text], len(text)
        async for part in more:
            texts.append(part)
            size += len(part)
            if size > _MAX_BYTES:
                raise self._no_answer(f"more than {_MAX_BYTES} characters of JSON")
        return "".join(texts)

    def _piece(self, event: httpx2.ServerSentEvent) -> Piece:
        if event.event == "error":
            found = _decoded(event.data)
            raise broken_off(self._provider, found.get("code") if isinstance(found, dict) else None)
        kind = _REPORTS.get(event.event)
        if kind is not None:
            try:
                return msgspec.json.decode(event.data, type=kind)
            except _MALFORMED:
                raise self._no_answer(f"a {event.event} that is none") from None
        if not event.data.lstrip().startswith("{"):
            return event.data
        found = _decoded(event.data)
        if not isinstance(found, dict):
            raise self._no_answer("an event that begins like JSON and is none")
        text = found.get("text")
        return text if isinstance(text, str) else ""

    def _text_of(self, data: str) -> str:
        found = _decoded(data)
        text = found.get("text") if isinstance(found, dict) else None
        if not isinstance(text, str):
            raise self._no_answer('JSON that is no object with a "text"')
        return text

    def _no_answer(self, what: str) -> AdapterError:
        return AdapterError(f"{self._provider} sent {what}", code="provider_error")


def _decoded(data: str) -> object:
    try:
        found: object = json.loads(data)  # msgspec takes no half characters; the other half comes with the next event
    except (ValueError, RecursionError):
        return None
    return found


def _key_of(body: Mapping[str, Any]) -> str:
    """Return what is the same for the tries of one request, and of no other."""
    context = body["context"]
    if context["session_id"] is None:
        return uuid.uuid4().hex
    rest = "-rest" if "said" in body else ""
    return f"{quote(str(context['session_id']), safe='')}-{context['turn_number']}{rest}"


def _shared_client(user: object, timeout_s: float) -> httpx2.AsyncClient:
    def make() -> httpx2.AsyncClient:
        return httpx2.AsyncClient(timeout=httpx2.Timeout(timeout_s, connect=min(_CONNECT_S, timeout_s)))

    return shared(user, httpx2.AsyncClient, timeout_s, make)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
