"""The newest record of each of several subjects, in one request: the server looks them up, and searches nothing."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Final

from unpod.errors import LogUnavailable
from unpod.jetstream.connection.wire import status_of
from unpod.jetstream.log.direct_get.by_subject import StoredParser

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unpod.errors import LogError
    from unpod.jetstream.connection.connection import Nats
    from unpod.ports import Message

_UP_TO: Final = re.compile(rb"\r\nNats-UpTo-Sequence: (\d+)\r\n")


class NewestRead:
    """One such request: what has come, and up to which stream sequence the replica that answers knows the log."""

    def __init__(self, nats: Nats, stream: str) -> None:
        self._nats = nats
        self._subject = f"$JS.API.DIRECT.GET.{stream}"
        self._parser = StoredParser()
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._records: list[Message] = []
        self._count = 0
        self._too_many = False
        self.up_to = 0

    async def get(self, patterns: Sequence[str], *, timeout_s: float) -> list[Message] | None:
        """Return the records, in stream order; None where they are too many for one answer.

        Raises:
            LogUnavailable: no answer, or not all of it.
        """
        awaited = self._nats.replies.expect(self._subject, timeout_s, self._heard, self._lost)
        try:
            self._nats.send_block(self._subject, json.dumps({"multi_last": patterns}).encode(), b"", awaited.reply)
            await self._done
        finally:
            awaited.close()
        return None if self._too_many else sorted(self._records, key=lambda record: record.seq)

    def _heard(self, block: bytes, data: bytes) -> None:
        if self._done.done():
            return
        status = status_of(block)
        if not status:
            message, more = self._parser.message(block, data)
            self._count = self._count or more + 1
            self._records.append(message)
        elif status in ("404", "413"):
            self._too_many = status == "413"
            self._done.set_result(None)
        elif status == "204" and len(self._records) == self._count:
            found = _UP_TO.search(block)
            self.up_to = int(found[1]) if found else 0
            self._done.set_result(None)
        else:
            self._lost(LogUnavailable(f"the log has not given its newest records ({status})"))

    def _lost(self, reason: LogError) -> None:
        if not self._done.done():
            self._done.set_exception(reason)
