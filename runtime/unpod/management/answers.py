"""The sessions that a client controls: each is looked up once for all who ask at a time, with one set of listeners.

A thousand controls at one session cost one subscription, and each answer is decoded once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar

from unpod.core import events as ev
from unpod.core.codec import Record
from unpod.core.state import SessionState, fold
from unpod.core.subjects import CallSubjects
from unpod.management.fleet import ManagementConnection
from unpod.ports import Message, Subscription

T = TypeVar("T")
Hear = Callable[[Record], None]

_REMEMBERED: Final = 256
"""How many sessions' states are kept."""


@dataclass(slots=True)
class _Listening:
    """One session's listeners, by the ids of their controls; `ready` once the subscriptions are active."""

    ready: asyncio.Task[None]
    listeners: dict[str, list[Hear]] = field(default_factory=dict)
    subscriptions: list[Subscription] = field(default_factory=list)


class Answers:
    """All that one client listens to."""

    def __init__(self, fleet: ManagementConnection) -> None:
        self.fleet = fleet
        self._listening: dict[str, _Listening] = {}
        self._finding: dict[str, asyncio.Task[tuple[CallSubjects, bool]]] = {}
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._folded: dict[str, tuple[SessionState, int]] = {}
        self._folding: dict[str, asyncio.Task[SessionState]] = {}

    async def find(self, session_id: str) -> tuple[CallSubjects, bool]:
        """Return a session's subjects and whether its call has ended (`ManagementConnection.find`)."""
        return await _once(self._finding, session_id, lambda: self.fleet.find(session_id))

    async def state(self, session_id: str, subjects: CallSubjects) -> SessionState:
        """Return a session as its log is now, in stream order; only what is new since the last time is read."""
        return await _once(self._folding, session_id, lambda: self._fold(subjects))

    async def _fold(self, subjects: CallSubjects) -> SessionState:
        state, next_seq = self._folded.pop(subjects.all, (SessionState(), 1))
        records = await self.fleet.records(subjects.all, start_seq=next_seq)
        state = fold(records, state)
        self._folded[subjects.all] = state, max([next_seq - 1, *(record.seq for record in records)]) + 1
        if len(self._folded) > _REMEMBERED:
            del self._folded[next(iter(self._folded))]
        return state

    @asynccontextmanager
    async def listen(self, subjects: CallSubjects, control_id: str, hear: Hear) -> AsyncIterator[None]:
        """Hear what becomes of a control, and of its call, for the length of the block."""
        key = subjects.all
        listening = self._listening.get(key)
        if listening is None:
            listening = self._listening[key] = _Listening(asyncio.create_task(self._subscribe(subjects)))
        listeners = listening.listeners.setdefault(control_id, [])
        listeners.append(hear)
        try:
            await asyncio.shield(listening.ready)
            yield
        finally:
            listeners.remove(hear)
            if not listeners:
                listening.listeners.pop(control_id, None)
            if not listening.listeners and self._listening.get(key) is listening:
                del self._listening[key]
                await self._stop(listening)

    async def look(self, subjects: CallSubjects) -> None:
        """Tell all who listen to a session what its log has for them, whatever the live tail has missed.

        Raises:
            LogError: it cannot be read.
        """
        await _once(self._looking, subjects.all, lambda: self._look(subjects))

    async def _look(self, subjects: CallSubjects) -> None:
        for subject in _heard(subjects):
            for record in await self.fleet.records(subject):
                self._tell(subjects.all, record)

    async def _subscribe(self, subjects: CallSubjects) -> None:
        nats, _ = await self.fleet.open()
        listening = self._listening[subjects.all]
        for subject in _heard(subjects):
            listening.subscriptions.append(
                await nats.subscribe(subject, lambda message: self._on_message(subjects.all, message))
            )

    @staticmethod
    async def _stop(listening: _Listening) -> None:
        listening.ready.cancel()
        await asyncio.gather(listening.ready, return_exceptions=True)
        for subscription in listening.subscriptions:
            await subscription.close()

    def _on_message(self, key: str, message: Message) -> None:
        record = self.fleet.decode(message)
        if record is not None:
            self._tell(key, record)

    def _tell(self, key: str, record: Record) -> None:
        body, listening = record.body, self._listening.get(key)
        if listening is None:
            return
        if isinstance(body, (ev.ControlAnswered, ev.ControlPerformed)):
            for hear in tuple(listening.listeners.get(body.control, ())):
                hear(record)
        elif isinstance(body, ev.CallEnded):
            for hear in [hear for heard in listening.listeners.values() for hear in heard]:
                hear(record)


def _heard(subjects: CallSubjects) -> tuple[str, str, str]:
    """Return where answers are; a call's end last, since it is the last word."""
    return subjects.ack, subjects.run("control.performed"), subjects.evt("call.ended")


async def _once(running: dict[str, asyncio.Task[T]], key: str, work: Callable[[], Coroutine[object, object, T]]) -> T:
    """Return what `work` returns; whoever asks while it runs gets the same."""
    task = running.get(key)
    if task is None:
        task = running[key] = asyncio.create_task(work())

        def over(done: asyncio.Task[T]) -> None:
            running.pop(key, None)
            if not done.cancelled():
                done.exception()  # else asyncio complains of an error that nobody awaits

        task.add_done_callback(over)
    return await asyncio.shield(task)
