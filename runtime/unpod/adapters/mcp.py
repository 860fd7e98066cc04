"""A brain with the tools of MCP servers: offered to its model, and called, over streamable HTTP and stdio."""

from __future__ import annotations

import asyncio
import logging
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
from unpod.user_code import cancelled

if TYPE_CHECKING:
    import mcp
    import mcp_types
    from mcp.client.session import MessageHandlerFnT

logger = logging.getLogger("unpod.adapters")

_HTTP: Final = httpx2.Timeout(30.0, read=300.0)  # what mcp itself sets: a server may hold a stream open
_UNSENT: Final = "Session terminated"  # what mcp says where a server does not know the session: nothing was done
_NOT_IN_NAMES: Final = re.compile(r"[^a-zA-Z0-9_-]")


class MCPServer(Struct, frozen=True, kw_only=True):
    """Where an MCP server is: at a `url` (streamable HTTP), or a `command` to be started (stdio).

    `headers` go with each request, `env` to the command. `only` names the tools that are offered; None offers all.
    `prefix` comes before their names. `connect_s` bounds the wait for the server, `timeout_s` that for a tool, which
    begins anew with each progress that the server tells of, and `longest_s` all of it. After `quiet_s` without an
    answer a server is asked whether it is still there before a tool of it is called.
    """

    url: str = ""
    command: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    only: frozenset[str] | None = None
    prefix: str = ""
    connect_s: float = 5.0
    timeout_s: float = TIMEOUT_S
    longest_s: float = 60.0
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
    are journaled and hooked like functions. A server that was restarted is found again; a call that it may have carried
    out is not made again, unless the server says that this is harmless. One that runs out of time, or whose call ends,
    is cancelled at the server; tools that a server changes are known to the next request of the model.

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
        for connection in self._connections:
            brain.tools.follow(_Offer(connection))

    @property
    def history(self) -> list[ChatMessage]:
        """The brain's."""
        return self.brain.history

    @property
    def state(self) -> dict[str, object]:
        """The brain's, and the names of its tools."""
        return {**self.brain.state, "tools": [tool.name for tool in self.brain.tools]}

    async def stream(
        self, text: str, context: Mapping[str, object] | None = None, language: str | None = None
    ) -> AsyncGenerator[Piece, None]:
        """Yield the brain's reply; the first one waits for the servers.

        Raises:
            AdapterError: a server cannot be reached (`code` is `mcp`), or the brain fails.
        """
        async with aclosing(self.brain.stream(text, context=context, language=language)) as pieces:
            async for piece in pieces:
                yield piece

    async def continue_reply(
        self, text: str, said: str, *, context: Mapping[str, object] | None = None, language: str | None = None
    ) -> AsyncGenerator[Piece, None]:
        """Yield the rest of a reply; as `stream`."""
        async with aclosing(self.brain.continue_reply(text, said, context=context, language=language)) as pieces:
            async for piece in pieces:
                yield piece

    async def turn(self, text: str, context: Mapping[str, object] | None = None) -> str:
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


class _Offer:
    """The tools of one server, as one brain has last listed them."""

    def __init__(self, connection: ServerConnection) -> None:
        self._connection = connection
        self._seen: int | None = None

    async def __call__(self) -> list[MCPTool] | None:
        """Return them where they may have changed; the first time a server that is not there is an error."""
        if self._seen == self._connection.changes:
            return None
        try:
            self._seen, tools = await self._connection.tools()
        except AdapterError as error:
            if self._seen is None:
                raise
            logger.warning("%s; its tools stay as they were", error)
            self._seen = self._connection.changes
            return None
        return tools


