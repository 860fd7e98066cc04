"""A brain with the tools of MCP servers: offered to its model, and called, over streamable HTTP and stdio."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import httpx2
from msgspec import Struct

from unpod.adapters.chat import ChatAdapter
from unpod.adapters.pieces import ChatMessage, Piece
from unpod.adapters.shared import shared
from unpod.adapters.tools import TIMEOUT_S, Schema
from unpod.adapters.vendors import missing
from unpod.errors import AdapterError, ConfigurationError

if TYPE_CHECKING:
    import mcp
    import mcp_types

_HTTP: Final = httpx2.Timeout(30.0, read=300.0)  # what mcp itself sets: a server may hold a stream open
_UNSENT: Final = "Session terminated"  # what mcp says where a server does not know the session: nothing was done
_NOT_IN_NAMES: Final = re.compile(r"[^a-zA-Z0-9_-]")


class MCPServer(Struct, frozen=True, kw_only=True):
    """Where an MCP server is: at a `url` (streamable HTTP), or a `command` to be started (stdio).

    `headers` go with each request, `env` to the command. `only` names the tools that are offered; None offers all.
    `prefix` comes before their names. `connect_s` bounds the wait for the server, `timeout_s` that for a tool. After
    `quiet_s` without an answer a server is asked whether it is still there before a tool of it is called.
    """

    url: str = ""
    command: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    only: frozenset[str] | None = None
    prefix: str = ""
    connect_s: float = 5.0
    timeout_s: float = TIMEOUT_S
    quiet_s: float = 1.0

    def __repr__(self) -> str:
        return f"<MCPServer {self.name}>"

    @property
    def name(self) -> str:
        """What it is called in errors: nothing in it is secret."""
        return urlsplit(self.url).hostname or "" if self.url else self.command[0]


class MCPAdapter:
    """A brain (`OpenAIAdapter`, `AnthropicAdapter`, any `ChatAdapter`) with the tools of MCP servers beside its own.

    A server is a URL, a command (a sequence of strings), or an `MCPServer`. All calls of a process that name the same
    one share its connection, which is made at once and again when it was lost; `close_clients()` closes it. MCP tools
    are journaled, hooked and timed out like functions. A server that was restarted is found again; a call that it may
    have carried out is not made again, unless the server says that this is harmless.

    Raises:
        ConfigurationError: the `mcp` package is missing, or a server is neither a URL nor a command.
        TypeError: `brain` is no `ChatAdapter`, and would not call tools.
    """

    def __init__(self, brain: ChatAdapter, *servers: str | Sequence[str] | MCPServer) -> None:
        try:
            import mcp  # noqa: F401, PLC0415 - comes with an extra
        except ImportError:
            raise missing("MCPAdapter", "mcp", "mcp") from None
        if not isinstance(brain, ChatAdapter):
            raise TypeError(f"MCPAdapter: {type(brain).__name__} is no ChatAdapter, such as OpenAIAdapter")
        self.brain = brain
        self._connections = [_connection(self, _server(given)) for given in servers]
        self._waiting = list(self._connections)

    @property
    def history(self) -> list[ChatMessage]:
        """The brain's."""
        return self.brain.history

    @property
    def state(self) -> dict[str, object]:
        """The brain's, and the names of its tools."""
        return {**self.brain.state, "tools": [tool.name for tool in self.brain.tools]}

    async def stream(
        self, text: str, *, context: Mapping[str, object] | None = None, language: str | None = None
    ) -> AsyncGenerator[Piece, None]:
        """Yield the brain's reply; the first one waits for the servers.

        Raises:
            AdapterError: a server cannot be reached (`code` is `mcp`), or the brain fails.
        """
        await self._connect()
        async with aclosing(self.brain.stream(text, context=context, language=language)) as pieces:
            async for piece in pieces:
                yield piece

    async def continue_reply(
        self, text: str, said: str, *, context: Mapping[str, object] | None = None, language: str | None = None
    ) -> AsyncGenerator[Piece, None]:
        """Yield the rest of a reply; as `stream`."""
        await self._connect()
        async with aclosing(self.brain.continue_reply(text, said, context=context, language=language)) as pieces:
            async for piece in pieces:
                yield piece

    async def turn(self, text: str, *, context: Mapping[str, object] | None = None) -> str:
        """Return the reply as a whole."""
        return "".join([piece async for piece in self.stream(text, context=context) if isinstance(piece, str)])

    def assist(self, text: str) -> None:
        """Give the brain a note."""
        self.brain.assist(text)

    def mark_interrupted(self, heard: str | None) -> None:
        """Tell the brain what was heard."""
        self.brain.mark_interrupted(heard)

    def restore(self, history: Sequence[ChatMessage]) -> None:
        """Give the brain its memory back."""
        self.brain.restore(history)

    def register_llm_callback(self, fn: Callable[..., object]) -> None:
        """Let the brain report its model calls."""
        self.brain.register_llm_callback(fn)

    async def _connect(self) -> None:
        while self._waiting:
            connection = self._waiting[0]
            for tool in await connection.tools():
                self.brain.tools.add(tool)
            self._waiting.pop(0)


