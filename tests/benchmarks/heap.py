"""How much of nats-server's memory is in use: Go keeps what is garbage, and what was, for later."""

from __future__ import annotations

import re
from base64 import b64decode
from typing import Final

import msgspec

from unpod.jetstream import connect
from unpod.processes import EmbeddedServer

_REQUESTS: Final = "$SYS.REQ.SERVER"
_WITHIN_S: Final = 10.0
_COLLECTIONS: Final = 2
"""After the first one what it found may not be given back yet."""
_TRIES: Final = 1_000
_COUNTS: Final = re.compile(r"^# (HeapAlloc|NumGC) = (\d+)$", re.MULTILINE)


class _Server(msgspec.Struct):
    id: str


class _Profile(msgspec.Struct):
    profile: str


class _Answer(msgspec.Struct):
    data: _Profile


async def live_kb(server: EmbeddedServer) -> float:
    """Return the KB that live objects of the server take on Go's heap: what is allocated just after a collection.

    Nobody can order one, so the server is asked for profiles, which leave garbage, until it has had two.

    Raises:
        TimeoutError: it has had none after a thousand.
    """
    async with connect(server.connection("bench", system=True)) as nats:
        ping = await nats.request(f"{_REQUESTS}.PING.IDZ", b"", timeout_s=_WITHIN_S)
        subject = f"{_REQUESTS}.{msgspec.json.decode(ping.data, type=_Server).id}.PROFILEZ"
        first: int | None = None
        for _ in range(_TRIES):
            answer = await nats.request(subject, b'{"name":"heap","debug":1}', timeout_s=_WITHIN_S)
            text = b64decode(msgspec.json.decode(answer.data, type=_Answer).data.profile).decode()
            counts = {name: int(count) for name, count in _COUNTS.findall(text)}
            first = counts["NumGC"] if first is None else first
            if counts["NumGC"] >= first + _COLLECTIONS:
                return counts["HeapAlloc"] / 1024
    raise TimeoutError(f"nats-server has collected no garbage in {_TRIES:,} requests for its profile")
