"""Servers that stand in for vendors: they speak a wire, and say what a `FakeModel` says."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, Protocol, runtime_checkable

from aiohttp import web

from unpod.adapters import ToolCall
from unpod.testing import FakeModel, ModelFailed

Json = dict[str, Any]


class Wire(Protocol):
    """How a vendor's stream looks."""

    path: str
    content_type: str

    def head(self) -> list[bytes]: ...

    def piece(self, piece: str | ToolCall, nth: int) -> list[bytes]: ...

    def end(self, *, tools: bool) -> list[bytes]: ...


@runtime_checkable
class WholeWire(Protocol):
    """How a vendor's answer looks that comes in one piece, and as a stream of one."""

    content_type: str

    def whole(self, said: list[str | ToolCall]) -> Json: ...

    def streamed(self, said: list[str | ToolCall]) -> list[bytes]: ...


@runtime_checkable
class StrictWire(Protocol):
    """A vendor that refuses what the real one refuses."""

    def check(self, body: Json) -> None:
        """Read a request.

        Raises:
            Refused: the real one would not take it.
        """
        ...


class Refused(Exception):  # noqa: N818 - a fact
    """The vendor does not take a request: `body` is what it answers."""

    def __init__(self, status: int, body: object, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.body = body


class Vendor:
    """One vendor's server. `refusal` is what it answers when the model fails before its first piece."""

    def __init__(self, model: FakeModel, wire: Wire) -> None:
        self.model = model
        self.wire = wire
        self.url = ""
        self.requests: list[Json] = []
        self.headers: list[Mapping[str, str]] = []
        self.refused: list[str] = []
        self.refusal: tuple[int, Json] = (
            503,
            {"error": {"message": "your prompt was ...", "type": "overloaded_error"}},
        )

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.headers.append(request.headers)
        try:
            if isinstance(self.wire, StrictWire):
                self.wire.check(body)
        except Refused as refused:
            self.refused.append(str(refused))
            return web.json_response(refused.body, status=refused.status)
        if not body.get("stream", True) or isinstance(self.wire, WholeWire):
            return await self._whole(body)
        response = web.StreamResponse(headers={"Content-Type": self.wire.content_type})
        tools = False
        async with aclosing(self.model.answer(body)) as pieces:
            nth = 0
            try:
                async for piece in pieces:
                    if not nth:
                        await self._begin(response, request)
                    await self._write(response, self.wire.piece(piece, nth))
                    tools = tools or isinstance(piece, ToolCall)
                    nth += 1
            except ModelFailed:
                if not nth:
                    return web.json_response(self.refusal[1], status=self.refusal[0])
                assert request.transport is not None
                request.transport.abort()
                return response
            if not nth:
                await self._begin(response, request)
        await self._write(response, self.wire.end(tools=tools))
        return response

    async def _whole(self, body: Json) -> web.StreamResponse:
        """Answer in one piece."""
        assert isinstance(self.wire, WholeWire)
        try:
            async with aclosing(self.model.answer(body)) as pieces:
                said = [piece async for piece in pieces]
        except ModelFailed:  # litellm leaves the connections of refused requests open, so they are closed here
            return web.json_response(self.refusal[1], status=self.refusal[0], headers={"Connection": "close"})
        if not body.get("stream"):
            return web.json_response(self.wire.whole(said))
        return web.Response(body=b"".join(self.wire.streamed(said)), content_type=self.wire.content_type)

    async def _begin(self, response: web.StreamResponse, request: web.Request) -> None:
        await response.prepare(request)
        await self._write(response, self.wire.head())

    async def _write(self, response: web.StreamResponse, events: list[bytes]) -> None:
        for event in events:
            await response.write(event)


def data(event: Json) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"


@asynccontextmanager
async def serve(model: FakeModel, wire: Wire) -> AsyncIterator[Vendor]:
    """Run a vendor's server on a free port of this machine."""
    vendor = Vendor(model, wire)
    app = web.Application()
    app.router.add_post(wire.path, vendor.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        vendor.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield vendor
    finally:
        await runner.cleanup()