class Connection:
    """One process's connection to an MCP server, held open by a task of its own."""

    def __init__(self, server: MCPServer) -> None:
        self.server = server
        self._holder: asyncio.Task[None] | None = None
        self._client: asyncio.Future[mcp.Client] | None = None
        self._over = asyncio.Event()
        self._heard_at = 0.0

    async def client(self) -> mcp.Client:
        """Return the client, connected; one that was lost is made anew, which one that was quiet is asked about.

        Raises:
            AdapterError: it cannot be reached in time.
        """
        client = await self._connected()
        if time.monotonic() - self._heard_at > self.server.quiet_s and not await self.is_alive(client):
            await self.let_go(client)
            client = await self._connected()
        return client

    async def is_alive(self, client: mcp.Client) -> bool:
        """Ask the server whether it still knows us; whatever it answers to that counts."""
        import mcp  # noqa: PLC0415 - comes with an extra

        try:
            async with asyncio.timeout(self.server.connect_s):
                await client.list_tools()
        except mcp.MCPError as error:
            alive = error.code == mcp.types.METHOD_NOT_FOUND
        except Exception:  # noqa: BLE001 - whatever it is, it is no answer
            alive = False
        else:
            alive = True
        self._heard_at = time.monotonic() if alive else 0.0
        return alive

    async def let_go(self, client: mcp.Client) -> None:
        """Close a connection that was lost, unless somebody has done so and it is another by now."""
        waited = self._client
        if waited is not None and waited.done() and not waited.exception() and waited.result() is client:
            await self.aclose()

    async def _connected(self) -> mcp.Client:
        """Return the client, connected.

        Raises:
            AdapterError: it cannot be reached in time.
        """
        waited = self.begin()
        try:
            async with asyncio.timeout(self.server.connect_s):
                return await asyncio.shield(waited)
        except Exception as error:  # noqa: BLE001 - whatever it is, the server is out of reach
            await self.aclose()
            reason = f"the MCP server {self.server.name} cannot be reached: {type(error).__name__}"
            raise AdapterError(reason, code="mcp") from None

    def begin(self) -> asyncio.Future[mcp.Client]:
        """Connect, unless that is done or under way."""
        if self._holder is None or self._holder.done() or self._client is None:
            self._over = asyncio.Event()
            self._client = asyncio.get_running_loop().create_future()
            self._holder = asyncio.create_task(self._hold(self._client, self._over), name="unpod-mcp")
        return self._client

    async def tools(self) -> list[MCPTool]:
        """Return what the server offers.

        Raises:
            AdapterError: it cannot be reached, or does not answer.
        """
        client = await self.client()
        found: list[MCPTool] = []
        cursor: str | None = None
        try:
            async with asyncio.timeout(self.server.connect_s):
                while True:
                    page = await client.list_tools(cursor=cursor)
                    found += [MCPTool(self, tool) for tool in page.tools]
                    cursor = page.next_cursor
                    if not cursor:
                        break
        except Exception as error:  # noqa: BLE001 - whatever it is, the server is out of reach
            await self.aclose()
            reason = f"the MCP server {self.server.name} does not list its tools: {type(error).__name__}"
            raise AdapterError(reason, code="mcp") from None
        return [tool for tool in found if self.server.only is None or tool.remote_name in self.server.only]

    async def aclose(self) -> None:
        """Let go of the server; a command ends."""
        holder, self._holder, self._client = self._holder, None, None
        self._over.set()
        if holder is not None:
            await asyncio.wait({holder}, timeout=self.server.connect_s)
            holder.cancel()
            await asyncio.gather(holder, return_exceptions=True)

    async def _hold(self, ready: asyncio.Future[mcp.Client], over: asyncio.Event) -> None:
        """Keep the client open until it is over: its task groups must end where they began."""
        try:
            async with AsyncExitStack() as stack:
                client = await _open(self.server, stack)
                self._heard_at = time.monotonic()
                if not ready.done():
                    ready.set_result(client)
                await over.wait()
        except BaseException as error:
            if not ready.done():
                ready.set_exception(ConnectionError(type(error).__name__))
                ready.exception()  # whoever waits gets it; perhaps nobody does
            if not isinstance(error, Exception):
                raise