class _Link:
    """One connection to a server, held open by a task of its own: its task groups must end where they began.

    `heard_at` is when the server was last known to be there. One that is let go of is closed when its calls are over.
    """

    def __init__(self, server: MCPServer, changed: Callable[[], None]) -> None:
        self.heard_at = 0.0
        self.client: asyncio.Future[mcp.Client] = asyncio.get_running_loop().create_future()
        self._server = server
        self._changed = changed
        self._calls = 0
        self._is_left = False
        self._over = asyncio.Event()
        self.holder = asyncio.create_task(self._hold(), name="unpod-mcp")

    async def call(self, name: str, arguments: dict[str, object]) -> mcp_types.CallToolResult:
        """Call a tool.

        Raises:
            TimeoutError: the server has neither answered nor told of progress for too long; it is told to stop.
            Exception: whatever the client raises.
        """
        patience = self._server.timeout_s
        limit = asyncio.timeout(patience)

        async def progressed(progress: float, total: float | None, message: str | None) -> None:  # noqa: ARG001 - mcp's form
            logger.debug("%s of the MCP server %s: %s of %s", name, self._server.name, progress, total)
            if not limit.expired():
                limit.reschedule(asyncio.get_running_loop().time() + patience)

        self._calls += 1
        try:
            async with limit:
                return await self.client.result().call_tool(name, arguments, progress_callback=progressed)
        except TimeoutError:
            if not limit.expired():
                raise
            self.heard_at = 0.0
            raise TimeoutError(f"no answer for {patience:g} s; whether it was done is not known") from None
        finally:
            self._calls -= 1
            self._close_if_left()

    def leave(self) -> None:
        """Close it as soon as no call uses it: others may be waiting for an answer that is still to come."""
        self._is_left = True
        self._close_if_left()

    async def aclose(self) -> None:
        """Close it at once; a command ends."""
        self._over.set()
        await asyncio.wait({self.holder}, timeout=self._server.connect_s)
        self.holder.cancel()
        await asyncio.gather(self.holder, return_exceptions=True)

    def _close_if_left(self) -> None:
        if self._is_left and not self._calls:
            self._over.set()
            if not self.client.done():
                self.holder.cancel()

    async def _hold(self) -> None:
        try:
            async with AsyncExitStack() as stack:
                client = await _open(self._server, stack, self._hear)
                self.heard_at = time.monotonic()
                self._changed()
                if not self.client.done():
                    self.client.set_result(client)
                listening = asyncio.create_task(self._listen(client), name="unpod-mcp-listen")
                stack.push_async_callback(cancelled, [listening])
                await self._over.wait()
        except BaseException as error:
            if not self.client.done():
                self.client.set_exception(ConnectionError(type(error).__name__))
                self.client.exception()  # whoever waits gets it; perhaps nobody does
            if not isinstance(error, Exception):
                raise

    async def _hear(self, message: object) -> None:
        """Take what the server says unasked, as servers before 2026-07-28 do."""
        import mcp  # noqa: PLC0415 - comes with an extra

        if isinstance(message, mcp.types.ToolListChangedNotification):
            self._changed()

    async def _listen(self, client: mcp.Client) -> None:
        """Hear of changed tools from a server of 2026-07-28, which says so only to those who ask; again when lost."""
        tools = client.server_capabilities.tools
        while tools is not None and tools.list_changed:
            try:
                async with client.listen(tools_list_changed=True) as changes:
                    self._changed()  # what came before is not told again
                    async for _ in changes:
                        self._changed()
            except Exception as error:  # noqa: BLE001 - another version, or it was lost
                logger.debug("the MCP server %s tells of no changes: %s", self._server.name, type(error).__name__)
                if type(error).__name__ != "SubscriptionLost":
                    return
            await asyncio.sleep(self._server.connect_s)


