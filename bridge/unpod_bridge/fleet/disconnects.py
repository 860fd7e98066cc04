"""What the server says of connections that end: a process that is killed is known to be gone within milliseconds.

Only the system account hears this, so it takes a connection of its own, and its absence costs time and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from datetime import datetime
from secrets import token_hex
from typing import Final

import msgspec

from unpod.core.codec import MALFORMED
from unpod.errors import LogError, UnpodError
from unpod.jetstream import Nats, NatsOptions
from unpod.ports import Message

logger = logging.getLogger("unpod.bridge")

SUBJECT: Final = "$SYS.ACCOUNT.*.DISCONNECT"
CLOSED: Final = "$SYS.REQ.SERVER.PING.CONNZ"
_RETRY_S: Final = 5.0
_ANSWERS_S: Final = 0.3
_OTHERS_S: Final = 0.03
"""How much later than the first the other servers of a cluster may answer."""


class _Client(msgspec.Struct):
    name: str = ""


class _Departure(msgspec.Struct):
    client: _Client


_decode = msgspec.json.Decoder(_Departure).decode


def departed(data: bytes) -> str:
    """Return the id of the process whose connection has ended, "" if none is known.

    Connections are named by their process's id, after whatever else and a space.
    """
    try:
        name = _decode(data).client.name
    except MALFORMED:
        return ""
    return name.rpartition(" ")[2]


class _Closed(msgspec.Struct):
    name: str = ""
    stop: datetime | None = None


class _Closings(msgspec.Struct):
    now: datetime
    connections: list[_Closed] = []


class _Connz(msgspec.Struct):
    data: _Closings


_decode_connz = msgspec.json.Decoder(_Connz).decode


def ended_ago(answers: Iterable[bytes], process_id: str) -> float | None:
    """Return how many seconds ago a process's last connection has ended, as its servers say; None if none saw one.

    Each server of a cluster answers, of the connections that it has had: a process that changes servers leaves one at
    each. Both times of an answer are the server's own, so nobody's clock matters.
    """
    ago: list[float] = []
    for data in answers:
        try:
            found = _decode_connz(data).data
        except MALFORMED:
            continue
        stops = [each.stop for each in found.connections if each.stop and each.name.rpartition(" ")[2] == process_id]
        if stops:
            ago.append(max(0.0, (found.now - max(stops)).total_seconds()))
    return min(ago, default=None)


class Disconnects:
    """Listens on the system account, if there is one; `on_gone` hears which processes lose connections."""

    def __init__(self, options: NatsOptions | None, on_gone: Callable[[str], None]) -> None:
        self._options = options
        self._on_gone = on_gone
        self._nats: asyncio.Future[Nats] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Listen until cancelled."""
        if self._options is None:
            return
        while True:
            nats = Nats(self._options)
            try:
                await nats.open()
                await nats.subscribe(SUBJECT, self._hear)
                self._nats.set_result(nats)
                await asyncio.Event().wait()
            except UnpodError as error:
                logger.warning("the system account of NATS cannot be heard: %s", error)
            finally:
                self._nats = asyncio.get_running_loop().create_future()
                await nats.close()
            await asyncio.sleep(_RETRY_S)

    async def ended_ago(self, process_id: str) -> float | None:
        """Return how many seconds ago a process has lost its last connection; None where no server says so."""
        if self._options is None:
            return None
        try:
            async with asyncio.timeout(_ANSWERS_S):
                return await self._ask(await asyncio.shield(self._nats), process_id)
        except (LogError, TimeoutError):
            return None

    async def _ask(self, nats: Nats, process_id: str) -> float | None:
        known: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        found: list[bytes] = []

        def hear(message: Message) -> None:
            found.append(message.data)
            if ended_ago((message.data,), process_id) is not None and not known.done():
                known.set_result(None)

        inbox = f"{nats.options.inbox_prefix}.connz.{token_hex(8)}"
        answers = await nats.subscribe(inbox, hear)
        try:
            nats.send(CLOSED, b'{"state":1,"sort":"stop","limit":1024}', reply=inbox)
            await known
            await asyncio.sleep(_OTHERS_S)
            return ended_ago(found, process_id)
        finally:
            await answers.close()

    def _hear(self, message: Message) -> None:
        name = departed(message.data)
        if name:
            self._on_gone(name)
