"""The serve transport: this side dials the client, whose `hello` comes then as on any other socket.

A worker that has lost its line dials again until the call is over, or nobody listens any more.
"""

import asyncio
import base64
import hashlib
import hmac
import logging
import secrets
import time
from typing import Final
from urllib.parse import urlencode, urlsplit, urlunsplit

import aiohttp

from unpod_orchestrator.calls.call import LocalCall
from unpod_orchestrator.socket_link import SocketLink
from unpod_orchestrator.wire.constants import MAX_FRAME_BYTES

_log = logging.getLogger("unpod.orchestrator")

CONNECT_S: Final = 5.0
REDIAL_S: Final = 0.2
REDIALS: Final = 25


def signed_url(url: str, session_id: str, job_id: str, secret: str | None) -> str:
    """The URL to dial for a call; `secret` signs it, with a new nonce and the time of now."""
    fields = {"session_id": session_id, "job_id": job_id}
    if secret is not None:
        fields |= {"nonce": secrets.token_hex(16), "ts": str(time.time_ns() // 1_000_000)}
        digest = hmac.digest(secret.encode(), "|".join(fields.values()).encode(), hashlib.sha256)
        fields["signature"] = base64.b64encode(digest).decode()
    parts = urlsplit(url if "://" in url else f"ws://{url}")
    query = "&".join(filter(None, (parts.query, urlencode(fields))))
    return urlunsplit((parts.scheme, parts.netloc, parts.path or "/", query, ""))


class ServeDialer:
    """Dials clients that serve, and plays the worker on their sockets."""

    def __init__(self, secret: str | None, links: set[SocketLink], ping_interval_s: float | None) -> None:
        self.secret = secret
        self._links = links
        self._ping_interval_s = ping_interval_s
        self._session: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def place(self, call: LocalCall, serving_url: str) -> str | None:
        """Dials for a call; None once the client has let it in, else why not."""
        call.dispatched_now()
        link = await self._dial(call, serving_url)
        if isinstance(link, str):
            return link
        task = asyncio.create_task(self._carry(call, serving_url, link), name="unpod-dial-in")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return None

    async def stop(self) -> None:
        """Dials no more."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _carry(self, call: LocalCall, url: str, link: SocketLink | str) -> None:
        left = REDIALS
        while not call.over:
            if isinstance(link, SocketLink):
                left = REDIALS
                await self._serve(call, link)
            elif left == 0:
                _log.warning("nobody listens at the serving_url any more")
                return
            else:
                left -= 1
            if not call.over:
                await asyncio.sleep(REDIAL_S)
                link = await self._dial(call, url)

    async def _serve(self, call: LocalCall, link: SocketLink) -> None:
        if call.dialled(call.token) is not None:
            link.abort()
            return
        self._links.add(link)
        try:
            await call.serve(link)
        finally:
            self._links.discard(link)
            link.abort()

    async def _dial(self, call: LocalCall, url: str) -> SocketLink | str:
        if self._session is None:
            self._session = aiohttp.ClientSession()
        try:
            async with asyncio.timeout(CONNECT_S):
                socket = await self._session.ws_connect(
                    signed_url(url, call.session_id, call.job_id, self.secret),
                    heartbeat=self._ping_interval_s,
                    max_msg_size=MAX_FRAME_BYTES + 1,
                    autoclose=False,
                )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return f"the serving_url cannot be dialled: {type(error).__name__}"
        connection = socket._conn  # noqa: SLF001 -- aiohttp has no public way to a client socket's transport
        return SocketLink(socket, None if connection is None else connection.transport)