class ServerConnection:
    """A process's way to an MCP server, over one connection at a time."""

    def __init__(self, server: MCPServer) -> None:
        self.server = server
        self.changes = 0
        """How often the server's tools may have changed."""
        self._link: _Link | None = None
        self._left: set[_Link] = set()

    def begin(self) -> _Link:
        """Connect, unless that is done or under way."""
        if self._link is None or self._link.holder.done():
            self._link = _Link(self.server, self._changed)
        return self._link

    async def call(self, name: str, arguments: dict[str, object], *, may_run_twice: bool) -> mcp_types.CallToolResult:
        """Call a tool; once more where the server was lost, and that is safe.

        Raises:
            AdapterError: the server cannot be reached.
            RuntimeError: it was lost in the middle.
            TimeoutError: it did not answer in time.
            Exception: what it answers.
        """
        link = await self._alive()
        try:
            return await link.call(name, arguments)
        except TimeoutError:
            raise  # the next one asks whether it is still there
        except Exception as error:
            if await self._is_alive(link):
                raise  # it is what the server answered, and other calls use the same connection
            self._leave(link)
            if not may_run_twice and _UNSENT not in str(error):
                name = self.server.name
                raise RuntimeError(f"the MCP server {name} was lost; whether it was done is not known") from None
        return await (await self._alive()).call(name, arguments)

    async def tools(self) -> tuple[int, list[MCPTool]]:
        """Return what the server offers, and the `changes` up to which that counts.

        Raises:
            AdapterError: it cannot be reached, or does not answer.
        """
        link = await self._alive()
        client, seen = link.client.result(), self.changes
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
        except Exception as error:  # noqa: BLE001 - whatever it is, there are no tools
            link.heard_at = 0.0
            reason = f"the MCP server {self.server.name} does not list its tools: {type(error).__name__}"
            raise AdapterError(reason, code="mcp") from None
        return seen, [tool for tool in found if self.server.only is None or tool.remote_name in self.server.only]

    async def aclose(self) -> None:
        """Let go of the server; a command ends."""
        link, self._link = self._link, None
        await asyncio.gather(*(one.aclose() for one in {link, *self._left} if one is not None))

    async def _alive(self) -> _Link:
        """Return a connection; one that was lost is made anew, which one that was quiet is asked about.

        Raises:
            AdapterError: the server cannot be reached in time.
        """
        link = await self._connected()
        if time.monotonic() - link.heard_at > self.server.quiet_s and not await self._is_alive(link):
            self._leave(link)
            link = await self._connected()
        return link

    async def _is_alive(self, link: _Link) -> bool:
        """Ask the server whether it still knows us; whatever it answers to that counts."""
        import mcp  # noqa: PLC0415 - comes with an extra

        try:
            async with asyncio.timeout(self.server.connect_s):
                await link.client.result().list_tools()
        except mcp.MCPError as error:
            alive = error.code == mcp.types.METHOD_NOT_FOUND
        except Exception:  # noqa: BLE001 - whatever it is, it is no answer
            alive = False
        else:
            alive = True
        link.heard_at = time.monotonic() if alive else 0.0
        return alive

    async def _connected(self) -> _Link:
        """Return a connection that is made.

        Raises:
            AdapterError: the server cannot be reached in time.
        """
        link = self.begin()
        try:
            async with asyncio.timeout(self.server.connect_s):
                await asyncio.shield(link.client)
        except Exception as error:  # noqa: BLE001 - whatever it is, the server is out of reach
            self._leave(link)
            reason = f"the MCP server {self.server.name} cannot be reached: {type(error).__name__}"
            raise AdapterError(reason, code="mcp") from None
        return link

    def _leave(self, link: _Link) -> None:
        """Use a connection no more; the calls on it go on, as long as they may."""
        if self._link is link:
            self._link = None
        if not link.holder.done():
            self._left.add(link)
            link.holder.add_done_callback(lambda _: self._left.discard(link))
        link.leave()

    def _changed(self) -> None:
        self.changes += 1


class MCPTool:
    """A tool of a server."""

    def __init__(self, connection: ServerConnection, tool: mcp_types.Tool) -> None:
        hints = tool.annotations
        self.remote_name = tool.name
        self.name = _NOT_IN_NAMES.sub("_", connection.server.prefix + tool.name)[:64]
        self.description = tool.description or ""
        self.parameters: Schema = dict(tool.input_schema)
        self.timeout_s = max(connection.server.timeout_s, connection.server.longest_s)
        self._may_run_twice = hints is not None and bool(hints.read_only_hint or hints.idempotent_hint)
        self._connection = connection

    async def run(self, arguments: object, *, context: Mapping[str, object], idempotency_key: str) -> object:  # noqa: ARG002 - every tool's face
        """Call it, and return its structured result, else its text.

        Raises:
            RuntimeError: the tool says that it failed, or its server was lost.
            TimeoutError: the server did not answer in time.
            AdapterError: the server cannot be reached.
        """
        given = dict(arguments) if isinstance(arguments, Mapping) else {}
        return _result(await self._connection.call(self.remote_name, given, may_run_twice=self._may_run_twice))


def _result(result: mcp_types.CallToolResult) -> object:
    text = "\n".join(block.text for block in result.content if block.type == "text")
    if result.is_error:
        raise RuntimeError(text or "the tool failed")
    structured = result.structured_content
    if isinstance(structured, dict) and set(structured) == {"result"}:
        return structured["result"]
    return structured if structured is not None else text


async def _open(server: MCPServer, stack: AsyncExitStack, hear: MessageHandlerFnT) -> mcp.Client:
    import mcp  # noqa: PLC0415 - comes with an extra
    from mcp.client.streamable_http import streamable_http_client  # noqa: PLC0415 - as above

    if server.command:
        program, *arguments = server.command
        parameters = mcp.StdioServerParameters(command=program, args=arguments, env=dict(server.env) or None)
        return await stack.enter_async_context(mcp.Client(parameters, message_handler=hear, cache=None))
    http = await stack.enter_async_context(httpx2.AsyncClient(headers=dict(server.headers), timeout=_HTTP))
    transport = streamable_http_client(server.url, http_client=http)
    return await stack.enter_async_context(mcp.Client(transport, message_handler=hear, cache=None))


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


def _connection(user: object, server: MCPServer) -> ServerConnection:
    connection = shared(user, ServerConnection, server, lambda: ServerConnection(server))
    connection.begin()
    return connection
