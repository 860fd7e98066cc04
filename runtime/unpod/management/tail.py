"""A session's log as it grows: what stands in it, then what comes, each record once and in the order that counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final, Literal

from unpod.core import events as ev
from unpod.core.codec import BRIDGE_CHANNELS, OWNER_CHANNELS, Record
from unpod.core.live import LIVE_SUBJECT
from unpod.core.replay.ordering import Tail, merge
from unpod.core.subjects import CallSubjects
from unpod.errors import LogError
from unpod.management.fleet import ManagementConnection
from unpod.management.models import SessionEvent
from unpod.ports import Message

Since = Literal["start", "now"]

_LOOK_S: Final = 2.0
_AFTERMATH_S: Final = 5.0
"""How long after its call's end a session's last records are waited for."""


class SessionTail:
    """One session's records, live."""

    def __init__(self, fleet: ManagementConnection, subjects: CallSubjects) -> None:
        self._fleet = fleet
        self._subjects = subjects
        self._bridge = Tail()
        self._owner = Tail()
        self._ready: list[Record] = []
        self._news = asyncio.Event()
        self._reading = True

    async def follow(self, since: Since) -> AsyncIterator[SessionEvent]:
        """Yield the session's events until its call is over and everything about it is said."""
        nats, _ = await self._fleet.open()
        subscriptions = [
            await nats.subscribe(self._subjects.all, self._on_message),
            await nats.subscribe(self._subjects.text, self._on_live),
        ]
        try:
            past = merge(await self._fleet.records(self._subjects.all))
            self._begin(past)
            for record in past if since == "start" else ():
                yield _event(record)
            over_at = self._over(past)
            while over_at is None or over_at > self._now():
                await self._wait(over_at)
                ready, self._ready = self._ready, []
                for record in ready:
                    yield _event(record)
                over_at = over_at or self._over(ready)
                if any(isinstance(record.body, ev.SessionFinished) for record in ready):
                    return
        finally:
            for subscription in subscriptions:
                await subscription.close()

    def _begin(self, past: list[Record]) -> None:
        for record in past:
            self._advance(record)
        early, self._ready = self._ready, []
        self._reading = False
        for record in early:
            self._push(record)

    def _over(self, records: list[Record]) -> float | None:
        if any(isinstance(record.body, ev.SessionFinished) for record in records):
            return self._now()
        ended = any(isinstance(record.body, ev.CallEnded) for record in records)
        return self._now() + _AFTERMATH_S if ended else None

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    async def _wait(self, over_at: float | None) -> None:
        patience = _LOOK_S if over_at is None else max(0.0, min(_LOOK_S, over_at - self._now()))
        try:
            async with asyncio.timeout(patience):
                while not self._ready:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            await self._look()

    async def _look(self) -> None:
        """Read what the tail has missed."""
        try:
            records = merge(await self._fleet.records(self._subjects.all))
        except LogError:  # it comes back, and the next look finds it
            return
        for record in records:
            self._push(record)

    def _on_message(self, message: Message) -> None:
        self._heard(self._fleet.decode(message))

    def _on_live(self, message: Message) -> None:
        subject = message.headers.get(LIVE_SUBJECT, "")
        self._heard(self._fleet.decode(message, subject) if subject else None)

    def _heard(self, record: Record | None) -> None:
        if record is None:
            return
        if self._reading:
            self._ready.append(record)
        else:
            self._push(record)

    def _advance(self, record: Record) -> None:
        envelope = record.envelope
        if record.channel in BRIDGE_CHANNELS:
            self._bridge.index = max(self._bridge.index, envelope.index)
        elif record.channel in OWNER_CHANNELS:
            self._owner.index = max(self._owner.index, envelope.index)

    def _push(self, record: Record) -> None:
        tail = self._bridge if record.channel in BRIDGE_CHANNELS else self._owner
        if record.channel not in BRIDGE_CHANNELS and record.channel not in OWNER_CHANNELS:
            return
        for ready in tail.push(record):
            if isinstance(ready.body, ev.OwnerChanged):
                self._owner.index = min(self._owner.index, ready.body.last_owner_index)
            self._ready.append(ready)
        if self._ready:
            self._news.set()


def _event(record: Record) -> SessionEvent:
    envelope = record.envelope
    return SessionEvent(type=envelope.type, at=envelope.time, body=record.body, id=envelope.id)