class MCPTool:
    """A tool of a server."""

    def __init__(self, connection: Connection, tool: mcp_types.Tool) -> None:
        hints = tool.annotations
        self.remote_name = tool.name
        self.name = _NOT_IN_NAMES.sub("_", connection.server.prefix + tool.name)[:64]
        self.description = tool.description or ""
        self.parameters: Schema = dict(tool.input_schema)
        self.timeout_s = connection.server.timeout_s
        self._may_run_twice = hints is not None and bool(hints.read_only_hint or hints.idempotent_hint)
        self._connection = connection

    async def run(self, arguments: object, *, context: Mapping[str, object], idempotency_key: str) -> object:  # noqa: ARG002 - every tool's face
        """Call it, and return its structured result, else its text.

        Raises:
            RuntimeError: the tool says that it failed, or its server was lost.
            AdapterError: the server cannot be reached.
        """
        given = dict(arguments) if isinstance(arguments, Mapping) else {}
        client = await self._connection.client()
        try:
            result = await client.call_tool(self.remote_name, given)
        except Exception as error:
            if await self._connection.is_alive(client):
                raise  # it is what the server answered, and other calls use the same connection
            await self._connection.let_go(client)
            if not self._may_run_twice and _UNSENT not in str(error):
                name = self._connection.server.name
                raise RuntimeError(f"the MCP server {name} was lost; whether it was done is not known") from None
            client = await self._connection.client()
            result = await client.call_tool(self.remote_name, given)
        return _result(result)


def _result(result: mcp_types.CallToolResult) -> object:
    text = "\n".join(block.text for block in result.content if block.type == "text")
    if result.is_error:
        raise RuntimeError(text or "the tool failed")
    structured = result.structured_content
    if isinstance(structured, dict) and set(structured) == {"result"}:
        return structured["result"]
    return structured if structured is not None else text


async def _open(server: MCPServer, stack: AsyncExitStack) -> mcp.Client:
    import mcp  # noqa: PLC0415 - comes with an extra
    from mcp.client.streamable_http import streamable_http_client  # noqa: PLC0415 - as above

    if server.command:
        program, *arguments = server.command
        parameters = mcp.StdioServerParameters(command=program, args=arguments, env=dict(server.env) or None)
        return await stack.enter_async_context(mcp.Client(parameters))
    http = await stack.enter_async_context(httpx2.AsyncClient(headers=dict(server.headers), timeout=_HTTP))
    return await stack.enter_async_context(mcp.Client(streamable_http_client(server.url, http_client=http)))


def _server(given: str | Sequence[str] | MCPServer) -> MCPServer:
    server = given
    if isinstance(given, str):
        server = MCPServer(url=given)
    elif not isinstance(given, MCPServer):
        server = MCPServer(command=tuple(given))
    assert isinstance(server, MCPServer)  # noqa: S101 - for mypy
    if bool(server.url) == bool(server.command) or (
        server.url and urlsplit(server.url).scheme not in ("http", "https")
    ):
        raise ConfigurationError("MCPAdapter: a server is a URL (http or https), or a command, a sequence of strings")
    return server


def _connection(user: object, server: MCPServer) -> Connection:
    connection = shared(user, Connection, server, lambda: Connection(server))
    connection.begin().add_done_callback(lambda _: None)
    return connection
