"""What the server says of connections that end: a process that is killed is known to be gone within milliseconds.

Only the system account hears this, so it takes a connection of its own, and its absence costs time and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import msgspec

from unpod.core.codec import MALFORMED
from unpod.errors import UnpodError
from unpod.jetstream import Nats, NatsOptions
from unpod.ports import Message

logger = logging.getLogger("unpod.bridge")

SUBJECT: Final = "$SYS.ACCOUNT.*.DISCONNECT"
_RETRY_S: Final = 5.0


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


class Departures:
    """Listens on the system account, if there is one; `on_gone` hears which processes lose connections."""

    def __init__(self, options: NatsOptions | None, on_gone: Callable[[str], None]) -> None:
        self._options = options
        self._on_gone = on_gone

    async def run(self) -> None:
        """Listen until cancelled."""
        if self._options is None:
            return
        while True:
            nats = Nats(self._options)
            try:
                await nats.open()
                await nats.subscribe(SUBJECT, self._hear)
                await asyncio.Event().wait()
            except UnpodError as error:
                logger.warning("the system account of NATS cannot be heard: %s", error)
            finally:
                await nats.close()
            await asyncio.sleep(_RETRY_S)

    def _hear(self, message: Message) -> None:
        name = departed(message.data)
        if name:
            self._on_gone(name)
